"""Writing to each kind of storage: what was put is there, seen by size and content; or an error
says why not.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from support.servers import LocalHub, S3Server
from support.slowly import slowly

from roboshard.shards import MissingError, OptionError, StorageError
from roboshard.storage import StoredFile, Upload, WritableStore, api, content, retry, writable_store
from roboshard.storage.objects import FsspecStore

pytest_plugins = ["support.servers.fixtures"]

KINDS = ["bucket", "bucket/prefix", "dataset", "dataset@branch", "s3", "memory", "folder"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.05)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kind: str = request.param
    name = hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:10]
    if kind.startswith(("bucket", "dataset")):
        request.getfixturevalue("this_hub")
        return {
            "bucket": f"hf://buckets/me/{name}",
            "bucket/prefix": f"hf://buckets/me/{name}/some/where",
            "dataset": f"hf://datasets/me/{name}",
            "dataset@branch": f"hf://datasets/me/{name}@v2/some/where",
        }[kind]
    if kind == "s3":
        request.getfixturevalue("s3_server")
        return f"s3://shards/{name}"
    return f"memory://{name}" if kind == "memory" else str(tmp_path / "out")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Upload, ...]:
    path = tmp_path / "shard"
    path.write_bytes(bytes(range(256)) * 500)
    return (
        Upload(path="shards/shard-000000.tar", content=path),
        Upload(path="shards/shard-000000.json", content=b'{"small": 1}'),
        Upload(path="empty", content=b""),
    )


def bytes_of(upload: Upload) -> bytes:
    return upload.content if isinstance(upload.content, bytes) else upload.content.read_bytes()


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_what_was_put_is_listed_matched_read_and_removed(
    place: str, files: tuple[Upload, ...]
) -> None:
    target = writable_store(place)
    target.create(private=False)
    target.create(private=False)
    assert target.files() == {}
    found = target.put(files)
    assert found == target.files() == target.look([upload.path for upload in files])
    for upload in files:
        assert target.matches(upload, found[upload.path])
        assert target.read_all(upload.path, 1 << 20) == bytes_of(upload)
        expected = target.content_hash(upload)
        assert expected in (None, found[upload.path].hash)
        assert target.sha256(upload.path) == hashlib.sha256(bytes_of(upload)).hexdigest()
    tar = files[0]
    changed = bytearray(bytes_of(tar))
    changed[7] ^= 1
    assert not target.matches(Upload(path=tar.path, content=bytes(changed)), found[tar.path])
    assert not target.matches(Upload(path=tar.path, content=b"short"), found[tar.path])
    target.put([Upload(path=tar.path, content=bytes(changed))])
    assert target.read_all(tar.path, 1 << 20) == changed
    with pytest.raises(StorageError, match=r"more than the 9 that"):
        target.read_all(tar.path, 9)
    target.remove([tar.path, "never there"])
    assert set(target.files()) == {upload.path for upload in files[1:]}
    with pytest.raises(MissingError, match=tar.path):
        target.read_all(tar.path, 9)


@pytest.mark.parametrize("place", ["bucket", "dataset", "folder"], indirect=True)
def test_a_place_that_does_not_exist(place: str) -> None:
    with pytest.raises(MissingError):
        writable_store(place).files()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/x", "cannot be written to"),
        ("pipe:cat", "cannot be written to"),
        ("hf://buckets/alone", "hf://buckets/OWNER/NAME"),
        ("hf://models/a/b", "hf://buckets/OWNER/NAME"),
        ("s3://bucket/x?token=secret", "cannot be written to"),
    ],
)
def test_urls_that_cannot_be_written_to(url: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected) as caught:
        writable_store(url)
    assert "secret" not in str(caught.value)


# -- The Hub ---------------------------------------------------------------------------------------


@pytest.fixture
def bucket(this_hub: LocalHub, request: pytest.FixtureRequest) -> WritableStore:
    target = writable_store(
        f"hf://buckets/me/{hashlib.sha1(request.node.nodeid.encode()).hexdigest()}"
    )
    target.create(private=False)
    return target


def test_the_failed_part_of_a_batch_is_sent_again(
    bucket: WritableStore, this_hub: LocalHub
) -> None:
    uploads = [Upload(path=f"shards/{n}.tar", content=bytes([n]) * 1000) for n in range(4)]
    this_hub.refuse_in_batch("2.tar", times=2)
    assert set(bucket.put(uploads)) == {upload.path for upload in uploads}
    assert sum(request.path.endswith("/batch") for request in this_hub.requests) == 3


def test_failures_that_the_library_does_not_tell_of_are_seen(
    bucket: WritableStore, this_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = HfApi.batch_bucket_files

    def as_before_1_33(*arguments: object, **options: object) -> None:
        try:
            send(*arguments, **options)  # type: ignore[arg-type]
        except OSError as error:
            if type(error).__name__ != "BucketBatchError":
                raise

    monkeypatch.setattr(HfApi, "batch_bucket_files", as_before_1_33)
    this_hub.refuse_in_batch("one", times=1)
    bucket.put([Upload(path="one", content=b"1")])
    assert bucket.read_all("one", 9) == b"1"
    this_hub.refuse_in_batch("two", times=99)
    with pytest.raises(
        StorageError, match=r"two: (is not there with the bytes that were sent|cannot be written)"
    ):
        bucket.put([Upload(path="two", content=b"2")])


@pytest.mark.parametrize("kind", ["status", slowly("drop")])
def test_passing_faults_of_the_hub_are_waited_out(
    bucket: WritableStore, this_hub: LocalHub, kind: str
) -> None:
    arguments = {"code": 503} if kind == "status" else {}
    for route in ("/batch", "/paths-info", "/tree", "write-token", "/resolve/"):
        this_hub.fault(kind, route, **arguments)
    bucket.put([Upload(path="one", content=b"1")])
    assert set(bucket.files()) == {"one"}
    assert bucket.read_all("one", 9) == b"1"
    assert this_hub.armed == []


def test_another_owner_of_the_object_is_told(
    bucket: WritableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "WRITING", retry.RetryPolicy(attempts=2))
    look = type(bucket)._look
    monkeypatch.setattr(
        type(bucket),
        "_look",
        lambda self, paths: {p: StoredFile(size=1, hash="xet:0") for p in look(self, paths)},
    )
    with pytest.raises(StorageError, match="Is something else writing here"):
        bucket.put([Upload(path="one", content=b"1")])


@pytest.mark.parametrize("token", [LocalHub.read_token, LocalHub.strangers_token, "hf_wrong", None])
@pytest.mark.parametrize("kind", ["buckets", "datasets"])
def test_a_token_that_may_not_write(
    local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, token: str | None, kind: str
) -> None:
    local_hub.add_bucket("me/theirs")
    local_hub.use(monkeypatch, token)
    target = writable_store(f"hf://{kind}/me/theirs")

    def write() -> None:
        target.create(private=True)
        target.put([Upload(path="one", content=b"1")])

    with pytest.raises(StorageError, match=rf"hf://{kind}/me/theirs.*hf auth login") as caught:
        write()
    assert token is None or token not in str(caught.value)


def test_private_is_for_what_has_to_be_made(this_hub: LocalHub) -> None:
    for number, private in enumerate((True, False)):
        writable_store(f"hf://buckets/me/visible-{number}").create(private=private)
        assert HfApi().bucket_info(f"me/visible-{number}").private is private


# -- S3 and others ---------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(content, "MIN_PART_BYTES", 5 << 20)
    return 5 << 20


def test_a_large_object_goes_in_parts_whose_etag_is_foretold(
    s3_server: S3Server, small_parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 4096 * 11)
    large = Upload(path="large", content=tmp_path / "large")
    target = writable_store("s3://shards/x")
    monkeypatch.setattr(FsspecStore, "sha256", lambda self, path: pytest.fail("read back"))
    found = target.put([large])["large"]
    assert found.hash == target.content_hash(large)
    assert str(found.hash).endswith("-3")


def test_parts_of_a_killed_upload_are_removed(
    s3_server: S3Server, small_parts: int, tmp_path: Path
) -> None:
    client = s3_server._client()  # type: ignore[no-untyped-call]
    for key in ("x/large", "x/large-other"):
        client.create_multipart_upload(Bucket="shards", Key=key)
    (tmp_path / "large").write_bytes(bytes(11 << 20))
    writable_store("s3://shards/x").put([Upload(path="large", content=tmp_path / "large")])
    left = client.list_multipart_uploads(Bucket="shards").get("Uploads", [])
    assert [one["Key"] for one in left] == ["x/large-other"]


def test_content_is_read_back_where_the_etag_says_nothing(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with objects that S3 encrypts by KMS keys."""
    monkeypatch.setattr(
        FsspecStore,
        "_described",
        lambda self, info: StoredFile(size=info["size"], hash="s3:of-the-cipher"),
    )
    target, upload = writable_store("s3://shards/x"), Upload(path="one", content=b"1234")
    found = target.put([upload])["one"]
    s3_server._client().put_object(Bucket="shards", Key="x/one", Body=b"1235")  # type: ignore[no-untyped-call]
    assert not target.matches(upload, found)


def test_a_bucket_of_s3_that_is_not_there(s3_server: S3Server) -> None:
    target = writable_store("s3://nowhere/x")
    with pytest.raises(
        MissingError, match=r"s3://nowhere/x: cannot be written.*a bucket must exist"
    ):
        target.put([Upload(path="one", content=b"1")])


def test_a_full_disk_and_a_missing_right_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"{tmp_path}/file"):
        writable_store(str(tmp_path / "file" / "below")).create(private=False)


def test_a_copy_that_was_killed_leaves_no_temporary_behind(tmp_path: Path) -> None:
    target = writable_store(str(tmp_path))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/.a.tar.123.roboshard-tmp").touch()
    target.put([Upload(path="shards/a.tar", content=b"1")])
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["a.tar"]
