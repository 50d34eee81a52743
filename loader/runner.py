"""Where an epoch's batches are made: by threads of this process, one step ahead, or by worker processes."""

import atexit
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

from roboshard.loader.ahead import run_ahead
from roboshard.loader.buffers import Buffers, DeviceBuffers, PinnedBuffers, ReusedBuffers
from roboshard.loader.device import Copies, decodes_on_gpu, pin_batch, should_pin
from roboshard.loader.pipeline import LoadJob, Plan, Resources, load
from roboshard.loader.rows import Batch
from roboshard.loader.stats import Counter, LoaderStats
from roboshard.loader.workers import WorkerPool


class EpochRunner:
    """Runs one epoch at a time; workers and memory are kept from epoch to epoch."""

    def __init__(self, job: LoadJob) -> None:
        """Nothing is started before the first epoch."""
        self._job = job
        self._config = job.config
        self._buffers = _buffers(job)
        self._copies: Copies | None = None
        self._workers: WorkerPool | None = None
        self._of_workers: dict[int, LoaderStats] = {}  # the last word of each on how it stands
        self.counter = Counter()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy starts anew: threads, processes and memory belong to this one."""
        return EpochRunner, (self._job,)

    def batches(self, epoch: int, plan: Plan, first_step: int) -> Generator[Batch, None, None]:
        """The batches of an epoch from `first_step` on, where the user wants them."""
        if self._config.split.num_workers:
            yield from self._of_processes(epoch, first_step)
        else:
            own = Resources(self._job, self._buffers, self.counter)
            with closing(run_ahead(self._of_threads(plan, first_step, own), own.reads.stop)) as coming:
                atexit.register(coming.close)  # a program may end in mid-epoch: later there is nothing to end it with
                try:
                    for batch, arrived in coming:
                        yield batch if self._copies is None else self._copies.finish(batch, arrived)
                finally:
                    atexit.unregister(coming.close)

    def stats(self) -> LoaderStats:
        """The numbers so far."""
        stats = self.counter.snapshot()
        for latest in self._of_workers.values():
            stats.steps_ahead += latest.steps_ahead
            stats.resident_bytes += latest.resident_bytes
        return stats

    def close(self) -> None:
        """Stop the worker processes; the next epoch starts them again."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
            self._of_workers.clear()

    def _of_threads(self, plan: Plan, first_step: int, own: Resources) -> Generator[tuple[Batch, Any], None, None]:
        with closing(load(self._job, plan, first_step, own)) as batches:
            for batch in batches:
                yield self._begin_copy(batch)

    def _of_processes(self, epoch: int, first_step: int) -> Iterator[Batch]:
        workers = self._workers = self._workers or WorkerPool(self._job)
        try:
            for batch, worker, stats in workers.run(epoch, first_step):
                self.counter.merge(stats)
                self._of_workers[worker] = stats
                copied, arrived = self._begin_copy(pin_batch(batch) if self._config.read.pin_memory else batch)
                yield copied if self._copies is None else self._copies.finish(copied, arrived)
        except GeneratorExit:
            raise
        except BaseException:  # Ctrl-C too: what is left of them is in no state to go on
            self.close()
            raise
        self._of_workers.clear()

    def _begin_copy(self, batch: Batch) -> tuple[Batch, Any]:
        if self._config.read.device is None:
            return batch, None
        self._copies = self._copies or Copies(self._config.read.device)
        return self._copies.begin(batch)


def _buffers(job: LoadJob) -> Buffers:
    if decodes_on_gpu(job.config):
        return DeviceBuffers(job.config.read.decode_device)
    return PinnedBuffers() if should_pin(job.config) else ReusedBuffers()
