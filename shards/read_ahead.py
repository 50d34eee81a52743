"""Going through the rows of many episodes, in order, while threads read those that come next."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from roboshard import storage
from roboshard.common import interrupts
from roboshard.common.errors import RoboshardError
from roboshard.shards.reader import EpisodeData, ShardedDataset

AT_ONCE = 8
"""Episodes that a thread reads together."""
LOCAL_THREADS = 4
REMOTE_THREADS = 16


def read_rows_ahead(
    dataset: ShardedDataset, positions: Sequence[int]
) -> Iterator[EpisodeData | RoboshardError]:
    """Yield episodes without their videos, in this order; one that cannot be read as its error.

    Args:
        dataset: the dataset.
        positions: places of the episodes in its index.
    """
    threads = LOCAL_THREADS if storage.is_local(dataset.root) else REMOTE_THREADS
    groups = (positions[first : first + AT_ONCE] for first in range(0, len(positions), AT_ONCE))

    def read(group: Sequence[int]) -> list[EpisodeData | RoboshardError]:
        interrupts.check()
        return list(dataset.read_episodes(group, cameras=()))

    with interrupts.thread_pool(threads, "read-rows") as pool:
        coming: deque[Future[list[EpisodeData | RoboshardError]]] = deque()
        try:
            while True:
                while len(coming) < threads and (group := next(groups, None)) is not None:
                    coming.append(pool.submit(read, group))
                if not coming:
                    return
                interrupts.check()
                yield from coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
