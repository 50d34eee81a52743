"""What a search for statistics can be told. One dataclass: the Python keywords and the flags."""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from roboshard.common.errors import OptionError
from roboshard.common.selection import parse_episodes


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """Options of one search for statistics."""

    url: Annotated[str, Positional, arg(metavar="URL")]
    """The dataset: a local folder, hf://, s3://, gs:// or http(s)://."""
    episodes: str | None = None
    """Which episodes: "0:100,205" (half-open ranges and single indices); default: all."""
    exclude_episodes: str | None = None
    """Which of the chosen episodes to leave out, written the same way."""
    tasks: UseAppendAction[tuple[str, ...]] = ()
    """Only episodes with this task, or with one of several; default: with any."""
    split: tuple[Literal["train", "val"], float, int] | None = None
    """A side of a hold-out: train or val, the fraction held out, and the seed, as in --split train
    0.02 0.
    """
    keep_ranges: str | None = None
    """A file of the frames that are samples, as `roboshard idle` writes it; default: all are."""
    feature: UseAppendAction[tuple[str, ...]] = ()
    """Only this feature, or several; default: all."""
    relative_actions: int | None = None
    """Actions relative to the state, over windows of this many frames from the sample's own on:
    what policies with relative actions are trained on.
    """
    exclude_joints: UseAppendAction[tuple[str, ...]] = ()
    """Numbers of the action that stay as they are: those in whose name this is, or one of
    several.
    """
    json: bool = False
    """Print one JSON object, of the form of LeRobot's meta/stats.json."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", os.fspath(self.url))  # a Path will do
        for name in ("tasks", "feature", "exclude_joints"):
            if isinstance(getattr(self, name), str):
                raise OptionError(f"{name} must be a list of texts, not one text")
        for chosen in (self.episodes, self.exclude_episodes):
            if chosen is not None:
                parse_episodes(chosen)
        if self.relative_actions is not None and self.relative_actions < 1:
            raise OptionError(
                "relative_actions must be a number of frames from 1 up, not "
                f"{self.relative_actions}"
            )
