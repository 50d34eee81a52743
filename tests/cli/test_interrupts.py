"""Ctrl-C and its kin at any moment: soon over, one line, the right exit code, nothing left
behind.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.converting import converted
from support.interrupting import ENDS_WITHIN_S, LINE, Command
from support.lerobot_source import Camera, Source, build
from support.publishing import hashes, in_bucket
from support.servers import LocalHub
from support.waiting import wait_until

pytest_plugins = ["support.servers.fixtures"]
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds processes in /proc"
)

EPISODES = 12
OPTIONS = ("--shard-size", "64KB", "--workers", "2")
INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
WAYS = {
    # signal, whether the whole process group gets it, how often
    "ctrl-c": (INT, True, 1),
    "ctrl-c-twice": (INT, True, 2),
    "int-alone": (INT, False, 1),
    "term": (TERM, False, 1),
    "term-group": (TERM, True, 1),
    "hangup": (HUP, True, 1),
    "kill": (KILL, False, 1),
    "kill-group": (KILL, True, 1),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("interrupted") / "robot"
    camera = Camera(key="observation.images.top", episodes_per_file=5)
    # 64 KB an episode, most of it statistics: a shard each.
    build(root, Source(lengths=(5,) * EPISODES, cameras=(camera,), state_dim=160))
    return root


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a conversion that nothing interrupted."""
    root = tmp_path_factory.mktemp("interrupted") / "shards"
    converted(source, root)
    return hashes(root)


@contextmanager
def running(command: Command) -> Iterator[Command]:
    try:
        yield command
    finally:
        command.kill()


def interrupt(command: Command, way: str, dice: random.Random) -> str:
    """Signal it, wait until it is gone, and check how it ended. Returns what it was at."""
    number, to_group, times = WAYS[way]
    working = command.handles_signals
    phase = "working" if working else "python starts"
    if not command.is_running:
        phase = "over"
    for _ in range(times):
        if command.is_running:
            command.send(number, to_group=to_group)
            time.sleep(dice.random() * 0.3 if times > 1 else 0)
    taken = command.wait_gone()
    code, said = command.process.returncode, command.said
    assert taken < ENDS_WITHIN_S, f"{way}: {taken:.1f} s, {code}, {said!r}"
    if number != KILL and working and code != 0:
        assert (code, said) == (128 + number, LINE[number]), way
        assert list(command.temporary.iterdir()) == []
    return "over" if code == 0 else phase


def check_files(there: Mapping[str, str], whole: Mapping[str, str]) -> None:
    """No file but those of the whole dataset, and dataset.json only beside all of them."""
    files = {path: digest for path, digest in there.items() if not path.startswith(".roboshard/")}
    assert files.items() <= whole.items()
    assert "dataset.json" not in files or files == whole


class Conversions(ABC):
    """Conversions of one source, by number, to places of their own."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder = source, folder

    @abstractmethod
    def place(self, number: int) -> Path | str:
        """Where one goes."""

    @abstractmethod
    def files(self, number: int) -> dict[str, str]:
        """What is there: path -> SHA-256."""

    def start(self, number: int) -> Command:
        folder = self.folder / str(number)
        return Command(folder, "convert-to-shards", self.source, self.place(number), *OPTIONS)

    def interrupt(
        self, count: int, seed: int, whole: dict[str, str], working: int = 0
    ) -> Counter[str]:
        """Interrupt so many at random moments; each is run again, to the same bytes.

        More, at most twice as many, until so many were `working`: on a busy machine the first
        conversion, by which moments are drawn, may take longer than the others.
        """
        dice = random.Random(seed)
        with running(self.start(0)) as command:
            command.wait_gone()
            assert command.process.returncode == 0, command.said
            lasts = time.monotonic() - command.begun
            assert self.files(0) == whole
        met: Counter[str] = Counter()
        for number in range(1, 2 * count + 1):
            if number > count and met["working"] >= working:
                break
            way = list(WAYS)[number % len(WAYS)]
            with running(self.start(number)) as command:
                if dice.random() < 0.5:
                    time.sleep(dice.random() * lasts)
                else:
                    self.wait_for_files(command, number, dice.randrange(len(whole)))
                    time.sleep(dice.random() * 0.02)
                met[interrupt(command, way, dice)] += 1
            left = self.files(number)
            if WAYS[way][0] == KILL:
                left = {path: digest for path, digest in left.items() if "/." not in f"/{path}"}
            check_files(left, whole)
            converted(self.source, self.place(number))
            assert self.files(number) == whole
            shutil.rmtree(self.folder / str(number), ignore_errors=True)
        return met

    def wait_for_files(self, command: Command, number: int, count: int) -> None:
        wait_until(lambda: not command.is_running or len(self.files(number)) >= count)


class ToAFolder(Conversions):
    def place(self, number: int) -> Path:
        return self.folder / str(number) / "shards"

    def files(self, number: int) -> dict[str, str]:
        try:
            return hashes(self.place(number))
        except FileNotFoundError:  # a temporary file has become another meanwhile
            return {}


class ToABucket(Conversions):
    def __init__(self, source: Path, folder: Path, hub: LocalHub) -> None:
        super().__init__(source, folder)
        self.hub = hub

    def place(self, number: int) -> str:
        return f"hf://buckets/me/{self.folder.name}-{number}"

    def files(self, number: int) -> dict[str, str]:
        self.hub.add_bucket(f"me/{self.folder.name}-{number}")
        return in_bucket(self.hub, f"me/{self.folder.name}-{number}")


def test_some_conversions(source: Path, whole: dict[str, str], tmp_path: Path) -> None:
    ToAFolder(source, tmp_path).interrupt(2, 1, whole)


@pytest.mark.slow
def test_a_conversion_to_a_bucket(
    source: Path, whole: dict[str, str], this_hub: LocalHub, tmp_path: Path
) -> None:
    ToABucket(source, tmp_path, this_hub).interrupt(2, 2, whole)


@pytest.mark.slow
def test_many_conversions(
    source: Path, whole: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count = request.config.getoption("--interruptions")
    met = ToAFolder(source, tmp_path).interrupt(count, 3, whole, working=count // 2 + 1)
    sys.stderr.write(f"{met}\n")
    assert met["working"] > count / 2


@pytest.mark.slow
def test_many_conversions_to_a_bucket(
    source: Path,
    whole: dict[str, str],
    this_hub: LocalHub,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    count = request.config.getoption("--interruptions") // 2
    met = ToABucket(source, tmp_path, this_hub).interrupt(count, 4, whole, working=count // 2 + 1)
    sys.stderr.write(f"{met}\n")
    assert met["working"] > count / 2
