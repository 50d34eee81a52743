"""Files in JSON Lines: metadata of LeRobot v2."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common import jsonio
from roboshard.common.errors import SourceError
from roboshard.common.selection import positions_of
from roboshard.converter.source.files import SourceFiles, refuse_pointer
from roboshard.converter.source.findings import Report, finding
from roboshard.shards.names import MAX_EPISODES

MAX_LINE_BYTES = (
    7 << 20
)  # two of them, an episode and its statistics, fit into what a shard holds of it


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a file in JSON Lines."""

    where: str
    """File and line number, as messages name them."""
    number: int
    """Number of the line in its file, from 1 on."""
    offset: int
    size: int
    value: dict[str, Any]

    @property
    def episode(self) -> int:
        """The line's episode_index."""
        return self.integer("episode_index", 0, MAX_EPISODES - 1)

    def integer(self, name: str, least: int, most: int) -> int:
        """A field that must be a whole number within bounds; 6.0 is one."""
        value = self.value.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            value = None
        if value is None or not least <= value <= most:
            raise SourceError(
                f"{self.where}: {name} must be an integer in {least}..{most}, not "
                f"{self.value.get(name)!r:.80}; correct the line"
            )
        return int(value)


@dataclass(frozen=True, kw_only=True)
class EpisodeLines:
    """A file in JSON Lines with a line for each episode: where they lie.

    They are read when they are needed.
    """

    files: SourceFiles
    path: str
    indices: NDArray[np.int64]
    """(num_episodes,) episode_index of each episode that has a line, ascending."""
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    numbers: NDArray[np.int64]
    has_doubles: bool
    """Whether an episode has several lines."""

    @classmethod
    def scan(
        cls,
        files: SourceFiles,
        path: str,
        use: Callable[[Line], None],
        report: Report,
    ) -> "EpisodeLines":
        """Read the whole file, and `use` each line once; of two lines of an episode the last one
        counts.
        """
        places: dict[int, tuple[int, int, int, int]] = {}
        count = 0
        for line in read_lines(files, path):
            if line.episode in places:
                what = f"episode {line.episode} is in line {places[line.episode][3]} too"
                report(finding("episode-listed-twice", f"{path}, line {line.number}", what))
            use(line)
            count += 1
            places[line.episode] = (line.episode, line.size, line.offset, line.number)
        columns = np.array(sorted(places.values()), dtype=np.int64).reshape(-1, 4).T
        indices, sizes, offsets, numbers = columns
        return cls(
            files=files,
            path=path,
            indices=indices,
            sizes=sizes,
            offsets=offsets,
            numbers=numbers,
            has_doubles=count > len(places),
        )

    def read(self, indices: Sequence[int]) -> list[Line | None]:
        """The lines of these episodes, in this order; None where there is none."""
        lines: list[Line | None] = []
        with self.files.metadata_path(self.path).open("rb") as file:
            for position in self.positions(np.asarray(indices, dtype=np.int64)).tolist():
                if position < 0:
                    lines.append(None)
                    continue
                file.seek(int(self.offsets[position]))
                data = file.read(int(self.sizes[position]))
                number = int(self.numbers[position])
                lines.append(
                    _parse(self.files, self.path, number, int(self.offsets[position]), data)
                )
        return lines

    def positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position in the file's `indices` of each of these episodes; -1: it has no
        line.
        """
        return positions_of(indices, self.indices)

    def sizes_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of these episodes' lines."""
        positions = self.positions(indices)
        if not self.sizes.size:
            return np.zeros(len(indices), dtype=np.int64)
        return np.where(positions < 0, 0, self.sizes[positions])


def read_lines(files: SourceFiles, path: str) -> Iterator[Line]:
    """Yield all lines of a file but empty ones."""
    number = offset = 0
    refuse_pointer(files.metadata_path(path), files.where(path))
    with files.metadata_path(path).open("rb") as file:
        while data := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if data.strip() or len(data) > MAX_LINE_BYTES:
                yield _parse(files, path, number, offset, data)
            offset += len(data)


def _parse(files: SourceFiles, path: str, number: int, offset: int, data: bytes) -> Line:
    where = f"{files.where(path)}, line {number}"
    value = jsonio.load(data, where, MAX_LINE_BYTES)
    return Line(where=where, number=number, offset=offset, size=len(data), value=value)
