"""What one worker has read and parsed serves the others of its rank: the same values, without
reading again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.loader import make_loader
from roboshard.loader.batches.buffers import ReusedBuffers
from roboshard.loader.decoding.pictures import with_pixels
from roboshard.loader.episodes.fetch import DrawnStep
from roboshard.loader.episodes.shared import LARGEST, SharedEpisodes
from roboshard.loader.order.plan import Draw
from roboshard.loader.resources import Resources
from roboshard.loader.stats import StatsCounter
from roboshard.shards import StorageError

SIZE = 1 << 12
TOP = "observation.images.top"


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400), st.integers(0, 255)), max_size=60)
)
def test_what_is_found_was_kept_last(puts: list[tuple[int, int, int]]) -> None:
    shared = SharedEpisodes(SIZE)
    last: dict[int, bytes] = {}
    for position, length, value in puts:
        data = bytes([value]) * length
        shared.put(position, data)
        if length <= LARGEST * SIZE:
            assert position in shared
            assert shared.get(position) == data
            last[position] = data
    for position in range(5):
        assert shared.get(position) in (None, last.get(position))


def test_the_oldest_make_room() -> None:
    shared = SharedEpisodes(SIZE)
    for position in range(100):
        shared.put(position, bytes([position]) * 200)
    newest = SIZE // 200
    assert [shared.get(position) for position in range(100 - newest, 100)] == [
        bytes([position]) * 200 for position in range(100 - newest, 100)
    ]
    assert all(shared.get(position) is None for position in range(100 - newest))
    assert 0 in shared  # only reading it shows that it was written over
    assert shared.get(1 << 40) is None


WRITER = """
import os, random, sys
from roboshard.common.memory_files import SharedMemoryFile
from roboshard.loader.episodes.shared import SharedEpisodes
shared = SharedEpisodes.__new__(SharedEpisodes)
shared._size = int(sys.argv[2])
shared._file = SharedMemoryFile(open(int(sys.argv[1]), "r+b", buffering=0))
draw = random.Random(int(sys.argv[3]))
while os.getppid() == int(sys.argv[4]):  # whoever adopts it if the test is killed
    position = draw.randrange(50)
    found = shared.get(position)
    assert found is None or found == bytes([position]) * len(found), position
    shared.put(position, bytes([position]) * draw.randrange(1, 250))
"""


def test_processes_that_write_at_once_and_are_killed_leave_nothing_wrong() -> None:
    shared = SharedEpisodes(SIZE)
    descriptor = shared._file.descriptor
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, *map(str, (descriptor, SIZE, seed, os.getpid()))],
            pass_fds=[descriptor],
        )
        for seed in range(3)
    ]
    try:
        seen = 0
        until = time.monotonic() + 60
        while seen < 3000 and time.monotonic() < until:
            for position in range(50):
                found = shared.get(position)
                assert found is None or found == bytes([position]) * len(found)
                seen += found is not None
            if seen > 1000 and writers[0].poll() is None:
                writers[0].send_signal(signal.SIGKILL)
        assert seen >= 3000
        assert [writer.poll() for writer in writers[1:]] == [None, None]
        shared.put(7, b"\7")  # whoever was killed holds no lock
        assert shared.get(7) is not None
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


@contextmanager
def worker(root: str | Path, shared: SharedEpisodes, **options: Any) -> Iterator[Resources]:
    """What a worker reads with."""
    with closing(make_loader(str(root), batch_size=4, **options)) as loader:
        resources = Resources(loader._job, ReusedBuffers(), StatsCounter(), shared=shared)
        try:
            yield resources
        finally:
            resources.close()


def step_of(resources: Resources, *positions: int) -> DrawnStep:
    rows = np.zeros(len(positions), dtype=np.int64)
    draw = Draw(step=0, positions=np.array(positions), rows=rows)
    resources.pool.expect([draw])
    return resources.pool.step(draw)


def frames(step: DrawnStep) -> list[np.ndarray[Any, Any]]:
    return [
        with_pixels(picture).copy()
        for it in step.episodes
        for _, picture in it.pictures(TOP, [0, 3])
    ]


def test_a_worker_reads_nothing_that_another_one_has_read(arm_shards: Path) -> None:
    shared = SharedEpisodes(1 << 24)
    with worker(arm_shards, shared) as first, worker(arm_shards, shared) as second:
        read, given = step_of(first, 3, 5), step_of(second, 3, 5)
        assert first.counter.snapshot().episodes_read == 2
        stats = second.counter.snapshot()
        assert (stats.episodes_read, stats.episodes_shared, stats.reads) == (0, 2, 0)
        for ours, theirs in zip(read.episodes, given.episodes, strict=True):
            rows = np.arange(ours.length)
            assert ours.columns.keys() == theirs.columns.keys()
            for key, column in ours.columns.items():
                np.testing.assert_array_equal(column.take(rows), theirs.columns[key].take(rows))
            assert ours.tasks(rows) == theirs.tasks(rows)
        for one, other in zip(frames(read), frames(given), strict=True):
            np.testing.assert_array_equal(one, other)
        step_of(second, 3, 6)
        assert second.counter.snapshot().episodes_read == 1


def test_what_was_read_for_nothing_is_not_held(arm_shards: Path) -> None:
    shared = SharedEpisodes(1 << 24)
    with worker(arm_shards, shared) as first, worker(arm_shards, shared) as second:
        rows = np.zeros(2, dtype=np.int64)
        draw = Draw(step=0, positions=np.array([3, 5]), rows=rows)
        second.pool.expect([draw])  # before another worker has read them
        step_of(first, 3, 5)
        step = second.pool.step(draw)
        assert [episode.position for episode in step.episodes] == [3, 5]
        assert second.counter.snapshot().episodes_shared == 2
        assert (second.reads._coming, second.reads._coming_bytes) == ({}, 0)


def test_an_episode_whose_shard_was_replaced_since_another_worker_verified_it(
    arm_shards: Path, tmp_path: Path
) -> None:
    root = tmp_path / "shards"
    shutil.copytree(arm_shards, root)
    shared = SharedEpisodes(1 << 24)
    with worker(root, shared) as first, worker(root, shared) as second:
        step_of(first, 0)
        given = step_of(second, 0)
        for shard in (root / "shards").glob("*.tar"):
            data = bytearray(shard.read_bytes())
            shard.unlink()
            shard.write_bytes(data[::-1])
        with pytest.raises(StorageError, match="another file is in its place"):
            frames(given)


def test_workers_share_and_count_it(arm_shards: Path) -> None:
    """In dataset order each makes steps of its own, of the same episodes."""
    options: dict[str, Any] = {"batch_size": 2, "shuffle": False, "cameras": []}
    with closing(make_loader(str(arm_shards), **options)) as loader:
        expected = [batch["index"].tolist() for batch in loader]
    with closing(make_loader(str(arm_shards), num_workers=2, **options)) as loader:
        assert [batch["index"].tolist() for batch in loader] == expected
        stats = loader.stats()
    assert stats.episodes_shared > 0
    assert stats.episodes_read >= 20


def test_nothing_of_it_is_left(arm_shards: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    shared = SharedEpisodes(1 << 20)
    with worker(arm_shards, shared) as only:
        step_of(only, 1)
    assert set(os.listdir("/proc/self/fd")) - before
    del shared, only
    assert set(os.listdir("/proc/self/fd")) <= before
