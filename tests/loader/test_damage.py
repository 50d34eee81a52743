"""Damage is an error that says where: never fewer samples, never other ones, in this process or in
workers.
"""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.batches import assert_same
from support.damage import Damage, Forgery, Kind, cheaply, damaged, files_of
from support.decoders import DECODERS, decode_with
from support.lerobot_source import Camera, Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader, open_dataset
from roboshard.loader.order import teams
from roboshard.loader.running.runner import EpochRunner
from roboshard.shards import DamageError, FormatError, MissingError, RoboshardError, ShardedDataset
from roboshard.shards.mp4 import read_sample_tables

TOP, WRIST = "observation.images.top", "observation.images.wrist"
LENGTHS = (12, 9, 15, 7, 11, 10)
BROKEN = 2  # the episode that is damaged
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    cameras = (Camera(key=TOP, bframes=2), Camera(key=WRIST, codec="av1", gop=2, size=(80, 64)))
    source = build(folder / "source", Source(lengths=LENGTHS, cameras=cameras))
    convert(
        ConvertConfig(
            source=str(source.root),
            destination=str(folder / "shards"),
            shard_size="64KB",
            workers=1,
        )
    )
    return folder / "shards"


@pytest.fixture
def copy(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "copy"))


def place(root: Path, episode: int) -> tuple[int, int]:
    """(shard, place in it) of an episode."""
    index = ShardedDataset.open(str(root)).index
    shard = int(index.shard[episode])
    inside = np.flatnonzero(index.shard == shard)
    return shard, int(np.flatnonzero(inside[np.argsort(index.offset[inside])] == episode)[0])


def shard_file(root: Path, episode: int = BROKEN) -> Path:
    dataset = ShardedDataset.open(str(root))
    return root / dataset.manifest.shards[int(dataset.index.shard[episode])].name


def member_bytes(root: Path, episode: int) -> dict[str, tuple[int, int]]:
    """Suffix -> (offset, size) of the members of an episode in its shard."""
    shard, at = place(root, episode)
    sample = json.loads(files_of(root / "shards")[::2][shard].read_bytes())["samples"][at]
    return {
        entry["name"].removeprefix(f"{sample['key']}."): (entry["offset"], entry["size"])
        for entry in sample["members"]
    }


def load(root: Path, **options: Any) -> list[dict[str, Any]]:
    return list(make_loader(str(root), **({"batch_size": None, "shuffle": False} | options)))


def equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    return len(found) == len(expected) and all(
        one.keys() == other.keys()
        and all(
            torch.equal(one[key], other[key]) for key in one if isinstance(one[key], torch.Tensor)
        )
        and one["task"] == other["task"]
        for one, other in zip(found, expected, strict=True)
    )


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def no_child_is_left() -> bool:
    gc.collect()
    until = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    return not multiprocessing.active_children()


# -- Files that are gone, cut or changed -----------------------------------------------------------


def test_a_missing_shard_is_named(copy: Path) -> None:
    shard_file(copy).unlink()
    with pytest.raises(
        MissingError, match=rf"{shard_file(copy)}: missing, though dataset\.json lists it"
    ):
        load(copy)


def test_a_truncated_shard_is_named(copy: Path) -> None:
    path = shard_file(copy)
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(
        DamageError, match=rf"{path}: \d+ bytes where dataset\.json says \d+: cut off or replaced"
    ):
        load(copy)


