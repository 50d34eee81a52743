"""What `doctor` is asked to do."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from roboshard.common.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Options of a look at a source. Positional on the command line: SOURCE."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """LeRobot dataset, v2.x or v3: a local folder, org/name[@revision] on the Hub, or a URL."""
    episodes: str | None = None
    """Which episodes: "0:100,205" (half-open ranges and single indices); default: all."""
    sample: int | None = None
    """Look at this many of the chosen episodes, evenly spread; default: at each one."""
    frames: int = 0
    """Decode this many frames per camera and episode: the first, the last, and random ones."""
    seed: int = 0
    """Seed of the choice of frames."""
    tolerance_s: float = 1e-4
    """Largest distance in seconds between a row's timestamp and the frame shown for it."""
    scratch: str | None = None
    """Folder for what is downloaded of a remote source; default: the system's for such."""
    scratch_size: str = "20GB"
    """How much of a remote source may lie in the scratch folder at once."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.sample is not None and self.sample < 1:
            raise OptionError(f"--sample {self.sample}: must be at least 1")
        if self.frames < 0:
            raise OptionError(f"--frames {self.frames}: must not be negative")
