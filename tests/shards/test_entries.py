"""Entries of shard manifests are parsed one by one, wherever the manifests lie, and checked as a
whole is.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.damage import Forgery, read_everything
from support.servers import RangeServer

from roboshard.shards import (
    DamageError,
    FormatError,
    MissingError,
    ReadSettings,
    RoboshardError,
    ShardedDataset,
    entries,
)
from roboshard.shards.entries import find_entries
from roboshard.shards.manifest import file_entry, fingerprint, index_bytes, shard_entry
from roboshard.shards.schema import (
    MemberEntry,
    SampleEntry,
    ShardManifest,
    document_bytes,
)
from roboshard.storage.cache import DiskCache

pytest_plugins = ["support.servers.fixtures"]

Json = dict[str, Any]


@pytest.fixture
def copy(pusht_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pusht_shards, tmp_path / "copy"))


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests are read again for each entry."""
    monkeypatch.setattr(entries, "KEPT_BYTES", 0)


@pytest.fixture
def no_whole_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing a whole manifest fails."""

    def parse(*_: object) -> None:
        raise AssertionError("a whole manifest was parsed")

    monkeypatch.setattr(entries, "parse_shard_manifest", parse)


def whole_samples(dataset: ShardedDataset) -> dict[int, SampleEntry]:
    """Episode index -> its entry, by parsing the manifests as wholes."""
    return {
        sample.episode_index: sample
        for shard in dataset.manifest.shards
        for sample in dataset.shard_manifest(shard).samples
    }


def agrees(dataset: ShardedDataset) -> bool:
    """Whether each entry is the one of the whole manifest."""
    expected = whole_samples(dataset)
    return all(
        dataset.sample(position) == expected[episode]
        for position, episode in enumerate(dataset.index.episode_index.tolist())
    )


def manifest_path(root: Path, number: int = 1) -> Path:
    return root / f"shards/shard-{number:06d}.json"


def seal_as(root: Path, number: int, data: bytes) -> None:
    """Give a shard's manifest other bytes, and dataset.json their hash."""
    path = manifest_path(root, number)
    path.write_bytes(data)
    dataset = json.loads((root / "dataset.json").read_bytes())
    name = dataset["shards"][number]["manifest"]["name"]
    dataset["shards"][number]["manifest"] = file_entry(name, data).model_dump()
    dataset["fingerprint"] = fingerprint(dataset)
    (root / "dataset.json").write_text(json.dumps(dataset))


# -- No manifest is parsed as a whole --------------------------------------------------------------


@pytest.mark.usefixtures("no_whole_manifest")
def test_entries_are_found_without_parsing_the_others(pusht_shards: Path) -> None:
    dataset = ShardedDataset.open(str(pusht_shards))
    assert agrees(dataset)
    read_everything(pusht_shards)


def made_manifest(number: int) -> ShardManifest:
    """A manifest of so many episodes, whose texts are made to look like entries."""
    texts = ['{"key":"ep-000000001","episode_index":1', 'a "},{"key":"ep-', "}]}", "é\u2028\n"]
    samples = [
        SampleEntry(
            key=f"ep-{index:09d}",
            episode_index=index,
            length=3,
            tasks=texts[: index % 5],
            offset=2048 * index,
            size=2048,
            crc32c=f"{index:08x}",
            members=[
                MemberEntry(
                    name=f"ep-{index:09d}.json",
                    offset=2048 * index + 512,
                    size=100,
                    crc32c=f"{index + 1:08x}",
                )
            ],
        )
        for index in range(number)
    ]
    return ShardManifest(
        version="1.0",
        shard="shards/shard-000000.tar",
        size=2048 * number,
        sha256="0" * 64,
        conversion="1" * 64,
        samples=samples,
    )


