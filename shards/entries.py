"""Entries of shard manifests: a manifest is hashed as a whole, and parsed where it is used.

A shard of many small episodes has a manifest of megabytes, whose parsing takes seconds, where what
is read next is one episode. So the manifest is compared with its hash when its shard is first used,
and the places of its entries are noted: three numbers an episode, whatever the manifest holds. An
entry is parsed when its episode is read, and all is checked that concerns it.

    first use    read it, compare its hash, find its entries, as `document_bytes` writes them
    an entry     its bytes, from memory or from where they lie, with the CRC32C that they had then
    in doubt     the whole manifest is parsed and checked as `load_shard_manifest` does it
"""

import os
from bisect import bisect_left
from collections import OrderedDict
from contextlib import suppress
from functools import cached_property
from operator import attrgetter
from threading import Lock
from typing import NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common import jsonio
from roboshard.common.errors import DamageError, FormatError, MissingError, RoboshardError
from roboshard.shards.fetch import ReadSettings
from roboshard.shards.index import EpisodeIndex
from roboshard.shards.manifest import (
    load_manifest_bytes,
    parse_shard_manifest,
    stored_manifest,
)
from roboshard.shards.names import sample_key
from roboshard.shards.problems import member_problems
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    DatasetManifest,
    SampleEntry,
    ShardManifest,
    parse,
    parse_value,
)
from roboshard.shards.shard_list import ShardEntry
from roboshard.shards.writer import crc_text

KEPT_BYTES = 8 << 20
"""Bytes of manifests that a process keeps, those used last; others are read again where they lie.

One that was parsed as a whole is kept all the same."""
NUM_LOCKS = 64

SAMPLES = b'"samples":['
BEGIN = b'{"key":"ep-'
"""How an entry begins, and nothing else: in a text the quotes would be escaped."""
DIGITS = 9
BETWEEN = b"},"
"""How an entry ends that another one follows."""
ENDS = (b"}]}\n", b"}]}")
"""How a manifest ends, with a newline or without."""
MAX_HEAD_BYTES = 4096
_UNTOLD = "an entry"
"""Name in errors that nobody sees: the whole manifest is parsed then, whose errors name it."""


class Found(NamedTuple):
    """Where the entries of a manifest lie, in order."""

    starts: NDArray[np.uint32]
    """(n + 1,) First byte of each entry, and the one after the last."""
    checksums: NDArray[np.uint32]
    """(n,) CRC32C of the bytes from each start to the next."""


