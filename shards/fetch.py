"""Reading pieces of a shard: neighbours in one read, each verified, through the disk cache where
there is one.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from roboshard import storage
from roboshard.common.errors import DamageError, MissingError
from roboshard.shards.ranges import ByteRange, coalesce
from roboshard.shards.sample import Piece
from roboshard.shards.shard_list import ShardEntry
from roboshard.storage.cache import CacheKey, DiskCache, Keep, object_of
from roboshard.storage.stored import StoredRange

MAX_READ = 16 << 20
"""Bytes of one read of several pieces. Object stores are at their best from 8 to 64 MiB."""
MAX_GAP = 128 << 10
"""Unwanted bytes between two pieces that are cheaper to read than a second request."""

MAX_CLAIMS = 8
"""Pieces that a read for the disk cache brings beside the one asked for: each takes two open files
meanwhile.
"""

Origin = Literal["file", "network", "cache"]
OnRead = Callable[[int, Origin], None]
"""A callback that is told the bytes of each read, and where they came from."""


def ignore(_num_bytes: int, _origin: str) -> None:
    """The `OnRead` of a caller who does not want to know."""


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How shards are read."""

    cache: DiskCache | None = None
    """Where bytes of remote shards are kept; None: nowhere."""
    policy: storage.RetryPolicy = storage.READING
    """How long a remote read is tried."""


class ShardReads:
    """Pieces of one shard: what is planned to be read together is read when the first of it is
    asked for.

    For one thread. Keeps what it has read until it is dropped itself.
    """

    def __init__(
        self,
        root: str,
        shard: ShardEntry,
        planned: Sequence[Piece],
        settings: ReadSettings,
        on_read: OnRead,
    ) -> None:
        """Plan to read some pieces; nothing is read yet."""
        self._url = storage.join(root, shard.name)
        self._shard = shard
        self._is_local = storage.is_local(self._url)
        self._total = None if self._is_local else shard.size  # of local ones known before
        self._cache = None if self._is_local else settings.cache
        self._object = (
            ""
            if self._cache is None
            else object_of(storage.identity(self._url), shard.size, shard.sha256)
        )
        self._policy = settings.policy
        self._on_read = on_read
        self._pieces: list[Piece] = []
        self._planned: list[ByteRange] = []
        places = {piece.range: piece for piece in planned}
        # What is cached is no gap to read over: its bytes would come twice.
        for is_cached, run in groupby((places[at] for at in sorted(places)), self._is_cached):
            if not is_cached:
                pieces = list(run)
                self._pieces += pieces
                self._planned += _reads_of(pieces)
        self._read: dict[ByteRange, memoryview] = {}

    def get(self, piece: Piece, where: str) -> memoryview:
        """The bytes of a piece, planned or not, verified.

        Raises DamageError, MissingError, StorageError.
        """
        cache = self._cache
        if cache is None or self._block_of(piece.range) in self._read:
            return self._verified(piece, where)
        fetched = False

        def fetch() -> bytes:
            nonlocal fetched
            fetched = True
            with ExitStack() as held:
                others = self._claimed_with(cache, piece, held)
                data = bytes(self._verified(piece, where))
                # Before the first piece can be seen: who waits for it need not read the rest too.
                for other, keep in others:
                    found = self._from_block(other.range)
                    with suppress(DamageError):  # it is read again when it is asked for
                        other.check(found, str(other.range))
                        keep(found)
            return data

        data = cache.get(self._key(piece), piece.range.length, fetch)
        if not fetched:
            self._on_read(len(data), "cache")
        return memoryview(data)

    def stored(self, piece: Piece) -> StoredRange | None:
        """Return where a piece that was read lies in a local file, if it does; a cache may remove
        its own.
        """
        if self._is_local:
            path = str(storage.local_path(self._url))
            return StoredRange(path, piece.range.offset, piece.range.length)
        if self._cache is None or not self._is_cached(piece):
            return None
        entry = self._cache.path(self._key(piece), piece.range.length)
        return StoredRange(str(entry), 0, piece.range.length)

    def _verified(self, piece: Piece, where: str) -> memoryview:
        data = self._from_block(piece.range)
        try:
            piece.check(data, where)
        except DamageError:
            if self._is_local:
                raise
            storage.forget(self._url)
            # A proxy's or a network's fault may not come twice.
            data = self._from_storage(piece.range)
            piece.check(data, where)
            if self._cache is not None:  # beside another one it was damaged, and not kept
                self._cache.keep(self._key(piece), data)
        return data

    def _claimed_with(
        self, cache: DiskCache, first: Piece, held: ExitStack
    ) -> list[tuple[Piece, Keep]]:
        """Claim what one read brings with a piece, up to where another process brings it.

        The read becomes as short as that.
        """
        block = self._block_of(first.range)
        inside = [piece for piece in self._pieces if block.covers(piece.range)]
        if first not in inside:
            return []
        place = inside.index(first)
        found: list[tuple[Piece, Keep]] = []
        begin, end = place, place + 1
        while end < len(inside) and (keep := self._claim(cache, inside[end], found, held)):
            found.append((inside[end], keep))
            end += 1
        while begin > 0 and (keep := self._claim(cache, inside[begin - 1], found, held)):
            begin -= 1
            found.append((inside[begin], keep))
        self._planned.remove(block)
        for part in (inside[:begin], inside[begin:end], inside[end:]):
            self._planned += _reads_of(part)
        return found

    def _claim(
        self, cache: DiskCache, piece: Piece, claimed: Sequence[object], held: ExitStack
    ) -> Keep | None:
        if len(claimed) == MAX_CLAIMS:
            return None
        return cache.claim(self._key(piece), piece.range.length, held)

    def _block_of(self, wanted: ByteRange) -> ByteRange:
        return next((block for block in self._planned if block.covers(wanted)), wanted)

    def _from_block(self, wanted: ByteRange) -> memoryview:
        block = self._block_of(wanted)
        if block not in self._read:
            self._read[block] = self._from_storage(block)
        return self._read[block][wanted.offset - block.offset :][: wanted.length]

    def _from_storage(self, wanted: ByteRange) -> memoryview:
        try:
            data = storage.read_range(
                self._url, wanted.offset, wanted.length, total=self._total, policy=self._policy
            )
        except MissingError:
            what = storage.redacted(self._url)
            raise MissingError(
                f"{what}: missing, though dataset.json lists it; copy it again"
            ) from None
        self._on_read(len(data), "file" if self._is_local else "network")
        return memoryview(data)

    def _key(self, piece: Piece) -> CacheKey:
        return CacheKey(self._object, piece.range.offset, int(piece.crc32c, 16))

    def _is_cached(self, piece: Piece) -> bool:
        return self._cache is not None and self._cache.holds(self._key(piece), piece.range.length)


def _reads_of(pieces: Sequence[Piece]) -> list[ByteRange]:
    """The reads that bring pieces."""
    ranges = [piece.range for piece in pieces]
    return coalesce(ranges, max_gap=MAX_GAP, max_length=MAX_READ)
