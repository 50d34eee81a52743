"""What a search for idle frames can be told. One dataclass: the Python keywords and the flags."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from roboshard.common.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class IdleConfig:
    """Options of one search for idle frames."""

    url: Annotated[str, Positional, arg(metavar="URL")]
    """The dataset: a local folder, hf://, s3://, gs:// or http(s)://."""
    feature: UseAppendAction[tuple[str, ...]] = ()
    """What moves or does not: a feature of numbers, or several, all of which must be still.
    Default: action, or observation.state where there is no action.
    """
    seconds: float = 1.0
    """Frames are dropped where nothing moves for longer than this."""
    threshold: float = 0.001
    """How much a number may change from one row to the next and be still: as a share of its range
    over the dataset, or with --absolute in its own unit.
    """
    absolute: bool = False
    """The threshold is in the feature's own unit."""
    output: Path = Path("keep_ranges.json")
    """Where to write the ranges that are kept: a .json or .parquet file, for
    make_loader(keep_ranges=FILE).
    """
    dry_run: bool = False
    """Show what would be dropped, and write nothing."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", os.fspath(self.url))  # a Path will do
        object.__setattr__(self, "output", Path(self.output))
        if isinstance(self.feature, str):
            object.__setattr__(self, "feature", (self.feature,))
        for name in ("seconds", "threshold"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise OptionError(f"{name} must be a number from 0 up, not {getattr(self, name)}")
        if self.output.suffix not in (".json", ".parquet"):
            raise OptionError(
                f"{self.output}: the name must end in .json or .parquet, which is what is written "
                "there"
            )