class SampleEntries:
    """The entries of a dataset's samples. For any number of threads; made anew in each process."""

    def __init__(
        self, root: str, manifest: DatasetManifest, index: EpisodeIndex, settings: ReadSettings
    ) -> None:
        """Start without having read anything."""
        self._root, self._manifest, self._index, self._settings = root, manifest, index, settings
        self._locks: dict[int, tuple[Lock, ...]] = {}
        """Process id -> locks: a fork may copy a lock that is held."""
        self._guard: dict[int, Lock] = {}
        self._held: OrderedDict[int, bytes | ShardManifest] = OrderedDict()
        """Shard -> its manifest: as bytes, or parsed where its entries are in doubt."""
        self._held_bytes = 0
        shards, episodes = len(manifest.shards), len(index)
        # Of zeros, to which the system gives memory where they are written.
        self._is_known: NDArray[np.bool_] = np.zeros(shards, dtype=np.bool_)
        """(shards,) Whether each shard's manifest was compared with its hash."""
        self._is_doubtful: NDArray[np.bool_] = np.zeros(shards, dtype=np.bool_)
        """(shards,) Whether each shard's entries are taken from the whole manifest."""
        self._starts: NDArray[np.uint32] = np.zeros(episodes, dtype=np.uint32)
        self._ends: NDArray[np.uint32] = np.zeros(episodes, dtype=np.uint32)
        self._checksums: NDArray[np.uint32] = np.zeros(episodes, dtype=np.uint32)
        """(episodes,) CRC32C of each episode's entry, in the manifest of its shard."""

    def sample(self, position: int) -> SampleEntry:
        """Return the entry of the episode at `position` of the index.

        Raises:
            DamageError, FormatError, MissingError, StorageError: its shard's manifest, or a local
                shard's size, is not what dataset.json and the index say.
        """
        number = int(self._index.shard[position])
        if not self._is_known[number]:
            with self._lock(number):  # of several threads, one reads it
                if not self._is_known[number]:
                    self._meet(number)
        if not self._is_doubtful[number]:
            entry = self._entry(number, position)
            if entry is not None:
                return entry
        return self._entry_of_whole(number, position)

    # -- First use ---------------------------------------------------------------------------------

    def _meet(self, number: int) -> None:
        """Check a shard's manifest, and a local shard's size.

        Of others each read brings the size.
        """
        shard = self._manifest.shards[number]
        data = self._load(shard)
        url = storage.join(self._root, shard.name)
        if storage.is_local(url):
            check_shard_size(url, shard.size)
        places = self._places(number)
        found = self._find(shard, data, places)
        if found is None:
            self._is_doubtful[number] = True
            self._hold(number, self._parse(shard, data))
        else:
            self._starts[places], self._checksums[places] = found.starts[:-1], found.checksums
            self._ends[places] = found.starts[1:]
            self._hold(number, data)
        self._is_known[number] = True

    def _find(self, shard: ShardEntry, data: bytes, places: NDArray[np.int64]) -> Found | None:
        """Return where the entries lie; None unless the index and all else fit."""
        index = self._index
        ends = index.offset[places] + index.size[places]
        starts = np.concatenate([[0], ends[:-1]])
        if ends[-1] != shard.size or not np.array_equal(index.offset[places], starts):
            return None
        return find_entries(data, shard, index.episode_index[places])

    # -- One entry ---------------------------------------------------------------------------------

    def _entry(self, number: int, position: int) -> SampleEntry | None:
        """The entry at its place; None where anything about it is not as it must be."""
        entry = parse_entry(self._bytes(number, position))
        is_right = (
            entry is not None
            and _identity(entry) == self._expected(position)
            and entry.key == sample_key(entry.episode_index)
            and not member_problems(entry)
        )
        return entry if is_right else None

    def _bytes(self, number: int, position: int) -> bytes:
        """Return the bytes of an entry, those of the manifest whose hash was compared."""
        begin, end = int(self._starts[position]), int(self._ends[position])
        with self._lock_of_held:
            held = self._held.get(number)
            if held is not None:
                self._held.move_to_end(number)
        if isinstance(held, bytes):
            return held[begin:end]
        shard = self._manifest.shards[number]
        place = stored_manifest(self._root, shard, self._settings.cache)
        if place is not None:
            with suppress(RoboshardError, OSError):
                data = storage.read_range(place, begin, end - begin)
                if crc32c(data) == int(self._checksums[position]):
                    return data
        data = self._load(shard)
        self._hold(number, data)
        return data[begin:end]

    # -- In doubt ----------------------------------------------------------------------------------

    def _entry_of_whole(self, number: int, position: int) -> SampleEntry:
        """The entry out of the whole manifest, all of which is checked."""
        shard = self._manifest.shards[number]
        with self._lock_of_held:
            held = self._held.get(number)
        if not isinstance(held, ShardManifest):
            data = self._load(shard)
            held = self._parse(shard, data)
            self._hold(number, held)
        samples, expected = held.samples, self._expected(position)
        place = bisect_left(samples, int(self._index.offset[position]), key=attrgetter("offset"))
        sample = samples[place] if place < len(samples) else None
        if sample is None or _identity(sample) != expected:
            what = storage.redacted(storage.join(self._root, shard.manifest.name))
            raise FormatError(
                f"{what}: does not hold episode {int(self._index.episode_index[position])} where "
                "the index says; `roboshard rebuild` derives both again"
            )
        return sample

    def _parse(self, shard: ShardEntry, data: bytes) -> ShardManifest:
        url = storage.redacted(storage.join(self._root, shard.manifest.name))
        return parse_shard_manifest(data, shard, url)

    def _expected(self, position: int) -> tuple[int, int, int, int, str]:
        index = self._index
        return (
            int(index.offset[position]),
            int(index.episode_index[position]),
            int(index.length[position]),
            int(index.size[position]),
            crc_text(int(index.crc32c[position])),
        )

    # -- What is kept ------------------------------------------------------------------------------

    def _load(self, shard: ShardEntry) -> bytes:
        settings = self._settings
        return load_manifest_bytes(self._root, shard, policy=settings.policy, cache=settings.cache)

    def _hold(self, number: int, manifest: bytes | ShardManifest) -> None:
        """Keep a manifest, and of those used longest ago no more than there is room for."""
        sizes = self._manifest.shards
        with self._lock_of_held:
            if number in self._held:
                self._held_bytes -= sizes[number].manifest.size
            self._held[number] = manifest
            self._held.move_to_end(number)
            self._held_bytes += sizes[number].manifest.size
            is_parsed = isinstance(manifest, ShardManifest)  # again for each entry: seconds
            while self._held_bytes > KEPT_BYTES and len(self._held) > is_parsed:
                dropped, _ = self._held.popitem(last=False)
                self._held_bytes -= sizes[dropped].manifest.size

    def _lock(self, number: int) -> Lock:
        locks = self._locks.get(os.getpid())
        if locks is None:
            made = tuple(Lock() for _ in range(NUM_LOCKS))
            locks = self._locks.setdefault(os.getpid(), made)
        return locks[number % NUM_LOCKS]

    @property
    def _lock_of_held(self) -> Lock:
        return self._guard.get(os.getpid()) or self._guard.setdefault(os.getpid(), Lock())

    # -- Where shards are in the index -------------------------------------------------------------

    @cached_property
    def _stored_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions by shard and offset, and where in them each shard begins."""
        index = self._index
        order = np.lexsort((index.offset, index.shard))
        counts = np.bincount(index.shard, minlength=len(self._manifest.shards))
        return order, np.concatenate([[0], np.cumsum(counts)])

    def _places(self, number: int) -> NDArray[np.int64]:
        """Positions in the index of a shard's episodes, in the order in which they lie."""
        order, first = self._stored_order
        return order[first[number] : first[number + 1]]