@pytest.mark.parametrize("suffix", ["json", "parquet", f"{TOP}.mp4", f"{WRIST}.mp4"])
def test_a_flipped_bit_names_shard_episode_and_member(copy: Path, suffix: str) -> None:
    path, (offset, size) = shard_file(copy), member_bytes(copy, BROKEN)[suffix]
    flip(path, offset + size // 2)
    named = f"{path}, episode {BROKEN}: member ep-00000000{BROKEN}.{suffix} is damaged"
    for cameras in (None, [TOP, WRIST] if suffix.endswith("mp4") else []):
        with pytest.raises(DamageError, match=named):
            load(copy, cameras=cameras)


def test_a_flipped_bit_in_a_tar_header_is_damage_though_no_member_needs_it(copy: Path) -> None:
    offset, _ = member_bytes(copy, BROKEN)[f"{WRIST}.mp4"]
    flip(shard_file(copy), offset - 100)
    with pytest.raises(DamageError, match=f"episode {BROKEN}: damaged: a tar header or padding"):
        load(copy)


def test_damage_in_a_camera_that_is_not_asked_for_is_none(copy: Path, honest: Path) -> None:
    offset, size = member_bytes(copy, BROKEN)[f"{WRIST}.mp4"]
    flip(shard_file(copy), offset + size // 3)
    assert equal(load(copy, cameras=[TOP]), load(honest, cameras=[TOP]))
    with pytest.raises(DamageError, match=WRIST):
        load(copy)


def test_samples_before_the_damage_are_still_right(copy: Path, honest: Path) -> None:
    offset, _ = member_bytes(copy, BROKEN)["parquet"]
    flip(shard_file(copy), offset)
    found: list[dict[str, Any]] = []
    with pytest.raises(DamageError):
        found.extend(make_loader(str(copy), batch_size=None, shuffle=False))
    assert equal(found, load(honest)[: len(found)])


@pytest.mark.parametrize("name", ["dataset.json", "episodes.parquet", "shards/shard-000000.json"])
def test_a_flipped_bit_anywhere_in_a_manifest_is_an_error_that_names_it(
    copy: Path, name: str
) -> None:
    path = copy / name
    size = path.stat().st_size
    for position in np.linspace(0, size - 1, 25).astype(int).tolist():
        with (
            damaged(path, Damage("flip", position, position % 8)),
            pytest.raises(RoboshardError, match=name),
        ):
            load(copy, cameras=[])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_to_a_file_the_samples_are_the_same_or_there_is_an_error(
    data: st.DataObject, whole: tuple[Path, list[dict[str, Any]]]
) -> None:
    root, expected = whole
    path = data.draw(st.sampled_from(files_of(root)), label="file")
    kind: Kind = data.draw(st.sampled_from(get_args(Kind)))
    damage = Damage(
        kind, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7))
    )
    with damaged(path, damage):
        try:
            found = load(root)
        except RoboshardError as error:
            assert path.name in str(error)  # noqa: PT017 - both outcomes are right
        else:
            assert equal(found, expected)


