"""Workers get a job that was pickled once, with arrays in memory that all of them share."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from multiprocessing import context, get_context
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest

from roboshard.loader.running.in_worker import StepDataset
from roboshard.loader.running.shared_pickle import SHARED_BYTES, SharedPickle

SPAWN = get_context("spawn")


def value() -> dict[str, Any]:
    """Return arrays of all kinds: large, small, empty, of Fortran's order, read-only, strided."""
    numbers = np.arange(SHARED_BYTES, dtype=np.int64)
    locked = numbers + 1
    locked.flags.writeable = False
    return {
        "large": numbers,
        "again": numbers,
        "small": np.arange(5),
        "empty": np.zeros(0),
        "fortran": np.asfortranarray(np.arange(SHARED_BYTES).reshape(256, -1)),
        "locked": locked,
        "strided": numbers[::2],
        "odd": np.arange(SHARED_BYTES + 1, dtype=np.uint8),
        "called": lambda: 7,
    }


def assert_same(found: dict[str, Any]) -> None:
    expected = value()
    assert found.keys() == expected.keys()
    assert found["called"]() == 7
    assert found["again"] is found["large"]
    for name in expected.keys() - {"called"}:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
        assert found[name].flags.aligned
        assert found[name].flags.writeable == expected[name].flags.writeable


def test_the_value_comes_back() -> None:
    assert_same(SharedPickle(value()).load())


def test_what_one_writes_no_other_sees() -> None:
    original = value()
    shared = SharedPickle(original)
    one, other = shared.load(), shared.load()
    one["large"][:] = one["fortran"][:] = -1
    assert_same(other)
    assert_same(original)
    assert_same(shared.load())


def test_arrays_outlive_what_they_came_in() -> None:
    found = SharedPickle(value()).load()
    assert_same(found)


def test_large_arrays_are_not_in_what_each_process_is_sent() -> None:
    numbers = np.zeros(100 * SHARED_BYTES, dtype=np.uint8)
    shared = SharedPickle([numbers, numbers[:100]])
    assert len(shared._data) < SHARED_BYTES
    assert not any(array.flags.owndata for array in shared.load())


def test_a_value_without_large_arrays_takes_no_file() -> None:
    shared = pickle.loads(pickle.dumps(SharedPickle({"small": np.arange(5)})))
    assert shared.load()["small"].tolist() == [0, 1, 2, 3, 4]


def test_the_value_comes_back_where_a_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "get_spawning_popen", Starting)
    sent = ForkingPickler.dumps(SharedPickle(value()))
    assert_same(pickle.loads(sent).load())


@dataclass
class Sent:
    """A descriptor on its way to a process."""

    descriptor: int

    def detach(self) -> int:
        """Return it to whoever closes it."""
        return self.descriptor


class Starting:
    """What multiprocessing asks for descriptors while it starts a process: here it is this one."""

    DupFd = Sent

    def duplicate_for_child(self, descriptor: int) -> int:
        """Return the descriptor's number in the new process."""
        return os.dup(descriptor)


@pytest.mark.slow  # it imports all of the loader
def test_a_spawned_process_gets_the_value() -> None:
    found = SPAWN.SimpleQueue()
    process = SPAWN.Process(target=tell, args=(SharedPickle(value()), found))
    process.start()
    process.join()
    assert not found.empty(), process.exitcode
    assert found.get() == "same"


def tell(shared: SharedPickle, found: Any) -> None:
    """Say whether the value has come to this process."""
    assert_same(shared.load())
    found.put("same")


def test_a_job_is_pickled_once_for_all_workers_that_start_together() -> None:
    job = Counted()
    steps = StepDataset(job, None)  # type: ignore[arg-type]
    for time in (1, 2):
        with steps.pickled_once():
            copies = [pickle.loads(pickle.dumps(steps)) for _ in range(3)]
        assert job.times == time
        assert {copy._job.times for copy in copies} == {time}


class Counted:
    """Knows how often it was pickled."""

    times = 0

    def __getstate__(self) -> dict[str, int]:
        self.times += 1
        return {"times": self.times}
