"""One check for resuming: a state is taken at every step, each is restored elsewhere, and the whole
tail compared.

Run as `python -m support.resume` it restores in a process of its own: a `Restoration` as JSON on
stdin, digests out.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from roboshard.loader import Loader, make_loader
from roboshard.loader.order import teams

Batch = dict[str, Any]
GlobalBatch = tuple[Batch, ...]
"""What each rank received in a step."""


class Topology(NamedTuple):
    """Who loads: W ranks of N worker processes each."""

    world_size: int
    num_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run, whatever its topology."""

    root: Any
    """The dataset or the mixture to load."""
    global_batch_size: int
    max_world_size: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    """Further keywords of `make_loader`."""

    def loader(self, rank: int, topology: Topology) -> Loader:
        """Make a fresh loader of one rank."""
        return make_loader(
            self.root,
            batch_size=self.global_batch_size // topology.world_size,
            rank=rank,
            world_size=topology.world_size,
            num_workers=topology.num_workers,
            max_world_size=self.max_world_size,
            **self.options,
        )

    def loaders(self, topology: Topology) -> list[Loader]:
        """Make a fresh loader for each rank."""
        return [self.loader(rank, topology) for rank in range(topology.world_size)]


class Checkpoint(NamedTuple):
    """A state, and the global batches that had been received when it was taken."""

    steps: int
    state: str
    """The state as a JSON text."""


@dataclass
class Run:
    """What some ranks received in lockstep, and the states on the way: a first one, one after each
    step, and one more after each epoch.
    """

    batches: list[GlobalBatch] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)


def record(ranks: Sequence[Loader], stop: int, start: Checkpoint | None = None) -> Run:
    """Load until `stop` steps have been received in all, from the beginning or from a
    checkpoint.
    """
    run, steps = Run(), 0
    if start is not None:
        steps = start.steps
        for loader in ranks:
            loader.load_state_dict(json.loads(start.state))
    run.checkpoints.append(_checkpoint(ranks, steps))
    while steps < stop:
        iterators = [iter(loader) for loader in ranks]
        while steps < stop:
            received = [next(iterator, None) for iterator in iterators]
            batch = tuple(part for part in received if part is not None)
            if not batch:
                break
            assert len(batch) == len(ranks), "some ranks have more steps than others"
            steps += 1
            run.batches.append(batch)
            run.checkpoints.append(_checkpoint(ranks, steps))
        else:
            return run
        run.checkpoints.append(_checkpoint(ranks, steps))
    return run


def check_resume_at_every_step(
    setup: Setup,
    reference: Topology,
    elsewhere: Sequence[Topology],
    *,
    into_next_epoch: int = 2,
    fresh: bool = True,
) -> Run:
    """Check that a run from any checkpoint on equals the uninterrupted one, in the same topology
    and in others.

    Checkpoints are taken before the first step, after each, after the epoch's end, and
    `into_next_epoch` steps into the next. The same topology must give equal tensors on every rank,
    another one the same global batches.

    Args:
        setup: the run.
        reference: where it runs uninterrupted.
        elsewhere: where it is restored, as well as there.
        into_next_epoch: steps of the second epoch.
        fresh: restore each state into fresh loaders; False: into the same ones again and again.

    Returns:
        The uninterrupted run.
    """
    ranks = setup.loaders(reference)
    stop = len(ranks[0]) + into_next_epoch
    whole = record(ranks, stop)
    close(ranks)
    assert len(whole.batches) == stop
    for topology in dict.fromkeys([reference, *elsewhere]):
        ranks = setup.loaders(topology)
        for number, checkpoint in enumerate(whole.checkpoints):
            if fresh and number:
                close(ranks)
                ranks = setup.loaders(topology)
            _check_tail(
                record(ranks, stop, checkpoint),
                whole,
                checkpoint,
                topology,
                exactly=topology == reference,
            )
        close(ranks)
    return whole


def close(ranks: Sequence[Loader]) -> None:
    """Stop the processes of the ranks' loaders."""
    for loader in ranks:
        loader.close()


