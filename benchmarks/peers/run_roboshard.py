"""Contender: roboshard's loader with the keywords of the case, epoch after epoch."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from window import measure_batches, read_case


class Stages:
    """How long fetching and decoding took in the window, over all threads and workers."""

    def __init__(self, loader: Any) -> None:
        """Watch this loader."""
        self._loader = loader
        self._before: Any = None

    def begin(self) -> None:
        """Count from now on."""
        self._before = self._loader.stats()

    def since(self, begin: float) -> dict[str, float]:  # noqa: ARG002 - the window's, as `begin` was told
        """Return the seconds of fetching and decoding since `begin` was called."""
        now = self._loader.stats()
        return {
            "fetch_s": round(now.fetch_seconds - self._before.fetch_seconds, 3),
            "decode_s": round(now.decode_seconds - self._before.decode_seconds, 3),
        }


def main() -> None:
    """Make the loader and measure it."""
    case, timing = read_case()
    started = time.perf_counter()
    from roboshard.loader import Loader, make_loader  # noqa: PLC0415 - importing is part of starting

    def epochs(loader: Loader) -> Iterator[dict[str, object]]:
        while True:
            yield from loader

    times = {}
    if case.get("window", 1) > 1:
        seconds = [step / case["fps"] for step in range(1 - case["window"], 1)]
        times["delta_timestamps"] = dict.fromkeys(case["cameras"], seconds)
    loader = make_loader(
        case["shards"], cameras=case["cameras"], drop_last=True, **times, **case["keywords"]
    )
    timing = replace(timing, per_epoch=len(loader))
    measure_batches(epochs(loader), case["cameras"], timing, started, Stages(loader))
    loader.close()


if __name__ == "__main__":
    main()
