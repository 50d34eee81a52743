"""A dataset in object storage that grows: while others read it, killed or not, and with two appends
at once.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from support.growing import LENGTHS, append, record
from support.publishing import batches, finish, hashes, in_bucket, kill_when, start
from support.servers import LocalHub, S3Server
from support.slowly import some_quickly

from roboshard.converter.base import read_base
from roboshard.converter.destination.growing_remote import GrowingRemote
from roboshard.loader import make_loader
from roboshard.shards import OptionError, ShardedDataset
from roboshard.shards.schema import Conversion

pytest_plugins = ["support.servers.fixtures"]

SIZES = (2, 4, 5)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    return [record(folder / f"{size}/robot", size, cameras=()).root for size in SIZES]


@pytest.fixture(scope="module")
def expected(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The files of a folder that grew, night by night."""
    root, found = tmp_path_factory.mktemp("expected") / "shards", []
    for source in sources:
        append(source, root)
        found.append(hashes(root))
    return found


@pytest.fixture
def bucket(this_hub: LocalHub, request: pytest.FixtureRequest) -> str:
    return f"me/{hashlib.sha1(request.node.nodeid.encode()).hexdigest()}"


def receipts(there: dict[str, str]) -> list[str]:
    return [path for path in there if path.startswith(".roboshard/")]


def test_a_bucket_gets_the_bytes_that_a_folder_gets(
    sources: list[Path],
    expected: list[dict[str, str]],
    this_hub: LocalHub,
    bucket: str,
    tmp_path: Path,
) -> None:
    url = f"hf://buckets/{bucket}"
    for source, files in zip(sources, expected, strict=True):
        append(source, url, scratch=str(tmp_path))
        assert in_bucket(this_hub, bucket) == files
    sent = batches(this_hub)
    assert append(sources[-1], url, scratch=str(tmp_path)).episodes == 0
    assert batches(this_hub) == sent, "nothing new, nothing sent"


