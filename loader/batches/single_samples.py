"""Stage: single samples, for those who want no batches."""

from collections.abc import Iterable, Iterator

from roboshard.loader.samples.rows import Batch


def single_samples(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the samples of each step, one at a time, without a batch axis."""
    for batch in batches:
        for number in range(len(next(iter(batch.values())))):
            yield {key: values[number] for key, values in batch.items()}
