"""What a source's metadata says of where rows lie and how many there are, and whether that can be
so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import SourceError
from roboshard.common.selection import positions_of, some
from roboshard.converter.source.api import RowPiece
from roboshard.converter.source.data_files import DATA_FOLDER, RowMap, data_paths, map_rows
from roboshard.converter.source.files import SourceFiles
from roboshard.converter.source.findings import Report, finding
from roboshard.shards.documents import Finding

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What the metadata says of each episode's rows."""

    indices: NDArray[np.int64]
    """(listed,) the episodes, ascending."""
    lengths: Sequence[int | None]
    """(listed,) rows of each episode; None: the metadata does not say."""
    paths: Sequence[str | None]
    """(listed,) the data file of each episode; None: the metadata does not say."""
    where: str
    """The file or folder of the metadata that lists the episodes."""
    has_cameras: bool
    """Whether there are cameras: an episode needs what the metadata says of its videos too then."""


class RowHints:
    """The metadata's word on rows; where it cannot be right, the data files' own."""

    def __init__(self, files: SourceFiles, depth: int | None, listed: Listed) -> None:
        """Keep what the metadata says; `depth` says which files of data/ hold rows, as for
        `data_paths`.
        """
        self._files, self._depth, self._listed = files, depth, listed
        self._map: RowMap | None = None
        self.indices = listed.indices
        """(listed,) the episodes that the metadata lists, ascending."""
        self.paths = listed.paths
        """(listed,) the data file that the metadata names for each episode; None: it names none."""
        self.episodes = listed.indices
        """The episodes to convert, ascending."""

    @property
    def is_mapped(self) -> bool:
        """Whether the data files were asked."""
        return self._map is not None

    @property
    def known_lengths(self) -> NDArray[np.int64]:
        """(listed,) rows of each episode; 1 where nothing says it."""
        if self._map is None:
            return np.array([length or 1 for length in self._listed.lengths], dtype=np.int64)
        counted = [
            sum(p.stop - p.start for p in self._map.pieces(i)) for i in self.indices.tolist()
        ]
        return np.maximum(np.array(counted, dtype=np.int64), 1)

    @property
    def begin_in(self) -> list[str | None]:
        """(listed,) the data file in which each episode begins, as far as it is known."""
        if self._map is None:
            return list(self.paths)
        found = (self.pieces(index) or () for index in self.indices.tolist())
        return [
            pieces[0].path if pieces else path
            for pieces, path in zip(found, self.paths, strict=True)
        ]

    @property
    def all_paths(self) -> list[str]:
        """Every data file that is known of."""
        named = [path for path in self.paths if path is not None]
        return named if self._map is None else [*named, *self._map.paths]

    def pieces(self, episode: int) -> tuple[RowPiece, ...] | None:
        """Return where an episode's rows were found; None: the metadata has not been doubted."""
        return None if self._map is None else self._map.pieces(episode)

    def positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position among the listed episodes of each of these; -1: it is not listed."""
        return positions_of(indices, self.indices)

    def check(self, info: dict[str, Any], report: Report) -> dict[str, int]:
        """Hold the metadata against itself and against the names of the data files; ask those where
        it is wrong.

        Args:
            info: info.json.
            report: told what is odd.

        Returns:
            The totals that info.json has wrong.

        Raises:
            SourceError: there is no episode, or rows belong to none.
        """
        if self._is_doubtful(info):
            self._map = map_rows(self._files, self._depth)
            self._compare(self._map, report)
        if not self.episodes.size:
            raise SourceError(
                f"{self._files.where(self._listed.where)}: it lists no episode that has rows; "
                "bring the dataset's own"
            )
        counted = {
            name: number for name, number in self._totals().items() if info.get(name) != number
        }
        if counted:
            what = ", ".join(
                f"{name} {info.get(name)!r:.40}, not {n}" for name, n in counted.items()
            )
            report(finding("totals-differ", "meta/info.json", f"it says {what}"))
        return counted

    def _is_doubtful(self, info: dict[str, Any]) -> bool:
        if any(info.get(name) != number for name, number in self._totals().items()):
            return True
        if None in self._listed.lengths or None in self.paths:
            return True
        named = {path for path in self.paths if path is not None}
        if not all(path.startswith(f"{DATA_FOLDER}/") for path in named):
            return False  # LeRobot finds no rows there; the metadata does
        return named != set(data_paths(self._files, depth=self._depth))

    def _totals(self) -> dict[str, int]:
        """Return total_episodes and, where that is known, total_frames as they should be in
        info.json.
        """
        totals = {"total_episodes": len(self.episodes)}
        if self._map is not None:
            mapped = self._map
            owned = np.isin(mapped.episodes, self.episodes)
            totals["total_frames"] = int((mapped.stops - mapped.starts)[owned].sum())
        elif None not in self._listed.lengths:
            totals["total_frames"] = sum(length or 0 for length in self._listed.lengths)
        return totals

    def _compare(self, mapped: RowMap, report: Report) -> None:
        """Correct by the rows which episodes there are, and report where the metadata says
        otherwise.
        """
        if not mapped.is_in_order:
            report(
                finding(
                    "rows-out-of-order", DATA_FOLDER, "rows do not lie in their episodes' order"
                )
            )
        empty = [
            index
            for index, length in zip(self.indices.tolist(), self._listed.lengths, strict=True)
            if length is None and not mapped.pieces(index)
        ]
        if empty and not mapped.unreadable:
            report(
                _of_episodes(
                    "episode-without-rows", self._listed.where, empty, "no file has rows of"
                )
            )
            self.episodes = np.setdiff1d(self.indices, empty)
        unlisted = np.setdiff1d(mapped.found, self.indices).tolist()
        if unlisted:
            code = (
                "episode-not-listed-left-out" if self._listed.has_cameras else "episode-not-listed"
            )
            report(_of_episodes(code, self._listed.where, unlisted, "it does not list"))
        if not self._listed.has_cameras:
            self.episodes = np.union1d(self.episodes, unlisted).astype(np.int64)


def _of_episodes(code: str, where: str, indices: Sequence[int], what: str) -> Finding:
    return finding(code, where, f"{what} episode {some(indices, SHOWN)}")
