"""A conversion killed at any moment leaves no wrong dataset, and running it again ends with the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.interrupting import processes
from support.lerobot_source import Camera, Source, build
from support.slowly import some_quickly
from support.waiting import wait_until

from roboshard.converter import ConversionReport
from roboshard.shards import ShardedDataset

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds processes in /proc"
)

Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]
MOMENTS = 26

SOME_QUICKLY = some_quickly(range(MOMENTS), {9})
EPISODES = 26

CONVERT = """
import sys
from roboshard.converter import ConvertConfig, convert
from roboshard.shards import RoboshardError
try:
    convert(ConvertConfig(source=sys.argv[1], destination=sys.argv[2], shard_size="64KB", workers=2))
except RoboshardError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed") / "robot"
    camera = Camera(key="observation.images.top", episodes_per_file=10)
    # 64 KB an episode, most of it statistics: a shard each.
    build(root, Source(lengths=(5,) * EPISODES, cameras=(camera,), state_dim=160))
    return root


@pytest.fixture(scope="module")
def whole(
    source: Path, tmp_path_factory: pytest.TempPathFactory, run: Run, tree: ReadTree
) -> dict[str, str]:
    """The files of a conversion that nothing interrupted."""
    root = tmp_path_factory.mktemp("killed") / "shards"
    assert run(source, root).shards > EPISODES // 2
    return tree(root)


class Conversion:
    """A conversion as a process of its own, with two workers, in a session of its own."""

    def __init__(self, source: Path, destination: Path) -> None:
        self.destination = destination
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONVERT, str(source), str(destination)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def files(self) -> int:
        """Finished files: shards, their manifests, the index, dataset.json."""
        return sum(
            path.suffix in (".tar", ".json", ".parquet")
            for path in self.destination.glob("**/[!.]*")
        )

    def wait_for_files(self, count: float) -> None:
        wait_until(lambda: self.files >= count or self.process.poll() is not None)

    @property
    def workers(self) -> list[int]:
        return [
            p.pid
            for p in processes()
            if p.parent == self.process.pid and b"spawn_main" in p.command
        ]

    def is_gone(self) -> bool:
        return all(process.session != self.process.pid for process in processes())

    def finish(self) -> str:
        """Wait for the end; what it said on standard error."""
        said = self.process.communicate(timeout=60)[1]
        assert isinstance(said, str)
        return said


@contextmanager
def converting(source: Path, destination: Path) -> Iterator[Conversion]:
    """Nothing of it runs on when the test has failed."""
    conversion = Conversion(source, destination)
    try:
        yield conversion
    finally:
        for process in processes():
            if process.session == conversion.process.pid:
                os.kill(process.pid, signal.SIGKILL)
        conversion.process.communicate()


def check_left_behind(root: Path) -> int:
    """What is there is right, finished or not. Returns the number of finished shards."""
    finished = sorted((root / "shards").glob("shard-*.json"))
    for path in finished:
        manifest = json.loads(path.read_bytes())
        assert (
            hashlib.sha256((root / manifest["shard"]).read_bytes()).hexdigest()
            == manifest["sha256"]
        )
    if (root / "dataset.json").exists():
        dataset = ShardedDataset.open(str(root))
        assert len(dataset.index) == EPISODES
        for position in range(EPISODES):
            dataset.read_episode(position)
    return len(finished)


def temporaries(root: Path) -> list[Path]:
    return list(root.rglob(".*"))


@pytest.mark.parametrize("moment", SOME_QUICKLY)
def test_killed_with_its_workers(
    source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree, moment: int
) -> None:
    root = tmp_path / "shards"
    with converting(source, root) as conversion:
        conversion.wait_for_files(moment / (MOMENTS - 1) * len(whole))
        time.sleep(moment % 5 * 0.002 if moment else 0.2)
        os.killpg(conversion.process.pid, signal.SIGKILL)
        conversion.finish()
        assert wait_until(conversion.is_gone)
    finished = check_left_behind(root)
    if 2 < moment < MOMENTS - 2:
        assert conversion.process.returncode == -signal.SIGKILL
        assert finished > 0
        assert not (root / "dataset.json").exists()
    report = run(source, root)
    assert report.reused_shards == finished
    assert tree(root) == whole


@pytest.mark.parametrize("moment", SOME_QUICKLY)
def test_killed_alone_so_that_its_workers_are_orphans(
    source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree, moment: int
) -> None:
    root = tmp_path / "shards"
    with converting(source, root) as conversion:
        conversion.wait_for_files(moment / (MOMENTS - 1) * len(whole))
        time.sleep(moment % 5 * 0.002 if moment else 0.2)
        conversion.process.kill()
        conversion.process.wait()
        if moment % 2:  # even so, run again at once
            run(source, root)
        assert wait_until(conversion.is_gone, seconds=5)
    finished = check_left_behind(root)
    report = run(source, root)
    assert report.reused_shards == finished
    assert tree(root) == whole


@pytest.mark.parametrize("moment", some_quickly([0.0, 0.2, 0.5, 0.8], {0.2}))
def test_a_killed_worker_is_an_error_that_says_what_to_do(
    source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree, moment: float
) -> None:
    root = tmp_path / "shards"
    with converting(source, root) as conversion:
        conversion.wait_for_files(moment * len(whole))
        assert wait_until(lambda: len(conversion.workers) == 2)
        os.kill(conversion.workers[0], signal.SIGKILL)
        said = conversion.finish()
        assert wait_until(conversion.is_gone, seconds=5)
    assert conversion.process.returncode == 1
    assert "RoboshardError: a conversion worker died" in said
    assert "run the same command again to continue" in said
    assert not (root / "dataset.json").exists()
    finished = check_left_behind(root)
    assert run(source, root).reused_shards == finished
    assert tree(root) == whole


@pytest.mark.parametrize("moment", some_quickly([0.0, 0.1, 0.3, 0.5, 0.7, 0.9], {0.5}))
def test_interrupted_it_tidies_up(
    source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree, moment: float
) -> None:
    root = tmp_path / "shards"
    with converting(source, root) as conversion:
        conversion.wait_for_files(moment * len(whole))
        if not moment:
            assert wait_until(lambda: len(conversion.workers) == 2)
        os.killpg(conversion.process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        conversion.finish()
        assert wait_until(conversion.is_gone, seconds=5)
    assert conversion.process.returncode != 0
    assert temporaries(root) == []
    assert not (root / "dataset.json").exists()
    finished = check_left_behind(root)
    assert run(source, root).reused_shards == finished
    assert tree(root) == whole