@pytest.fixture(scope="module")
def whole(
    honest: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """A copy to do harm to, and its samples."""
    root = Path(shutil.copytree(honest, tmp_path_factory.mktemp("harmed") / "copy"))
    return root, load(root)


# -- In worker processes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_an_error_in_a_worker_comes_to_the_parent_with_type_and_place(copy: Path) -> None:
    offset, _ = member_bytes(copy, BROKEN)[f"{TOP}.mp4"]
    flip(shard_file(copy), offset + 1000)
    loader = make_loader(str(copy), batch_size=2, num_workers=2)
    for _ in range(2):  # an error does not spoil the next iteration
        with pytest.raises(
            DamageError, match=rf"^{shard_file(copy)}, episode {BROKEN}: member \S+top\.mp4"
        ) as error:
            list(loader)
        error.value.__traceback__ = None
        del error
    del loader
    assert no_child_is_left()


def test_an_epoch_of_workers_that_ends_too_early_is_an_error(
    honest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_more(runner: EpochRunner, epoch: int) -> int:
        return runner.plan(epoch).num_steps + 1

    monkeypatch.setattr(EpochRunner, "_num_steps_of", one_more)
    loader = make_loader(str(honest), batch_size=2, num_workers=1, cameras=[])
    steps = sum(LENGTHS) // 2
    with pytest.raises(RuntimeError, match=f"workers ended before step {steps} of {steps + 1}"):
        list(loader)


@pytest.mark.slow
def test_a_shard_that_goes_missing_under_a_worker(copy: Path) -> None:
    loader = make_loader(str(copy), batch_size=2, num_workers=1, cameras=[])
    shard_file(copy).unlink()
    with pytest.raises(MissingError, match=f"{shard_file(copy)}: missing"):
        list(loader)
    del loader
    assert no_child_is_left()


# -- on_error="skip" -------------------------------------------------------------------------------


def break_episodes(root: Path, episodes: list[int]) -> None:
    for episode in episodes:
        flip(shard_file(root, episode), member_bytes(root, episode)["parquet"][0])


@pytest.mark.parametrize("shuffle", [False, True])
def test_skipping_substitutes_warns_and_counts(copy: Path, honest: Path, shuffle: bool) -> None:
    break_episodes(copy, [BROKEN])
    options: dict[str, Any] = {"batch_size": 4, "shuffle": shuffle}
    loader = make_loader(str(copy), on_error="skip", **options)
    with pytest.warns(
        RuntimeWarning, match=f"on_error='skip': .*episode {BROKEN}.*takes its place"
    ) as caught:
        found = list(loader)
    expected = list(make_loader(str(honest), **options))
    assert len(caught) == 1
    assert loader.stats().substituted_episodes == 1
    assert [len(batch["index"]) for batch in found] == [len(batch["index"]) for batch in expected]
    for batch, right in zip(found, expected, strict=True):
        for i, episode in enumerate(right["episode_index"].tolist()):
            if episode == BROKEN:
                assert batch["episode_index"][i] == BROKEN + 1
                assert batch["frame_index"][i] == min(
                    int(right["frame_index"][i]), LENGTHS[BROKEN + 1] - 1
                )
            else:
                assert all(
                    torch.equal(batch[key][i], right[key][i])
                    for key in (TOP, WRIST, "action", "index")
                )


@pytest.mark.filterwarnings("ignore:on_error='skip':RuntimeWarning")
def test_substitutes_come_from_the_chosen_episodes_and_frames_alone(copy: Path) -> None:
    break_episodes(copy, [0, BROKEN])
    loader = make_loader(
        str(copy),
        episodes=[0, 2, 3],
        drop_n_first_frames=2,
        drop_n_last_frames=3,
        on_error="skip",
        cameras=[],
    )
    found = [
        (int(e), int(f))
        for batch in loader
        for e, f in zip(batch["episode_index"], batch["frame_index"], strict=True)
    ]
    assert len(found) == sum(LENGTHS[episode] - 5 for episode in (0, 2, 3))
    assert set(found) == {(3, 2), (3, 3)}
    assert loader.stats().substituted_episodes == 2


@pytest.mark.filterwarnings("ignore:on_error='skip':RuntimeWarning")
def test_with_every_episode_damaged_there_is_nothing_to_substitute(copy: Path) -> None:
    break_episodes(copy, [*range(len(LENGTHS))])
    with pytest.raises(DamageError, match=r"ep-\d{9}\.parquet is damaged"):
        load(copy, on_error="skip")


# -- on_error="skip" for video whose bytes are right and that cannot be decoded --------------------

UNDECODABLE = 2
"""An episode whose frames of one camera cannot be decoded, from one frame on."""
FIRST_LOST = 6


def without_some_packets(camera: str, num_lost: int | None) -> Callable[[Members], None]:
    """Zeros in the place of the packets of the last frames; None: a playlist in the place of the
    slice.
    """

    def apply(members: Members) -> None:
        name = f"{camera}.mp4"
        if num_lost is None:
            members[name] = b"#EXTM3U"
            return
        video = bytearray(members[name])
        tables = read_sample_tables(bytes(video))
        for packet in tables.as_shown[-num_lost:].tolist():
            begin, end = int(tables.offsets[packet]), int(tables.ends[packet])
            video[begin:end] = bytes(end - begin)
        members[name] = bytes(video)

    return apply


@pytest.fixture(params=["some frames", "all frames"])
def undecodable(honest: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    forged = Forgery(honest, tmp_path / "forged")
    num_lost = LENGTHS[UNDECODABLE] - FIRST_LOST if request.param == "some frames" else None
    forged.put_members(*place(honest, UNDECODABLE), without_some_packets(WRIST, num_lost))
    return Path(forged.seal())


@pytest.mark.filterwarnings("ignore:on_error='skip':RuntimeWarning")
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_what_cannot_be_decoded_is_substituted_whatever_came_before(
    undecodable: Path, honest: Path, shuffle: bool, num_workers: int
) -> None:
    """A sample is another one only if a frame of its step and episode is lost; the same after a
    resumption.
    """
    options: dict[str, Any] = {"batch_size": 4, "shuffle": shuffle, "num_workers": num_workers}
    loader = make_loader(str(undecodable), on_error="skip", **options)
    found = list(loader)
    assert loader.stats().substituted_episodes >= 1
    expected = list(make_loader(str(honest), **options))
    assert len(found) == len(expected)
    first_lost = first_undecodable(undecodable)
    num_substituted = 0
    for batch, right in zip(found, expected, strict=True):
        inside = right["episode_index"] == UNDECODABLE
        is_spoiled = bool((right["frame_index"][inside] >= first_lost).any())
        for i, episode in enumerate(right["episode_index"].tolist()):
            if episode == UNDECODABLE and is_spoiled:
                num_substituted += 1
                assert batch["episode_index"][i] == UNDECODABLE + 1
                last = LENGTHS[UNDECODABLE + 1] - 1
                assert batch["frame_index"][i] == min(int(right["frame_index"][i]), last)
            else:
                for key in (TOP, WRIST, "action", "index"):
                    assert torch.equal(batch[key][i], right[key][i])
    assert num_substituted >= LENGTHS[UNDECODABLE] - first_lost
    resumed = make_loader(str(undecodable), on_error="skip", **options)
    resumed.load_state_dict(state_after(undecodable, options, 3))
    assert all(
        torch.equal(batch[WRIST], same[WRIST])
        for batch, same in zip(resumed, found[3:], strict=True)
    )


@pytest.mark.parametrize(
    ("num_workers", "least_pixels"), [(0, 1), (2, 1), (2, 1 << 30)], ids=["threads", "team", "each"]
)
def test_all_batches_before_the_first_that_cannot_be_decoded_come(
    undecodable: Path,
    honest: Path,
    num_workers: int,
    least_pixels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers send some batches together, made by both or by one alone."""
    monkeypatch.setattr(teams, "LEAST_PIXELS", least_pixels)
    options: dict[str, Any] = {"batch_size": 2, "seed": 4, "num_workers": num_workers}
    right, found = list(make_loader(str(honest), batch_size=2, seed=4)), []

    def take_all() -> None:
        for batch in make_loader(str(undecodable), **options):
            found.append(batch)  # noqa: PERF402 - until there are no more

    with pytest.raises(FormatError, match=f"episode {UNDECODABLE}, camera '{WRIST}'"):
        take_all()
    first_lost = first_undecodable(undecodable)
    spoiled = [
        bool((batch["frame_index"][batch["episode_index"] == UNDECODABLE] >= first_lost).any())
        for batch in right
    ]
    assert len(found) == spoiled.index(True)
    assert_same(found, right[: len(found)])


@pytest.mark.filterwarnings("ignore:on_error='skip':RuntimeWarning")
def test_a_frame_cache_changes_nothing_of_what_is_substituted(
    undecodable: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch_size": 4, "on_error": "skip", "decode_threads": 2}
    kept = {"frame_cache": "1GB", "frame_cache_dir": tmp_path / "kept"}
    plain = make_loader(str(undecodable), **options)
    cached = make_loader(str(undecodable), **kept, **options)
    for _ in range(3):
        assert_same(cached, list(plain))
    assert cached.stats().frame_cache_hits


def first_undecodable(root: Path) -> int:
    """The first frame that cannot be decoded."""
    dataset = open_dataset(str(root), cameras=[WRIST])
    view = dataset.episode(UNDECODABLE)
    for row in range(len(view)):
        try:
            view[row]
        except FormatError as error:
            assert f"episode {UNDECODABLE}, camera '{WRIST}': " in str(error)  # noqa: PT017
            return row
    raise AssertionError("all frames can be decoded")


def state_after(root: Path, options: dict[str, Any], num_steps: int) -> dict[str, Any]:
    loader = make_loader(str(root), on_error="skip", **options)
    for _, _ in zip(range(num_steps), loader, strict=False):
        pass
    return loader.state_dict()


def test_a_warning_says_once_which_episode_cannot_be_decoded(undecodable: Path) -> None:
    with pytest.warns(RuntimeWarning, match=f"episode {UNDECODABLE}, camera '{WRIST}'") as caught:
        load(undecodable, on_error="skip", batch_size=2)
    assert len(caught) == 1


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loader_warns_once_of_an_episode_in_all_its_epochs_and_workers(
    copy: Path, num_workers: int
) -> None:
    break_episodes(copy, [BROKEN])
    loader = make_loader(str(copy), on_error="skip", batch_size=2, num_workers=num_workers)
    with pytest.warns(RuntimeWarning, match=f"episode {BROKEN}.*takes its place") as caught:
        lengths = [len(list(itertools.islice(loader, steps))) for steps in (None, 1, None)]
    assert lengths == [len(loader), 1, len(loader)]
    assert len(caught) == 1


def test_without_skip_it_is_an_error_at_its_step(undecodable: Path) -> None:
    with pytest.raises(FormatError, match=f"episode {UNDECODABLE}, camera '{WRIST}': "):
        load(undecodable)


@pytest.mark.filterwarnings("ignore:on_error='skip':RuntimeWarning")
def test_with_nothing_to_decode_there_is_nothing_to_substitute(
    honest: Path, tmp_path: Path
) -> None:
    forged = Forgery(honest, tmp_path / "forged")
    for episode in range(len(LENGTHS)):
        forged.put_members(*place(honest, episode), without_some_packets(TOP, None))
    with pytest.raises(RoboshardError, match=r"camera '|no episode can be decoded"):
        load(Path(forged.seal()), on_error="skip")


# -- Members that were made to deceive: every checksum fits ----------------------------------------


def without_media(video: bytes) -> bytes:
    start = video.index(b"mdat") + 4
    end = video.index(b"moov", start) - 4 if b"moov" in video[start:] else len(video)
    return video[:start] + bytes(end - start) + video[end:]


def change_video(change: Callable[[bytes, bytes], bytes]) -> Callable[[Members], None]:
    def apply(members: Members) -> None:
        members[f"{TOP}.mp4"] = change(members[f"{TOP}.mp4"], members[f"{WRIST}.mp4"])

    return apply


def change_record(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Members], None]:
    def apply(members: Members) -> None:
        record = json.loads(members["json"])
        record["cameras"][0] |= change(record["cameras"][0])
        members["json"] = json.dumps(record).encode()

    return apply


LIES: dict[str, Callable[[Members], None]] = {
    "garbage": change_video(lambda top, _: bytes(range(256)) * 100),
    "only a head": change_video(lambda top, _: top[:200] + bytes(len(top) - 200)),
    "no media": change_video(lambda top, _: without_media(top)),
    "another resolution": change_video(lambda _, wrist: wrist),
    "other times": change_record(
        lambda camera: {"pts": [[p + 7, step, n] for p, step, n in camera["pts"]]}
    ),
    "a frame more": change_record(
        lambda camera: {
            "pts": [*camera["pts"], [10**9, 0, 1]],
            "num_frames": camera["num_frames"] + 1,
        }
    ),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("lie", LIES)
def test_videos_that_are_not_what_their_record_says(
    honest: Path, tmp_path: Path, lie: str, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_with(decoder, monkeypatch)
    forged = Forgery(honest, tmp_path / "forged")
    forged.put_members(*place(honest, BROKEN), LIES[lie])
    root = forged.seal()
    with (
        cheaply(seconds=20, megabytes=256),
        pytest.raises(FormatError, match=f"episode {BROKEN}, camera '{TOP}': "),
    ):
        load(Path(root), episodes=[BROKEN])
    assert len(load(Path(root), episodes=[BROKEN], cameras=[WRIST])) == LENGTHS[BROKEN]


def change_rows(change: Callable[[pa.Table], pa.Table]) -> Callable[[Members], None]:
    def apply(members: Members) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(change(pq.read_table(pa.BufferReader(members["parquet"]))), sink)
        members["parquet"] = bytes(sink.getvalue())

    return apply


def set_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["action"]), "its rows have no column 'action'"),
        (lambda table: table.slice(1), "14 rows where the episode has 15"),
        (
            lambda table: set_column(table, "task_index", [7] * 15),
            "row 0 has task_index 7 of 1 tasks",
        ),
        (
            lambda table: set_column(table, "task_index", [-2] * 15),
            "row 0 has task_index -2 of 1 tasks",
        ),
        (
            lambda table: set_column(table, "action", [None] * 15),
            "feature 'action': 15 rows have no value",
        ),
        (
            lambda table: set_column(table, "action", ["left"] * 15),
            "feature 'action': values of type",
        ),
    ],
    ids=[
        "a column less",
        "a row less",
        "an unknown task",
        "a negative task",
        "no values",
        "other types",
    ],
)
def test_rows_that_are_not_what_the_features_say(
    honest: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    forged = Forgery(honest, tmp_path / "forged")
    forged.put_members(*place(honest, BROKEN), change_rows(change))
    with pytest.raises(FormatError, match=rf"shard-00000\d\.tar, episode {BROKEN}.*{message}"):
        load(Path(forged.seal()), cameras=[])
