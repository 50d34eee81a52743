"""What a loader can be told, in groups: frozen, checked when made.

`make_loader` takes the same names flat.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from roboshard.common.errors import OptionError
from roboshard.common.option_values import (
    check_fields,
    function_or_none,
    number,
    whole_number,
    yes_or_no,
)
from roboshard.loader.selection.config import SelectionConfig, are_indices
from roboshard.shards.fetch import ReadSettings
from roboshard.storage import RetryPolicy
from roboshard.storage.cache import DiskCache

ImageTransform = Callable[[torch.Tensor], torch.Tensor]
BatchTransform = Callable[[dict[str, Any]], dict[str, Any]]
EpisodeOrder = Literal["global", "shard"]
FrameOrder = Literal["uniform", "sweep"]
OnError = Literal["raise", "skip"]
OnMissing = Literal["error", "drop", "fill"]
OnMissingByNumber = Literal["none", "error", "drop", "fill"]
"""Choices of `on_missing` for samples by number, which may hold None as LeRobot's do."""
BatchKind = Literal["mixed", "by_dataset"]
MAX_WIDTH = 1 << 16
"""Most numbers that `pad_to` gives a vector."""


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """In which order samples come: a pure function of these, the epoch and the step."""

    shuffle: bool = True
    seed: int = 0
    pool_episodes: int = 64
    """Episodes whose frames are mixed with each other, per rank slot."""
    episode_order: EpisodeOrder = "global"
    frame_order: FrameOrder = "uniform"
    drop_last: bool = False
    """Leave out the last, incomplete step instead of padding it."""
    batches: BatchKind = "mixed"
    """Whether a step of a mixture takes samples of all datasets, or of one."""

    def __post_init__(self) -> None:
        check_fields(self, whole_number, "seed", "pool_episodes")
        check_fields(self, yes_or_no, "shuffle", "drop_last")
        _check(0 <= self.seed < 1 << 63, f"seed must be in 0..2**63-1, not {self.seed}")
        _check(
            self.pool_episodes >= 1, f"pool_episodes must be at least 1, not {self.pool_episodes}"
        )
        _check_choice("episode_order", self.episode_order, ("global", "shard"))
        _check_choice("frame_order", self.frame_order, ("uniform", "sweep"))
        _check_choice("batches", self.batches, ("mixed", "by_dataset"))

    @property
    def is_forward(self) -> bool:
        """Whether the frames of an episode come in their order."""
        return self.frame_order == "sweep" or not self.shuffle


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What a sample holds."""

    delta_timestamps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Feature key -> offsets in seconds, relative to the sample's frame."""
    tolerance_s: float = 1e-4
    """How far an offset may be from a whole number of frames, in seconds."""
    cameras: Sequence[str] | None = None
    """Video features to decode; None: all, empty: none."""
    image_transforms: ImageTransform | None = None
    """Called per sample and camera but depth with (C, H, W), or (T, C, H, W) under
    delta_timestamps.
    """
    batch_transform: BatchTransform | None = None
    """Called with each batch, after `image_transforms`; what it returns is the batch."""
    return_uint8: bool = True
    """Video frames as uint8 in 0..255; False: float32 in 0..1. Depth is float32 in millimetres."""
    image_size: tuple[int, int] | None = None
    """(H, W) that pictures are resized to as they are decoded; None: as stored."""
    on_missing: OnMissingByNumber = "error"
    """Features that some rows have no value of, or some datasets of a mixture: refused, left out of
    all samples, filled with zeros, or None where a value is missing."""
    pad_to: Mapping[str, int] = field(default_factory=dict)
    """Feature key -> numbers of its vectors in samples: zeros fill up those that there are."""

    def __post_init__(self) -> None:
        check_fields(self, yes_or_no, "return_uint8")
        check_fields(self, number, "tolerance_s")
        check_fields(self, function_or_none, "image_transforms", "batch_transform")
        _check(
            isinstance(self.delta_timestamps, Mapping),
            "delta_timestamps must be a dict, feature key -> list of seconds, not "
            f"{self.delta_timestamps!r:.100}",
        )
        size = self.image_size
        _check(
            size is None or (are_indices(size) and len(size) == 2 and min(size) >= 1),
            f"image_size must be (height, width) in pixels, not {size!r:.100}",
        )
        if size is not None:  # it may have come as an array
            object.__setattr__(self, "image_size", (int(size[0]), int(size[1])))
        _check_choice("on_missing", self.on_missing, ("error", "drop", "fill", "none"))
        _check(self.tolerance_s >= 0, f"tolerance_s must not be negative: {self.tolerance_s}")
        _check(
            isinstance(self.pad_to, Mapping)
            and all(isinstance(key, str) for key in self.pad_to)
            and are_indices(list(self.pad_to.values()))
            and all(1 <= width <= MAX_WIDTH for width in self.pad_to.values()),
            f'pad_to must be a dict such as {{"action": 32}}, feature key -> 1 to {MAX_WIDTH} '
            f"numbers, not {self.pad_to!r:.200}",
        )
        object.__setattr__(self, "pad_to", {key: int(n) for key, n in self.pad_to.items()})


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How an epoch is shared out over ranks and workers, and into batches."""

    batch_size: int | None = 64
    """Samples per rank and step; None: single samples, without a batch axis."""
    rank: int = 0
    world_size: int = 1
    max_world_size: int = 1
    """R: world sizes that divide it see the same global batches."""
    num_workers: int = 0
    """Worker processes; 0: decode in this process."""

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_fields(self, whole_number, "batch_size")
        check_fields(self, whole_number, "rank", "world_size", "max_world_size", "num_workers")
        _check(
            self.batch_size is None or self.batch_size >= 1,
            f"batch_size must be at least 1, not {self.batch_size}",
        )
        _check(self.num_workers >= 0, f"num_workers must not be negative: {self.num_workers}")
        _check(
            0 <= self.rank < self.world_size,
            f"rank must be in 0..{self.world_size - 1}, not {self.rank}",
        )
        _check(
            self.max_world_size >= 1 and self.max_world_size % self.world_size == 0,
            f"max_world_size {self.max_world_size} must be a multiple of the world size "
            f"{self.world_size}",
        )
        _check(
            self.global_batch_size % self.max_world_size == 0,
            f"batch_size x world_size = {self.global_batch_size} must be a multiple of "
            f"max_world_size {self.max_world_size}",
        )

    @property
    def global_batch_size(self) -> int:
        """B: samples per step over all ranks."""
        return (self.batch_size or 1) * self.world_size


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How episodes are read and decoded."""

    decode_threads: int | None = None
    """Threads that decode in each process; None: one per core, shared out over workers."""
    decode_device: str = "cpu"
    """"cpu", or "cuda" or "cuda:1": video is decoded there and stays there."""
    device: str | None = None
    """Batches are copied to this device; None: they stay where they were made."""
    pin_memory: bool | None = None
    """Pictures in page-locked memory; None: where CUDA is there and batches stay in this
    process.
    """
    cache_dir: str | None = None
    """Folder that keeps bytes of remote shards, shared by all ranks and workers of a machine; None:
    none does.
    """
    cache_bytes: int = 100 * 10**9
    """Most bytes that `cache_dir` holds at any time."""
    frame_cache: int | str | None = None
    """Bytes of pictures that are kept for the epochs that follow, or "8GB"; None: none are."""
    frame_cache_dir: str | None = None
    """Folder that keeps the pictures of `frame_cache`; None: memory that the node's ranks share
    keeps them.
    """
    memory_bytes: int = 2 << 30
    """Bytes that episodes, open decoders and pictures of coming batches may take in memory, over
    all workers of a rank.
    """
    retry_s: float = 120.0
    """How long a remote read is tried again, in seconds without a new byte, before it is an
    error.
    """
    on_error: OnError = "raise"
    """A damaged episode ends the run, or is replaced by the next one that can be read, counted and
    warned of.
    """

    def __post_init__(self) -> None:
        if self.decode_threads is not None:
            check_fields(self, whole_number, "decode_threads")
        check_fields(self, whole_number, "cache_bytes", "memory_bytes")
        if self.pin_memory is not None:
            check_fields(self, yes_or_no, "pin_memory")
        object.__setattr__(self, "retry_s", number("retry_seconds", self.retry_s))
        _check(
            self.decode_threads is None or self.decode_threads >= 1,
            "decode_threads must be at least 1",
        )
        _check(self.cache_bytes >= 1, f"cache_bytes must be at least 1, not {self.cache_bytes}")
        _check(
            self.memory_bytes >= 1 << 16,
            f"memory_bytes must be at least {1 << 16}, not {self.memory_bytes}",
        )
        if self.frame_cache is not None:
            object.__setattr__(self, "frame_cache", _num_bytes("frame_cache", self.frame_cache))
        _check(
            self.frame_cache is not None or self.frame_cache_dir is None,
            'frame_cache_dir= needs frame_cache=, how much is kept there at the most, as in "50GB"',
        )
        _check(self.retry_s >= 0, f"retry_seconds must not be negative: {self.retry_s}")
        _check_choice("on_error", self.on_error, ("raise", "skip"))

    @property
    def settings(self) -> ReadSettings:
        """How shards are read from storage: the disk cache, and when a read is tried again."""
        cache = (
            None if self.cache_dir is None else DiskCache(Path(self.cache_dir), self.cache_bytes)
        )
        return ReadSettings(
            cache=cache,
            policy=RetryPolicy(stall_s=min(20.0, 1 + self.retry_s), retry_s=self.retry_s),
        )


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """All that a loader can be told, in its groups."""

    order: OrderConfig
    selection: SelectionConfig
    sample: SampleConfig
    split: SplitConfig
    read: ReadConfig

    def __post_init__(self) -> None:
        _check(
            self.sample.batch_transform is None or self.split.batch_size is not None,
            "batch_transform= is for batches, and batch_size=None gives single samples: give "
            "batch_size=1, or transform samples as they come",
        )


SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGT]?)(I?)B)?", re.IGNORECASE)


def _num_bytes(name: str, size: Any) -> int:
    """Return the bytes of a size such as 8_000_000_000, "8GB" or "8GiB"."""
    match = SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is not None:
        power = "BKMGT".index((match[2] or "b").upper())
        size = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    try:
        num_bytes = whole_number(name, size)
    except OptionError:
        num_bytes = 0
    _check(
        num_bytes > 0,
        f'{name} must be a number of bytes, or a size such as "8GB" or "8GiB", not {size!r}',
    )
    return num_bytes


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise OptionError(message)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    _check(value in choices, f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")
