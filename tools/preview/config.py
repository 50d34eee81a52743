"""What a preview can be told. One dataclass: the Python keywords and the flags."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from roboshard.common.errors import OptionError

MAX_FRAMES = 24
"""Most frames on one row of the sheet: more could not be made out."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """Options of one preview."""

    url: Annotated[str, Positional, arg(metavar="URL")]
    """The dataset: a local folder, hf://, s3://, gs:// or http(s)://."""
    episode: int | None = None
    """The episode_index of the episode to show; default: the dataset's first."""
    cameras: tuple[str, ...] | None = None
    """Which video cameras to show; default: all."""
    frames: int = 8
    """Frames per camera on the sheet, evenly spaced from the first to the last."""
    output: Path | None = None
    """Where to write the sheet, a PNG file; default: DATASET-episode-N.png in the current folder,
    or with --rerun no sheet.
    """
    rerun: Path | None = None
    """Write all frames and rows there as a recording for the Rerun viewer, an .rrd file; needs
    `pip install 'roboshard[rerun]'`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", os.fspath(self.url))  # a Path will do
        for name, suffix in (("output", ".png"), ("rerun", ".rrd")):
            path = getattr(self, name)
            if path is None:
                continue
            object.__setattr__(self, name, Path(path))
            if Path(path).suffix.lower() != suffix:
                raise OptionError(
                    f"{path}: the name must end in {suffix}, which is what is written there"
                )
        if not 1 <= self.frames <= MAX_FRAMES:
            raise OptionError(f"--frames {self.frames}: must be 1 to {MAX_FRAMES}")
