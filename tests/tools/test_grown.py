"""What the tools make of a dataset that has grown."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.growing import append, record
from support.publishing import hashes

from roboshard.shards import FormatError, MissingError, ShardedDataset, rebuild
from roboshard.shards.growth import snapshot_of
from roboshard.shards.manifest import file_entry, load_dataset_manifest, seal
from roboshard.shards.schema import Provenance, document_bytes
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.inspect import summarize
from roboshard.tools.verify import VerifyConfig, VerifyReport, verify

SIZES = (2, 3, 5)


@dataclass(frozen=True, kw_only=True)
class Grown:
    source: Path
    root: Path


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown")
    for episodes in SIZES:
        record(folder / "robot", episodes)
        append(folder / "robot", folder / "shards")
    return Grown(source=folder / "robot", root=folder / "shards")


@pytest.fixture
def root(grown: Grown, tmp_path: Path) -> Path:
    shutil.copytree(grown.root, tmp_path / "shards")
    return tmp_path / "shards"


def verified(root: Path) -> VerifyReport:
    return verify(VerifyConfig(url=str(root)))


# -- verify ----------------------------------------------------------------------------------------


def test_it_is_right_beside_its_source(grown: Grown) -> None:
    report = verify(VerifyConfig(url=str(grown.root), against=str(grown.source), frames=1))
    assert (report.problems, report.notes) == ((), ())
    assert (report.episodes, report.shards) == (SIZES[-1], SIZES[-1])


def test_damaged_snapshots_are_named(root: Path) -> None:
    first, second = json.loads((root / "dataset.json").read_bytes())["snapshots"]
    path = root / first["manifest"]["name"]
    path.write_bytes(path.read_bytes().replace(b'"fps":10', b'"fps":11'))
    (root / second["index"]["name"]).unlink()
    problems = verified(root).problems
    assert {problem.file for problem in problems} == {
        first["manifest"]["name"],
        second["index"]["name"],
    }
    assert len(problems) == 2


def test_a_shard_of_another_append_is_named(root: Path) -> None:
    """dataset.json says that the second shard came with the first append."""
    manifest = load_dataset_manifest(str(root))
    later = manifest.snapshots[0].model_copy(update={"conversion": "0" * 64})
    provenance = Provenance.model_validate(
        {name: getattr(manifest, name) for name in Provenance.model_fields}
    )
    forged = seal(
        provenance, manifest.shards, manifest.index, "1.2", [later, *manifest.snapshots[1:]]
    )
    (root / "dataset.json").write_bytes(document_bytes(forged))
    problems = verified(root).problems
    assert {problem.file for problem in problems} == {
        *(each.manifest.name for each in manifest.snapshots),  # the second names the first
        "shards/shard-000000.json",
        "shards/shard-000001.json",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shards": 9}, "snapshots.0.shards: 9 is not more than 0"),
        ({"episodes": 9}, "snapshots.0: episodes or frames are not those of its shards"),
        ({"index": {"name": "x", "size": 1, "sha256": "0" * 64}}, r"snapshots.0.index.name: must"),
        ({"manifest": {"name": "../x", "size": 1, "sha256": "0" * 64}}, "manifest.name: must be"),
    ],
    ids=["shards", "episodes", "index", "manifest"],
)
def test_snapshots_that_cannot_be_are_refused(
    root: Path, change: dict[str, object], said: str
) -> None:
    manifest = load_dataset_manifest(str(root))
    first = manifest.snapshots[0]
    wrong = type(first).model_validate(first.model_dump() | change)
    provenance = Provenance.model_validate(
        {name: getattr(manifest, name) for name in Provenance.model_fields}
    )
    forged = seal(
        provenance, manifest.shards, manifest.index, "1.2", [wrong, *manifest.snapshots[1:]]
    )
    (root / "dataset.json").write_bytes(document_bytes(forged))
    with pytest.raises(FormatError, match=said):
        ShardedDataset.open(str(root))


# -- inspect ---------------------------------------------------------------------------------------


def test_inspect_lists_the_snapshots(grown: Grown) -> None:
    found = summarize(str(grown.root)).snapshots
    assert [(each["number"], each["episodes"]) for each in found] == list(enumerate(SIZES))
    assert found[-1]["fingerprint"] == load_dataset_manifest(str(grown.root)).fingerprint


# -- rebuild ---------------------------------------------------------------------------------------


def test_all_is_derived_from_the_shards_alone(grown: Grown, tmp_path: Path) -> None:
    shutil.copytree(grown.root / "shards", tmp_path / "again/shards")
    for path in (tmp_path / "again").glob("shards/*.json"):
        path.unlink()
    assert rebuild(tmp_path / "again").total_episodes == SIZES[-1]
    assert hashes(tmp_path / "again") == hashes(grown.root)


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_missing_shard_is_missed(root: Path, number: int) -> None:
    (root / f"shards/shard-{number:06d}.tar").unlink()
    with pytest.raises(MissingError, match=rf"1 of 5 shards are missing .*shard-00000{number}"):
        rebuild(root)
    assert rebuild(root, partial_dataset=True).total_episodes == SIZES[-1] - 1
    assert len(ShardedDataset.open(str(root)).index) == SIZES[-1] - 1


def test_a_missing_first_conversion_is_missed(root: Path) -> None:
    for number in range(2):
        (root / f"shards/shard-{number:06d}.tar").unlink()
    with pytest.raises(MissingError, match="2 of 5 shards are missing"):
        rebuild(root)


def test_a_missing_append_in_between_is_missed(root: Path) -> None:
    (root / "shards/shard-000002.tar").unlink()
    (root / "shards/shard-000002.json").unlink()
    with pytest.raises(MissingError, match=r"1 of 5 shards are missing \(shards/shard-000002\.tar"):
        rebuild(root)


@pytest.mark.slow
def test_snapshots_that_other_libraries_wrote_keep_their_fingerprint(tmp_path: Path) -> None:
    """An index of other bytes, as another version of Arrow writes it, is not written anew."""
    record(tmp_path / "robot", 2)
    append(tmp_path / "robot", tmp_path / "shards")
    root = tmp_path / "shards"
    pq.write_table(pq.read_table(root / "episodes.parquet"), root / "episodes.parquet")
    manifest = load_dataset_manifest(str(root))
    provenance = Provenance.model_validate(
        {name: getattr(manifest, name) for name in Provenance.model_fields}
    )
    index = file_entry("episodes.parquet", (root / "episodes.parquet").read_bytes())
    before = seal(provenance, manifest.shards, index)
    (root / "dataset.json").write_bytes(document_bytes(before))
    assert before.fingerprint != manifest.fingerprint
    record(tmp_path / "robot", 3)
    append(tmp_path / "robot", root)
    there = hashes(root)
    (root / "dataset.json").unlink()
    assert rebuild(root).snapshots == [snapshot_of(before, document_bytes(before))]
    assert hashes(root) == there


# -- export ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("snapshot", "episodes"), [(None, 5), ("1", 3)])
def test_export_of_all_or_of_a_snapshot(
    grown: Grown, tmp_path: Path, snapshot: str | None, episodes: int
) -> None:
    config = ExportConfig(
        source=str(grown.root), destination=str(tmp_path / "robot"), snapshot=snapshot
    )
    report = export(config)
    assert (report.episodes, report.renumbered) == (episodes, False)
    info = json.loads((tmp_path / "robot/meta/info.json").read_bytes())
    assert info["total_episodes"] == episodes
    stats = json.loads((tmp_path / "robot/meta/stats.json").read_bytes())
    assert stats["episode_index"]["max"] == [episodes - 1]
    tasks = pa.concat_tables([pq.read_table(tmp_path / "robot/meta/tasks.parquet")])
    assert tasks.column("task").to_pylist() == [f"task {i}" for i in range(episodes)]
