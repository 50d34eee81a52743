"""make_loader on remote URLs: the batches of the local dataset, bit for bit, or an error that names
URL and cause.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.remote_loading import (
    bounded,
    collect,
    digests,
    digests_or_error,
    load_to,
    read_threads,
    small_loader,
)
from support.servers import LocalHub, RangeServer, S3Server
from support.slowly import slowly

from roboshard.shards import DamageError, MissingError, RoboshardError, ShardedDataset, StorageError
from roboshard.storage import retry
from roboshard.storage.http import connections

pytestmark = pytest.mark.usefixtures("no_threads_before")

pytest_plugins = ["support.servers.fixtures"]

TOP = "observation.images.top"
FEW: dict[str, Any] = {"episodes": range(8), "cameras": [TOP], "retry_seconds": 0.5}
"""Quick to load; a fault that stays is given up soon."""
PATIENT = {"retry_seconds": 10.0}
"""Where all shall be read in the end, however busy the machine is."""
BOUND_S = 12
"""Three attempts that stall for 1.5 s each, and what a busy machine adds."""


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.05)


@pytest.fixture(scope="module")
def local(arm_shards: Path) -> Callable[..., list[str]]:
    """The digests of an epoch, read from disk; each set of options once."""
    known: dict[str, list[str]] = {}

    def load(**options: Any) -> list[str]:
        name = repr(sorted(options.items()))
        if name not in known:
            known[name] = digests(small_loader(str(arm_shards), **options))
        return known[name]

    return load


@pytest.fixture
def http(range_server: RangeServer, arm_shards: Path) -> RangeServer:
    range_server.serve(arm_shards)
    return range_server


@pytest.fixture
def hub_roots(this_hub: LocalHub, arm_shards: Path) -> list[str]:
    """A private bucket, and a branch of a private dataset."""
    this_hub.add_bucket("me/arm", private=True)
    this_hub.add_bucket_folder("me/arm", arm_shards, "some/where")
    this_hub.add_dataset("me/arm", arm_shards, "v2", private=True)
    this_hub.call("clear")
    return ["hf://buckets/me/arm/some/where", "hf://datasets/me/arm@v2"]


@pytest.fixture
def s3_root(s3_server: S3Server, arm_shards: Path) -> str:
    return s3_server.add_folder(arm_shards, "some/where")


# -- The same batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("episode_order", ["global", "shard"])
@pytest.mark.parametrize("frame_order", ["uniform", slowly("sweep")])
@pytest.mark.parametrize(
    "cameras",
    [pytest.param(None, marks=pytest.mark.slow), [TOP], pytest.param([], marks=pytest.mark.slow)],
    ids=["all", "top", "none"],
)
def test_every_order_and_choice_of_cameras_gives_the_local_batches(
    http: RangeServer,
    local: Callable[..., list[str]],
    episode_order: str,
    frame_order: str,
    cameras: list[str] | None,
) -> None:
    options = {"episode_order": episode_order, "frame_order": frame_order, "cameras": cameras}
    assert digests(small_loader(http.url, **options)) == local(**options)


def test_the_hub_gives_the_local_batches_and_no_token_leaves_it(
    this_hub: LocalHub, hub_roots: list[str], local: Callable[..., list[str]]
) -> None:
    for root in hub_roots:
        assert digests(small_loader(root)) == local()
    assert not this_hub.token_leaks
    assert any(request.path.startswith("/cdn/") for request in this_hub.requests)


def test_s3_gives_the_local_batches(s3_root: str, local: Callable[..., list[str]]) -> None:
    for options in ({}, {"episode_order": "shard", "cameras": [TOP]}):
        assert digests(small_loader(s3_root, **options)) == local(**options)


def test_patterns_and_lists_of_shards_are_those_shards(
    http: RangeServer, hub_roots: list[str], arm_shards: Path
) -> None:
    names = [f"shards/shard-{number:06d}.tar" for number in range(1, 4)]
    expected = digests(small_loader([str(arm_shards / name) for name in names]))
    for root in (http.url, hub_roots[0]):
        assert digests(small_loader(f"{root}/shards/shard-{{000001..000003}}.tar")) == expected
        assert digests(small_loader([f"{root}/{name}" for name in names])) == expected


def test_unshuffled_and_later_epochs_and_resumed_ones_are_the_local_ones(
    http: RangeServer, arm_shards: Path
) -> None:
    for options in ({"shuffle": False}, {}):
        here, there = small_loader(str(arm_shards), **options), small_loader(http.url, **options)
        for _ in range(2):
            assert digests(there) == digests(here)
        for step, _ in enumerate(here):
            if step == 4:
                break
        there.load_state_dict(here.state_dict())
        again = small_loader(str(arm_shards), **options)
        again.load_state_dict(here.state_dict())
        assert digests(there) == digests(again)


@pytest.mark.slow
def test_workers_read_the_hub_by_the_environment(
    this_hub: LocalHub, hub_roots: list[str], local: Callable[..., list[str]]
) -> None:
    this_hub.fault("status", r"\.tar", times=2, code=503)
    this_hub.fault("truncate", r"^/cdn/.*\.tar", times=2, after_bytes=5000)
    loader = small_loader(hub_roots[0], num_workers=2)
    assert digests(loader) == local()
    assert not this_hub.token_leaks
    assert not this_hub.armed


@pytest.mark.slow
def test_damage_in_a_worker_names_the_url_on_the_hub(
    this_hub: LocalHub, hub_roots: list[str]
) -> None:
    this_hub.fault("wrong_bytes", r"\.tar", times=None)
    with (
        bounded(60),
        pytest.raises(DamageError, match=r"hf://buckets/me/arm.*\.tar, episode \d+: .*damaged"),
    ):
        digests(small_loader(hub_roots[0], num_workers=1, cameras=[]))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["http", "bucket", "dataset", "s3"])
@pytest.mark.parametrize("episode_order", ["global", "shard"])
@pytest.mark.parametrize("frame_order", ["uniform", "sweep"])
def test_workers_give_the_local_batches_from_everywhere(
    http: RangeServer,
    hub_roots: list[str],
    s3_root: str,
    local: Callable[..., list[str]],
    which: str,
    episode_order: str,
    frame_order: str,
) -> None:
    root = {"http": http.url, "bucket": hub_roots[0], "dataset": hub_roots[1], "s3": s3_root}[which]
    options = {"episode_order": episode_order, "frame_order": frame_order}
    assert digests(small_loader(root, num_workers=2, **options)) == local(**options)


def _in_child(method: str, loader: Any, path: Path) -> list[str]:
    child = multiprocessing.get_context(method).Process(target=load_to, args=(path, loader))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    found: list[str] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("used_before", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_forked_child_reads_by_itself(
    http: RangeServer,
    hub_roots: list[str],
    s3_root: str,
    local: Callable[..., list[str]],
    tmp_path: Path,
    used_before: bool,
) -> None:
    for root in (http.url, hub_roots[0], s3_root):
        loader = small_loader(root, cameras=[])
        if used_before:
            assert digests(loader) == local(cameras=[])
            loader.set_epoch(0)
        assert _in_child("fork", loader, tmp_path / "found") == local(cameras=[])
        assert digests(loader) == local(cameras=[])


@pytest.mark.slow
def test_a_spawned_child_reads_by_itself(
    hub_roots: list[str], local: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert _in_child("spawn", small_loader(hub_roots[1], cameras=[]), tmp_path / "found") == local(
        cameras=[]
    )


@pytest.mark.slow
def test_spawned_children_read_http_and_s3(
    http: RangeServer, s3_root: str, local: Callable[..., list[str]], tmp_path: Path
) -> None:
    for root in (http.url, s3_root):
        assert _in_child("spawn", small_loader(root), tmp_path / "found") == local()


def test_without_the_right_token_nothing_is_loaded(
    this_hub: LocalHub, hub_roots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in (None, this_hub.strangers_token):
        this_hub.use(monkeypatch, token)
        for root in hub_roots:
            with pytest.raises(RoboshardError, match=r"hf://.*/me/arm") as caught:
                small_loader(root)
            assert "hf_local" not in repr(caught.value)


# -- Faults ----------------------------------------------------------------------------------------

CUT = {"after_bytes": 5000}
SLOW = pytest.mark.slow
URL = r"http://127\.0\.0\.1:\d+/shards/shard-\d{6}\.tar"
FAULTS: list[tuple[str, dict[str, Any], str | None]] = [
    # fault, its arguments, what the error says when it never ends (None: everything is read
    # nevertheless)
    ("refuse", {}, "Connection refused"),
    ("drop", {}, "the connection broke"),
    ("reset", {"after_bytes": 0}, "the connection broke"),
    ("reset", CUT, None),
    ("truncate", {"after_bytes": 0}, "the connection broke|too early"),
    ("truncate", CUT, None),
    ("status", {"code": 408}, "HTTP 408"),
    ("status", {"code": 429, "retry_after": 1}, "HTTP 429"),
    ("status", {"code": 500}, "HTTP 500"),
    ("status", {"code": 503}, "HTTP 503"),
    ("stall", {"seconds": 3.0}, "stalled"),
    ("stall", {"seconds": 3.0, **CUT}, None),
    ("ignore_range", {}, "ignores Range"),
    ("wrong_range", {}, "where .* were asked for"),
    ("wrong_header", {}, "where .* were asked for"),
    ("short_total", {}, "bytes where .* are expected"),
    ("gzip", {}, "Content-Encoding 'gzip'"),
    ("wrong_bytes", {}, r", episode \d+: .*damaged"),
    ("redirect", {"uses": 1}, None),
    ("redirect", {"uses": 0}, "access is refused"),
    ("redirect_loop", {}, "lead in a circle"),
]
QUICK = ("refuse", "reset", "truncate", "ignore_range", "wrong_bytes", "gzip")
each_fault = pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        fault if fault[0] in QUICK or 503 in fault[1].values() else pytest.param(*fault, marks=SLOW)
        for fault in FAULTS
    ],
    ids=["-".join(map(str, (kind, *args.values()))) for kind, args, _ in FAULTS],
)


@each_fault
def test_faults_that_end_change_no_batch(
    http: RangeServer,
    local: Callable[..., list[str]],
    kind: str,
    args: dict[str, Any],
    message: str | None,
) -> None:
    loader = small_loader(http.url, **FEW | PATIENT)
    if kind == "refuse":
        http.fault(kind, seconds=0.5)
    else:
        http.fault(kind, r"\.tar", **args)
        http.fault(kind, r"shard-000001\.tar", after=1, **args)
    with bounded(BOUND_S):
        assert digests(loader) == local(**FEW)
    assert kind == "refuse" or len(http.armed) < 2  # it has struck


@each_fault
def test_faults_that_stay_end_in_an_error_and_the_loader_goes_on_when_they_are_over(
    http: RangeServer,
    local: Callable[..., list[str]],
    kind: str,
    args: dict[str, Any],
    message: str | None,
) -> None:
    loader = small_loader(http.url, **FEW | (PATIENT if message is None else {}))
    if kind == "stall" and message is None:
        pytest.skip("every attempt brings some bytes and waits; this takes as long as the bytes do")
    http.fault(kind, *([] if kind == "refuse" else [r"\.tar", None]), **args)
    found: list[str] = []
    with bounded(BOUND_S):
        if message is None:
            found = digests(loader)
        else:
            with pytest.raises(RoboshardError, match=message) as caught:
                collect(found, loader)
            assert "http://127.0.0.1" in str(caught.value)
            assert ".tar" in str(caught.value) or ".json" in str(caught.value)
    assert found == local(**FEW)[: len(found)]
    http.reset()
    loader.set_epoch(1)
    loader.set_epoch(0)
    assert digests(loader) == local(**FEW)


MANIFEST_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("drop", {}),
    ("truncate", {"after_bytes": 500}),
    ("status", {"code": 503}),
    ("ignore_range", {}),
    ("wrong_range", {}),
    ("short_total", {}),
    ("gzip", {}),
    ("wrong_bytes", {}),
    ("replace", {}),
    ("replace", {"after_bytes": 500}),
]


@pytest.mark.parametrize("times", [1, pytest.param(None, marks=SLOW)])
@pytest.mark.parametrize("name", ["dataset.json", "episodes.parquet", "shard-000001.json"])
def test_faults_of_manifests_end_in_the_right_batches_or_name_the_manifest(
    http: RangeServer, local: Callable[..., list[str]], name: str, times: int | None
) -> None:
    options = FEW | (PATIENT if times is not None else {})
    for kind, args in MANIFEST_FAULTS:
        http.fault(kind, name.replace(".", r"\."), times, **args)
        with bounded(BOUND_S):
            found = digests_or_error(lambda: small_loader(http.url, **options))
        if isinstance(found, RoboshardError):
            assert times is None or kind in ("wrong_bytes", "replace"), kind  # the others pass
            assert f"/{name}" in str(found), kind
        else:
            assert found == local(**FEW), kind
        http.reset()


@pytest.mark.parametrize("after_bytes", [None, 3000])
def test_a_shard_that_is_replaced_by_another_of_its_size_is_damage_that_names_shard_and_episode(
    http: RangeServer, local: Callable[..., list[str]], after_bytes: int | None
) -> None:
    loader = small_loader(http.url, **FEW, shuffle=False)
    http.fault("replace", r"shard-000001\.tar", after_bytes=after_bytes)
    found: list[str] = []
    with bounded(BOUND_S), pytest.raises(DamageError, match=rf"{URL}, episode \d+: .*damaged"):
        collect(found, loader)
    assert found == local(**FEW, shuffle=False)[: len(found)]


def test_a_shard_that_is_gone_or_cut_is_named(http: RangeServer) -> None:
    loader = small_loader(http.url, **FEW)
    http.fault("status", r"\.tar", None, code=404)
    with (
        bounded(BOUND_S),
        pytest.raises(MissingError, match=f"{URL}: missing, though dataset.json lists it"),
    ):
        digests(loader)
    http.reset()
    http.fault("replace", r"\.tar", 10, content=b"short")
    with bounded(BOUND_S), pytest.raises(DamageError, match=f"{URL}: "):
        digests(loader)


def test_signed_links_that_expire_all_the_time_change_no_batch(
    this_hub: LocalHub, hub_roots: list[str], local: Callable[..., list[str]]
) -> None:
    this_hub.configure(link_uses=1)
    try:
        for root in hub_roots * 2:  # links are remembered: the second time they have been used
            assert digests(small_loader(root, **FEW)) == local(**FEW)
    finally:
        this_hub.configure(link_uses=None)
    assert any(request.status == 403 for request in this_hub.requests)


def test_a_branch_that_moves_on_is_read_as_it_was(
    this_hub: LocalHub, hub_roots: list[str], local: Callable[..., list[str]], tmp_path: Path
) -> None:
    loader = small_loader(hub_roots[1], **FEW)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README.md").write_text("nothing else is here now")
    this_hub.add_dataset("me/arm", tmp_path / "other", "v2", private=True)
    assert digests(loader) == local(**FEW)


@pytest.mark.parametrize("seconds", [0.3, None])
def test_names_that_cannot_be_resolved(
    http: RangeServer,
    local: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float | None,
) -> None:
    loader = small_loader(http.url, **FEW)
    connections.close_all()
    well_again = time.monotonic() + (1e9 if seconds is None else seconds)
    resolve = socket.getaddrinfo

    def fail(*args: Any, **keywords: Any) -> Any:
        if time.monotonic() < well_again:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(*args, **keywords)

    with monkeypatch.context() as patch, bounded(BOUND_S):
        patch.setattr(socket, "getaddrinfo", fail)
        if seconds is None:
            with pytest.raises(
                StorageError,
                match=r"/shard-\d{6}\.json: the host's name cannot be resolved \(DNS\)",
            ):
                digests(loader)
        else:
            assert digests(loader) == local(**FEW)


def test_a_host_that_does_not_exist_is_said_by_make_loader() -> None:
    with (
        bounded(BOUND_S),
        pytest.raises(StorageError, match=r"host\.invalid/x/dataset\.json: .*\(DNS\)"),
    ):
        small_loader("http://no-such-host.invalid/x", retry_seconds=0.3)


S3_FAULTS: list[tuple[str, dict[str, Any], bool]] = [
    # fault, arguments, whether it may end in an error though it strikes once
    ("drop", {}, False),
    ("reset", CUT, False),
    ("truncate", CUT, False),
    ("status", {"code": 500}, False),
    ("status", {"code": 503}, False),
    ("ignore_range", {}, True),
    ("wrong_range", {}, True),
    ("wrong_bytes", {}, False),
]


@pytest.mark.parametrize(
    ("kind", "args", "may_fail"),
    [
        fault if fault[0] in ("truncate", "wrong_bytes") else pytest.param(*fault, marks=SLOW)
        for fault in S3_FAULTS
    ],
    ids=[f"{kind}-{list(args.values())}" for kind, args, _ in S3_FAULTS],
)
def test_faults_of_s3(
    s3_server: S3Server,
    s3_root: str,
    local: Callable[..., list[str]],
    kind: str,
    args: dict[str, Any],
    may_fail: bool,
) -> None:
    options = {"cameras": [], "episodes": range(8)}
    s3_server.fault(kind, r"\.tar", method="GET", **args)
    with bounded(BOUND_S):
        found = digests_or_error(lambda: small_loader(s3_root, **options, retry_seconds=10))
    if isinstance(found, RoboshardError):
        assert may_fail, found
        assert f"{s3_root}/shards/" in str(found)
    else:
        assert found == local(**options)
    s3_server.reset()
    s3_server.fault(kind, r"\.tar", None, method="GET", **args)
    with bounded(2 * BOUND_S), pytest.raises(RoboshardError, match=f"{s3_root}/shards/shard-"):
        digests(small_loader(s3_root, **options, retry_seconds=0.5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        fault
        for fault in FAULTS
        if fault[0] in ("refuse", "truncate", "status", "ignore_range", "wrong_bytes")
    ],
)
def test_faults_in_workers(
    http: RangeServer,
    local: Callable[..., list[str]],
    kind: str,
    args: dict[str, Any],
    message: str | None,
) -> None:
    # Their first wait is not shortened: a read in many pieces takes its time.
    options = FEW | {"num_workers": 2, "retry_seconds": 0.5 if message else 10}
    loader = small_loader(http.url, **options)
    expected = local(**FEW)
    arguments = {"seconds": 0.2} if kind == "refuse" else args
    if args.get("code") != 429:
        http.fault(kind, r"\.tar", **arguments)
        assert digests(loader) == expected
        loader = small_loader(http.url, **options)  # workers keep what they have read
    http.reset()
    http.fault(kind, *([] if kind == "refuse" else [r"\.tar", None]), **args)
    if message is None:
        assert digests(loader) == expected
    else:
        with bounded(60), pytest.raises(RoboshardError, match=message):
            digests(loader)
    http.reset()
    loader.set_epoch(1)
    loader.set_epoch(0)
    assert digests(loader) == expected


@pytest.mark.slow
def test_a_stall_of_thirty_seconds_changes_no_batch(
    http: RangeServer, local: Callable[..., list[str]]
) -> None:
    loader = small_loader(http.url)
    http.fault("stall", r"\.tar", 3, seconds=30.0)
    http.fault("stall", r"\.tar", 3, seconds=30.0, after_bytes=7000)
    with bounded(90):
        assert digests(loader) == local()


def test_no_thread_and_no_file_is_left(http: RangeServer, local: Callable[..., list[str]]) -> None:
    digests(small_loader(http.url, **FEW))
    connections.close_all()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for kind, args in (
        ("wrong_bytes", {}),
        ("drop", {}),
        ("truncate", {"after_bytes": 0}),
        ("status", {"code": 404}),
    ):
        http.fault(kind, r"\.tar", None, after=1, **args)
        with pytest.raises(RoboshardError):
            digests(small_loader(http.url, **FEW))
        http.reset()
    for step, _ in enumerate(small_loader(http.url, **FEW)):
        if step == 2:
            break
    until = time.monotonic() + 10
    while read_threads() and time.monotonic() < until:
        time.sleep(0.05)
    assert not read_threads()
    connections.close_all()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


# -- on_error="skip" -------------------------------------------------------------------------------


@pytest.fixture
def one_wrong_shard(http: RangeServer, arm_shards: Path) -> set[int]:
    """The episodes of a shard whose bytes are always wrong."""
    http.fault("replace", r"shard-000002\.tar")
    index = ShardedDataset.open(str(arm_shards)).index
    return {int(episode) for episode in index.episode_index[index.shard == 2]}


def test_episodes_whose_bytes_are_always_wrong_can_be_skipped(
    http: RangeServer, arm_shards: Path, one_wrong_shard: set[int]
) -> None:
    loader = small_loader(http.url, on_error="skip", cameras=[])
    with pytest.warns(
        RuntimeWarning, match=rf"on_error='skip': {URL}, episode \d+: .*damaged"
    ) as caught:
        found = list(loader)
    expected = list(small_loader(str(arm_shards), cameras=[]))
    assert len(caught) == len(one_wrong_shard)
    assert len(found) == len(expected)
    for batch, right in zip(found, expected, strict=True):
        for i, episode in enumerate(right["episode_index"].tolist()):
            if episode in one_wrong_shard:
                assert int(batch["episode_index"][i]) not in one_wrong_shard
            else:
                assert (batch["action"][i] == right["action"][i]).all()
                assert batch["index"][i] == right["index"][i]


def test_a_server_that_is_away_is_an_error_also_where_damage_is_skipped(
    http: RangeServer, local: Callable[..., list[str]]
) -> None:
    loader = small_loader(http.url, **FEW, on_error="skip", shuffle=False)
    http.fault("status", r"shard-000001\.tar", None, code=503)
    found: list[str] = []
    with (
        bounded(BOUND_S),
        pytest.raises(StorageError, match=r"shard-000001\.tar: the server cannot answer now"),
    ):
        collect(found, loader)
    assert found == local(**FEW, shuffle=False)[: len(found)]
