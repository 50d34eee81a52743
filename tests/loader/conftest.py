"""What the loader's tests share."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.batches import threads_left
from support.converting import shards_of
from support.lerobot_source import Camera, Source, build
from support.three_pictures import SOURCE, Decode

from roboshard.converter import ConvertConfig, convert
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.look_ahead import decode_ahead
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.order import teams


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Pictures of 96 x 64 gain nothing from torch's own threads, which would spin beside the
    decoding ones.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def workers_make_steps_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do of pictures of the usual sizes; those of most tests are smaller."""
    monkeypatch.setattr(teams, "LEAST_PIXELS", 0)


@pytest.fixture
def no_threads_before() -> None:
    """For tests that count threads: none is there of loaders that earlier tests had.

    Where such a loader raised an error, a frame of its traceback may keep it until the garbage
    collector comes by.
    """
    for name in ("last_exc", "last_value", "last_traceback"):  # of a test that failed
        if hasattr(sys, name):
            delattr(sys, name)
    if threads_left():
        gc.collect()  # only then: late in a run it takes a second
    until = time.monotonic() + 10
    while threads_left() and time.monotonic() < until:
        time.sleep(0.05)
    assert not threads_left(), "a loader of an earlier test is still there"


@pytest.fixture(scope="session")
def arm_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 episodes of two cameras in 10 shards, each episode larger than all it takes to find it."""
    folder = tmp_path_factory.mktemp("arm")
    cameras = (
        Camera(key="observation.images.top", gop=4),
        Camera(key="observation.images.wrist", gop=2),
    )
    source = build(
        folder / "source", Source(lengths=tuple(8 + i * 5 % 7 for i in range(20)), cameras=cameras)
    )
    convert(
        ConvertConfig(
            source=str(source.root),
            destination=str(folder / "shards"),
            shard_size="64KB",
            workers=1,
        )
    )
    return folder / "shards"


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras that are hard to seek in different ways, and an image feature."""
    return Path(shards_of(SOURCE, tmp_path_factory.mktemp("ahead")))


@pytest.fixture
def around_decode(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[Decode, Episode, str, Sequence[int]], Any]], None]:
    """Put a function around every call of `Episode.pictures`."""
    decode_really = Episode.pictures

    def put(function: Callable[[Decode, Episode, str, Sequence[int]], Any]) -> None:
        monkeypatch.setattr(
            Episode, "pictures", lambda *arguments: function(decode_really, *arguments)
        )

    return put


@pytest.fixture
def all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole epoch is within the look-ahead, asked for before the first frame is decoded, and
    served by then.
    """
    serve, wait_for, asked = DecodeThreads._serve, DecodeThreads.wait_for, threading.Event()

    def serve_later(threads: DecodeThreads, *arguments: Any) -> None:
        asked.wait()
        serve(threads, *arguments)

    def wait_for_all(threads: DecodeThreads, *arguments: Any) -> Any:
        asked.set()
        threads._executor.submit(int).result()  # of one thread: all before it is done
        return wait_for(threads, *arguments)

    monkeypatch.setattr(decode_ahead, "LOOK_AHEAD_STEPS", (1000, 1000))
    monkeypatch.setattr(DecodeThreads, "_serve", serve_later)
    monkeypatch.setattr(DecodeThreads, "wait_for", wait_for_all)
