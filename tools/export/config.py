"""What an export can be told. One dataclass: the Python keywords and the flags."""

import os
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from roboshard import storage
from roboshard.common.errors import OptionError
from roboshard.common.selection import parse_episodes


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of one export."""

    source: Annotated[str, Positional, arg(metavar="URL")]
    """The shards: a folder, or a URL such as hf://buckets/owner/name/folder or
    s3://bucket/folder.
    """
    destination: Annotated[str, Positional, arg(metavar="DST")]
    """Folder to write the LeRobot v3 dataset to. It must not exist, or be empty; it appears whole
    or not at all.
    """
    snapshot: str | None = None
    """What the dataset was before it grew: number or fingerprint, as `roboshard inspect` lists
    them.
    """
    episodes: str | None = None
    """Which episodes: "0:100,205" (half-open ranges and single indices); default: all. Fewer than
    the source had are numbered anew from 0, as LeRobot needs it, and their statistics are found
    anew.
    """
    exclude_episodes: str | None = None
    """Which of the chosen episodes to leave out, written the same way."""
    tasks: UseAppendAction[tuple[str, ...]] = ()
    """Only episodes with this task, or with one of several; default: with any."""

    def __post_init__(self) -> None:
        for name in ("source", "destination"):
            object.__setattr__(self, name, os.fspath(getattr(self, name)))  # a Path will do
        if not storage.is_local(self.destination):
            raise OptionError(
                f"{storage.redacted(self.destination)}: an export is written to a local folder"
            )
        if isinstance(self.tasks, str):
            raise OptionError(f"tasks must be a list of task texts, not {self.tasks!r:.100}")
        for chosen in (self.episodes, self.exclude_episodes):
            if chosen is not None:
                parse_episodes(chosen)
