"""Whatever happens to a file, a reader gets the data that was written or an error that says where
the harm is.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.damage import BLOCK, Damage, Kind, contents, damaged, files_of, read_everything

from roboshard.shards import DamageError, RoboshardError, ShardedDataset
from roboshard.shards.manifest import load_shard_manifest
from roboshard.shards.schema import SampleEntry, ShardManifest, document_bytes

once_restored = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
"""For tests whose fixtures each example leaves as it found them."""


@pytest.fixture(scope="module")
def root(pusht_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to damage, one thing at a time."""
    return Path(shutil.copytree(pusht_shards, tmp_path_factory.mktemp("damage") / "copy"))


@pytest.fixture(scope="module")
def honest(pusht_shards: Path) -> bytes:
    """What reading everything gives when nothing is wrong."""
    return read_everything(pusht_shards)


@pytest.fixture(scope="module")
def manifests(pusht_shards: Path) -> dict[str, ShardManifest]:
    dataset = ShardedDataset.open(str(pusht_shards))
    return {
        shard.name: load_shard_manifest(str(pusht_shards), shard)
        for shard in dataset.manifest.shards
    }


@pytest.fixture(scope="module")
def largest(manifests: dict[str, ShardManifest]) -> ShardManifest:
    """A shard of more than one sample."""
    return max(manifests.values(), key=lambda manifest: len(manifest.samples))


def sample_at(manifest: ShardManifest, position: int) -> SampleEntry:
    return next(sample for sample in manifest.samples if position < sample.offset + sample.size)


def outcome(root: Path) -> bytes | str:
    """The data, or the message of the error."""
    try:
        return read_everything(root)
    except RoboshardError as error:
        return str(error)


# -- Any damage to any file ------------------------------------------------------------------------


KINDS: tuple[Kind, ...] = ("flip", "zero", "truncate", "extend")


@st.composite
def damages(draw: st.DrawFn) -> tuple[int, Damage]:
    """Which file, and what happens to it, positions as a fraction of its size in millionths."""
    kind: Kind = draw(st.sampled_from(KINDS))
    at = draw(st.integers(0, 999_999) | st.integers(0, 200) | st.integers(999_800, 999_999))
    return draw(st.integers(0, 999)), Damage(kind, at, draw(st.integers(0, 7)))


def scaled(damage: Damage, size: int) -> Damage:
    position = damage.position * size // 1_000_000
    return Damage(damage.kind, position + 1 if damage.kind == "extend" else position, damage.bit)


def check(
    root: Path, path: Path, damage: Damage, honest: bytes, manifests: dict[str, ShardManifest]
) -> None:
    name, before = str(path.relative_to(root)), path.read_bytes()
    with damaged(path, damage):
        changed, found = path.read_bytes() != before, outcome(root)
    if isinstance(found, bytes):
        same_json = (
            path.suffix == ".json" and damage.kind != "zero"
        )  # white space, or another way to write a number
        assert found == honest, f"{damage} of {name}: other data and no error"
        assert not changed or (same_json and path.name == "dataset.json"), (
            f"{damage} of {name} went unseen"
        )
        return
    assert name in found, f"{damage} of {name}: the error does not name it: {found}"
    if path.suffix == ".tar" and damage.kind in ("flip", "zero"):
        first, _ = damage.span(len(before))
        episode = sample_at(manifests[name], first).episode_index
        assert f"{name}, episode {episode}: " in found


@settings(once_restored, max_examples=3 * settings().max_examples)
@given(damages())
def test_no_damage_to_any_file_changes_what_is_read(
    root: Path, honest: bytes, manifests: dict[str, ShardManifest], drawn: tuple[int, Damage]
) -> None:
    number, damage = drawn
    files = files_of(root)
    path = files[number % len(files)]
    check(root, path, scaled(damage, path.stat().st_size), honest, manifests)


