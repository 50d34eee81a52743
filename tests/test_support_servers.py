"""The servers of the tests do what they say: each fault is seen by a client that is not ours."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import s3fs
import urllib3
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from packaging.version import Version
from support.servers import LocalHub, RangeServer, S3Server
from support.servers.faults import KINDS

pytest_plugins = ["support.servers.fixtures"]

DATA = bytes(range(256)) * 4000
RANGE = {"Range": "bytes=1000-1999"}


@pytest.fixture
def server(range_server: RangeServer, tmp_path: Path) -> RangeServer:
    (tmp_path / "a file").write_bytes(DATA)
    return range_server


@pytest.fixture
def client() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, maxsize=8) as manager:
        yield manager


def get(
    client: urllib3.PoolManager, server: RangeServer, **headers: str
) -> urllib3.BaseHTTPResponse:
    url = f"{server.url}/a%20file"
    return client.request("GET", url, headers=RANGE | headers, redirect=False)


def raw(server: RangeServer) -> tuple[http.client.HTTPResponse, bytes]:
    """A ranged read up to wherever the body ends, and how."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    ) as connection:
        connection.request("GET", "/a%20file", headers=RANGE)
        response = connection.getresponse()
        try:
            return response, response.read()
        except http.client.IncompleteRead as error:
            return response, error.partial


def is_refused(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


# -- Ranges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-0", 206, DATA[:1]),
        ("bytes=5-", 206, DATA[5:]),
        ("bytes=-7", 206, DATA[-7:]),
        ("bytes=1000-9999999", 206, DATA[1000:]),
        ("bytes=9-3", 200, DATA),
        ("bytes=1-2,4-5", 200, DATA),
        (f"bytes={len(DATA)}-", 416, b""),
    ],
)
def test_ranges(
    server: RangeServer, client: urllib3.PoolManager, asked: str, status: int, body: bytes
) -> None:
    response = get(client, server, Range=asked)
    assert (response.status, response.data) == (status, body)


def test_conditions_and_log(server: RangeServer, client: urllib3.PoolManager) -> None:
    first = get(client, server)
    assert first.headers["Content-Range"] == f"bytes 1000-1999/{len(DATA)}"
    assert get(client, server, **{"If-Match": first.headers["ETag"]}).status == 206
    assert get(client, server, **{"If-Match": '"x"'}).status == 412
    assert get(client, server, **{"If-Range": '"x"'}).data == DATA
    assert client.request("HEAD", f"{server.url}/a%20file").headers["Content-Length"] == str(
        len(DATA)
    )
    assert client.request("GET", f"{server.url}/nothing").status == 404
    assert client.request("GET", f"{server.url}/../../etc/passwd").status == 404
    log = server.requests
    assert [line.bytes_sent for line in log[:5]] == [1000, 1000, 0, len(DATA), 0]
    assert log[0].range == "bytes=1000-1999"
    assert len({line.connection for line in log}) == 1, "keep-alive"
    server.reset()
    assert (server.requests, server.bytes_sent) == ([], 0)


