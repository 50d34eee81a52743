"""Pictures kept for the epochs that follow: the same batches, by whomever and wherever they are kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.batches import Batch, assert_same
from support.converting import shards_of
from support.frame_cache_rank import digest
from support.lerobot_source import Camera, Source
from support.slowly import slowly

from roboshard.common.errors import OptionError, StorageError
from roboshard.loader import Loader, make_loader
from roboshard.loader.frame_cache import layout, store
from roboshard.loader.running import shared_frames
from roboshard.storage import held_folder

RANK = Path(__file__).parents[1] / "support" / "frame_cache_rank.py"
TOP, WRIST, DEPTH, STILL = (
    f"observation.images.{name}" for name in ("top", "wrist", "depth", "still")
)
DEPTH_SCALE = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5, "use_log": True}
LENGTHS = (12, 9, 15, 7, 11)
FRAMES = sum(LENGTHS)
SOURCE = Source(
    lengths=LENGTHS,
    cameras=(
        Camera(key=TOP, gop=30, bframes=2),
        Camera(key=WRIST, codec="av1", gop=2, size=(80, 64)),
        Camera(key=DEPTH, codec="hevc", pix_fmt="gray12le", depth=DEPTH_SCALE),
    ),
    image_keys=(STILL,),
)
PICTURES = 4 * FRAMES
OPTIONS = {"batch_size": 8, "seed": 3, "pool_episodes": 3, "decode_threads": 2}
WINDOWS = {TOP: [-0.3, 0.0, 0.1], STILL: [-0.1, 0.0]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shards_of(SOURCE, tmp_path_factory.mktemp("frames"))


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the file system in memory, so that no two tests share one."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(shared_frames, "IN_MEMORY", folder)
    return folder


def epochs(loader: Loader, number: int = 2) -> list[Batch]:
    return [batch for _ in range(number) for batch in loader]


def expected(shards: Any, number: int = 2, **options: Any) -> list[Batch]:
    return epochs(make_loader(shards, **OPTIONS | options), number)


def layout_of(loader: Loader) -> layout.Layout:
    spec = loader._job.frame_cache
    assert spec is not None
    return spec.layout


def kept_bytes(shards: str) -> int:
    """Bytes of all pictures with their marks."""
    return layout_of(make_loader(shards, frame_cache="1GB", **OPTIONS)).num_bytes


def picture_bytes(loader: Loader) -> int:
    """Bytes of all pictures of a loader."""
    return sum(store.picture_bytes * store.num_rows for store in layout_of(loader).stores)


# -- The same batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, slowly(2)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": (32, 48)},
        {"return_uint8": False, "image_size": (32, 48)},
        {"delta_timestamps": WINDOWS},
        {"frame_order": "sweep", "delta_timestamps": WINDOWS},
        {"shuffle": False, "drop_n_first_frames": 2},
        {"batch_size": None},
        {"episode_weights": {0: 2.0, 3: 1.5}, "keep_ranges": {1: [(2, 5), (6, 8)]}},
    ],
    ids=["uint8", "resized", "float32", "windows", "sweep", "in_order", "samples", "weights"],
)
def test_batches_are_the_same(shards: str, num_workers: int, options: dict[str, Any]) -> None:
    loader = make_loader(shards, frame_cache="1GB", num_workers=num_workers, **OPTIONS | options)
    assert_same(epochs(loader, 3), expected(shards, 3, **options))
    stats = loader.stats()
    assert stats.frame_cache_hits >= 2 * PICTURES - 8 * 2 * len(LENGTHS)
    assert stats.frame_cache_bytes_read > stats.frame_cache_bytes_written > 0
    loader.close()


@pytest.mark.slow
def test_batches_are_the_same_with_two_workers(shards: str) -> None:
    options = {"image_size": (32, 48), "delta_timestamps": WINDOWS}
    loader = make_loader(shards, frame_cache="1GB", num_workers=2, **OPTIONS | options)
    assert_same(epochs(loader), expected(shards, **options))
    assert loader.stats().frame_cache_hits >= PICTURES
    loader.close()


def test_nothing_is_decoded_from_the_second_epoch_on(shards: str) -> None:
    loader = make_loader(shards, frame_cache="1GB", **OPTIONS)
    epochs(loader, 1)
    first = loader.stats()
    assert first.frames_used == 3 * FRAMES
    epochs(loader, 2)
    stats = loader.stats()
    assert stats.frames_used >= 9 * FRAMES
    assert stats.frames_decoded == first.frames_decoded
    assert stats.frame_cache_bytes_written == first.frame_cache_bytes_written
    assert stats.frame_cache_hits - first.frame_cache_hits >= 2 * PICTURES
    loader.close()


def test_a_gop_is_decoded_once_and_not_again_for_its_other_frames(tmp_path: Path) -> None:
    """What is decoded on the way to a frame is kept: far keyframes cost one epoch."""
    lengths = (60, 60, 60)
    long = shards_of(Source(lengths=lengths, cameras=(Camera(key=TOP, gop=250),)), tmp_path)
    options = OPTIONS | {"batch_size": 2, "decode_threads": 1}
    loader = make_loader(long, frame_cache="1GB", **options)
    bare = make_loader(long, **options)
    assert_same(epochs(loader, 1), epochs(bare, 1))
    with_cache, without = loader.stats(), bare.stats()
    assert with_cache.frames_used == without.frames_used == sum(lengths)
    assert with_cache.frames_decoded < 0.6 * without.frames_decoded
    loader.close()
    bare.close()


def test_pictures_in_several_files(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As datasets have them that are larger than a file may be."""
    monkeypatch.setattr(store, "MOST_BYTES", 20 * 64 * 96 * 3)
    loader = make_loader(shards, frame_cache="1GB", **OPTIONS)
    assert_same(epochs(loader, 2), expected(shards))
    spec = loader._job.frame_cache
    assert spec is not None
    assert len(list(spec.folder.rglob("pictures-002"))) >= 1
    loader.close()


