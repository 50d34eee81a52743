"""`convert` called by a program: an interrupt comes out of it soon, and no handler or worker is
left.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.lerobot_source import Camera, Source, build

from roboshard.common import interrupts
from roboshard.converter import ConvertConfig, convert


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("interrupted") / "robot"
    camera = Camera(key="observation.images.top", episodes_per_file=10)
    build(root, Source(lengths=(5,) * 40, cameras=(camera,), state_dim=160))
    return root


def config(source: Path, destination: Path, workers: int) -> ConvertConfig:
    return ConvertConfig(
        source=str(source), destination=str(destination), shard_size="64KB", workers=workers
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_comes_out_and_nothing_is_left(
    source: Path, tmp_path: Path, workers: int
) -> None:
    root = tmp_path / "shards"

    def interrupt_when_begun() -> None:
        while not list(root.glob("shards/*.json")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt_when_begun, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        convert(config(source, root, workers))
    assert signal.getsignal(signal.SIGINT) is before
    assert multiprocessing.active_children() == []
    assert list(root.rglob(".*")) == []
    assert not (root / "dataset.json").exists()
    assert convert(config(source, root, workers)).reused_shards > 0


def test_it_works_in_another_thread(source: Path, tmp_path: Path) -> None:
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(convert(config(source, tmp_path / "shards", 2)))
    )
    thread.start()
    thread.join()
    assert found[0].episodes == 40


def test_work_that_is_stuck_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "GRACE_S", 0.2)
    released = threading.Event()

    def stuck() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        released.wait()

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupts.run_aside(stuck)
    released.set()
    assert time.monotonic() - begun < 2


def test_a_signal_that_another_thread_was_given_interrupts_too() -> None:
    """The system chooses the thread: often the main one, not always."""

    def work() -> None:
        time.sleep(0.3)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        interrupts.pause(20)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupts.run_aside(work)
    assert time.monotonic() - begun < 10


def test_helping_threads_stop_with_the_work() -> None:
    ended: list[str] = []

    def help_out() -> None:
        try:
            interrupts.pause(60)
        except KeyboardInterrupt:
            ended.append("helper")
            raise

    def work() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with interrupts.thread_pool(1, "help") as pool:
            for done in interrupts.as_completed([pool.submit(help_out)]):
                done.result()

    with pytest.raises(KeyboardInterrupt):
        interrupts.run_aside(work)
    assert ended == ["helper"]


def test_an_error_does_not_keep_what_its_caller_holds() -> None:
    """A traceback holds frames; where a frame holds the error too, all of them stay for long."""

    class Held:
        """What a caller has at hand, say a loader and its threads."""

    def caller() -> weakref.ref[Held]:
        held = Held()
        with suppress(ZeroDivisionError):
            interrupts.run_aside(lambda: 1 // 0)
        return weakref.ref(held)

    gc.disable()
    try:
        assert caller()() is None
    finally:
        gc.enable()
