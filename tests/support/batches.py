"""Batches that must be the same, and threads that must be gone."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch

Batch = dict[str, Any]


def assert_same(found: Iterable[Batch], expected: Iterable[Batch]) -> None:
    """To the byte, in the same order."""
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for key, value in other.items():
            if isinstance(value, torch.Tensor):
                assert (one[key].dtype, one[key].shape) == (value.dtype, value.shape), key
                assert torch.equal(one[key], value), key
            else:
                assert one[key] == value, key


def threads_left() -> list[str]:
    """Names of the loader's threads in this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("roboshard-")]