@settings(once_restored, max_examples=2 * settings().max_examples)
@given(damages())
@example((0, Damage("truncate", 999_999)))  # the newline at the end, the one thing that may be lost
def test_no_damage_to_the_root_of_trust_changes_what_is_read(
    root: Path, honest: bytes, manifests: dict[str, ShardManifest], drawn: tuple[int, Damage]
) -> None:
    path = root / ("episodes.parquet" if drawn[0] % 2 else "dataset.json")
    check(root, path, scaled(drawn[1], path.stat().st_size), honest, manifests)


@settings(once_restored, max_examples=settings().max_examples)
@given(first=damages(), second=damages())
def test_two_things_at_once_do_not_hide_each_other(
    root: Path, honest: bytes, first: tuple[int, Damage], second: tuple[int, Damage]
) -> None:
    files = files_of(root)
    one, two = files[first[0] % len(files)], files[second[0] % len(files)]
    before = contents(root)
    with damaged(one, scaled(first[1], one.stat().st_size)):
        size = two.stat().st_size
        if size == 0:
            return
        with damaged(two, scaled(second[1], size)):
            found, after = outcome(root), contents(root)
    changed = {name for name in before if before[name] != after[name]} - {"dataset.json"}
    assert found == honest if isinstance(found, bytes) else True
    assert not (changed and isinstance(found, bytes)), f"{changed} went unseen"


# -- Every place of one shard ----------------------------------------------------------------------


def test_a_bit_flipped_in_any_byte_that_is_no_payload_is_seen(
    root: Path, largest: ShardManifest
) -> None:
    """Tar headers, padding and the end mark, by an opened dataset, as a training run would meet
    it.
    """
    dataset, path = ShardedDataset.open(str(root)), root / largest.shard
    positions = {episode: i for i, episode in enumerate(dataset.index.episode_index.tolist())}
    payloads = [
        range(m.offset, m.offset + m.size) for sample in largest.samples for m in sample.members
    ]
    others = sorted(
        set(range(largest.size)) - {position for payload in payloads for position in payload}
    )
    assert len(others) > BLOCK * (len(payloads) + 2)
    with path.open("r+b", buffering=0) as file:
        data = path.read_bytes()
        for position in others:
            sample = sample_at(largest, position)
            file.seek(position)
            file.write(bytes([data[position] ^ 1 << position % 8]))
            with pytest.raises(DamageError) as error:
                dataset.read_episode(positions[sample.episode_index])
            assert f"{largest.shard}, episode {sample.episode_index}: damaged: a tar header" in str(
                error.value
            )
            file.seek(position)
            file.write(data[position : position + 1])