def test_a_slow_line(server: RangeServer, client: urllib3.PoolManager) -> None:
    server.configure(latency_s=0.1, bytes_per_second=5e6)
    threads = [
        threading.Thread(target=get, args=(client, server), kwargs={"Range": "bytes=0-"})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = server.requests
    took = [line.seconds or 0 for line in log]
    assert min(took) > 0.95 * (0.1 + len(DATA) / 5e6)
    assert max(line.started for line in log) < min(
        line.started + line.seconds for line in log if line.seconds
    )


# -- Faults ----------------------------------------------------------------------------------------


def test_every_fault_is_tried_here() -> None:
    assert all(f'"{kind}"' in Path(__file__).read_text(encoding="utf-8") for kind in KINDS)


def test_mistakes_in_a_fault_are_errors(server: RangeServer) -> None:
    with pytest.raises(ValueError, match="no fault"):
        server.fault("explode")
    with pytest.raises(ValueError, match="no argument"):
        server.fault("stall", minutes=1)


def test_refuse(server: RangeServer, client: urllib3.PoolManager) -> None:
    assert get(client, server).status == 206
    server.fault("refuse")
    for _ in range(2):
        with pytest.raises(urllib3.exceptions.HTTPError):
            get(client, server)
    assert is_refused(server.port)
    server.accept()
    assert get(client, server).status == 206
    server.fault("refuse", seconds=0.2)
    with pytest.raises(urllib3.exceptions.HTTPError):
        get(client, server)
    time.sleep(0.3)
    assert get(client, server).status == 206


def test_drop(server: RangeServer) -> None:
    server.fault("drop")
    with pytest.raises(ConnectionResetError):
        raw(server)
    assert raw(server)[1] == DATA[1000:2000]


def test_reset(server: RangeServer) -> None:
    server.fault("reset", after_bytes=100)
    with pytest.raises(ConnectionResetError):
        raw(server)
    assert server.requests[0].bytes_sent == 100
    assert raw(server)[1] == DATA[1000:2000]


def test_truncate(server: RangeServer) -> None:
    server.fault("truncate", after_bytes=100)
    response, body = raw(server)
    assert (response.headers["Content-Length"], body) == ("1000", DATA[1000:1100])


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_status(server: RangeServer, client: urllib3.PoolManager, code: int) -> None:
    server.fault("status", "a file", code=code, retry_after=3, times=2, after=1)
    server.fault("status", "another file")
    answers = [get(client, server) for _ in range(4)]
    assert [answer.status for answer in answers] == [206, code, code, 206]
    assert answers[1].headers["Retry-After"] == "3"
    assert [fault["path_pattern"] for fault in server.armed] == ["another file"]


def test_ignore_range(server: RangeServer, client: urllib3.PoolManager) -> None:
    server.fault("ignore_range")
    client.request("GET", f"{server.url}/a%20file")  # not a request for a range: the fault waits
    answer = get(client, server)
    assert (answer.status, answer.data) == (200, DATA)


def test_wrong_ranges(server: RangeServer, client: urllib3.PoolManager) -> None:
    server.fault("wrong_range", shift=10)
    server.fault("wrong_header", shift=10)
    server.fault("short_total", by=-5)
    answers = [get(client, server) for _ in range(3)]
    assert [answer.headers["Content-Range"] for answer in answers] == [
        f"bytes 1010-2009/{len(DATA)}",
        f"bytes 1010-2009/{len(DATA)}",
        f"bytes 1000-1999/{len(DATA) - 5}",
    ]
    assert [answer.data for answer in answers] == [
        DATA[1010:2010],
        DATA[1000:2000],
        DATA[1000:2000],
    ]


@pytest.mark.parametrize("kind", ["wrong_range", "wrong_header"])
@pytest.mark.parametrize("asked", ["bytes=0-", f"bytes={len(DATA) - 1}-"])
def test_wrong_ranges_at_the_edges(
    server: RangeServer, client: urllib3.PoolManager, kind: str, asked: str
) -> None:
    right = get(client, server, Range=asked).headers["Content-Range"]
    server.fault(kind)
    assert get(client, server, Range=asked).headers["Content-Range"] != right


def test_wrong_bytes(server: RangeServer, client: urllib3.PoolManager) -> None:
    server.fault("wrong_bytes", at=7, method="GET")
    client.request("HEAD", f"{server.url}/a%20file")
    right, wrong = DATA[1000:2000], get(client, server).data
    assert [place for place in range(1000) if right[place] != wrong[place]] == [7]
    assert get(client, server).data == right


def test_replace_between_requests(server: RangeServer, client: urllib3.PoolManager) -> None:
    server.fault("replace", after=1, content=b"z" * 3000)
    old, new, later = (get(client, server) for _ in range(3))
    assert (old.data, new.data, later.data) == (DATA[1000:2000], b"z" * 1000, b"z" * 1000)
    assert new.headers["Content-Range"] == "bytes 1000-1999/3000"
    assert old.headers["ETag"] != new.headers["ETag"] == later.headers["ETag"]


def test_replace_in_mid_body(server: RangeServer, client: urllib3.PoolManager) -> None:
    before = get(client, server)
    server.fault("replace", after_bytes=300)
    torn, after = get(client, server), get(client, server)
    assert torn.data == before.data[:300] + after.data[300:]
    assert torn.headers["ETag"] == before.headers["ETag"] != after.headers["ETag"]
    assert not set(enumerate(before.data)) & set(enumerate(after.data)), "every byte differs"


def test_redirect_that_expires(server: RangeServer, client: urllib3.PoolManager) -> None:
    server.fault("redirect", times=None, uses=2)
    answer = get(client, server)
    assert answer.status == 302
    location = answer.headers["Location"]
    assert location.startswith(f"http://localhost:{server.port}/")
    answers = [client.request("GET", location, headers=RANGE) for _ in range(3)]
    assert [answer.status for answer in answers] == [206, 206, 403]
    assert answers[0].data == DATA[1000:2000]
    server.reset()
    server.fault("redirect", seconds=0.1, host="127.0.0.1")
    location = get(client, server).headers["Location"]
    time.sleep(0.15)
    assert client.request("GET", location).status == 403


def test_redirect_loop(server: RangeServer, client: urllib3.PoolManager) -> None:
    server.fault("redirect_loop", times=None)
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        client.request("GET", f"{server.url}/a%20file", retries=urllib3.Retry(redirect=5))
    assert len(server.requests) == 6


@pytest.mark.parametrize("after_bytes", [None, 400])
def test_stall(server: RangeServer, client: urllib3.PoolManager, after_bytes: int | None) -> None:
    server.fault("stall", seconds=0.3, after_bytes=after_bytes)
    started = time.monotonic()
    assert get(client, server).data == DATA[1000:2000]
    assert time.monotonic() - started >= 0.3
    server.fault("stall", seconds=30, after_bytes=after_bytes)
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        client.request("GET", f"{server.url}/a%20file", headers=RANGE, timeout=0.1)


def test_gzip(server: RangeServer, client: urllib3.PoolManager) -> None:
    server.fault("gzip")
    answer = get(client, server)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Range"].startswith("bytes 1000-1999/")
    assert answer.data == DATA[1000:2000]  # decoded by urllib3
    assert int(answer.headers["Content-Length"]) < 1000


def test_in_this_process(tmp_path: Path, client: urllib3.PoolManager) -> None:
    (tmp_path / "a file").write_bytes(DATA)
    with RangeServer(tmp_path, in_process=True) as server:
        server.fault("status")
        assert [get(client, server).status for _ in range(2)] == [503, 206]
        client.clear()
    assert is_refused(server.port)


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, sys; from support.servers import RangeServer; "
        "print(RangeServer(sys.argv[1]).start().port, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    port = int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False).stdout)
    for _ in range(100):
        if is_refused(port):
            return
        time.sleep(0.05)
    pytest.fail("the server is still there")


# -- The Hub ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "deep/er").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: mit\n---\nhello\n", encoding="utf-8")
    (root / "shard-0.tar").write_bytes(DATA)
    (root / "deep/er/rows.parquet").write_bytes(DATA[::-1])
    (root / "deep/empty.txt").write_bytes(b"")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_bucket(this_hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    api = HfApi()
    api.create_bucket("me/made", exist_ok=True)
    api.create_bucket("me/made", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_bucket("made")
    api.batch_bucket_files(
        "me/made", add=[(folder / name, f"v1/{name}") for name in contents(folder)]
    )
    api.batch_bucket_files("me/made", add=[(b"text", "x.txt"), (b"gone", "y.txt")])
    api.batch_bucket_files("me/made", delete=["y.txt"])
    expected = {f"v1/{name}": data for name, data in contents(folder).items()} | {"x.txt": b"text"}
    held = this_hub.bucket_files("me/made")
    assert {path: entry["size"] for path, entry in held.items()} == {
        path: len(data) for path, data in expected.items()
    }
    assert {path: this_hub.read_bucket("me/made", path) for path in held} == expected
    this_hub.configure(page_size=2)
    assert {
        file.path for file in api.list_bucket_tree("me/made", recursive=True) if file.type == "file"
    } == set(expected)
    assert {entry.path for entry in api.list_bucket_tree("me/made")} == {"v1", "x.txt"}
    (info,) = api.get_bucket_paths_info("me/made", ["v1/shard-0.tar", "nothing"])
    assert (info.size, info.xet_hash) == (len(DATA), held["v1/shard-0.tar"]["xet_hash"])
    assert api.bucket_info("me/made").total_files == len(expected)
    api.download_bucket_files("me/made", [(path, tmp_path / "back" / path) for path in expected])
    assert contents(tmp_path / "back") == expected
    assert not this_hub.token_leaks


def test_bucket_by_file_system(this_hub: LocalHub, folder: Path) -> None:
    this_hub.add_bucket_folder("me/seeded", folder, "v1")
    files = HfFileSystem(skip_instance_cache=True)
    assert files.ls("hf://buckets/me/seeded/v1/deep", detail=False) == [
        "buckets/me/seeded/v1/deep/empty.txt",
        "buckets/me/seeded/v1/deep/er",
    ]
    with files.open(
        "hf://buckets/me/seeded/v1/shard-0.tar", block_size=5000, cache_type="none"
    ) as file:
        file.seek(1000)
        assert file.read(1000) == DATA[1000:2000]
    storage = [request for request in this_hub.requests if request.path.startswith("/cdn/")]
    assert storage
    assert all(
        request.host == f"localhost:{this_hub.port}" and request.range for request in storage
    )
    assert not this_hub.token_leaks


def test_links_expire_and_are_signed(
    local_hub: LocalHub, folder: Path, client: urllib3.PoolManager
) -> None:
    local_hub.add_bucket_folder("me/links", folder)
    path = f"{local_hub.endpoint}/buckets/me/links/resolve/shard-0.tar"

    def link() -> str:
        return client.request("GET", path, redirect=False).headers["Location"]

    local_hub.configure(link_uses=1)
    once = link()
    assert client.request("GET", once, headers=RANGE).data == DATA[1000:2000]
    assert client.request("GET", once).status == 403
    assert client.request("GET", link().replace("signature=", "signature=0")).status == 403
    local_hub.configure(link_seconds=-1.0)
    assert client.request("GET", link()).status == 403
    local_hub.reset()
    local_hub.fault("truncate", "^/cdn/", after_bytes=10)
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.request("GET", link())
    assert client.request("GET", link()).data == DATA
    client.request("GET", link(), headers={"Authorization": "Bearer secret"})
    assert len(local_hub.token_leaks) == 1, "the Hub notices"


TELLS_OF_FAILURES = Version(huggingface_hub.__version__) >= Version("1.33")
"""Whether a batch that failed in part is an error to it."""


def test_partial_failure_of_a_batch(this_hub: LocalHub) -> None:
    this_hub.add_bucket("me/partial")
    this_hub.refuse_in_batch("b.txt")
    told = pytest.raises(HfHubHTTPError, match=r"b\.txt")
    with told if TELLS_OF_FAILURES else contextlib.nullcontext():
        HfApi().batch_bucket_files("me/partial", add=[(b"a", "a.txt"), (b"b", "b.txt")])
    assert set(this_hub.bucket_files("me/partial")) == {"a.txt"}


def test_dataset(this_hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    api = HfApi()
    api.create_repo("me/data", repo_type="dataset", exist_ok=True)
    first = api.upload_folder(repo_id="me/data", repo_type="dataset", folder_path=folder)
    second = api.upload_file(
        repo_id="me/data", repo_type="dataset", path_or_fileobj=b"\0" * 9, path_in_repo="z.tar"
    )
    api.create_tag("me/data", tag="v1", revision=first.oid, repo_type="dataset")
    info = api.dataset_info("me/data", files_metadata=True)
    assert info.sha == second.oid
    assert {file.rfilename: file.size for file in info.siblings or []}["shard-0.tar"] == len(DATA)
    this_hub.configure(page_size=2)
    tree = list(api.list_repo_tree("me/data", repo_type="dataset", recursive=True, expand=True))
    assert {entry.path for entry in tree} == {*contents(folder), "z.tar", "deep", "deep/er"}
    assert {entry.last_commit.oid for entry in tree if entry.path == "shard-0.tar"} == {first.oid}
    assert [
        entry.path
        for entry in api.get_paths_info("me/data", ["deep", "z.tar", "no"], repo_type="dataset")
    ] == [
        "deep",
        "z.tar",
    ]
    back = Path(
        api.snapshot_download(
            "me/data", repo_type="dataset", revision="v1", local_dir=tmp_path / "back"
        )
    )
    assert {
        path: data for path, data in contents(back).items() if not path.startswith(".cache")
    } == contents(folder)
    one = huggingface_hub.hf_hub_download("me/data", "z.tar", repo_type="dataset")
    assert Path(one).read_bytes() == b"\0" * 9 == this_hub.read_dataset("me/data", "z.tar")
    with HfFileSystem(skip_instance_cache=True).open(
        "hf://datasets/me/data@v1/shard-0.tar", block_size=9999
    ) as file:
        file.seek(-100, 2)
        assert file.read() == DATA[-100:]
    assert not this_hub.token_leaks


def test_a_commit_upon_another_commit_is_refused(this_hub: LocalHub, folder: Path) -> None:
    old = this_hub.add_dataset("me/raced", folder)
    HfApi().delete_file("README.md", "me/raced", repo_type="dataset", parent_commit=old)
    assert "README.md" not in this_hub.dataset_files("me/raced")
    assert "README.md" in this_hub.dataset_files("me/raced", old)
    with pytest.raises(HfHubHTTPError, match="412"):
        HfApi().delete_file("shard-0.tar", "me/raced", repo_type="dataset", parent_commit=old)


def test_tokens(local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_hub.add_dataset("me/private", folder, private=True)
    local_hub.add_bucket("me/secret", private=True)
    for token, status in [(None, 401), ("hf_wrong", 401), (local_hub.strangers_token, 403)]:
        local_hub.use(monkeypatch, token)
        for ask in (
            lambda: HfApi().dataset_info("me/private"),
            lambda: HfApi().bucket_info("me/secret"),
        ):
            with pytest.raises(HfHubHTTPError) as caught:
                ask()
            assert caught.value.response.status_code == status
            assert (
                isinstance(caught.value, RepositoryNotFoundError)
                or token
                or "bucket" in str(caught.value).lower()
            )
    local_hub.use(monkeypatch, local_hub.read_token)
    assert HfApi().dataset_info("me/private").private
    assert HfApi().whoami()["name"] == "me"
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi().batch_bucket_files("me/secret", delete=["x"])


def test_faults_of_the_hub(this_hub: LocalHub, folder: Path) -> None:
    this_hub.add_bucket("me/faulty")
    this_hub.fault("reset", "/batch$")  # done, but the answer is lost
    HfApi().batch_bucket_files("me/faulty", add=[(b"a", "a.txt")])
    assert set(this_hub.bucket_files("me/faulty")) == {"a.txt"}
    assert [request.fault for request in this_hub.requests if request.path.endswith("/batch")] == [
        "reset",
        None,
    ]


def test_client_processes(local_hub: LocalHub, folder: Path) -> None:
    local_hub.add_dataset("me/elsewhere", folder)
    program = (
        "from huggingface_hub import hf_hub_download as get;"
        "print(open(get('me/elsewhere', 'README.md', repo_type='dataset')).read())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | local_hub.environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert b"hello" in run.stdout


# -- S3 --------------------------------------------------------------------------------------------


def test_s3(s3_server: S3Server, folder: Path) -> None:
    url = s3_server.add_folder(folder, "v1")
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    assert files.cat_file(f"{url}/shard-0.tar", start=1000, end=2000) == DATA[1000:2000]
    files.pipe_file(f"{url}/new", b"new")
    with files.open(f"{url}/many", "wb", block_size=5 << 20) as file:
        file.write(DATA * 6)
    assert s3_server.files("v1/new") == {"v1/new": b"new"}
    assert files.cat_file(f"{url}/many") == DATA * 6
    assert sorted(files.find(url)) == sorted(
        f"shards/v1/{name}" for name in [*contents(folder), "new", "many"]
    )
    with pytest.raises(FileNotFoundError):
        files.cat_file(f"{url}/nothing")
    files.rm(f"{url}/new")
    files.invalidate_cache()
    assert not files.exists(f"{url}/new")
    s3_server.empty()
    assert s3_server.files() == {}


def test_faults_of_s3(s3_server: S3Server, folder: Path) -> None:
    url = s3_server.add_folder(folder)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    s3_server.reset()
    s3_server.fault("status", "shard-0", code=503)
    s3_server.fault("ignore_range", "shard-0")
    assert files.cat_file(f"{url}/shard-0.tar", start=0, end=9) == DATA, (
        "s3fs believes a server that ignores Range"
    )
    assert files.cat_file(f"{url}/shard-0.tar", start=0, end=9) == DATA[:9]
    objects = [request for request in s3_server.requests if "shard-0" in request.path]
    assert [request.fault for request in objects] == ["status", "ignore_range", None]
    assert objects[-1].bytes_sent == 9


def test_servers_in_this_process(tmp_path: Path, folder: Path, client: urllib3.PoolManager) -> None:
    with LocalHub(tmp_path / "hub", in_process=True) as hub:
        hub.add_bucket_folder("me/here", folder)
        path = f"{hub.endpoint}/buckets/me/here/resolve/shard-0.tar"
        answer = client.request("GET", path, headers=RANGE, retries=urllib3.Retry(1))
        assert answer.data == DATA[1000:2000]
        client.clear()