@pytest.mark.parametrize("number", [1, 2, 9])
def test_texts_that_look_like_entries_are_texts(number: int) -> None:
    manifest = made_manifest(number)
    data = document_bytes(manifest)
    found = find_entries(data, shard_entry(manifest), np.arange(number))
    assert found is not None
    for i, sample in enumerate(manifest.samples):
        part = data[int(found.starts[i]) : int(found.starts[i + 1])]
        assert entries.parse_entry(part) == sample


def test_a_first_episode_costs_no_more_where_its_shard_has_thousands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = []
    parse_value = entries.parse_value
    monkeypatch.setattr(entries, "parse_value", lambda *a: parsed.append(0) or parse_value(*a))  # type: ignore[func-returns-value]
    manifest = made_manifest(5000)
    assert find_entries(document_bytes(manifest), shard_entry(manifest), np.arange(5000))
    assert len(parsed) == 1  # the last one


# -- Laid out otherwise ----------------------------------------------------------------------------


def reordered(value: Json) -> bytes:
    return json.dumps(dict(reversed(value.items()))).encode()


def with_spaces(value: Json) -> bytes:
    return json.dumps(value, indent=1).encode()


def with_a_lookalike(value: Json) -> bytes:
    value["samples"][0]["later"] = {"key": "ep-000000000", "episode_index": 0}
    return json.dumps(value, separators=(",", ":")).encode()


def with_more_behind(value: Json) -> bytes:
    return json.dumps(value | {"later": [{"a": 1}]}, separators=(",", ":")).encode()


def with_more_before(value: Json) -> bytes:
    return json.dumps({"later": {"samples": []}} | value, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "written", [reordered, with_spaces, with_a_lookalike, with_more_behind, with_more_before]
)
@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_a_manifest_that_others_wrote_is_read_all_the_same(
    written: Callable[[Json], bytes], kept: int, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "KEPT_BYTES", kept)
    seal_as(copy, 1, written(json.loads(manifest_path(copy).read_bytes())))
    dataset = ShardedDataset.open(str(copy))
    assert agrees(dataset)
    assert len(whole_samples(dataset)) == len(dataset.index)


@pytest.mark.parametrize(
    "lie",
    [
        lambda data: data.replace(b'"conversion":', b'"shard":"x","conversion":'),
        lambda data: data.replace(b'},{"key"', b'}]}{"key"'),
        lambda data: data[:-3] + b'],"version":"1.0"}',
        lambda data: data.replace(b'"length":', b'"length":1,"length":', 1),
    ],
)
def test_what_is_no_manifest_is_refused_as_a_whole(
    lie: Callable[[bytes], bytes], copy: Path
) -> None:
    seal_as(copy, 1, lie(manifest_path(copy).read_bytes()))
    with pytest.raises(FormatError, match=r"shard-000001\.json: not valid JSON"):
        read_everything(copy)


def test_an_index_with_gaps_is_believed_in_nothing(pusht_shards: Path, tmp_path: Path) -> None:
    """An index and a manifest that agree with each other, but leave bytes of the shard to
    nobody.
    """
    forgery = Forgery(pusht_shards, tmp_path / "forged")
    samples: Sequence[Json] = forgery.shards[1]["samples"]
    samples[0]["size"] -= 512
    manifests = [ShardManifest.model_validate_json(json.dumps(it)) for it in forgery.shards]
    forgery.put_index(index_bytes(manifests))
    with pytest.raises(FormatError, match=r"samples\.1\.offset: \d+ where the sample before ends"):
        read_everything(forgery.seal())


# -- Read again ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_kept", "no_whole_manifest")
def test_entries_come_from_where_the_manifest_lies(copy: Path) -> None:
    dataset = ShardedDataset.open(str(copy))
    before = [dataset.sample(position) for position in range(len(dataset.index))]
    assert [dataset.sample(position) for position in range(len(dataset.index))] == before
    manifest_path(copy).rename(copy / "away")
    gone = np.flatnonzero(dataset.index.shard == 1).tolist()
    for position, sample in enumerate(before):
        if position in gone:
            with pytest.raises(MissingError, match=r"shard-000001\.json: missing"):
                dataset.sample(position)
        else:
            assert dataset.sample(position) == sample