def test_resuming_in_mid_epoch(shards: str) -> None:
    whole = expected(shards)
    loader = make_loader(shards, frame_cache="1GB", **OPTIONS)
    batches = iter(loader)
    first = [next(batches) for _ in range(3)]
    state = loader.state_dict()
    loader.close()
    resumed = make_loader(shards, frame_cache="1GB", **OPTIONS)
    resumed.load_state_dict(state)
    assert_same([*first, *epochs(resumed)], whole)
    resumed.close()


def test_mixtures_in_which_a_camera_is_missing(shards: str, tmp_path: Path) -> None:
    other = Source(lengths=(8, 14, 5), cameras=(Camera(key=TOP),), seed=1)
    mixture = [(shards, 0.6), (shards_of(other, tmp_path), 0.4)]
    options = {"cameras": [TOP, WRIST], "on_missing": "fill", "image_size": (32, 48)}
    loader = make_loader(mixture, frame_cache="1GB", **OPTIONS | options)
    assert_same(epochs(loader, 3), expected(mixture, 3, **options))
    assert loader.stats().frame_cache_hits
    loader.close()


# -- What is kept of what does not fit -------------------------------------------------------------


def test_a_part_is_kept_that_stays_the_same(shards: str) -> None:
    half = kept_bytes(shards) // 2
    loaders = [make_loader(shards, frame_cache=half, **OPTIONS) for _ in range(2)]
    kept = [layout_of(loader).kept[0].tolist() for loader in loaders]
    assert kept[0] == kept[1]
    assert 0 < sum(kept[0]) < len(LENGTHS)
    rows = sum(np.array(LENGTHS)[kept[0]])
    loader = loaders[0]
    assert_same(epochs(loader, 1), expected(shards, 1))
    written = loader.stats().frame_cache_bytes_written
    epochs(loader, 2)
    assert loader.stats().frame_cache_bytes_written == written <= half, "nothing is displaced"
    loader.close()
    epochs(loaders[1], 1)
    stats = loaders[1].stats()
    assert (stats.frame_cache_hits, stats.frame_cache_bytes_written) == (4 * rows, 0)
    loaders[1].close()


@pytest.fixture(scope="module")
def whole(shards: str) -> Any:
    return make_loader(shards, **OPTIONS)._job


