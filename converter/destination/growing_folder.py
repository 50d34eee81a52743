"""A folder whose dataset grows: it stays what it was until all new shards are there.

One append writes at a time; the lock sees to that. What a killed one left is in no dataset.json:
shards that the same command would write again are kept, those of another state of the source are
removed.
"""

import re
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from roboshard import storage
from roboshard.common import interrupts
from roboshard.common.errors import OptionError, RoboshardError
from roboshard.converter.base import Base
from roboshard.converter.destination.api import files_of, kept_skipped, write_skipped
from roboshard.converter.destination.local import LocalDestination, is_ours, locked, shards_in
from roboshard.shards.growth import grow
from roboshard.shards.names import (
    DATASET_MANIFEST,
    SHARD_FOLDER,
    SKIPPED_REPORT,
    SNAPSHOT_FOLDER,
    shard_name,
    snapshot_name,
)
from roboshard.shards.rebuild import rebuild_shard
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    Conversion,
    DatasetManifest,
    Provenance,
    ShardManifest,
)

_OF_A_SNAPSHOT = re.compile(r"[0-9a-f]{64}\.json|episodes-[0-9a-f]{16}\.parquet")


class GrowingFolder(LocalDestination):
    """A folder of this machine with a dataset to which shards are added."""

    def __init__(self, folder: Path, conversion: Conversion, base: Base) -> None:
        """Add the shards of a conversion to `base`, which lies in the folder."""
        super().__init__(folder, conversion.id)
        self._base = base
        first = base.next_shard
        self._new = [shard_name(number) for number in range(first, first + conversion.num_shards)]

    @property
    def first_shard(self) -> int:
        """Number of the first new shard."""
        return self._base.next_shard

    @contextmanager
    def prepared(self, part: range | None) -> Iterator[None]:
        """Hold the folder, alone or together with other parts; remove what killed runs left."""
        with locked(self.shown, shared=part is not None):
            self._check_base()
            if part is None:
                storage.remove_temporaries(self.shown, [SHARD_FOLDER, SNAPSHOT_FOLDER])
                self._remove_left_behind()
            else:
                self._check_part([self._new[i] for i in part])
            yield

    def publish_skipped(self, skipped: Sequence[tuple[int, str]], tried: Set[int]) -> None:
        """Write skipped.json, in which earlier episodes stay that this run was not about."""
        path = self.shown / SKIPPED_REPORT
        old = path.read_bytes() if path.is_file() else None
        write_skipped(self.shown, [*kept_skipped(old, tried), *skipped])

    def publish(self, provenance: Provenance, manifests: Sequence[ShardManifest]) -> None:
        """Write what the dataset was, the index, then dataset.json in place of the old one."""

        def put(name: str, data: bytes) -> None:
            storage.write_bytes(self.shown / name, data, below=self.shown)

        publish_grown(self._base, provenance, manifests, self._check_base, put)

    def _check_base(self) -> None:
        """Raise OptionError unless dataset.json is what it was when the append was planned."""
        now = storage.read_all(str(self.shown / DATASET_MANIFEST), MAX_MANIFEST_BYTES)
        if now != self._base.data:
            raise has_changed_error(str(self.shown))

    def _check_part(self, names: Sequence[str]) -> None:
        for name in names:
            if not is_ours(self.shown, name, self._conversion):
                raise OptionError(
                    f"{self.shown}: {name} was left by an append of another state of the source, "
                    "or with other options. Run convert-to-shards --append once without --shards, "
                    "which removes it"
                )

    def _remove_left_behind(self) -> None:
        """Remove shards, indexes and snapshots that are not listed, of earlier appends that were
        killed.

        Raises:
            OptionError: an unlisted shard is none of those; nothing is removed then.
        """
        manifest = self._base.manifest
        listed = {shard.name for shard in manifest.shards}
        mine = {name for name in self._new if is_ours(self.shown, name, self._conversion)}
        left = sorted(shards_in(self.shown) - listed - mine)
        for name in left:
            self._check_left_behind(name)
        for name in left:
            for path in reversed(files_of(name)):  # a manifest never stands without its shard
                storage.remove_file(self.shown / path, below=self.shown)
        known = {snapshot_name(manifest.fingerprint), manifest.index.name}
        known |= {
            name for each in manifest.snapshots for name in (each.manifest.name, each.index.name)
        }
        for file in (self.shown / SNAPSHOT_FOLDER).glob("*"):
            is_one = _OF_A_SNAPSHOT.fullmatch(file.name) is not None
            if is_one and f"{SNAPSHOT_FOLDER}/{file.name}" not in known:
                storage.remove_file(file, below=self.shown)

    def _check_left_behind(self, name: str) -> None:
        """Raise OptionError unless a shard was appended to this dataset: then its source has all of
        it.
        """
        if not (self.shown / name).exists():
            return
        manifest = self._base.manifest
        grown = {manifest.fingerprint, *(snapshot.fingerprint for snapshot in manifest.snapshots)}
        try:
            grows = rebuild_shard(self.shown, name)[1].conversion.grows
        except RoboshardError:
            grows = None
        if grows not in grown:
            raise OptionError(
                f"{self.shown}: holds {name}, which dataset.json does not list and no append to "
                "this dataset has left; remove it"
            )


def has_changed_error(where: str) -> OptionError:
    """Return the error that a dataset is no longer the one that an append was planned for."""
    return OptionError(
        f"{where}: the dataset has changed since this append began, by another one perhaps; run it "
        "again"
    )


def publish_grown(
    base: Base,
    provenance: Provenance,
    manifests: Sequence[ShardManifest],
    check_base: Callable[[], None],
    put: Callable[[str, bytes], None],
) -> DatasetManifest:
    """Put what a dataset was, the index, then dataset.json in place of the old one, wherever it
    lies.

    Args:
        base: the dataset that grows.
        provenance: of the new shards.
        manifests: of the new shards.
        check_base: raises OptionError where the dataset is no longer `base`; called before each
            file.
        put: writes a file of this name, whole.

    Returns:
        What dataset.json says now.
    """
    grown = grow(base.manifest, base.data, base.index, provenance, manifests)
    for name, data in grown.files:
        interrupts.check()
        check_base()
        put(name, data)
    return grown.manifest
