"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from support.lerobot_source import Camera, Source, build

from roboshard.converter import ConvertConfig, convert

# Some tests name it as a plugin, others import it: in whatever order they are collected.
pytest.register_assert_rewrite("support.lerobot")

# A busy machine is no failure. `make test-slow` tries the thorough ones.
settings.register_profile("quick", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=400)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--interruptions",
        type=int,
        default=60,
        help="how many conversions the slow tests interrupt",
    )


def pytest_collection_finish() -> None:
    """Leave what is there before the first test to itself: each collection of garbage took half a
    second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> None:
    """Here and in what the tests start, also where a shell runs them in the background and has it
    ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Statistics are kept there, not in the home of whoever runs the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def pusht_source() -> Path:
    """A LeRobot dataset of 14 episodes, recorded in the PushT simulation."""
    return Path(__file__).parent / "data/pusht_sim"


@pytest.fixture(scope="session")
def arms_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot dataset of another robot: two arms with 14 joints, three cameras, 50 frames a
    second.
    """
    keys = [f"observation.images.{name}" for name in ("top", "left_wrist", "right_wrist")]
    cameras = tuple(Camera(key=key, gop=2, size=(48, 64)) for key in keys)
    source = Source(fps=50, lengths=(20, 24, 20), cameras=cameras, state_dim=14)
    return build(tmp_path_factory.mktemp("arms") / "arms", source).root


@pytest.fixture(scope="session")
def pusht_shards(pusht_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pusht_source` converted, several shards.

    Shared by all tests: copy it before changing anything.
    """
    root = tmp_path_factory.mktemp("pusht") / "shards-of-pusht"
    convert(
        ConvertConfig(source=str(pusht_source), destination=str(root), shard_size="64KB", workers=1)
    )
    return root
