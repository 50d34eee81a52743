"""Runs in LeRobot's own environment: its annotation pipeline, where what a model would say is
written here.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs.lerobot_recording import TOP


def _persistent(episode: int, timestamps: tuple[float, ...]) -> list[dict[str, Any]]:
    """A subtask that begins with the episode and, but for episode 0, another one later."""
    places = timestamps[: 1 if episode == 0 else 3 : 2]
    return [
        {
            "role": "assistant",
            "content": f"subtask {episode}/{number} 抓取",
            "style": "subtask",
            "timestamp": float(timestamp),
        }
        for number, timestamp in enumerate(places)
    ]


def _events(timestamps: tuple[float, ...]) -> list[dict[str, Any]]:
    """Something that is said, and a question about what a camera sees with its answer."""
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": "done"}}}
    spoken = {"role": "assistant", "content": None, "style": None, "tool_calls": [call]}
    seen = {"role": "user", "content": "where?", "style": "vqa", "camera": TOP}
    return [
        {**spoken, "timestamp": float(timestamps[1])},
        {**seen, "timestamp": float(timestamps[2])},
        {**seen, "role": "assistant", "content": "left", "timestamp": float(timestamps[2])},
    ]


@dataclass
class _Module:
    """A module of the pipeline that stages rows of its own."""

    name: str
    events: bool = False
    persistent: bool = False

    def run_episode(self, record: Any, staging: Any) -> None:
        """Stage the rows of one episode; episode 1 has no events."""
        times = record.frame_timestamps
        rows = _persistent(record.episode_index, times) if self.persistent else []
        if self.events and record.episode_index != 1:
            rows += _events(times)
        staging.write(self.name, rows)


def annotate(root: Path, *, events: bool = True) -> None:
    """Write the language columns into the dataset at `root`."""
    from lerobot.annotations.steerable_pipeline.executor import Executor  # noqa: PLC0415
    from lerobot.annotations.steerable_pipeline.reader import iter_episodes  # noqa: PLC0415
    from lerobot.annotations.steerable_pipeline.staging import EpisodeStaging  # noqa: PLC0415
    from lerobot.annotations.steerable_pipeline.writer import (  # noqa: PLC0415
        LanguageColumnsWriter,
    )

    modules = [_Module("plan", persistent=True), _Module("interjections", events=events)]
    with tempfile.TemporaryDirectory() as staging:
        records = list(iter_episodes(root))
        for record in records:
            for module in modules:
                module.run_episode(record, EpisodeStaging(Path(staging), record.episode_index))
        LanguageColumnsWriter().write_all(records, Path(staging), root)
    Executor._ensure_annotation_metadata_in_info(root)
