"""Contender: roboshard's loader with the keywords of the case, epoch after epoch."""

import time
from collections.abc import Iterator

from window import measure_batches, read_case


def main() -> None:
    """Make the loader and measure it."""
    case, timing = read_case()
    started = time.perf_counter()
    from roboshard.loader import Loader, make_loader  # noqa: PLC0415 - importing is part of starting

    def epochs(loader: Loader) -> Iterator[dict[str, object]]:
        while True:
            yield from loader

    loader = make_loader(
        case["shards"], cameras=case["cameras"], drop_last=True, **case["keywords"]
    )
    measure_batches(epochs(loader), case["cameras"], timing, started)
    loader.close()


if __name__ == "__main__":
    main()