@pytest.mark.usefixtures("nothing_kept")
def test_a_manifest_that_changes_later_is_damage(copy: Path) -> None:
    dataset = ShardedDataset.open(str(copy))
    position = int(np.flatnonzero(dataset.index.shard == 1)[0])
    dataset.sample(position)
    path = manifest_path(copy)
    path.write_bytes(path.read_bytes().replace(b".parquet", b".PARQUET"))
    with pytest.raises(DamageError, match=r"shard-000001\.json: damaged: its SHA-256"):
        dataset.sample(position)


def test_manifests_in_memory_are_bounded(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ShardedDataset.open(str(pusht_shards))
    sizes = [shard.manifest.size for shard in dataset.manifest.shards]
    monkeypatch.setattr(entries, "KEPT_BYTES", 2 * max(sizes))
    assert agrees(dataset)
    held = vars(dataset)["_entries"]._held
    assert 0 < sum(map(len, held.values())) <= 2 * max(sizes) < sum(sizes)


# -- From afar -------------------------------------------------------------------------------------


def manifests_sent(server: RangeServer) -> int:
    return sum("shard-" in it.path and it.path.endswith(".json") for it in server.requests)


@pytest.mark.usefixtures("nothing_kept", "no_whole_manifest")
def test_a_remote_manifest_comes_once_for_all_who_share_a_cache(
    range_server: RangeServer, pusht_shards: Path, tmp_path: Path
) -> None:
    range_server.serve(pusht_shards)
    settings = ReadSettings(cache=DiskCache(tmp_path / "cache", 1 << 24))
    dataset = ShardedDataset.open(range_server.url, settings)
    expected = whole_samples(dataset)
    range_server.reset()
    for one in (dataset, pickle.loads(pickle.dumps(dataset)), dataset):
        for position, episode in enumerate(one.index.episode_index.tolist()):
            assert one.sample(position) == expected[episode]
    assert manifests_sent(range_server) == len(dataset.manifest.shards)


@pytest.mark.parametrize("is_foreign", [False, True])
def test_a_cached_manifest_that_is_not_right_is_downloaded_again(
    is_foreign: bool, range_server: RangeServer, pusht_shards: Path, tmp_path: Path
) -> None:
    """`is_foreign`: an entry that is whole, and of another manifest."""
    range_server.serve(pusht_shards)
    cache = DiskCache(tmp_path / "cache", 1 << 24)
    url = range_server.url
    shard = ShardedDataset.open(url).manifest.shards[0]
    key = entries.load_manifest_bytes.__globals__["_cache_key"](url, shard)
    if is_foreign:
        cache.get(key, shard.manifest.size, lambda: bytes(shard.manifest.size))
    else:
        ShardedDataset.open(url, ReadSettings(cache=cache)).sample(0)
        with cache.path(key, shard.manifest.size).open("r+b") as file:
            file.write(b"x")
    for number_sent in (1, 0):  # what was wrong is not there any more
        range_server.reset()
        dataset = ShardedDataset.open(url, ReadSettings(cache=cache))
        assert dataset.sample(0) == whole_samples(ShardedDataset.open(str(pusht_shards)))[0]
        assert manifests_sent(range_server) == number_sent


@pytest.mark.usefixtures("nothing_kept")
def test_without_a_cache_a_remote_manifest_is_read_again(
    range_server: RangeServer, pusht_shards: Path
) -> None:
    range_server.serve(pusht_shards)
    dataset = ShardedDataset.open(range_server.url)
    assert agrees(dataset)


def test_a_child_does_not_wait_for_its_parents_locks(pusht_shards: Path) -> None:
    dataset = ShardedDataset.open(str(pusht_shards))
    reader = vars(dataset)["_entries"]
    with reader._lock(0), reader._lock_of_held:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                dataset.sample(0)
                code = 0
            except RoboshardError:
                pass
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
