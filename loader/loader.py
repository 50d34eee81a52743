"""What `make_loader` returns: an iterable of batches that knows its length, its place and its dataset."""

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import torch.utils.data

from roboshard.loader.batch import Batch
from roboshard.loader.meta import DatasetMeta
from roboshard.loader.pipeline import LoadJob, load
from roboshard.loader.plan import EpochPlan
from roboshard.loader.state import STATE_VERSION, LoaderState, check_state
from roboshard.loader.stats import LoaderStats
from roboshard.shards.errors import OptionError

PREFETCHED_PER_WORKER = 2


class Loader:
    """Iterates over one epoch at a time; each `iter` that reaches its end moves on to the next epoch."""

    def __init__(self, job: LoadJob) -> None:
        """Plan the first epoch; nothing is read before iteration starts."""
        self._job = job
        self._meta = DatasetMeta(job.dataset.manifest)
        self._stats = LoaderStats()
        self._epoch = 0
        self._step = 0
        self._resume_at = 0
        self._plan: EpochPlan = job.plan(0)
        self._planned_epoch = 0

    @property
    def meta(self) -> DatasetMeta:
        """Features, stats, fps, tasks and camera keys of the dataset."""
        return self._meta

    def stats(self) -> LoaderStats:
        """What the loader has done so far; workers' numbers come with their batches."""
        copy = LoaderStats()
        copy.add(self._stats)
        return copy

    def __len__(self) -> int:
        """Steps per epoch, the same on every rank and in every epoch."""
        return self._plan.num_steps

    @property
    def num_padded(self) -> int:
        """Samples of an epoch's last step that repeat others, over all ranks."""
        return self._plan.num_padded

    def set_epoch(self, epoch: int) -> None:
        """Iterate over this epoch (from 0) next, from its beginning."""
        if epoch < 0:
            raise OptionError(f"epoch must not be negative: {epoch}")
        self._epoch, self._step, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, counted in steps that the user has received; the same on all ranks."""
        return self._state().as_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step where the state was taken.

        Raises:
            OptionError: a state of another dataset, order, or shape of the plan; each difference is named.
        """
        given = check_state(state, self._state(), len(self))
        self._epoch, self._step, self._resume_at = given.epoch, given.step, given.step

    def __iter__(self) -> Iterator[Batch]:
        """The current epoch, or what a loaded state leaves of it: dicts of tensors, `batch_size` samples each."""
        self._step, self._resume_at = self._resume_at, 0
        plan = self._plan_epoch()
        batches = self._in_workers(plan) if self._job.config.split.num_workers else self._in_process(plan)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            self._stats.wait_seconds += time.perf_counter() - started
            self._stats.batches += 1
            self._stats.samples += 1 if self._job.config.split.batch_size is None else _batch_length(batch)
            self._step += 1
            yield batch
        self._epoch, self._step = self._epoch + 1, 0

    def _plan_epoch(self) -> EpochPlan:
        if self._planned_epoch != self._epoch:
            self._plan, self._planned_epoch = self._job.plan(self._epoch), self._epoch
        return self._plan

    def _in_process(self, plan: EpochPlan) -> Iterator[Batch]:
        yield from load(self._job, plan, self._step, self._stats)

    def _in_workers(self, plan: EpochPlan) -> Iterator[Batch]:
        dataset = _WorkerDataset(self._job, plan, self._step)
        workers = torch.utils.data.DataLoader(
            dataset,
            batch_size=None,
            num_workers=self._job.config.split.num_workers,
            collate_fn=_as_it_is,
            multiprocessing_context="spawn",  # decoders and file systems do not survive a fork
            prefetch_factor=PREFETCHED_PER_WORKER,
        )
        for batch, stats in workers:
            self._stats.add(stats)
            yield batch

    def _state(self) -> LoaderState:
        order, slots = self._job.config.order, self._job.slots
        return LoaderState(
            version=STATE_VERSION,
            fingerprint=self._job.dataset.manifest.fingerprint,
            selection=_selection_digest(self._job),
            seed=order.seed,
            epoch=self._epoch,
            step=self._step,
            global_batch_size=slots.global_batch_size,
            rank_slots=slots.rank_slots,
            worker_slots=slots.worker_slots,
            shuffle=order.shuffle,
            pool_episodes=order.pool_episodes,
            episode_order=order.episode_order,
            frame_order=order.frame_order,
            drop_last=order.drop_last,
        )


class _WorkerDataset(torch.utils.data.IterableDataset[tuple[Batch, LoaderStats]]):
    """A worker's share of an epoch, each batch with what it cost."""

    def __init__(self, job: LoadJob, plan: EpochPlan, first_step: int) -> None:
        self._job, self._plan, self._first_step = job, plan, first_step

    def __iter__(self) -> Iterator[tuple[Batch, LoaderStats]]:
        stats = LoaderStats()
        for batch in load(self._job, self._plan, self._first_step, stats):
            yield batch, stats.take()


def _as_it_is(value: Any) -> Any:
    return value


def _batch_length(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _selection_digest(job: LoadJob) -> str:
    digest = hashlib.sha256()
    for array in (job.episodes.position, job.episodes.first_row, job.episodes.num_rows):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()