def merged(batch: GlobalBatch) -> Batch:
    """Return all ranks' samples by dataset index: equal for equal sets of samples (as often each,
    where some repeat).
    """
    index = torch.cat([part["index"] for part in batch])
    if "dataset_index" in batch[0]:
        index = index + (torch.cat([part["dataset_index"] for part in batch]) << 40)
    order = torch.argsort(index, stable=True)
    whole = {}
    for key in batch[0]:
        values = [part[key] for part in batch]
        if isinstance(values[0], torch.Tensor):
            whole[key] = torch.cat(values)[order]
        else:
            texts = [text for part in values for text in part]
            whole[key] = [texts[place] for place in order.tolist()]
    return whole


def assert_equal(found: Batch, expected: Batch, where: str) -> None:
    """Equal to the bit, keys, types and shapes included."""
    assert list(found) == list(expected), where
    assert found["index"].tolist() == expected["index"].tolist(), where
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype, f"{key!r}, {where}"
            assert torch.equal(found[key], value), f"{key!r}, {where}"
        else:
            assert found[key] == value, f"{key!r}, {where}"


def digest(batch: GlobalBatch) -> str:
    """SHA-256 over the global batch as a set."""
    sha = hashlib.sha256()
    for key, value in merged(batch).items():
        content = (
            value.numpy().tobytes()
            if isinstance(value, torch.Tensor)
            else json.dumps(value).encode()
        )
        sha.update(f"{key} {len(content)} ".encode() + content)
    return sha.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """What to restore in another process: tails up to step `stop`, one for each checkpoint."""

    setup: Setup
    topology: Topology
    checkpoints: list[Checkpoint]
    stop: int

    def run(self) -> list[list[str]]:
        """The tails' digests, loaded by a fresh Python process."""
        done = subprocess.run(
            [sys.executable, "-m", "support.resume"],
            cwd=Path(__file__).parents[1],
            input=json.dumps(asdict(self)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        tails: list[list[str]] = json.loads(done.stdout)
        return tails


def _checkpoint(ranks: Sequence[Loader], steps: int) -> Checkpoint:
    states = {json.dumps(loader.state_dict()) for loader in ranks}
    assert len(states) == 1, "ranks disagree"
    return Checkpoint(steps, states.pop())


def _check_tail(
    tail: Run, whole: Run, checkpoint: Checkpoint, topology: Topology, *, exactly: bool
) -> None:
    where = f"{topology} from step {checkpoint.steps}, {checkpoint.state}"
    expected = whole.batches[checkpoint.steps :]
    assert len(tail.batches) == len(expected), where
    assert _by_step(tail) == _by_step(whole, checkpoint.steps), where
    for step, (found, wanted) in enumerate(
        zip(tail.batches, expected, strict=True), checkpoint.steps
    ):
        assert_equal(merged(found), merged(wanted), f"step {step} of {where}")
        if exactly:
            for rank, parts in enumerate(zip(found, wanted, strict=True)):
                assert_equal(*parts, f"rank {rank}, step {step} of {where}")


def _by_step(run: Run, start: int = 0) -> dict[int, str]:
    """Steps in all -> the last state there; an epoch's end and the next one's beginning are the
    same place.
    """
    places = groupby(run.checkpoints, key=lambda checkpoint: checkpoint.steps)
    return {steps: list(checkpoints)[-1].state for steps, checkpoints in places if steps >= start}


def _restore() -> None:
    job = json.load(sys.stdin)
    setup, topology = Setup(**job["setup"]), Topology(*job["topology"])
    tails = []
    for checkpoint in job["checkpoints"]:
        ranks = setup.loaders(topology)
        tails.append(
            [digest(batch) for batch in record(ranks, job["stop"], Checkpoint(*checkpoint)).batches]
        )
        close(ranks)
    json.dump(tails, sys.stdout)


if __name__ == "__main__":
    teams.LEAST_PIXELS = 0  # workers make steps together, as of larger pictures
    _restore()
