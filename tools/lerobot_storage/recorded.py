"""One recorded episode: read from a LeRobot dataset of its own, and numbered as one of many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roboshard.common import jsonio
from roboshard.common.errors import SourceError
from roboshard.converter.source.files import LocalFiles
from roboshard.converter.source.opening import read_source
from roboshard.shards.collected import CollectedNumbers, collect_table
from roboshard.shards.scalars import scalars
from roboshard.shards.statistics import OF_EPISODES, FeatureStats, as_json, mixed, row_stats, usable
from roboshard.tools.export.layout import DATA_PATH, EPISODES_PATH, VIDEO_PATH, Limits
from roboshard.tools.export.rows import numbered
from roboshard.tools.export.statistics import renumbered

Row = dict[str, Any]
LIMITS = Limits.of({})
"""Limits of LeRobot's folders, which place recorded episodes: each has files of its own."""


@dataclass(frozen=True, kw_only=True)
class EpisodeFiles:
    """Where the files of an episode go, relative to the folder of all recorded episodes."""

    rows: str
    row: str
    videos: Mapping[str, tuple[Path, str]]
    """Camera key -> (where the video file is, where it goes)."""


@dataclass(frozen=True, kw_only=True)
class RecordedEpisode:
    """What is known of a recorded episode."""

    index: int
    length: int
    tasks: tuple[str, ...]
    stats: Mapping[str, Mapping[str, Any]]
    """The statistics in the episode's row of meta/episodes."""
    paths: tuple[str, ...] = ()
    """Files of the episode, relative to the folder of all recorded episodes."""
    info: dict[str, Any] = field(default_factory=dict)
    """info.json of the dataset that the episode was alone in."""
    table: pa.Table | None = None
    """The rows, as they were recorded."""
    row: pa.Table | None = None
    """The row of meta/episodes, as it was recorded."""
    texts: tuple[str, ...] = ()
    """Texts of tasks, each at the number that the recorded rows have for it."""
    videos: Mapping[str, Path] = field(default_factory=dict)
    """Camera key -> the video file."""

    @classmethod
    def of_row(cls, row: pa.Table) -> "RecordedEpisode":
        """Return an episode as its row of meta/episodes says, in the folder of all
        recorded ones.
        """
        (values,) = row.to_pylist()
        chunk, file = values["data/chunk_index"], values["data/file_index"]
        keys = [
            name.removeprefix("videos/").removesuffix("/file_index")
            for name in values
            if name.startswith("videos/") and name.endswith("/file_index")
        ]
        place = {"chunk_index": chunk, "file_index": file}
        return cls(
            index=values["episode_index"],
            length=values["length"],
            tasks=tuple(values["tasks"]),
            stats=row_stats(values),
            paths=(
                DATA_PATH.format(**place),
                *(VIDEO_PATH.format(video_key=key, **place) for key in keys),
            ),
        )

    def numbered(
        self, number: int, index: int, first_row: int, tasks: Sequence[str]
    ) -> tuple[pa.Table, pa.Table]:
        """Return the rows, and the row of meta/episodes, of the episode as one of many.

        Args:
            number: the number of the episode's files.
            index: the episode's index.
            first_row: how many frames come before it.
            tasks: texts of all tasks, in their order.
        """
        if self.table is None or self.row is None:
            raise SourceError("the episode has been numbered already")
        table = numbered(self.table, index, first_row)
        table, stats = self._with_tasks(table, tasks)
        place = LIMITS.place(number)
        (values,) = self.row.to_pylist()
        values = renumbered(values, "episode_index", index - values["episode_index"])
        values = renumbered(values, "index", first_row)
        for name in values:
            if name.startswith(("data/", "videos/", "meta/")):
                values[name] = {"chunk_index": place.chunk, "file_index": place.file}.get(
                    name.rpartition("/")[2], values[name]
                )
        values |= {
            "episode_index": index,
            "tasks": list(self.tasks),  # in the order in which they got their numbers
            "dataset_from_index": first_row,
            "dataset_to_index": first_row + self.length,
            **{name: value for name, value in stats.items() if name in values},
        }
        return table, pa.Table.from_pylist([values], schema=self.row.schema)

    def _with_tasks(self, table: pa.Table, tasks: Sequence[str]) -> tuple[pa.Table, Row]:
        """Return the rows with the numbers that tasks have among all, and the
        statistics of these.
        """
        stored = scalars(table.column("task_index"))
        if stored is None:
            raise SourceError("task_index of a recorded episode holds no numbers")
        numbers = {text: place for place, text in enumerate(tasks)}
        among_all = np.array([numbers[text] for text in self.texts], dtype=np.int64)
        values = among_all[np.asarray(stored, dtype=np.int64)]
        at = table.schema.get_field_index("task_index")
        named = table.schema.field(at)
        table = table.set_column(at, named, pa.array(values).cast(named.type))
        collected = CollectedNumbers(table.num_rows)
        collect_table(collected, table, {"task_index": "int64"})
        own = as_json(collected.stats())["task_index"]
        return table, {f"{OF_EPISODES}task_index/{name}": value for name, value in own.items()}


def read_recorded(root: Path) -> RecordedEpisode:
    """Return the one episode of a LeRobot dataset.

    Raises:
        SourceError, MissingError: it is no such dataset, or has several episodes.
    """
    files = LocalFiles(root)
    source = read_source(files)
    if source.episode_indices.tolist() != [0]:
        raise SourceError(
            f"{root}: holds episodes {source.episode_indices.tolist()[:10]}, where one was recorded"
        )
    (episode,) = source.episodes([0])
    if episode.rows_path is None or episode.metadata_row != 0:
        raise SourceError(f"{root}: does not say where the rows of its episode are")
    table = pq.read_table(root / episode.rows_path)
    row = pq.read_table(root / episode.metadata_path)
    texts = tuple(source.meta.tasks.plain_texts)
    stored = scalars(table.column("task_index"))
    used = [] if stored is None else [texts[int(each)] for each in stored]
    return RecordedEpisode(
        index=0,
        length=table.num_rows,
        tasks=tuple(dict.fromkeys(used)),
        stats={},
        info=source.meta.info,
        table=table,
        row=row,
        texts=texts,
        videos={key: root / span.path for key, span in episode.videos.items()},
    )


def episode_files(number: int, episode: RecordedEpisode) -> EpisodeFiles:
    """Return where the files of the episode of this number go."""
    place = LIMITS.place(number)
    named = {"chunk_index": place.chunk, "file_index": place.file}
    return EpisodeFiles(
        rows=DATA_PATH.format(**named),
        row=EPISODES_PATH.format(**named),
        videos={
            key: (path, VIDEO_PATH.format(video_key=key, **named))
            for key, path in episode.videos.items()
        },
    )


def aggregated(
    stats: Mapping[str, jsonio.Json], frames: int, episodes: Sequence[RecordedEpisode]
) -> dict[str, jsonio.Json]:
    """Return the statistics of a dataset and of episodes that come to it, as in stats.json.

    min, max, mean, std and count are exact. Quantiles are those of the distributions added up.

    Args:
        stats: statistics of the dataset.
        frames: how many frames the dataset has.
        episodes: those that come to it.
    """
    before = {
        key: {name: np.asarray(value) for name, value in own.items()} for key, own in stats.items()
    }
    parts: dict[str, list[tuple[FeatureStats, float]]] = {}
    for own, weight in [(before, frames), *((each.stats, each.length) for each in episodes)]:
        for key, values in own.items():
            found = usable(values)
            if found is not None and weight:
                parts.setdefault(key, []).append((found, float(weight)))
    return as_json({key: mixed(each) for key, each in parts.items()})
