"""How workers begin: as copies of one process, and yet as if each had been started now."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import forkserver
from pathlib import Path

import pytest

from roboshard.loader import make_loader
from roboshard.loader.running.worker_start import PRELOADED, START_METHOD

SHADE = "ROBOSHARD_TEST_SHADE"
CAMERA = "observation.image"

pytestmark = pytest.mark.skipif(START_METHOD != "forkserver", reason="workers are spawned here")


@pytest.fixture
def all_cores() -> Iterator[set[int]]:
    """The cores of this process, which are its own again afterwards."""
    cores = os.sched_getaffinity(0)
    yield cores
    os.sched_setaffinity(0, cores)


FORKS = """
import os, sys
from roboshard.loader import make_loader


def first_batch():
    loader = make_loader(sys.argv[1], batch_size=4, num_workers=1)
    found = next(iter(loader))["index"].tolist()
    loader.close()
    return found


expected = first_batch()
if not (fork := os.fork()):
    os._exit(0 if first_batch() == expected else 1)
print(os.waitpid(fork, 0)[1], first_batch() == expected)
"""


HAS_A_CHILD = """
import multiprocessing, sys, time
from roboshard.loader import make_loader


def loader_of_two():
    return make_loader(sys.argv[1], batch_size=4, num_workers=2)


def train(begun):
    batches = iter(loader_of_two())
    next(batches)
    begun.set()
    time.sleep(100)


if __name__ == "__main__":
    loader = loader_of_two()
    first = sum(1 for _ in loader)
    spawned = multiprocessing.get_context("spawn")
    begun = spawned.Event()
    child = spawned.Process(target=train, args=(begun,))
    child.start()
    begun.wait()
    child.kill()
    child.join()
    time.sleep(3)  # its workers look every two seconds
    again = sum(1 for _ in loader)
    loader.close()
    loader = loader_of_two()
    print(first == again == sum(1 for _ in loader) == len(loader))
    loader.close()
"""


def told_by_a_worker(root: Path, number: Callable[[], int]) -> int:
    """What a function returns in a worker that starts now."""
    options = {"image_transforms": lambda picture: picture * 0 + number(), "return_uint8": False}
    with closing(make_loader(str(root), batch_size=1, num_workers=1, **options)) as loader:
        return int(next(iter(loader))[CAMERA].max())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_workers_are_forked_from_is_there_with_a_loader_that_has_some(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """It takes seconds to import, in which the program makes its model."""
    begun: list[None] = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: begun.append(None))
    make_loader(str(pusht_shards), num_workers=num_workers)
    assert len(begun) == num_workers


def test_it_has_imported_what_it_needs(pusht_shards: Path) -> None:
    assert told_by_a_worker(pusht_shards, lambda: int(PRELOADED in sys.modules)) == 1


def test_its_environment_is_the_programs_of_now(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shade() -> int:
        return int(os.environ.get(SHADE, "1"))

    for value in ("3", "7"):
        monkeypatch.setenv(SHADE, value)
        assert told_by_a_worker(pusht_shards, shade) == int(value)
    monkeypatch.delenv(SHADE)
    assert told_by_a_worker(pusht_shards, shade) == 1


def test_it_runs_on_the_programs_cores_of_now(pusht_shards: Path, all_cores: set[int]) -> None:
    def cores() -> int:
        return len(os.sched_getaffinity(0))

    assert told_by_a_worker(pusht_shards, cores) == len(all_cores)
    os.sched_setaffinity(0, {min(all_cores)})
    assert told_by_a_worker(pusht_shards, cores) == 1


def test_a_fork_of_the_program_has_workers_of_its_own(pusht_shards: Path) -> None:
    """As the processes of a notebook's launcher are."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(pusht_shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_a_killed_child_of_the_program_leaves_its_parents_loaders_alone(
    pusht_shards: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(HAS_A_CHILD)
    command = [sys.executable, "-W", "ignore", str(program), str(pusht_shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
