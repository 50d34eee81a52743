"""The progress bar of a conversion: bytes, rate and time left, with episodes beside them."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """A bar over the estimated bytes; silent where standard error is not a terminal. A context manager."""

    def __init__(self, *, episodes: int, num_bytes: int) -> None:
        """Expect this many episodes and about this many bytes."""
        self._episodes = episodes
        self._done = 0
        self._bar = tqdm(
            total=num_bytes,
            unit="B",
            unit_scale=True,
            desc="converting",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._bar.total = self._bar.n  # the estimate gives way to what it was
            self._bar.refresh()
        self._bar.close()

    def episode_done(self, num_bytes: int) -> None:
        """Count one episode of this many bytes."""
        self._done += 1
        if self._bar.total is not None and self._bar.n + num_bytes > self._bar.total:
            self._bar.total = self._bar.n + num_bytes
        self._bar.set_postfix_str(f"{self._done}/{self._episodes} episodes", refresh=False)
        self._bar.update(num_bytes)