@pytest.mark.parametrize("kind", some_quickly(["dataset", "s3"], ()))
def test_other_places_grow_too(
    sources: list[Path],
    expected: list[dict[str, str]],
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if kind == "s3":
        s3: S3Server = request.getfixturevalue("s3_server")
        for source, files in zip(sources, expected, strict=True):
            append(source, "s3://shards/grown", scratch=str(tmp_path))
            there = {key[6:]: data for key, data in s3.files("grown/").items()}
            assert {key: hashlib.sha256(data).hexdigest() for key, data in there.items()} == files
        return
    hub: LocalHub = request.getfixturevalue("this_hub")
    for source, files in zip(sources, expected, strict=True):
        append(source, "hf://datasets/me/grown", scratch=str(tmp_path))
        assert set(files) <= set(hub.dataset_files("me/grown"))
    for path, sha256 in expected[-1].items():
        assert hashlib.sha256(hub.read_dataset("me/grown", path)).hexdigest() == sha256


# -- While others read -----------------------------------------------------------------------------


def test_it_grows_while_a_reader_trains(
    sources: list[Path], s3_server: S3Server, tmp_path: Path
) -> None:
    """Readers open it all the time, and one trains through all nights: each sees one whole
    snapshot.
    """
    url = "s3://shards/read"
    append(sources[0], url, scratch=str(tmp_path))
    loader = make_loader(url, batch_size=2, pool_episodes=1, memory_bytes=1 << 16)
    batches_of_first = iter(loader)
    seen = next(batches_of_first)["index"].tolist()
    sizes: list[int] = []
    wrong: list[BaseException] = []
    ended = threading.Event()

    def open_it() -> None:
        while not ended.wait(0.1):
            try:
                dataset = ShardedDataset.open(url)
                dataset.read_episode(len(dataset.index) - 1)
                sizes.append(len(dataset.index))
            except BaseException as error:  # noqa: BLE001 - whatever it is
                wrong.append(error)

    reader = threading.Thread(target=open_it)
    reader.start()
    try:
        for source in sources[1:]:
            append(source, url, scratch=str(tmp_path))
            seen += next(batches_of_first)["index"].tolist()
    finally:
        ended.set()
        reader.join()
    assert not wrong
    assert set(sizes) <= set(SIZES)
    assert sizes == sorted(sizes)
    seen += [index for batch in batches_of_first for index in batch["index"].tolist()]
    assert sorted(seen) == list(range(sum(LENGTHS[: SIZES[0]])))
    loader.close()
    assert len(ShardedDataset.open(url).index) == SIZES[-1]


# -- Killed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", some_quickly(range(1, 9), ()))
def test_killed_it_ends_with_the_same_bytes(
    sources: list[Path],
    expected: list[dict[str, str]],
    this_hub: LocalHub,
    bucket: str,
    tmp_path: Path,
    moment: int,
) -> None:
    url = f"hf://buckets/{bucket}"
    append(sources[0], url, scratch=str(tmp_path))
    flags = ("--append", "--shard-size", "64KB", "--workers", "1", "--scratch", tmp_path)
    this_hub.configure(latency_s=0.02)
    process = start("convert-to-shards", sources[1], url, *flags, **this_hub.environment)
    target = batches(this_hub) + moment
    kill_when(process, lambda: batches(this_hub) >= target)
    there = in_bucket(this_hub, bucket)
    night = 1 if there["dataset.json"] == expected[1]["dataset.json"] else 0
    assert {path: there[path] for path in expected[night]} == expected[night]
    finish(start("convert-to-shards", sources[1], url, *flags, **this_hub.environment))
    assert in_bucket(this_hub, bucket) == expected[1]


@pytest.mark.slow
def test_killed_and_recorded_on_before_it_was_run_again(
    sources: list[Path], this_hub: LocalHub, bucket: str, tmp_path: Path
) -> None:
    """What a killed run left cannot be told from one that goes on: its numbers stay free, and then
    it goes.
    """
    url = f"hf://buckets/{bucket}"
    append(sources[0], url, scratch=str(tmp_path))
    append(
        sources[1], url, scratch=str(tmp_path), shards="0/2"
    )  # and nothing after its first shard
    before = in_bucket(this_hub, bucket)
    assert len(receipts(before)) == 2, "a claim and a receipt"
    append(sources[2], url, scratch=str(tmp_path))
    there = in_bucket(this_hub, bucket)
    assert receipts(there) == []
    shards = sorted(path for path in there if path.endswith(".tar"))
    assert shards == [f"shards/shard-{number:06d}.tar" for number in (0, 1, 4, 5, 6)]
    assert len(ShardedDataset.open(url).index) == SIZES[2]


# -- Two at once -----------------------------------------------------------------------------------


def test_of_two_at_once_the_second_to_end_is_refused(
    sources: list[Path], this_hub: LocalHub, bucket: str, tmp_path: Path
) -> None:
    url = f"hf://buckets/{bucket}"
    append(sources[0], url, scratch=str(tmp_path))
    base = read_base(url)
    assert base is not None
    slow = Conversion(
        id="a" * 64, options={}, versions={}, num_shards=2, grows=base.manifest.fingerprint
    )
    destination = GrowingRemote(url, slow, str(tmp_path), base)
    with destination.prepared(None):
        append(sources[2], url, scratch=str(tmp_path))  # meanwhile, and faster
        assert destination.first_shard == 2
        with pytest.raises(OptionError, match="the dataset has changed since this append began"):
            destination.publish(base.manifest, [])
    names = [shard.name for shard in ShardedDataset.open(url).manifest.shards]
    assert names == [f"shards/shard-{number:06d}.tar" for number in (0, 1, 4, 5, 6)]


def test_two_that_begin_at_the_same_moment_are_refused(
    sources: list[Path], this_hub: LocalHub, bucket: str, tmp_path: Path, monkeypatch: Any
) -> None:
    url = f"hf://buckets/{bucket}"
    append(sources[0], url, scratch=str(tmp_path))
    base = read_base(url)
    assert base is not None
    grows = base.manifest.fingerprint
    one, other = (
        GrowingRemote(
            url,
            Conversion(id=name * 64, options={}, versions={}, num_shards=2, grows=grows),
            str(tmp_path),
            base,
        )
        for name in "ab"
    )
    with one.prepared(None):
        claims = other._read_claims
        answers = iter([False, True])  # it looks just before the other one's claim is there
        monkeypatch.setattr(
            other, "_read_claims", lambda there: claims(there) if next(answers) else {}
        )
        with (
            pytest.raises(OptionError, match="another append began at the same moment"),
            other.prepared(None),
        ):
            pass
    assert receipts(in_bucket(this_hub, bucket)) == [f".roboshard/append-{'a' * 64}.json"]


@pytest.mark.slow
def test_claims_that_are_none_are_not_believed(
    sources: list[Path], this_hub: LocalHub, bucket: str, tmp_path: Path
) -> None:
    url = f"hf://buckets/{bucket}"
    append(sources[0], url, scratch=str(tmp_path / "scratch"))
    for number, content in enumerate((b"", b"[]", b'{"first_shard": -1, "num_shards": 1}')):
        path = tmp_path / f"planted/.roboshard/append-{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    this_hub.add_bucket_folder(bucket, tmp_path / "planted")
    assert append(sources[1], url, scratch=str(tmp_path / "scratch")).episodes == 2
    names = [shard.name for shard in ShardedDataset.open(url).manifest.shards]
    assert names == [f"shards/shard-{number:06d}.tar" for number in range(4)]
