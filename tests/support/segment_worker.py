"""A process that sends batches through a ring; importable, as `spawn` needs it."""

from __future__ import annotations

from typing import Any

import torch

from roboshard.loader.running.segment_pool import SegmentPlan, SegmentSender

LARGE = (16, 64, 48, 3)
"""144 KiB of uint8: too much to travel in a message, and so is half of it."""


def batch_of(number: int) -> dict[str, Any]:
    """What the receiver must find, in memory of its own."""
    dice = torch.Generator().manual_seed(number)
    return {
        "camera": torch.randint(0, 256, LARGE, dtype=torch.uint8, generator=dice).movedim(-1, 1),
        "float camera": torch.rand(LARGE, generator=dice).movedim(-1, 1),
        "actions": torch.rand((64, 30, 14), generator=dice),
        "more actions": torch.rand((64, 30, 14), generator=dice),
        "state": torch.rand((8, 4), generator=dice),
        "index": torch.arange(number, number + 8),
        "flag": torch.rand(8, generator=dice) < 0.5,
        "half": torch.rand(8, generator=dice).to(torch.bfloat16),
        "number": torch.tensor(number),
        "nothing": torch.empty((0, 3)),
        "task": [f"task {number}", "拿起方块"],
    }


def send(plan: SegmentPlan, worker: int, num_batches: int, queue: Any, finished: Any) -> None:
    """Send `batch_of` each number, then the number of segments, and stay until told that all has
    arrived.
    """
    torch.set_num_threads(1)
    sender = SegmentSender(plan, worker)
    for number in range(num_batches):
        queue.put(packed(sender, batch_of(number)))
    queue.put(len(sender._segments))
    finished.wait()


def packed(sender: SegmentSender, batch: dict[str, Any]) -> Any:
    """A message; cameras are in shared memory from the start, as decoders put them there."""
    lent = {}
    for key in ("camera", "float camera"):
        memory = sender.lend(LARGE, batch[key].dtype)
        memory.copy_(batch[key].movedim(1, -1))
        lent[key] = memory.movedim(-1, 1)
    return sender.pack(batch | lent)
