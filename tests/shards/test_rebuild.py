"""Everything but the shards can be lost: it is derived again byte for byte, or not at all."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
import pytest
from support.damage import Damage, Forgery, contents, damaged, files_of, read_everything
from support.lerobot_source import HARD_CASES, build
from support.tars import KEY, archive, member

from roboshard.converter import ConvertConfig, convert
from roboshard.shards import (
    DamageError,
    FormatError,
    MissingError,
    RoboshardError,
    ShardedDataset,
    StorageError,
    rebuild,
)
from roboshard.shards.rows import PROVENANCE_METADATA
from roboshard.shards.schema import document_bytes
from roboshard.storage import files as storage_files


@pytest.fixture
def root(pusht_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pusht_shards, tmp_path / "copy"))


def strip(root: Path) -> None:
    """Leave the bare tars."""
    for path in files_of(root):
        if path.suffix != ".tar":
            path.unlink()


def first_shard(root: Path) -> Path:
    return root / "shards/shard-000000.tar"


# -- What comes back -------------------------------------------------------------------------------


def test_the_files_of_the_conversion_come_back_byte_for_byte(
    root: Path, pusht_shards: Path
) -> None:
    strip(root)
    manifest = rebuild(root)
    assert contents(root) == contents(pusht_shards)
    assert manifest == ShardedDataset.open(str(root)).manifest


def test_rebuilding_what_is_whole_changes_nothing(root: Path, pusht_shards: Path) -> None:
    rebuild(root)
    rebuild(root)
    assert contents(root) == contents(pusht_shards)


@pytest.mark.parametrize(
    "case",
    [
        "case_colliding_cameras",
        "tasks_in_any_script",
        "image_features",
        "one_frame_episodes",
        "all_dtypes",
    ],
)
def test_hard_sources_come_back_too(case: str, tmp_path: Path) -> None:
    build(tmp_path / "source", HARD_CASES[case])
    root = tmp_path / "shards"
    source = str(tmp_path / "source")
    convert(
        ConvertConfig(
            source=source, destination=str(root), workers=1, episodes="0:3,4", shuffle_episodes=7
        )
    )
    before, data = contents(root), read_everything(root)
    strip(root)
    rebuild(root)
    assert contents(root) == before
    assert read_everything(root) == data


def test_statistics_that_are_not_numbers_come_back(pusht_source: Path, tmp_path: Path) -> None:
    """A constant feature's statistics hold NaN in some recorders; NaN is not equal to itself, but
    bytes are.
    """
    source, root = tmp_path / "source", tmp_path / "shards"
    shutil.copytree(pusht_source, source)
    stats = json.loads((source / "meta/stats.json").read_text())
    stats["action"]["std"] = [float("nan"), float("inf")]
    (source / "meta/stats.json").write_text(json.dumps(stats))
    convert(ConvertConfig(source=str(source), destination=str(root), shard_size="64KB", workers=1))
    before = contents(root)
    strip(root)
    rebuild(root)
    assert contents(root) == before
    assert b'"std":[NaN,Infinity]' in before["dataset.json"]


def test_a_damaged_manifest_or_index_is_repaired(root: Path, pusht_shards: Path) -> None:
    for path in files_of(root):
        if path.suffix != ".tar":
            path.write_bytes(path.read_bytes()[:-7])
    rebuild(root)
    assert contents(root) == contents(pusht_shards)


def test_other_files_beside_the_shards_are_left_alone(root: Path, pusht_shards: Path) -> None:
    extra = {
        "README.md": b"mine",
        "shards/notes.tar": b"not a shard",
        "shards/shard-1.tar": b"neither",
    }
    for name, data in extra.items():
        (root / name).write_bytes(data)
    rebuild(root)
    assert contents(root) == contents(pusht_shards) | extra


# -- What is missing -------------------------------------------------------------------------------


def test_without_a_shard_nothing_is_made_unless_asked_for(root: Path) -> None:
    strip(root)
    (root / "shards/shard-000003.tar").unlink()
    before = contents(root)
    with pytest.raises(
        MissingError,
        match=r"1 of \d+ shards are missing \(shards/shard-000003\.tar, …\).*--partial",
    ):
        rebuild(root)
    assert contents(root) == before


def test_a_part_of_a_dataset_is_a_dataset(root: Path, pusht_shards: Path) -> None:
    whole = ShardedDataset.open(str(pusht_shards))
    strip(root)
    for number in (0, 3):
        (root / whole.manifest.shards[number].name).unlink()
    rebuild(root, partial_dataset=True)
    part = ShardedDataset.open(str(root))
    kept = [i for i, shard in enumerate(whole.index.shard.tolist()) if shard not in (0, 3)]
    assert part.index.episode_index.tolist() == kept
    for position, episode in enumerate(kept):
        one, other = part.read_episode(position), whole.read_episode(episode)
        assert (one.record, one.rows, one.videos) == (other.record, other.rows, other.videos)
    assert part.manifest.total_frames == sum(whole.index.length[kept])
    assert part.manifest.fingerprint != whole.manifest.fingerprint
    assert part.manifest.conversion == whole.manifest.conversion
    before = contents(root)
    with pytest.raises(MissingError, match=r"2 of \d+ shards are missing"):
        rebuild(root)
    assert contents(root) == before


@pytest.mark.parametrize("layout", ["", "shards", "shards/other.tar"])
def test_where_there_are_no_shards_nothing_is_made(layout: str, tmp_path: Path) -> None:
    (tmp_path / layout).mkdir(parents=True, exist_ok=True)
    before = list(tmp_path.rglob("*"))
    with pytest.raises(MissingError, match="no shards"):
        rebuild(tmp_path)
    assert list(tmp_path.rglob("*")) == before


# -- What does not belong together -----------------------------------------------------------------


def unchanged(root: Path, error: type[RoboshardError], message: str, **options: bool) -> None:
    before = contents(root)
    with pytest.raises(error, match=message):
        rebuild(root, **options)
    assert contents(root) == before


@pytest.mark.parametrize("stripped", [True, False])
def test_shards_of_two_conversions_are_kept_apart(
    stripped: bool, root: Path, pusht_source: Path, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    convert(
        ConvertConfig(
            source=str(pusht_source),
            destination=other,
            shard_size="64KB",
            workers=1,
            tolerance_s=2e-4,
        )
    )
    if stripped:
        strip(root)
    shutil.copy(f"{other}/shards/shard-000002.tar", root / "shards")
    message = r"shard-000002\.tar: from another conversion than shards/shard-000000\.tar"
    unchanged(root, FormatError, message)
    unchanged(root, FormatError, message, partial_dataset=True)


def test_a_shard_under_two_names_is_not_read_twice(root: Path) -> None:
    shutil.copy(first_shard(root), root / "shards/shard-000099.tar")
    unchanged(
        root, FormatError, r"shard-000099\.tar: holds episode 0, as shards/shard-000000\.tar does"
    )
    (root / "shards/shard-000003.tar").unlink()
    unchanged(root, FormatError, "holds episode 0", partial_dataset=True)


def test_a_tar_of_someone_else_is_not_taken_for_a_shard(root: Path) -> None:
    data = first_shard(root).read_bytes()
    foreign = {
        "holds no sample": archive(),
        "sample key 'sample-1' is not of the form": archive(member("sample-1.json", b"{}")),
        "has 0 members 'json'": archive(member(f"{KEY}.jpg", b"x")),
        "not a valid EpisodeRecord|format version": archive(member(f"{KEY}.json", b"{}")),
        "are not adjacent, or the sample occurs twice": archive(
            member(f"{KEY}.json"), member("ep-000000001.json"), member(f"{KEY}.mp4")
        ),
        "has 2 members 'json'": archive(member(f"{KEY}.json", b"{}"), member(f"{KEY}.json", b"{}")),
        "no valid tar header": data[512:],
        "without the tar's end mark|cut off": data[:5120],
    }
    for message, tar in foreign.items():
        first_shard(root).write_bytes(tar)
        unchanged(root, RoboshardError, rf"shard-000000\.tar[:,] (.|\n)*({message})")


def test_a_shard_without_provenance_was_not_written_here(
    pusht_shards: Path, tmp_path: Path
) -> None:
    def without_provenance(members: dict[str, bytes]) -> None:
        table, sink = pq.read_table(io.BytesIO(members["parquet"])), io.BytesIO()
        kept = {
            name: text
            for name, text in table.schema.metadata.items()
            if name != PROVENANCE_METADATA
        }
        pq.write_table(table.replace_schema_metadata(kept), sink)
        members["parquet"] = sink.getvalue()

    forgery = Forgery(pusht_shards, tmp_path / "forged")
    forgery.put_members(1, 0, without_provenance)
    unchanged(forgery.root, FormatError, r"shard-000001\.tar, ep-000000001: carries no provenance")


# -- What goes wrong on the way --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [Damage("truncate", 5000), Damage("truncate", 0), Damage("extend", 512), Damage("flip", 3)],
)
def test_a_shard_that_is_no_tar_any_more_stops_it_before_anything_is_written(
    change: Damage, root: Path
) -> None:
    with damaged(root / "shards/shard-000004.tar", change):
        unchanged(root, RoboshardError, r"shard-000004\.tar")
        strip(root)
        unchanged(root, RoboshardError, r"shard-000004\.tar")


def test_a_flipped_bit_in_record_or_rows_stops_it(root: Path) -> None:
    sample = json.loads((root / "shards/shard-000000.json").read_bytes())["samples"][0]
    record, rows = sample["members"][:2]
    unseen = []
    for at in range(0, record["size"], 5):
        with damaged(first_shard(root), Damage("flip", record["offset"] + at, at % 7)):
            before = contents(root)
            try:
                rebuild(root)
            except RoboshardError:
                assert contents(root) == before
            else:
                unseen.append(at)
                for name in ("dataset.json", "episodes.parquet", "shards/shard-000000.json"):
                    (root / name).write_bytes(before[name])
    assert (
        len(unseen) < record["size"] / 5 / 2
    )  # names and numbers that no rule can check: hashes are new
    with damaged(first_shard(root), Damage("zero", rows["offset"] + rows["size"] - 8)):
        unchanged(root, FormatError, "not a parquet file")


@pytest.mark.parametrize("fails_at", range(4))
def test_a_full_disk_leaves_no_dataset_but_never_half_of_one(
    fails_at: int, root: Path, pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = storage_files.write_atomic
    files = len(files_of(root))
    writes = [0, 1, files // 2 - 1, files // 2][fails_at]
    done: list[Path] = []

    def write(
        path: Path, content: Callable[[IO[bytes]], None], *, below: Path | None = None
    ) -> None:
        if len(done) == writes:
            raise StorageError(f"{path}: no space left on device")
        done.append(path)
        real(path, content, below=below)

    monkeypatch.setattr(storage_files, "write_atomic", write)
    with pytest.raises(StorageError, match="no space left"):
        rebuild(root)
    with pytest.raises(MissingError, match=r"dataset\.json: no such file"):
        ShardedDataset.open(str(root))
    monkeypatch.undo()
    rebuild(root)
    assert contents(root) == contents(pusht_shards)


def test_what_a_rebuilt_manifest_says_is_what_lies_on_disk(root: Path) -> None:
    """Hashes are taken of the bytes now: a changed payload that no rule can check is signed as it
    is.
    """
    entry = json.loads((root / "shards/shard-000000.json").read_bytes())["samples"][0]["members"][2]
    with damaged(first_shard(root), Damage("flip", entry["offset"] + entry["size"] // 2)):
        strip(root)
        rebuild(root)
        dataset = ShardedDataset.open(str(root))
        assert len(document_bytes(dataset.read_episode(0).record)) > 0
    with pytest.raises(DamageError, match="is damaged"):
        ShardedDataset.open(str(root)).read_episode(0)