def test_a_damaged_member_is_named(root: Path, largest: ShardManifest) -> None:
    dataset = ShardedDataset.open(str(root))
    positions = {episode: i for i, episode in enumerate(dataset.index.episode_index.tolist())}
    for sample in largest.samples:
        for member in sample.members:
            for at in (0, 1, member.size // 2, member.size - 1):
                message = re.escape(
                    f"{largest.shard}, episode {sample.episode_index}: member {member.name} is "
                    "damaged"
                )
                with damaged(root / largest.shard, Damage("flip", member.offset + at, at % 8)):
                    with pytest.raises(DamageError, match=message):
                        dataset.read_episode(positions[sample.episode_index])
                    if member.name.endswith(".mp4"):
                        rows_only = dataset.read_episode(positions[sample.episode_index], [])
                        assert rows_only.record.episode_index == sample.episode_index
                    else:
                        with pytest.raises(DamageError, match=message):
                            dataset.read_episode(positions[sample.episode_index], [])


def test_a_zeroed_block_anywhere_in_a_shard_is_seen_unless_it_was_zeros(
    root: Path, honest: bytes, largest: ShardManifest
) -> None:
    path = root / largest.shard
    data, unseen = path.read_bytes(), []
    for start in range(0, len(data), BLOCK):
        with damaged(path, Damage("zero", start)):
            found = outcome(root)
        if isinstance(found, bytes):
            assert found == honest
            unseen.append(start)
        else:
            assert f"{largest.shard}, episode {sample_at(largest, start).episode_index}: " in found
    assert unseen == [
        start for start in range(0, len(data), BLOCK) if not any(data[start : start + BLOCK])
    ]


def test_a_shard_cut_off_or_extended_anywhere_is_seen_when_it_is_first_read(
    root: Path, largest: ShardManifest
) -> None:
    path = root / largest.shard
    position = ShardedDataset.open(f"{root}/{largest.shard}").index.episode_index.tolist().index
    changes = [Damage("truncate", end) for end in range(0, largest.size, BLOCK)]
    changes += [Damage("truncate", end) for end in (1, 700, largest.size - 1)]
    changes += [Damage("extend", more) for more in (1, 511, BLOCK, 10_240)]
    for change in changes:
        with damaged(path, change):
            dataset = ShardedDataset.open(f"{root}/{largest.shard}")
            for sample in largest.samples:
                with pytest.raises(
                    DamageError, match=rf"{largest.shard}: \d+ bytes where dataset\.json says"
                ):
                    dataset.read_episode(position(sample.episode_index))


def test_a_shard_that_is_cut_off_while_training_is_seen_where_its_bytes_are_gone(
    root: Path, largest: ShardManifest
) -> None:
    dataset = ShardedDataset.open(f"{root}/{largest.shard}")
    wholes = [document_bytes(dataset.read_episode(i).record) for i in range(len(dataset.index))]
    for end in range(0, largest.size, 7 * BLOCK):
        with damaged(root / largest.shard, Damage("truncate", end)):
            for i, sample in enumerate(largest.samples):
                if sample.offset + sample.size <= end:
                    assert document_bytes(dataset.read_episode(i).record) == wholes[i]
                else:
                    with pytest.raises(DamageError, match=f"{largest.shard}: ends"):
                        dataset.read_episode(i)


def test_a_shard_manifest_cut_off_anywhere_is_seen_and_harms_no_other_shard(
    root: Path, largest: ShardManifest
) -> None:
    name = largest.shard.replace(".tar", ".json")
    whole = ShardedDataset.open(str(root))
    others = [
        i
        for i, shard in enumerate(whole.index.shard.tolist())
        if whole.manifest.shards[shard].name != largest.shard
    ]
    position = whole.index.episode_index.tolist().index(largest.samples[0].episode_index)
    for end in range((root / name).stat().st_size):
        with damaged(root / name, Damage("truncate", end)):
            dataset = ShardedDataset.open(str(root))
            with pytest.raises(DamageError, match=f"{name}: {end} bytes where"):
                dataset.read_episode(position)
            dataset.read_episode(others[end % len(others)])


def test_dataset_json_cut_off_anywhere_is_no_dataset(root: Path) -> None:
    path = root / "dataset.json"
    for end in range(path.stat().st_size - 1):
        with (
            damaged(path, Damage("truncate", end)),
            pytest.raises(RoboshardError, match=r"dataset\.json: not valid JSON"),
        ):
            ShardedDataset.open(str(root))


def test_files_that_changed_places_are_seen(
    root: Path, manifests: dict[str, ShardManifest]
) -> None:
    """Two shards of one conversion, exchanged whole: each is sound, but neither is what
    dataset.json says.
    """
    one, two = list(manifests)[:2]
    for suffixes in ([".tar"], [".json"], [".tar", ".json"]):
        pairs = [
            (root / one.replace(".tar", suffix), root / two.replace(".tar", suffix))
            for suffix in suffixes
        ]
        for a, b in pairs:
            data_a, data_b = a.read_bytes(), b.read_bytes()
            a.write_bytes(data_b)
            b.write_bytes(data_a)
        assert one.removesuffix(".tar") in str(outcome(root))
        for a, b in pairs:
            data_a, data_b = a.read_bytes(), b.read_bytes()
            a.write_bytes(data_b)
            b.write_bytes(data_a)


def test_the_copy_was_left_as_it_was(root: Path, pusht_shards: Path) -> None:
    assert contents(root) == contents(pusht_shards)
