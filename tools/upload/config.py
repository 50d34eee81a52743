"""What an upload can be told. One dataclass: the Python keywords and the flags."""

import os
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from roboshard.common.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class UploadConfig:
    """Options of one upload."""

    source: Annotated[str, Positional, arg(metavar="SOURCE")]
    """Finished dataset: a local folder with dataset.json."""
    destination: Annotated[str, Positional, arg(metavar="DESTINATION")]
    """hf://buckets/OWNER/NAME[/FOLDER], hf://datasets/OWNER/NAME[@BRANCH][/FOLDER], s3://…, gs://…,
    a folder.
    """
    jobs: int = 4
    """How many uploads run at once. A dataset repository takes one commit after another."""
    private: bool = False
    """Make the bucket or repository private where it has to be made; one that exists stays as it
    is.
    """
    replace: bool = False
    """Remove another dataset or version that is at the destination; until the new one is complete,
    there is none.
    """
    card: bool = True
    """Write README.md, a dataset card with a sample picture, unless there is one that roboshard did
    not write.
    """
    dry_run: bool = False
    """Print what would be sent and removed, and change nothing."""

    def __post_init__(self) -> None:
        for name in ("source", "destination"):
            object.__setattr__(self, name, os.fspath(getattr(self, name)))  # a Path will do
        if self.jobs < 1:
            raise OptionError(f"jobs must be at least 1, not {self.jobs}")
