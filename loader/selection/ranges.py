"""Ranges of frames that are used as samples, as users give them: a dict, or a JSON or parquet
file.
"""

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common import jsonio
from roboshard.common.errors import FormatError, OptionError
from roboshard.common.selection import some
from roboshard.shards.arrow_numbers import to_numpy
from roboshard.shards.documents import MAX_FRAMES
from roboshard.shards.fetch import ReadSettings
from roboshard.shards.parquet_limits import check_decoded

MAX_BYTES = 1 << 30
COLUMNS = ("episode_index", "first", "stop")

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NamedRanges:
    """Ranges of rows of the episodes that are named, in order of episode and row."""

    named: IntArray
    """Indices of the episodes, ascending, each once: those without a range too."""
    episode_index: IntArray
    """(num_ranges,) the episode of each range."""
    first: IntArray
    """(num_ranges,) the first row of each range."""
    stop: IntArray
    """(num_ranges,) the row after the last one of each range."""


def read_ranges(
    given: Mapping[int, Any] | str | os.PathLike[str], settings: ReadSettings
) -> NamedRanges:
    """Read ranges from a dict or a file.

    Args:
        given: episode index -> [(first, stop), ...]; or the path or URL of a JSON file of such an
            object, or of a parquet file with a row for each range, of which an episode without any
            has one of nulls.
        settings: how files are read.

    Raises:
        OptionError: what is no range, ranges that overlap, or a file of another kind; with the
            episode.
        FormatError, MissingError, StorageError: the file is not readable.
    """
    if isinstance(given, Mapping):
        return _checked(*_of_mapping(given, "keep_ranges"), "keep_ranges")
    path = os.fspath(given)
    what = storage.redacted(path)
    if not path.endswith((".json", ".parquet")):
        raise OptionError(f"keep_ranges: {what}: the name must end in .json or .parquet")
    data = storage.read_all(path, MAX_BYTES, policy=settings.policy)
    if path.endswith(".json"):
        return _checked(*_of_mapping(jsonio.load(data, what, MAX_BYTES), what), what)
    return _checked(*_of_parquet(data, what), what)


def check_bounds(ranges: NamedRanges, episode_index: IntArray, length: IntArray) -> None:
    """Raise OptionError for ranges that leave their episode; `episode_index` ascends, and has all
    of them.
    """
    lengths = length[np.searchsorted(episode_index, ranges.episode_index)]
    outside = np.flatnonzero(ranges.stop > lengths)
    if outside.size:
        at = int(outside[0])
        raise OptionError(
            f"keep_ranges: ({ranges.first[at]}, {ranges.stop[at]}) of episode "
            f"{ranges.episode_index[at]} leaves it, which has {lengths[at]} frames. Is this file "
            "of another dataset, or of an earlier state of this one?"
        )


def _of_mapping(given: Mapping[Any, Any], what: str) -> tuple[IntArray, IntArray]:
    """Return (indices of the episodes named, (n, 3) episode, first, stop)."""
    episodes, rows = [], []
    for key, ranges in given.items():
        episode = _index(key, what)
        episodes.append(episode)
        try:
            found = [(episode, *_pair(pair)) for pair in ranges]
        except (TypeError, ValueError):
            raise OptionError(
                f"{what}: episode {episode} has {ranges!r:.100}, not a list of (first, stop)"
            ) from None
        rows += found
    return np.asarray(episodes, dtype=np.int64), np.asarray(rows, dtype=np.int64).reshape(-1, 3)


def _index(key: object, what: str) -> int:
    """Return an episode index, which is text in JSON."""
    text = str(key)
    if isinstance(key, bool) or not (text.isascii() and text.isdigit() and len(text) < 19):
        raise OptionError(f"{what}: {key!r:.40} is not an episode index")
    return int(text)


def _pair(pair: Any) -> tuple[int, int]:
    first, stop = map(operator.index, pair)
    if max(abs(first), abs(stop)) > MAX_FRAMES:
        raise ValueError(pair)
    return first, stop


def _of_parquet(data: bytes, what: str) -> tuple[IntArray, IntArray]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        check_decoded(file, data, what)
        table = file.read(columns=list(COLUMNS), use_threads=False)
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise OptionError(
                f"{what}: no column {', '.join(missing)}: a row is a range, with episode_index, "
                "first, stop"
            )
        episode, first, stop = (table[name].cast(pa.int64()) for name in COLUMNS)
        is_range = to_numpy(first.is_valid())
        columns = [
            to_numpy(column.fill_null(-1)).astype(np.int64) for column in (episode, first, stop)
        ]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, FormatError | OptionError):
            raise
        raise FormatError(f"{what}: not a readable parquet file of ranges: {error}") from None
    return np.unique(columns[0]), np.stack(columns, axis=1)[is_range]


def _checked(episodes: IntArray, rows: IntArray, what: str) -> NamedRanges:
    named, counts = np.unique(episodes, return_counts=True)
    if np.any(counts > 1):  # in JSON "7" and "07" are two keys
        raise OptionError(f"{what}: episode {named[counts > 1][0]} is named twice")
    episode, first, stop = rows[np.lexsort((rows[:, 1], rows[:, 0]))].T
    bad = np.flatnonzero((episode < 0) | (first < 0) | (stop <= first))
    if bad.size:
        at = int(bad[0])
        raise OptionError(
            f"{what}: ({first[at]}, {stop[at]}) of episode {episode[at]} is no range of frames: "
            "first is the first frame used, counted from 0, and stop the one after the last; "
            "an episode of which none is used has an empty list"
        )
    overlap = np.flatnonzero((np.diff(episode) == 0) & (first[1:] < stop[:-1]))
    if overlap.size:
        pairs = [f"({first[i]}, {stop[i]})" for i in (int(overlap[0]), int(overlap[0]) + 1)]
        raise OptionError(
            f"{what}: {some(pairs)} of episode {episode[overlap[0]]} overlap: make one range of "
            "them; what shall come more often has a weight (episode_weights)"
        )
    return NamedRanges(named=named, episode_index=episode, first=first, stop=stop)
