"""The user's transforms of the pictures and of the batch, where a batch is handed out: beside
decoding.

Threads decode the steps that come next meanwhile. With workers that is in each of them, beside
training too.
"""

import time
from collections.abc import Mapping
from typing import Any

from roboshard.common.errors import OptionError
from roboshard.loader.batches.buffers import Buffers
from roboshard.loader.batches.single_samples import single_samples
from roboshard.loader.job import LoadJob
from roboshard.loader.order.plan import Share
from roboshard.loader.samples.rows import Batch
from roboshard.loader.stats import StatsCounter
from roboshard.loader.transforms.images import transform_images
from roboshard.loader.transforms.randomness import TransformGenerators


class Transforms:
    """What the user makes of the batches of one rank. Not for several threads at once."""

    def __init__(self, job: LoadJob, buffers: Buffers, counter: StatsCounter) -> None:
        """Transform nothing yet.

        Args:
            job: says which transforms there are.
            buffers: where transformed pictures are put together.
            counter: counts the time that transforms take.
        """
        self._sample = job.config.sample
        self._keys = job.transformed
        self._rank = job.config.split.rank
        self._is_single = job.config.split.batch_size is None
        self._buffers = buffers
        self._counter = counter
        self._generators = TransformGenerators(job.config.order.seed, job.config.read.decode_device)

    def __call__(self, batch: Batch, epoch: int, step: int, share: Share | None = None) -> Batch:
        """Return the batch of a step, transformed; its random numbers depend on seed, epoch and
        step alone. `share`: of which samples the batch is; None: of all.

        Raises:
            OptionError: `image_transforms` returned what is no tensor, or `batch_transform` what
                is no batch.
        """
        images, whole = self._sample.image_transforms, self._sample.batch_transform
        started = time.perf_counter()
        size = len(next(iter(batch.values()))) if share is None else share.size
        first = self._rank * size  # all ranks have as many samples
        with self._generators.of_step(epoch, step) as reseed:
            if images is not None:
                batch = transform_images(
                    batch,
                    keys=self._keys,
                    transform=images,
                    buffers=self._buffers,
                    on_sample=lambda place: reseed("images", first + place),
                    share=share,
                )
            if whole is not None:
                reseed("batch", first)
                batch = _checked(whole(batch))
        self._counter.add(assembly_seconds=time.perf_counter() - started)
        self._counter.spans.add("transform", started, epoch=epoch, step=step)
        return next(single_samples([batch])) if self._is_single else batch


def _checked(batch: Any) -> Batch:
    if not (isinstance(batch, Mapping) and batch):
        raise OptionError(
            f"batch_transform must return a dict of what the batch is to hold, not {type(batch)}"
        )
    return dict(batch)