def find_entries(data: bytes, shard: ShardEntry, episodes: NDArray[np.int64]) -> Found | None:
    """Return where the entries of a shard manifest lie, of which none is parsed.

    Args:
        data: the manifest, compared with its hash.
        shard: what dataset.json says of the shard.
        episodes: the episode indices that the entries must be of, in order.

    Returns:
        None where it is not laid out as `document_bytes` does it, or does not hold those episodes
        in that order.
    """
    head, *pieces = data.split(BEGIN)
    last = BEGIN + pieces[-1] if pieces else b""
    if not (
        _is_head(head, data, shard)
        and len(pieces) == len(episodes)
        and b"".join(piece[:DIGITS] for piece in pieces) == _digits(episodes)
        and all(piece.endswith(BETWEEN) for piece in pieces[:-1])
        and last.endswith(ENDS)
        and parse_entry(last) is not None  # nothing follows the entries
    ):
        return None
    sizes = np.fromiter((len(piece) for piece in pieces), np.int64, len(pieces)) + len(BEGIN)
    before = crc32c(BEGIN)
    return Found(
        np.concatenate([[len(head)], len(head) + np.cumsum(sizes)]).astype(np.uint32),
        np.fromiter((crc32c(piece, before) for piece in pieces), np.uint32, len(pieces)),
    )


def _is_head(head: bytes, data: bytes, shard: ShardEntry) -> bool:
    """Whether what comes before the entries is right, and the whole small enough to parse."""
    if len(head) > MAX_HEAD_BYTES or not head.endswith(SAMPLES):
        return False
    try:
        jsonio.check_counts(data, _UNTOLD)
        found = parse(ShardManifest, head + b"]}", _UNTOLD, MAX_HEAD_BYTES + 2)
    except FormatError:
        return False
    return (found.shard, found.size, found.sha256) == (shard.name, shard.size, shard.sha256)


def _digits(episodes: NDArray[np.int64]) -> bytes:
    """How keys name these episodes, one after the other."""
    return b"".join(b"%09d" % episode for episode in episodes.tolist())


def parse_entry(data: bytes) -> SampleEntry | None:
    """Return the one entry in these bytes of a manifest: from its start to the next, or the end."""
    end = next((end for end in (BETWEEN, *ENDS) if data.endswith(end)), None)
    if end is None:
        return None
    alone = SAMPLES.join((b"{", data[: len(data) - len(end) + 1] + b"]}"))  # as deep as it was
    try:
        value = jsonio.load(alone, _UNTOLD, MAX_MANIFEST_BYTES)
        is_one = value.keys() == {"samples"} and len(value["samples"]) == 1
        return parse_value(SampleEntry, value["samples"][0], _UNTOLD) if is_one else None
    except FormatError:
        return None


def check_shard_size(url: str, expected: int) -> None:
    """Raise MissingError or DamageError unless the shard at `url` is there with the size it had
    when written.
    """
    try:
        found = storage.size(url)
    except MissingError:
        raise MissingError(
            f"{storage.redacted(url)}: missing, though dataset.json lists it; copy it again"
        ) from None
    if found != expected:
        raise DamageError(
            f"{storage.redacted(url)}: {found} bytes where dataset.json says {expected}: cut off "
            "or replaced"
        )


def _identity(sample: SampleEntry) -> tuple[int, int, int, int, str]:
    return sample.offset, sample.episode_index, sample.length, sample.size, sample.crc32c
