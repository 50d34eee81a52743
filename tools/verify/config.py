"""What `verify` is asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from roboshard.common.errors import OptionError

MAX_JOBS = 64


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Options of a verification. Positional on the command line: URL."""

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """The dataset: a local folder, hf://, s3://, gs:// or http(s)://."""
    sample: int | None = None
    """Read this many random episodes instead of all. Manifests and sizes of all shards are checked
    even then.
    """
    seed: int = 0
    """Seed of the choice of episodes and frames."""
    frames: int = 0
    """Decode this many frames per camera and episode: the first, the last, and random ones
    between.
    """
    against: str | None = None
    """Compare with the LeRobot dataset that the shards were made from: every row, every video
    packet.
    """
    report: Path | None = None
    """Write the report to this file too, as JSON."""
    jobs: int = 4
    """How many shards are read at once."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.sample is not None and self.sample < 1:
            raise OptionError(f"--sample {self.sample}: must be at least 1")
        if self.frames < 0:
            raise OptionError(f"--frames {self.frames}: must not be negative")
        if not 1 <= self.jobs <= MAX_JOBS:
            raise OptionError(f"--jobs {self.jobs}: must be 1 to {MAX_JOBS}")
