"""The pictures that a process finds in a frame cache, and those that it adds to it."""

import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.decoding.pictures import Picture, copy_picture, with_pixels
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.frame_cache.layout import IntArray, Layout
from roboshard.loader.frame_cache.store import FrameStore
from roboshard.loader.samples.rows import WindowedStep
from roboshard.loader.stats import StatsCounter
from roboshard.storage.locks import lock


@dataclass(frozen=True, kw_only=True)
class FrameCacheSpec:
    """What a process has to know of a frame cache to take part in it. Picklable."""

    folder: Path
    """Folder in which the stores lie."""
    layout: Layout
    is_checked: bool
    """Whether pictures that are found are held against their checksums: on disks they are."""


class Found(NamedTuple):
    """Pictures of a step that are in the cache."""

    key: str
    store: FrameStore
    places: IntArray
    """Where the pictures go, among all pictures of the key in the step."""
    rows: IntArray
    """Which rows of the dataset show the pictures."""


class FrameCache:
    """The stores of a loader, as one process sees them. For any number of threads."""

    def __init__(self, spec: FrameCacheSpec, counter: StatsCounter) -> None:
        """Open the stores. Those that cannot be opened are done without, with a warning."""
        self._layout = spec.layout
        self._first_row = np.concatenate([rows[:-1] for rows in spec.layout.first_row])
        """First row of each episode among the rows of its dataset, by the episode's position."""
        self._kept = np.concatenate(spec.layout.kept)
        self._folder = spec.folder
        self._counter = counter
        self._closing = threading.Lock()
        """Held by the thread that ends writing, so that only one thread warns of it."""
        self._stores: dict[tuple[int, str], FrameStore] = {}
        failure: OSError | None = None
        for store in spec.layout.stores:
            try:
                opened = FrameStore(spec.folder, store, is_checked=spec.is_checked)
            except OSError as error:
                failure = error
                continue
            self._stores[store.source, store.key] = opened
        if failure is not None:
            self._warn("cannot be used", failure)
        elif not all(store.is_writable for store in self._stores.values()):
            self._warn("cannot be written: what is there is used, and nothing is added", None)

    def find(self, step: WindowedStep) -> list[Found]:
        """Return which pictures of a step are in the cache, as far as can be known without reading
        them.
        """
        positions = np.asarray([episode.position for episode in step.episodes], dtype=np.int64)
        position = positions[step.episode_of]
        is_kept = self._kept[position]
        source = np.searchsorted(self._layout.first, position, side="right") - 1
        found = []
        for key, shown in step.rows.items():
            rows = (self._first_row[position][:, None] + shown).ravel()
            places = np.flatnonzero(np.repeat(is_kept, shown.shape[1]))
            of_source = source[places // shown.shape[1]]
            places = places[np.argsort(of_source, kind="stable")]
            numbers, counts = np.unique(of_source, return_counts=True)
            ends = np.cumsum(counts)
            for number, end, count in zip(
                numbers.tolist(), ends.tolist(), counts.tolist(), strict=True
            ):
                store = self._stores.get((number, key))
                if store is not None:
                    inside = places[end - count : end]
                    there = self._has(store, number, rows[inside])
                    if there.any():
                        found.append(Found(key, store, inside[there], rows[inside[there]]))
        return found

    def rows(self, source: Any, key: str) -> "EpisodeRows | None":
        """Return the places of an episode's pictures; None: none of them are kept, or `source` is
        no episode.
        """
        if not isinstance(source, Episode):
            return None
        number = int(np.searchsorted(self._layout.first, source.position, side="right")) - 1
        local = source.position - int(self._layout.first[number])
        store = self._stores.get((number, key))
        if store is None or not self._layout.kept[number][local]:
            return None
        first = int(self._layout.first_row[number][local])
        return EpisodeRows(self, store, source, key, first)

    def add(self, store: FrameStore, rows: Sequence[int], pixels: NDArray[Any]) -> None:
        """Keep a picture. Where there is no more room, that is a warning, and nothing more is
        kept.
        """
        if not store.is_writable:
            return
        try:
            self._counter.add(frame_cache_bytes_written=store.write(rows, pixels))
        except OSError as error:
            with self._closing:
                is_first = any(each.is_writable for each in self._stores.values())
                for each in self._stores.values():
                    each.is_writable = False
            if is_first:
                self._warn("takes no more pictures: what is there is used", error)

    def good(self, store: FrameStore, rows: IntArray) -> NDArray[np.bool_]:
        """Return which pictures are what was written, (rows,); what is damaged is counted, and made
        again.
        """
        good = store.good(rows)
        if not good.all():
            self._counter.add(frame_cache_damaged=int((~good).sum()))
        return good

    def _has(self, store: FrameStore, source: int, rows: IntArray) -> NDArray[np.bool_]:
        has = store.has(rows)
        if has.all():
            return has
        first_row = self._layout.first_row[source]
        lacking = np.unique(np.searchsorted(first_row, rows[~has], side="right") - 1)
        for episode in lacking.tolist():
            store.look(int(first_row[episode]), int(first_row[episode + 1]))
        return store.has(rows)

    def _warn(self, what: str, error: OSError | None) -> None:
        """Warn, if no other process that shares the files has: a lock says so, which ends with
        it.
        """
        stores = list(self._stores.values())
        if stores and not _is_first(stores[0].marks):
            return
        reason = "" if error is None else f" ({error.strerror or error})"
        warnings.warn(
            f"frame cache {self._folder} {what}{reason}; other pictures are decoded as without it",
            RuntimeWarning,
            stacklevel=3,
        )


class EpisodeRows(NamedTuple):
    """The places of an episode's pictures of one camera, by the frames that its rows show."""

    cache: FrameCache
    store: FrameStore
    episode: Episode
    key: str
    first: int
    """The episode's first row in the dataset."""

    def of(self, frame: int) -> IntArray:
        """Return the rows of the dataset that show a frame of the slice."""
        return self.first + self.episode.rows_of_frame(self.key, frame)

    def known(self, frames: Sequence[int]) -> dict[int, int]:
        """Return frame -> a row that shows it, of the frames whose pictures are there and good."""
        self.store.look(self.first, self.first + self.episode.length)
        shown = {frame: rows[0] for frame in frames if len(rows := self.of(frame))}
        rows = np.fromiter(shown.values(), dtype=np.int64, count=len(shown))
        has = self.store.has(rows)
        if not has.any():
            return {}
        has[has] = self.cache.good(self.store, rows[has])
        return {
            frame: int(row)
            for (frame, row), there in zip(shown.items(), has.tolist(), strict=True)
            if there
        }

    def pictures(self, known: dict[int, int]) -> Iterator[tuple[int, Picture]]:
        """Yield the frames that `known` returned with their pictures."""
        return ((frame, self.store.picture(row)) for frame, row in known.items())

    def with_passed(self, frames: Sequence[int]) -> list[int]:
        """Return ascending frames with those that decoding them passes, and that are not kept yet.

        They are all but decoded then, and the decoder need not come for them again.
        """
        if not self.store.is_writable:
            return list(frames)
        wanted = set(frames)
        return [
            frame
            for frame in self.episode.passed(self.key, frames)
            if frame in wanted
            or (len(rows := self.of(frame)) and not bool(self.store.has(rows).all()))
        ]

    def keep(self, frame: int, picture: Picture) -> Picture:
        """Keep a decoded picture, if it is one that is kept, and return it with its values
        there.
        """
        rows = self.of(frame)
        if not len(rows) or not self.store.is_writable or not self.store.fits(picture):
            return picture
        pixels: NDArray[Any] = np.asarray(with_pixels(picture))
        self.cache.add(self.store, rows.tolist(), pixels)
        return pixels


def copy_found(found: Found, memory: NDArray[Any]) -> None:
    """Copy pictures, which must be good, to their places in the memory of a batch."""
    first, number = int(found.places[0]), len(found.places)
    is_run = int(found.places[-1]) - first == number - 1
    if is_run and memory.dtype == np.dtype(found.store.spec.dtype):
        found.store.copy(found.rows, memory[first : first + number])
        return
    for place, row in zip(found.places.tolist(), found.rows.tolist(), strict=True):
        copy_picture(found.store.picture(row), memory[place])


def _is_first(file: int) -> bool:
    """Whether no other process has locked a file before this one."""
    try:
        return lock(file, wait=False)
    except OSError:
        return True
