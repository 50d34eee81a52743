"""What a measurement can be told. One dataclass: the Python keywords and the flags."""

import math
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from roboshard.common.errors import OptionError

MAX_SECONDS = 3600.0
OF_THE_LOADER = (
    *("batch_size", "frame_order", "episode_order", "pool_episodes", "num_workers"),
    *("decode_threads", "cameras", "image_size", "decode_device", "device"),
    *("memory_bytes", "cache_dir"),
)
"""Options that `make_loader` has by the same name."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Options of one measurement: the loader's as a training has them, and the training's step."""

    url: Annotated[str, Positional, arg(metavar="URL")]
    """The dataset: a local folder, hf://, s3://, gs:// or http(s)://."""
    step_ms: float | None = None
    """Milliseconds that the training takes for a batch, on a GPU: the cores are the loader's
    meanwhile. Default: batches are taken as fast as they come."""
    seconds: float = 60.0
    """About how many seconds to measure in all."""
    alone: bool = False
    """Measure these settings, and try no others."""
    batch_size: int = 64
    """Samples per batch."""
    frame_order: Literal["uniform", "sweep"] = "uniform"
    """Whether frames are picked at random, or episodes played forward."""
    episode_order: Literal["global", "shard"] = "global"
    """Whether any episode may follow any other, or shards are read one by one."""
    pool_episodes: int | None = None
    """Episodes whose frames are mixed with each other; default: the loader's."""
    num_workers: int = 0
    """How many worker processes load; 0: this process does."""
    decode_threads: int | None = None
    """Threads that decode, per process; default: one a core."""
    cameras: tuple[str, ...] | None = None
    """Which video cameras to decode; default: all."""
    image_size: tuple[int, int] | None = None
    """Height and width that pictures are resized to; default: as stored."""
    float32: bool = False
    """Pictures as float32, as `return_uint8=False` gives them."""
    delta_timestamps: UseAppendAction[tuple[str, ...]] = ()
    """A window, as in --delta-timestamps observation.image=-0.1,0.0; may be given several times."""
    decode_device: str = "cpu"
    """Where video is decoded: cpu, or cuda for the GPU."""
    device: str | None = None
    """Copy batches to this device."""
    memory_bytes: int | None = None
    """Bytes of memory for episodes; default: the loader's."""
    cache_dir: str | None = None
    """Folder that keeps what is read of remote shards. Default: one that goes with the command."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", os.fspath(self.url))  # a Path will do
        if self.step_ms is not None and not (math.isfinite(self.step_ms) and self.step_ms > 0):
            raise OptionError(f"step_ms must be a number of milliseconds above 0: {self.step_ms}")
        if not 0 < self.seconds <= MAX_SECONDS:
            raise OptionError(
                f"seconds must be above 0 and at most {MAX_SECONDS:g}, not {self.seconds}"
            )
        self.windows()

    def windows(self) -> dict[str, list[float]]:
        """Return feature key -> offsets in seconds.

        Raises:
            OptionError: a window is not written as KEY=-0.1,0.0.
        """
        if isinstance(self.delta_timestamps, str):
            raise OptionError("delta_timestamps must be a list of texts, not one text")
        windows = {}
        for text in self.delta_timestamps:
            key, equals, offsets = text.rpartition("=")
            try:
                windows[key] = [float(offset) for offset in offsets.split(",")]
            except ValueError:
                equals = ""
            if not (key and equals):
                raise OptionError(
                    f"delta_timestamps {text!r}: write a feature's key and offsets in seconds, as "
                    "in observation.image=-0.1,0.0"
                )
        return windows

    def loader_options(self) -> dict[str, Any]:
        """Return the keywords of `make_loader` that these settings are."""
        options = {name: getattr(self, name) for name in OF_THE_LOADER}
        return options | {
            "return_uint8": not self.float32,
            "delta_timestamps": self.windows() or None,
        }