@given(first=st.integers(0, 10**6), more=st.integers(0, 10**6))
def test_a_larger_budget_keeps_what_a_smaller_one_keeps(whole: Any, first: int, more: int) -> None:
    keys = [picture.key for picture in whole.pictures]
    small, large = (
        layout.make_layout(whole.sources, keys, None, budget) for budget in (first, first + more)
    )
    assert small.num_bytes <= first
    assert not (small.kept[0] & ~large.kept[0]).any()


def test_another_selection_finds_what_is_there(shards: str, tmp_path: Path) -> None:
    folder = {"frame_cache": "1GB", "frame_cache_dir": tmp_path / "kept"}
    epochs(make_loader(shards, **folder, **OPTIONS), 1)
    options = {"episodes": [1, 3], "cameras": [WRIST, TOP], "seed": 9}
    loader = make_loader(shards, **folder, **OPTIONS | options)
    assert_same(epochs(loader, 1), expected(shards, 1, **options))
    stats = loader.stats()
    assert (stats.frames_decoded, stats.frame_cache_hits) == (0, 3 * (LENGTHS[1] + LENGTHS[3]))


# -- Processes that share it -----------------------------------------------------------------------


@contextmanager
def rank(**told: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(RANK), json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def begin_epoch(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def end_epoch(process: subprocess.Popen[str]) -> tuple[list[str], dict[str, float]]:
    assert process.stdout is not None
    batches, stats = json.loads(process.stdout.readline())
    return batches, stats


def test_two_ranks_of_a_node_share_one(shards: str, memory: Path) -> None:
    """In the second epoch each meets frames that only the other one has decoded."""
    told = {"shards": shards, "memory": str(memory), "world_size": 2, "frame_cache": "1GB"}
    with (
        rank(rank=0, **told, **OPTIONS) as one,
        rank(rank=1, **told, **OPTIONS) as other,
    ):
        found: list[list[str]] = [[], []]
        for epoch in range(2):
            for process in (one, other):
                begin_epoch(process)
            for number, process in enumerate((one, other)):
                batches, stats = end_epoch(process)
                found[number] += batches
                assert (stats["frames_decoded"] == 0) == (epoch == 1)
        assert len(list(memory.iterdir())) == 1
    for number in range(2):
        right = expected(shards, rank=number, world_size=2)
        assert found[number] == [digest(batch) for batch in right]


def test_a_killed_process_leaves_nothing_that_is_believed(shards: str, tmp_path: Path) -> None:
    kept = {"frame_cache": "1GB", "frame_cache_dir": str(tmp_path / "kept")}
    told = {"shards": shards, "memory": str(tmp_path), "die_at": 40}
    with rank(**told, **kept, **OPTIONS) as process:
        begin_epoch(process)
        assert process.wait() == -9
    loader = make_loader(shards, **kept, **OPTIONS)
    assert_same(epochs(loader, 1), expected(shards, 1))
    stats = loader.stats()
    assert 0 < stats.frame_cache_hits < PICTURES
    assert stats.frame_cache_bytes_written
    assert not stats.frame_cache_damaged
    loader.close()


@pytest.mark.slow
def test_memory_is_freed_with_the_last_process(shards: str, memory: Path) -> None:
    loader = make_loader(shards, frame_cache="1GB", **OPTIONS)
    (folder,) = memory.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700, "of this user alone"
    told = {"shards": shards, "memory": str(memory), "frame_cache": "1GB"}
    with rank(**told, **OPTIONS) as process:
        del loader
        assert folder.exists(), "another process uses it"
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    assert not list(memory.iterdir())


@pytest.mark.slow
def test_what_a_killed_process_left_goes_with_the_next_loader(shards: str, memory: Path) -> None:
    told = {"shards": shards, "memory": str(memory), "frame_cache": "1GB"}
    with rank(**told, **OPTIONS) as process:
        begin_epoch(process)
        end_epoch(process)
    (left,) = memory.iterdir()
    same = make_loader(shards, frame_cache="1GB", **OPTIONS)
    assert left.exists()
    assert_same(epochs(same, 1), expected(shards, 1))
    assert not same.stats().frames_decoded, "the same job goes on with it"
    other = make_loader(shards, frame_cache="1GB", image_size=(8, 8), **OPTIONS)
    assert len(list(memory.iterdir())) == 2
    del same, other
    assert not list(memory.iterdir())
    with rank(**told, **OPTIONS):
        pass
    assert left.exists()
    other = make_loader(shards, frame_cache="1GB", image_size=(8, 8), **OPTIONS)
    assert not left.exists()
    assert len(list(memory.iterdir())) == 1
    del other


# -- A folder that outlives the run ----------------------------------------------------------------


def pictures_of(folder: Path, key: str) -> Path:
    """The file of a camera's pictures."""
    (found,) = (
        about.parent / "pictures-000"
        for about in folder.glob("roboshard-frames/*/about.json")
        if json.loads(about.read_text())["camera"] == key
    )
    return found


def test_damaged_bytes_are_found_and_made_again(shards: str, tmp_path: Path) -> None:
    kept = {"frame_cache": "1GB", "frame_cache_dir": tmp_path / "kept"}
    right = expected(shards, 1)
    epochs(make_loader(shards, **kept, **OPTIONS), 1)
    with pictures_of(tmp_path / "kept", WRIST).open("r+b") as file:
        file.seek(5 * 80 * 64 * 3 + 100)
        file.write(bytes(255 - byte for byte in file.read(1)))
    with pictures_of(tmp_path / "kept", TOP).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 10)
    for damaged in (2, 0):
        loader = make_loader(shards, **kept, **OPTIONS)
        assert_same(epochs(loader, 1), right)
        assert loader.stats().frame_cache_damaged == damaged
        assert bool(loader.stats().frames_decoded) == bool(damaged)
        loader.close()


@pytest.mark.parametrize("left", [0, 1, 4096, 100_001])
def test_files_that_are_cut_off_while_they_are_read_are_made_up_for(
    shards: str, tmp_path: Path, left: int
) -> None:
    """`left`: bytes of each file, which may end within a picture, a mark or a page."""
    kept = {"frame_cache": "1GB", "frame_cache_dir": tmp_path / "kept"}
    loader = make_loader(shards, **kept, **OPTIONS)
    first = epochs(loader, 1)
    for path in (tmp_path / "kept").rglob("*"):
        if path.name == "marks" or path.name.startswith("pictures-"):
            os.truncate(path, min(left, path.stat().st_size))
    assert_same(first + epochs(loader), expected(shards, 3))
    assert loader.stats().frame_cache_damaged > 0
    loader.close()


def test_nothing_is_taken_for_another_dataset_size_or_version(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"frame_cache": "1GB", "frame_cache_dir": tmp_path / "kept"}
    other = shards_of(Source(lengths=LENGTHS, cameras=SOURCE.cameras, seed=5), tmp_path)
    cases: list[tuple[str, dict[str, Any]]] = [
        (shards, {}),
        (shards, {"image_size": (32, 48)}),
        (other, {}),
    ]
    for root, options in cases:
        loader = make_loader(root, **kept, **OPTIONS | options)
        assert_same(epochs(loader, 1), expected(root, 1, **options))
        assert loader.stats().frame_cache_bytes_written == picture_bytes(loader), "all are new"
        loader.close()
    made_by = layout.made_by()
    for name in made_by:
        monkeypatch.setattr(layout, "made_by", lambda name=name: made_by | {name: "another"})
        loader = make_loader(shards, **kept, **OPTIONS, cameras=[])
        epochs(loader, 1)
        assert loader.stats().frame_cache_bytes_written == picture_bytes(loader), name
        loader.close()


def test_a_folder_that_cannot_be_written_is_read(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = kept_bytes(shards) // 2
    folder = {"frame_cache_dir": tmp_path / "kept"}
    epochs(make_loader(shards, frame_cache=half, **folder, **OPTIONS), 1)
    before = {path: path.read_bytes() for path in (tmp_path / "kept").rglob("*-000")}
    monkeypatch.setattr(store.os, "open", refusing(os.open))
    loader = make_loader(shards, frame_cache="1GB", **folder, **OPTIONS)
    with pytest.warns(RuntimeWarning, match="cannot be written") as told:
        assert_same(epochs(loader, 2), expected(shards, 2))
    assert len(told) == 1
    assert loader.stats().frame_cache_hits
    assert not loader.stats().frame_cache_bytes_written
    loader.close()
    assert before == {path: path.read_bytes() for path in before}


def refusing(open_: Any) -> Any:
    def refused(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_RDWR and "roboshard-frames" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return int(open_(path, flags, *arguments, **options))

    return refused


# -- Where there is no room, or no right to it -----------------------------------------------------


@pytest.mark.parametrize("num_written", [0, 30])
def test_a_full_disk_is_a_warning(
    shards: str, monkeypatch: pytest.MonkeyPatch, num_written: int
) -> None:
    pwrite, left = os.pwrite, [2 * num_written]

    def full(file: int, data: Any, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, data, offset)

    monkeypatch.setattr(store.os, "pwrite", full)
    loader = make_loader(shards, frame_cache="1GB", **OPTIONS)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert_same(epochs(loader, 3), expected(shards, 3))
    (warning,) = (str(each.message) for each in told)
    assert "takes no more pictures" in warning
    assert "No space left" in warning
    assert bool(loader.stats().frame_cache_bytes_read) == bool(num_written)
    loader.close()


def test_threads_that_find_the_disk_full_at_once_warn_once(
    shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(OPTIONS["decode_threads"])

    def full(_file: int, _data: Any, _offset: int) -> int:
        with suppress(threading.BrokenBarrierError):
            both.wait(30)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "pwrite", full)
    loader = make_loader(shards, frame_cache="1GB", **OPTIONS)
    with pytest.warns(RuntimeWarning, match="takes no more pictures") as told:
        assert_same(epochs(loader, 1), expected(shards, 1))
    assert not both.broken, "two threads wrote at the same time"
    assert len(told) == 1
    loader.close()


def test_too_little_memory_asks_for_a_folder(
    shards: str, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64 << 20, 64 << 20, 1000))
    with pytest.raises(OptionError, match=r"(?s)free, and frame_cache= .* frame_cache_dir= keeps"):
        make_loader(shards, frame_cache="1GB", **OPTIONS)
    assert not list(memory.iterdir()), "nothing is left"


def test_another_users_folder_is_refused(
    shards: str, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make_loader(shards, frame_cache="1GB", **OPTIONS)
    monkeypatch.setattr(held_folder.os, "fstat", stranger(os.fstat))
    with pytest.raises(StorageError, match="another user's; frame_cache_dir="):
        make_loader(shards, frame_cache="1GB", **OPTIONS)
    monkeypatch.undo()
    del loader


def stranger(fstat: Any) -> Any:
    def found(descriptor: int) -> os.stat_result:
        values = list(fstat(descriptor))
        values[4] += 1
        return os.stat_result(values)

    return found


@pytest.mark.parametrize("is_file", [False, True])
def test_a_folder_that_is_none_of_ours_is_refused(
    shards: str, tmp_path: Path, is_file: bool
) -> None:
    folder = tmp_path / "taken"
    if is_file:
        folder.write_text("mine")
    else:
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError if is_file else OptionError, match="taken"):
        make_loader(shards, frame_cache="1GB", frame_cache_dir=folder, **OPTIONS)


@pytest.mark.parametrize("size", ["", "8 gallons", "GB", "-1", 0, -5, 2.5, True, "0GB"])
def test_sizes_that_are_none(shards: str, size: Any) -> None:
    with pytest.raises(OptionError, match=r'frame_cache must be .* such as "8GB"'):
        make_loader(shards, frame_cache=size)


@pytest.mark.parametrize(
    ("size", "num_bytes"),
    [("8GB", 8 * 10**9), ("8 GiB", 8 << 30), ("1.5mb", 1_500_000), ("70000", 70000), (9, 9)],
)
def test_sizes(size: Any, num_bytes: int) -> None:
    from roboshard.loader.config import ReadConfig  # noqa: PLC0415

    assert ReadConfig(frame_cache=size).frame_cache == num_bytes


def test_options_that_do_not_go_together(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="frame_cache_dir= needs frame_cache="):
        make_loader(shards, frame_cache_dir="somewhere")
    with pytest.raises(OptionError, match="do not hold the pictures of one episode"):
        make_loader(shards, frame_cache=1000)
    monkeypatch.setattr(shared_frames, "decodes_on_gpu", lambda _: True)
    with pytest.raises(OptionError, match="leave out one of the two"):
        make_loader(shards, frame_cache="1GB")
