"""What a conversion can be told.

One dataclass: the Python keywords, the flags and the keys of a config file.
"""

import os
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from roboshard.common.errors import OptionError
from roboshard.common.selection import parse_episodes
from roboshard.converter.reencoding.settings import ReencodeConfig

MIN_SHARD_SIZE = 64_000
MAX_SHARD_SIZE = 1 << 40
MAX_SCRATCH_SIZE = 1 << 50
REENCODE_DEFAULTS = ReencodeConfig()

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_PART = re.compile(r"(\d{1,9})/([1-9]\d{0,8})", re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Options of one conversion."""

    source: Annotated[str, Positional, arg(metavar="SOURCE")]
    """LeRobot dataset, v2.1 or v3: a local folder with meta/, data/ and videos/; org/name or
    org/name@revision on the Hub, where no folder is of that name; or the URL of such a folder:
    hf://buckets/owner/name/folder, s3://bucket/folder.
    """
    destination: Annotated[str, Positional, arg(metavar="DESTINATION")]
    """Folder to write the shards to, made if missing; or a URL, hf://buckets/owner/name/folder,
    s3://bucket/folder: then each shard is sent there and removed here, so that the disk holds one
    per worker.
    """
    shard_size: str = "256MB"
    """Target size of a shard, from 64KB up: 500MB (10^6 bytes) or 512MiB (2^20 bytes)."""
    workers: int | None = None
    """Processes; default: one per core. With --engine ray: tasks at once; default: what its cores
    want.
    """
    engine: Literal["processes", "ray"] = "processes"
    """What runs the work: processes of this machine, or a Ray cluster (pip install
    'roboshard[ray]'), all of whose nodes see SOURCE and DESTINATION.
    """
    address: str | None = None
    """Address of the Ray cluster, as `ray start` prints it; default: the one that runs here, or a
    new one on this machine.
    """
    shards: str | None = None
    """Write only a part: "3/16" is part 3 of 16, counted from 0. `roboshard finalize`, with the
    same SOURCE, DESTINATION and options, makes a dataset of all parts.
    """
    append: bool = False
    """Add the episodes that DESTINATION does not have yet, as new shards; those that it has must be
    in SOURCE as they were. Where there is no dataset yet, convert all.
    """
    compare: Literal["video", "rows"] = "video"
    """With --append, how closely the episodes that are there already are compared with SOURCE, if
    that has changed: rows and video packets, for which all of SOURCE is read; or rows alone.
    """
    episodes: str | None = None
    """Which episodes: "0:100,205" (half-open ranges and single indices); default: all."""
    exclude_episodes: str | None = None
    """Which episodes to leave out of the chosen ones: "7,100:110"; default: none."""
    tasks: UseAppendAction[tuple[str, ...]] = ()
    """Only episodes with this task, or with one of several; default: with any."""
    shuffle_episodes: int | None = None
    """Seed: spread the episodes over the shards in a random order, fixed by the seed."""
    on_error: Literal["fail", "skip"] = "fail"
    """An episode that cannot be copied exactly stops the run, or is left out and listed in
    skipped.json.
    """
    tolerance_s: float = 1e-4
    """Largest distance in seconds between a row's timestamp and the frame shown for it."""
    video: Literal["copy", "reencode"] = "copy"
    """Copy video packet by packet, lossless; or encode it again, which costs quality and time: for
    keyframes that are far apart, or for smaller pictures. Depth is always copied.
    """
    reencode: Annotated[ReencodeConfig, arg(name="")] = REENCODE_DEFAULTS
    scratch: str | None = None
    """Folder for what is downloaded of a remote source, and for shards on their way to a remote
    destination; removed at the end. Default: the system's for such.
    """
    scratch_size: str = "20GB"
    """What may lie in the scratch folder at once, of all workers together; no less than the source
    files of one episode.
    """
    dry_run: bool = False
    """Print the plan and write nothing."""
    video_report: bool = False
    """Print how each camera is encoded, what a random frame of it costs to decode, and what helps;
    write nothing.
    """

    def __post_init__(self) -> None:
        for name in ("source", "destination"):
            object.__setattr__(self, name, os.fspath(getattr(self, name)))  # a Path will do
        parse_size(self.shard_size)
        parse_size(self.scratch_size, "scratch size", MAX_SCRATCH_SIZE)
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"workers must be at least 1, not {self.workers}")
        if self.address is not None and self.engine != "ray":
            raise OptionError("address is that of a Ray cluster: it needs engine ray")
        parse_part(self.shards)
        if self.compare != "video" and not self.append:
            raise OptionError("compare says how closely to look at what is there: it needs append")
        if self.video == "copy" and self.reencode != REENCODE_DEFAULTS:
            raise OptionError(
                "codec, gop, crf, size and cameras say how to encode again: they need video "
                "reencode"
            )
        if not 0 <= self.tolerance_s < 10:
            raise OptionError(f"tolerance_s must be in 0..10 seconds, not {self.tolerance_s}")
        if self.shuffle_episodes is not None and self.shuffle_episodes < 0:
            raise OptionError(
                f"shuffle_episodes is a seed and must not be negative: {self.shuffle_episodes}"
            )
        if isinstance(self.tasks, str):
            raise OptionError(f"tasks must be a list of task texts, not {self.tasks!r:.100}")
        for chosen in (self.episodes, self.exclude_episodes):
            if chosen is not None:
                parse_episodes(chosen)

    @property
    def shard_bytes(self) -> int:
        """Target size of a shard in bytes."""
        return parse_size(self.shard_size)

    @property
    def scratch_bytes(self) -> int:
        """What may lie in the scratch folder at once, in bytes."""
        return parse_size(self.scratch_size, "scratch size", MAX_SCRATCH_SIZE)


def parse_part(text: str | None) -> tuple[int, int]:
    """(number of the part, counted from 0; how many parts there are) of "3/16"; None is all in one.

    Raises:
        OptionError: no such text, or no such part.
    """
    match = _PART.fullmatch("0/1" if text is None else text)
    if match is None:
        raise OptionError(f"shards {text!r} is not a part of a conversion; write it like 3/16")
    part, parts = int(match[1]), int(match[2])
    if part >= parts:
        raise OptionError(
            f"shards {text!r}: parts are counted from 0, so the last one is {parts - 1}/{parts}"
        )
    return part, parts


def parse_size(text: str, what: str = "shard size", largest: int = MAX_SHARD_SIZE) -> int:
    """Bytes of a human size: "64KB", "256MB" (powers of 1000), "1GiB" (powers of 1024), "1000000".

    Raises:
        OptionError: not a size, or outside 64KB..`largest`, which is a number of TiB.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise OptionError(f"{what} {text!r} is not a size; write it like 256MB or 1GiB")
    number, power, binary = match.groups()
    size = float(number) * float(1024 if binary else 1000) ** _POWERS[power.lower()]
    if not MIN_SHARD_SIZE <= size <= largest:
        raise OptionError(f"{what} {text!r} is outside 64KB..{largest >> 40}TiB")
    return round(size)
