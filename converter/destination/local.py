"""The folder that a conversion writes to: one writer at a time, and nothing in it that another one
wrote.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from roboshard import storage
from roboshard.common import interrupts
from roboshard.common.errors import OptionError, RoboshardError, StorageError
from roboshard.converter.destination.api import GROW, SeenShard, files_of, write_skipped
from roboshard.shards.manifest import conversion_named, load_dataset_manifest, write_dataset
from roboshard.shards.names import (
    DATASET_MANIFEST,
    SHARD_FOLDER,
    SNAPSHOT_FOLDER,
    is_shard_name,
    shard_manifest_name,
    shard_name,
)
from roboshard.shards.rebuild import rebuild_shard
from roboshard.shards.schema import MAX_MANIFEST_BYTES, Provenance, ShardManifest
from roboshard.storage.locks import lock

SEEN_WITHIN_S = 30.0
"""Seconds within which a file that another node wrote must be seen here; network file systems take
moments.
"""


@dataclass(frozen=True)
class LocalPlace:
    """Where one shard goes: the dataset's own folder."""

    folder: Path
    shard: str

    def exists(self) -> bool:
        """Whether there is anything of the shard."""
        return any((self.folder / name).exists() for name in files_of(self.shard))

    def finished(self) -> SeenShard | None:
        """Return what an earlier run left of shard and manifest; None: one cannot be read."""
        path, manifest = (str(self.folder / name) for name in files_of(self.shard))
        try:
            return storage.read_all(manifest, MAX_MANIFEST_BYTES), *_hash_file(path)
        except RoboshardError:
            return None

    def deliver(self, manifest: ShardManifest | None) -> None:
        """Do nothing: the shard was written where it belongs."""

    @contextmanager
    def on_node(self) -> Iterator["LocalPlace"]:
        """Yield this very place. Raises OptionError where the machine does not see the folder."""
        if not self.folder.is_dir():
            raise self._not_shared()
        yield self

    def check_seen(self, manifest: ShardManifest) -> None:
        """See that a shard which another machine wrote is here too. Raises OptionError where it is
        not: that machine has a folder of this name of its own.
        """
        path, end = self.folder / self.shard, time.monotonic() + SEEN_WITHIN_S
        while not path.exists() or path.stat().st_size != manifest.size:
            if time.monotonic() > end:
                raise self._not_shared()
            time.sleep(0.2)

    def _not_shared(self) -> OptionError:
        return OptionError(
            f"{self.folder}: not every node of the cluster sees this folder; it must be on shared "
            "storage"
        )


class LocalDestination:
    """A folder that a conversion writes to, of this machine or of one that is mounted."""

    def __init__(self, folder: Path, conversion: str) -> None:
        """Convert to a folder, which need not be there yet."""
        self.root = str(folder)
        self.shown = folder
        self._conversion = conversion

    @contextmanager
    def prepared(self, part: range | None) -> Iterator[None]:
        """Hold the folder, alone or together with other parts; refuse what another conversion wrote
        in it.
        """
        with locked(self.shown, shared=part is not None):
            _prepare(self.shown, self._conversion, part)
            yield

    @property
    def first_shard(self) -> int:
        """Number of the first shard."""
        return 0

    def place(self, number: int) -> LocalPlace:
        """Return where a shard goes, by its number in the plan."""
        return LocalPlace(self.shown, shard_name(self.first_shard + number))

    def publish_skipped(self, skipped: Sequence[tuple[int, str]], tried: Set[int]) -> None:  # noqa: ARG002 - all were
        """Write skipped.json, or remove an old one."""
        write_skipped(self.shown, skipped)

    def publish(self, provenance: Provenance, manifests: Sequence[ShardManifest]) -> None:
        """Write the index, then dataset.json."""
        write_dataset(self.shown, provenance, manifests)


@contextmanager
def locked(destination: Path, *, shared: bool = False) -> Iterator[None]:
    """Make the folder and hold it against a second conversion; the lock goes with the process.

    Temporary files are removed at the end, however it comes: workers may have been killed.

    Args:
        destination: the folder.
        shared: hold it together with other parts of the same conversion, whose temporary files
            stay.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(destination, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"{destination}: cannot be made or opened: {error.strerror}") from error
    try:
        if not lock(descriptor, shared=shared, wait=False):
            raise OptionError(
                f"{destination}: another conversion is writing here; wait until it ends"
            )
        tidy = partial(_remove_temporaries, destination, shared)
        with interrupts.removed_at_exit(tidy):
            try:
                yield
            finally:
                tidy()
    finally:
        os.close(descriptor)


def _remove_temporaries(destination: Path, shared: bool) -> None:
    if not shared:
        storage.remove_temporaries(destination, [SHARD_FOLDER, SNAPSHOT_FOLDER])


def _prepare(destination: Path, conversion: str, part: range | None) -> None:
    """Refuse a folder that holds other shards; withdraw dataset.json until all shards are seen to
    be there.

    With the numbers of a part's shards only those are looked at, and temporaries stay: they may be
    of parts that are being written now.

    Raises:
        OptionError: shards of another conversion, or such as no conversion wrote.
    """
    if part is None:
        storage.remove_temporaries(destination, [SHARD_FOLDER])
        found = shards_in(destination)
    else:
        found = {shard_name(number) for number in part}
    for name in sorted(found):
        if not is_ours(destination, name, conversion):
            raise OptionError(
                f"{destination}: holds shards of another conversion (another source, other options "
                f"or other library versions: {name}). Choose another folder, or remove this one "
                f"first; {GROW}"
            )
    manifest = destination / DATASET_MANIFEST
    if manifest.exists() and _dataset_conversion(destination) not in (conversion, None):
        raise OptionError(
            f"{destination}: holds another dataset. Choose another folder, or remove this one "
            f"first; {GROW}"
        )
    if manifest.exists():
        manifest.unlink(missing_ok=True)  # another part may have come first
        storage.sync_folder(destination)


def shards_in(destination: Path) -> set[str]:
    """Names of the shards of which there is anything."""
    paths = (destination / SHARD_FOLDER).glob("shard-*.*")
    return {name for path in paths if is_shard_name(name := f"{SHARD_FOLDER}/{path.stem}.tar")}


def _hash_file(path: str) -> tuple[int, str]:
    size, digest = storage.size(path), hashlib.sha256()
    for chunk in storage.read_range_chunks(path, 0, size):
        interrupts.check()
        digest.update(chunk)
    return size, digest.hexdigest()


def is_ours(root: Path, name: str, conversion: str) -> bool:
    """Whether the conversion may write this shard again: it wrote it before, or nothing is there to
    be lost.
    """
    stated = _conversion_of(root / shard_manifest_name(name))
    if stated is not None:
        return stated == conversion
    if not (root / name).exists():
        return True
    # killed before the manifest was written, or that is damaged: the shard itself says whose it is
    try:
        return rebuild_shard(root, name)[1].conversion.id == conversion
    except RoboshardError:
        return False


def _conversion_of(path: Path) -> str | None:
    """The conversion a shard manifest names; None where there is no readable one."""
    try:
        return conversion_named(storage.read_all(str(path), MAX_MANIFEST_BYTES), str(path))
    except RoboshardError:
        return None


def _dataset_conversion(destination: Path) -> str | None:
    try:
        return load_dataset_manifest(str(destination)).conversion.id
    except RoboshardError:
        return None
