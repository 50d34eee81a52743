"""Choose the settings of the loader to try beside the given ones. Arithmetic alone."""

from typing import Any

from roboshard.tools.bench.config import BenchConfig

NUMBERS_OF_WORKERS = (0, 2, 4, 8)


def others(config: BenchConfig, cores: int) -> list[dict[str, Any]]:
    """Return the settings to try, each of which changes one of the given ones.

    Args:
        config: the given settings.
        cores: how many this process may use. More threads or workers than those gain nothing.
    """
    order = "sweep" if config.frame_order == "uniform" else "uniform"
    tried: list[dict[str, Any]] = [{"frame_order": order}]
    if config.decode_device == "cpu":
        tried += [
            {"num_workers": number}
            for number in NUMBERS_OF_WORKERS
            if number != config.num_workers and number <= cores
        ]
        threads = max(1, cores // max(1, config.num_workers))
        given = config.decode_threads or threads
        tried += [
            {"decode_threads": number}
            for number in dict.fromkeys((threads, max(1, threads // 2)))
            if number != given
        ]
    return tried
