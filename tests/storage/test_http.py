"""Reads over http: the right bytes, or an error that names URL and cause, in bounded time, whatever
a server does.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.servers import RangeServer

from roboshard import storage
from roboshard.common.errors import DamageError, MissingError, RoboshardError, StorageError
from roboshard.shards import ShardedDataset
from roboshard.shards.locate import locate
from roboshard.storage import RetryPolicy, retry
from roboshard.storage.http import connections, redirects, replies

pytest_plugins = ["support.servers.fixtures"]

CONTENT = b"".join(number.to_bytes(3, "big") for number in range(100_000))
TOTAL, OFFSET, LENGTH = len(CONTENT), 1000, 200_000
WANTED = CONTENT[OFFSET : OFFSET + LENGTH]
BRIEF = RetryPolicy(connect_s=1, stall_s=0.4, retry_s=0.3, bytes_per_s=1e6)
LONG = RetryPolicy(connect_s=1, stall_s=0.4)
BOUND_S = 3 * BRIEF.retry_s + BRIEF.connect_s + BRIEF.stall_s + 3  # the rest is for a busy machine


@pytest.fixture
def url(range_server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a b.tar").write_bytes(CONTENT)
    (tmp_path / "empty").write_bytes(b"")
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.05)
    return f"{range_server.url}/a b.tar"


def read(url: str, policy: RetryPolicy = BRIEF) -> bytes:
    return storage.read_range(url, OFFSET, LENGTH, total=TOTAL, policy=policy)


def read_whole(url: str, policy: RetryPolicy = BRIEF) -> bytes:
    return storage.read_all(url, TOTAL, policy=policy)


@contextmanager
def bounded(seconds: float = BOUND_S) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(offset=st.integers(0, TOTAL + 5), length=st.integers(0, TOTAL + 5))
def test_a_range_is_exact_or_an_error(url: str, offset: int, length: int) -> None:
    if offset + length <= TOTAL or length == 0:
        assert (
            storage.read_range(url, offset, length, total=TOTAL, policy=BRIEF)
            == CONTENT[offset:][:length]
        )
    else:
        with pytest.raises(
            DamageError, match=rf"a b\.tar: ends {offset + length - TOTAL} bytes before offset"
        ):
            storage.read_range(url, offset, length, policy=BRIEF)


def test_each_read_is_one_request_and_connections_are_kept(
    range_server: RangeServer, url: str
) -> None:
    assert read_whole(url) == CONTENT
    assert read(url) == WANTED
    assert storage.size(url) == TOTAL
    assert storage.size(f"{range_server.url}/empty") == 0
    assert storage.read_all(f"{range_server.url}/empty", 5) == b""
    assert [request.method for request in range_server.requests] == ["GET"] * 5
    assert len({request.connection for request in range_server.requests}) == 1


def test_what_is_not_there_is_missing(range_server: RangeServer, url: str) -> None:
    for ask in (storage.size, read, read_whole):
        with pytest.raises(MissingError, match=r"/none\.tar: no such file \(HTTP 404\)"):
            ask(f"{range_server.url}/none.tar")
    assert len(range_server.requests) == 3


def test_a_file_of_another_size_is_damage(url: str) -> None:
    with pytest.raises(
        DamageError, match=f"{TOTAL} bytes where 7 are expected: cut off or replaced"
    ):
        storage.read_range(url, 0, 7, total=7, policy=BRIEF)


def test_too_large_a_file_is_not_read(range_server: RangeServer, url: str) -> None:
    with pytest.raises(
        StorageError, match=f"{TOTAL} bytes, more than the 100 that such a file may have"
    ):
        storage.read_all(url, 100, policy=BRIEF)


def test_http_cannot_list(url: str) -> None:
    with pytest.raises(StorageError, match=r"http\(s\) cannot list files"):
        storage.list_files(url)


# -- Faults ----------------------------------------------------------------------------------------

CUT = {"after_bytes": 50_000}
FAULTS: list[tuple[str, dict[str, Any], str | None]] = [
    # fault, its arguments, what the error says when it never ends (None: it is read nevertheless)
    ("refuse", {}, r"no connection \(Connection refused\); given up after \d+ attempts in \d+ s"),
    ("drop", {}, r"the connection broke \(Connection reset by peer\)"),
    ("reset", {"after_bytes": 0}, r"the connection broke \(Connection reset by peer\)"),
    ("reset", CUT, None),
    ("truncate", {"after_bytes": 0}, "the connection broke|too early"),
    ("truncate", CUT, None),
    ("status", {"code": 408}, r"the server cannot answer now \(HTTP 408\)"),
    ("status", {"code": 429}, r"the server cannot answer now \(HTTP 429\)"),
    ("status", {"code": 500}, r"the server cannot answer now \(HTTP 500\)"),
    ("status", {"code": 503}, r"the server cannot answer now \(HTTP 503\)"),
    ("stall", {"seconds": 1.0}, r"stalled: nothing came for 0\.4 s"),
    ("stall", {"seconds": 1.0, "after_bytes": 0}, r"stalled: nothing came for 0\.4 s"),
    ("ignore_range", {}, "the server ignores Range"),
    ("wrong_range", {}, "answers bytes 1001-201000 where 1000-200999 were asked for"),
    ("wrong_header", {}, "answers bytes 1001-201000 where 1000-200999 were asked for"),
    ("short_total", {}, f"{TOTAL - 1} bytes where {TOTAL} are expected"),
    ("gzip", {}, "Content-Encoding 'gzip'"),
    ("redirect", {}, None),
    ("redirect", {"uses": 0}, "access is refused"),
    ("redirect_loop", {}, "redirects lead in a circle"),
]
each_fault = pytest.mark.parametrize(
    ("kind", "args", "message"),
    FAULTS,
    ids=["-".join(map(str, (kind, *args.values()))) for kind, args, _ in FAULTS],
)


@each_fault
def test_a_fault_that_strikes_once_costs_time_and_nothing_else(
    range_server: RangeServer, url: str, kind: str, args: dict[str, Any], message: str | None
) -> None:
    arguments = {"seconds": 0.2} if kind == "refuse" else args
    for ask, expected in ((read, WANTED), (read_whole, CONTENT)):
        redirects.forget(redirects.Address(url))
        range_server.fault(kind, **arguments)
        with bounded():
            assert ask(url, LONG) == expected


@each_fault
def test_a_fault_that_stays_ends_in_an_error_that_names_url_and_cause(
    range_server: RangeServer, url: str, kind: str, args: dict[str, Any], message: str | None
) -> None:
    range_server.fault(kind, times=None, **args)
    url = url.replace("127", "hunter1:hunter2@127") + "?token=hunter3"
    with bounded():
        if message is None:
            assert read(url) == WANTED
            return
        with pytest.raises((StorageError, DamageError), match=message) as caught:
            read(url)
    assert str(caught.value).startswith(f"{range_server.url}/a b.tar: ")
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "hunter" not in repr(caught.value)


def test_a_read_goes_on_where_it_broke(range_server: RangeServer, url: str) -> None:
    range_server.fault("truncate", times=3, after_bytes=50_000)
    assert read(url, LONG) == WANTED
    assert [request.range for request in range_server.requests] == [
        f"bytes={OFFSET + start}-{OFFSET + LENGTH - 1}" for start in range(0, LENGTH, 50_000)
    ]
    assert range_server.bytes_sent == LENGTH


def test_an_object_that_is_replaced_while_it_is_read_is_damage(
    range_server: RangeServer, url: str
) -> None:
    range_server.fault("truncate", after_bytes=50_000)
    range_server.fault("replace", after=1)
    with pytest.raises(DamageError, match=r"a b\.tar: was replaced while it was being read"):
        read(url)


def test_a_small_file_that_is_replaced_while_it_is_read_is_the_new_one(
    range_server: RangeServer, url: str
) -> None:
    range_server.fault("truncate", after_bytes=50_000)
    range_server.fault("replace", after=1, content=b"new")
    assert read_whole(url) == b"new"


def test_a_host_that_cannot_be_resolved_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        bounded(),
        pytest.raises(
            StorageError, match=r"host\.invalid/x: the host's name cannot be resolved \(DNS\)"
        ),
    ):
        read("http://no-such-host.invalid/x")


def test_tls_that_fails_is_not_tried_again(range_server: RangeServer, url: str) -> None:
    with bounded(LONG.retry_s / 2), pytest.raises(StorageError, match="no TLS connection"):
        storage.read_range(url.replace("http:", "https:"), 5, 6, policy=LONG)


@pytest.mark.parametrize("status", [401, 403, 400, 405])
def test_a_refusal_is_not_tried_again(range_server: RangeServer, url: str, status: int) -> None:
    range_server.fault("status", times=None, code=status)
    with pytest.raises(StorageError, match=rf"refuse.* \(HTTP {status}\)"):
        read(url)
    assert len(range_server.requests) == 1


def test_a_server_is_left_alone_as_long_as_it_asks(range_server: RangeServer, url: str) -> None:
    range_server.fault("status", code=429, retry_after=1)
    assert read(url, LONG) == WANTED
    first, second = range_server.requests
    assert second.started - first.started >= 1


def test_a_trickle_does_not_last_for_ever(range_server: RangeServer, url: str) -> None:
    range_server.configure(bytes_per_second=20_000)
    with bounded(4), pytest.raises(StorageError, match="slower than 1000000 bytes/s"):
        read(url, RetryPolicy(connect_s=1, stall_s=2, retry_s=0.3, bytes_per_s=1e6))


@pytest.mark.parametrize("ask", [read, read_whole])
def test_what_has_come_whole_is_not_given_up_for_being_slow(
    range_server: RangeServer, url: str, ask: Callable[..., bytes]
) -> None:
    expected = WANTED if ask is read else CONTENT
    range_server.fault("stall", seconds=0.8, after_bytes=len(expected) - 10)
    assert ask(url, RetryPolicy(connect_s=1, stall_s=2, retry_s=0.1, bytes_per_s=1e9)) == expected
    assert len(range_server.requests) == 1


@pytest.mark.parametrize("ask", [read, read_whole])
def test_what_comes_late_is_not_given_up_for_being_slow(
    range_server: RangeServer, url: str, ask: Callable[..., bytes]
) -> None:
    """The client reads a reply in parts, be it there at once: the first 8 KB with its headers."""
    range_server.fault("stall", seconds=0.8)
    policy = RetryPolicy(connect_s=1, stall_s=2, retry_s=0.1, bytes_per_s=1e9)
    assert ask(url, policy) == (WANTED if ask is read else CONTENT)
    assert len(range_server.requests) == 1


@pytest.mark.slow
def test_a_stall_of_thirty_seconds_is_survived(range_server: RangeServer, url: str) -> None:
    range_server.fault("stall", seconds=30, after_bytes=1000)
    with bounded(29):
        assert read(url, storage.READING) == WANTED


def test_what_interrupts_a_read_gets_through_at_once(range_server: RangeServer, url: str) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    range_server.fault("stall", seconds=10, after_bytes=1000)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with bounded(5), pytest.raises(KeyboardInterrupt):
            read(url, storage.READING)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_nothing_stays_open_after_faults(range_server: RangeServer, url: str) -> None:
    connections.close_all()
    before = len(os.listdir("/proc/self/fd"))
    for kind, args, _ in FAULTS:
        range_server.fault(kind, times=2, **({"seconds": 0.05} if kind == "refuse" else args))
        for ask in (read, read_whole, lambda url: storage.size(url, policy=BRIEF)):
            with contextlib.suppress(RoboshardError):
                ask(url)
        range_server.reset()
    assert (
        len(os.listdir("/proc/self/fd")) <= before + 2
    )  # kept for reuse, one for each of two names of the host
    connections.close_all()
    assert len(os.listdir("/proc/self/fd")) <= before


# -- Replies that the server above does not give ---------------------------------------------------


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that sends these bytes, one answer for each connection, the last one again and
    again.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        remaining = list(answers)
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def answer(status: str, body: bytes, *headers: str) -> bytes:
    return (
        "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode() + body
    )


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (answer("206 Partial", b"abc", "Content-Length: 3"), "HTTP 206 without a Content-Range"),
        (
            answer("206 Partial", b"abc", "Content-Range: bytes 0-2/9"),
            None,
        ),  # its end is the connection's
        (
            answer("206 Partial", b"abcd", "Content-Range: bytes 0-2/9"),
            "more bytes than were asked for",
        ),
        (
            answer("206 Partial", b"abcd", "Content-Range: bytes 0-2/9", "Content-Length: 4"),
            "4 bytes for a range of 3",
        ),
        (
            answer("206 Partial", b"ab", "Content-Range: bytes 0-1/9", "Content-Length: 2"),
            "answers bytes 0-1 where",
        ),
        (
            answer("206 Partial", b"ab", "Content-Range: bytes 0-1/2", "Content-Length: 2"),
            "ends 1 bytes before",
        ),
        (
            answer("206 Partial", b"3\r\nabc\r\n0\r\n\r\n", "Content-Range: bytes 0-2/9", CHUNKED),
            None,
        ),
        (answer("200 OK", b"abc", "Content-Length: 3"), None),  # it is the whole object
        (answer("200 OK", b"abc"), "ignores Range"),
        (answer("204 No", b""), "refuses the request"),
        (answer("302 Found", b"", "Content-Length: 0"), "a redirect without a target"),
        (answer("302 Found", b"", "Location: file:///etc/passwd"), "something else than http"),
        (b"hello\r\n\r\n", "the connection broke"),
        (b"", "the connection broke"),
    ],
)
def test_a_reply_is_believed_as_far_as_it_proves(reply: bytes, message: str | None) -> None:
    with answering(reply) as url:
        if message is None:
            assert storage.read_range(url, 0, 3, policy=BRIEF) == b"abc"
        else:
            with pytest.raises(RoboshardError, match=message):
                storage.read_range(url, 0, 3, policy=BRIEF)


def test_a_small_file_of_untold_length_is_capped_while_it_is_read() -> None:
    chunks = b"3\r\nabc\r\n3\r\ndef\r\n"
    whole = answer("200 OK", chunks + b"0\r\n\r\n", CHUNKED)
    with answering(answer("200 OK", chunks, CHUNKED), whole) as url:
        assert storage.read_all(url, 6, policy=BRIEF) == b"abcdef"
        with pytest.raises(StorageError, match="more than the 5 that such a file may have"):
            storage.read_all(url, 5, policy=BRIEF)


def test_retry_after_is_seconds_or_a_date_or_in_the_hubs_header() -> None:
    def asked(**headers: str) -> float | None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return replies._asked_wait(urllib3.HTTPResponse(headers=named, status=429))

    assert asked(Retry_After="17") == 17
    assert asked(RateLimit='"resolvers";r=0;t=55') == 55
    soon = asked(
        Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    )
    assert soon is not None
    assert 25 < soon <= 30
    assert asked(Retry_After="Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [asked(Retry_After=text) for text in ("soon", "-5", "")] == [None, None, None]


# -- Redirects and credentials ---------------------------------------------------------------------


def test_where_a_url_leads_is_remembered_until_it_leads_nowhere(
    range_server: RangeServer, url: str
) -> None:
    storage.forget(url)  # where other tests' redirects led
    range_server.fault("redirect", times=None, uses=3)
    for _ in range(5):
        assert read(url) == WANTED
    statuses = [request.status for request in range_server.requests]
    assert statuses == [302, 206, 206, 206, 403, 302, 206, 206]
    storage.forget(url)
    assert read(url) == WANTED
    assert [request.status for request in range_server.requests][8:] == [302, 206]


def test_user_and_password_go_to_their_own_host_alone(range_server: RangeServer, url: str) -> None:
    range_server.fault("redirect", host="localhost")
    assert read(url.replace("127", "user:hunter2@127")) == WANTED
    assert [
        (request.host.split(":")[0], request.authorized) for request in range_server.requests
    ] == [
        ("127.0.0.1", True),
        ("localhost", False),
    ]


@pytest.mark.parametrize(
    ("before", "after"), [("https://h/a", "http://h/a"), ("http://h/a", "ftp://h/a")]
)
def test_a_redirect_to_something_less_safe_is_refused(before: str, after: str) -> None:
    with pytest.raises(retry.AttemptError, match="is refused"):
        redirects._next(before, after)
    assert redirects._next("http://h/a/b", "/c") == "http://h/c"


def test_an_origin_is_scheme_host_and_port() -> None:
    assert redirects.origin("https://H/x") == redirects.origin("https://h:443/y")
    others = [
        "http://h/x",
        "https://h:444/x",
        "https://g/x",
        "https://h.evil/x",
        "https://[::1",
        "https://h:x/",
    ]
    assert redirects.origin("https://h/x") not in [redirects.origin(other) for other in others]


def test_an_attempt_that_takes_longer_than_all_may_is_made_again(
    range_server: RangeServer, url: str
) -> None:
    range_server.fault("stall", seconds=3.0)
    assert read(url, RetryPolicy(stall_s=0.5, retry_s=0.1)) == WANTED
    range_server.fault("stall", seconds=3.0)
    with pytest.raises(StorageError, match="stalled"):
        read(url, RetryPolicy(stall_s=0.5, retry_s=0))


@pytest.mark.parametrize("kind", ["drop", "status", "redirect_loop", "gzip"])
def test_no_error_holds_a_secret(range_server: RangeServer, url: str, kind: str) -> None:
    secret = url.replace("127", "hunter1:hunter2@127") + "?token=hunter3"
    range_server.fault(kind, times=None)
    hasty = RetryPolicy(connect_s=1, stall_s=0.2, retry_s=0.2)
    for ask in (read, read_whole, lambda url, policy: storage.size(url, policy=policy)):
        caught = _error_of(ask, secret, hasty)
        assert caught is not None
        assert "hunter" not in "".join(traceback.format_exception(caught)) + repr(caught)
    assert "hunter" not in repr(storage.store_of(secret).address(secret))  # type: ignore[attr-defined]


def _error_of(ask: Callable[..., object], *args: object) -> Exception | None:
    try:
        ask(*args)
    except RoboshardError as error:
        return error
    return None


@pytest.mark.parametrize(
    "url", ["http://[::1/x?t=hunter2", "http:///x", "http://h:x/y", "http://h:99999/y"]
)
def test_what_is_no_url_is_said_without_its_secrets(url: str) -> None:
    with pytest.raises(StorageError, match="not a URL") as caught:
        storage.size(url)
    assert "hunter" not in str(caught.value)


# -- Processes and threads -------------------------------------------------------------------------


def test_threads_share_one_storage(range_server: RangeServer, url: str) -> None:
    for kind in ("reset", "truncate", "drop", "status"):
        range_server.fault(kind, times=10, after=5)

    def some(number: int) -> bool:
        offset = number * 1237 % (TOTAL - 5000)
        return storage.read_range(url, offset, 5000, total=TOTAL) == CONTENT[offset : offset + 5000]

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(some, range(300)))


def test_a_fork_reads_by_connections_of_its_own(range_server: RangeServer, url: str) -> None:
    assert read(url) == WANTED
    with connections._managers.lock, redirects._targets.lock:  # as another thread may hold them
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_read_often, args=(url,)) for _ in range(3)]
        for child in children:
            child.start()
    _read_often(url)
    for child in children:
        child.join(60)
        assert child.exitcode == 0


def _read_often(url: str) -> None:
    for _ in range(20):
        assert read(url, storage.READING) == WANTED


FRESH = """
import hashlib, sys
from roboshard import storage
heavy = {"urllib3", "fsspec", "huggingface_hub", "tenacity", "s3fs"} & set(sys.modules)
assert not heavy, heavy
print(hashlib.sha256(storage.read_range(sys.argv[1], 1000, 200000)).hexdigest())
"""


def test_a_fresh_process_loads_what_it_needs_when_it_needs_it(
    range_server: RangeServer, url: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH, url], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(WANTED).hexdigest()


# -- Datasets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "root",
    [
        "http://h/x",
        "http://h:80/a%20b",
        "hf://buckets/o/n",
        "hf://datasets/o/n@rev/sub/x",
        "s3://bucket",
        "s3://b/x",
    ],
)
def test_roots_and_shards_over_all_schemes(root: str) -> None:
    assert locate(root) == (root, None)
    names = tuple(f"shards/shard-{number:06d}.tar" for number in range(3))
    assert locate(f"{root}/shards/shard-{{000000..000002}}.tar") == (root, names)
    assert locate([f"{root}/{name}" for name in names]) == (root, names)


def test_a_query_stays_with_the_root() -> None:
    assert locate("http://h/x/shards/shard-000001.tar?s=a/b") == (
        "http://h/x?s=a/b",
        ("shards/shard-000001.tar",),
    )
    with pytest.raises(RoboshardError) as caught:
        locate(
            ["http://h/x/shards/shard-000001.tar?sig=1", "http://h/x/shards/shard-000002.tar?sig=2"]
        )
    assert "?" not in str(caught.value)


def test_a_dataset_is_read_without_a_needless_request(
    range_server: RangeServer, pusht_shards: Path
) -> None:
    range_server.serve(pusht_shards)
    here, there = ShardedDataset.open(str(pusht_shards)), ShardedDataset.open(range_server.url)
    for position in range(len(here.index.length)):
        ours, theirs = here.read_episode(position), there.read_episode(position)
        assert (ours.record, ours.rows, ours.videos) == (theirs.record, theirs.rows, theirs.videos)
    shards, episodes = len(here.manifest.shards), len(here.index.length)
    assert len(range_server.requests) == 2 + shards + episodes


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            r"episodes\.parquet",
            r"episodes\.parquet: .* bytes where .* are expected.*`roboshard rebuild`",
        ),
        (
            r"shard-000000\.json",
            r"shard-000000\.json: .* bytes where .* are expected.*`roboshard rebuild`",
        ),
        (
            r"shard-000000\.tar",
            r"shard-000000\.tar: .* bytes where .* are expected: cut off or replaced",
        ),
    ],
)
def test_a_file_of_the_wrong_size_is_seen_as_it_is_read(
    range_server: RangeServer, pusht_shards: Path, pattern: str, message: str
) -> None:
    range_server.serve(pusht_shards)
    range_server.fault("short_total", pattern, times=None)
    with pytest.raises(DamageError, match=message):
        ShardedDataset.open(range_server.url).read_episode(0)
