"""Converting to object storage: shards go there one by one, and leave this machine.

    URL/shards/shard-000000.tar          sent, seen to be there, then removed here
    URL/shards/shard-000000.json         its manifest, beside it
    URL/.roboshard/shard-000000.json     a receipt, before both: which conversion's it is, and the hash by which the
                                         storage will know it. Removed when dataset.json is there
    URL/dataset.json                     last of all

The receipt is what lets a later run believe a shard without reading it: its SHA-256 is in the manifest, but storages
list hashes of their own. Where a listing has SHA-256 itself (dataset repositories) there are no receipts; where there
is no receipt that fits, the shard is read back.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from roboshard.common import interrupts, jsonio
from roboshard.common.errors import FormatError, OptionError, StorageError
from roboshard.shards.names import (
    DATASET_MANIFEST,
    EPISODE_INDEX,
    SHARD_FOLDER,
    is_shard_name,
    shard_manifest_name,
    shard_name,
)
from roboshard.shards.schema import MAX_MANIFEST_BYTES, ShardManifest, document_bytes
from roboshard.storage import StoredFile, Upload, WritableStore, redacted, writable_store

RECEIPTS = ".roboshard"
MAX_RECEIPT_BYTES = 1 << 16
WORK_PREFIX = "roboshard-shards-"
SKIPPED_REPORT = "skipped.json"


def receipt_name(shard: str) -> str:
    """The path of a shard's receipt under the destination."""
    return shard_manifest_name(shard).replace(f"{SHARD_FOLDER}/", f"{RECEIPTS}/", 1)


@dataclass(frozen=True)
class RemotePlace:
    """Where one shard goes, and what was there when the run began. Small enough to send to a worker."""

    url: str
    conversion: str
    there: Mapping[str, StoredFile]
    """The shard, its manifest and its receipt, as far as they are there."""

    @cached_property
    def _target(self) -> WritableStore:
        return writable_store(self.url)

    def finished(self, shard: str) -> tuple[bytes, int, str] | None:
        """(manifest file, size of the shard, SHA-256 of the shard) if an earlier run sent both, all of them right.

        Raises:
            OptionError: what is there is another conversion's.
        """
        if not self.there:
            return None
        receipt = self._read(receipt_name(shard), MAX_RECEIPT_BYTES)[1]
        data, manifest = self._read(shard_manifest_name(shard), MAX_MANIFEST_BYTES)
        owner = manifest.get("conversion") or receipt.get("conversion")
        if owner != self.conversion:
            raise foreign(self.url, shard)
        file = self.there.get(shard)
        if file is None or not manifest:
            return None
        kind, _, digits = (file.hash or "").partition(":")
        if kind == "sha256":
            return data, file.size, digits
        fits = file.hash is not None and (receipt.get("size"), receipt.get("hash")) == (
            file.size,
            file.hash,
        )
        stated = receipt.get("sha256") if fits else None
        return data, file.size, stated if isinstance(stated, str) else self._target.sha256(shard)

    def send(self, folder: Path, shard: str, manifest: ShardManifest | None) -> None:
        """Send a shard that was written to `folder`, see that it is there, and remove it here.

        None: the shard is empty; whatever an earlier run sent of it is removed.
        """
        if manifest is None:
            self._target.remove(
                [path for path in (shard_manifest_name(shard), shard) if path in self.there]
            )
            return
        upload = Upload(path=shard, content=folder / shard, sha256=manifest.sha256)
        stated = self._target.content_hash(upload)
        if not (stated or "").startswith("sha256:"):
            receipt = {
                "conversion": self.conversion,
                "size": manifest.size,
                "sha256": manifest.sha256,
                "hash": stated,
            }
            self._target.put([Upload(path=receipt_name(shard), content=jsonio.dump(receipt))])
        self._target.put(
            [upload, Upload(path=shard_manifest_name(shard), content=document_bytes(manifest))]
        )
        (folder / shard).unlink()

    def _read(self, path: str, max_bytes: int) -> tuple[bytes, dict[str, jsonio.Json]]:
        """A JSON file and what it says; nothing where it is missing or no JSON."""
        if path not in self.there:
            return b"", {}
        data = self._target.read_all(path, max_bytes)
        try:
            return data, jsonio.load(data, path, max_bytes)
        except FormatError:
            return data, {}


class RemoteDestination:
    """The whole of a conversion's destination."""

    def __init__(self, url: str, conversion: str, num_shards: int) -> None:
        """Convert to `url`, which is not connected to yet."""
        self.target = writable_store(url)
        self._conversion = conversion
        self._shards = [shard_name(number) for number in range(num_shards)]
        self._there: dict[str, StoredFile] = {}

    def prepare(self) -> None:
        """Make the place; refuse what another conversion wrote there; withdraw dataset.json.

        Raises:
            OptionError: shards or a dataset of another conversion. Those that only reading them would tell apart are
                refused by the worker that comes to them.
        """
        self.target.create(private=False)
        self._there = self.target.files()
        mine = {path for shard in self._shards for path in (shard, shard_manifest_name(shard))}
        for path in sorted(self._there):
            shard = f"{path.removesuffix('.json')}.tar" if path.endswith(".json") else path
            if is_shard_name(shard) and path not in mine:
                raise foreign(self.target.url, path)
        if DATASET_MANIFEST in self._there:
            data = self.target.read_all(DATASET_MANIFEST, MAX_MANIFEST_BYTES)
            if _conversion_of_dataset(data) != self._conversion:
                raise OptionError(
                    f"{redacted(self.target.url)}: holds another dataset. Choose another place, or remove this "
                    "one first"
                )
            self.target.remove([DATASET_MANIFEST])

    def place(self, number: int) -> RemotePlace:
        """Where this shard goes."""
        shard = self._shards[number]
        paths = (shard, shard_manifest_name(shard), receipt_name(shard))
        there = {path: self._there[path] for path in paths if path in self._there}
        return RemotePlace(self.target.url, self._conversion, there)

    def publish_report(self, work: Path) -> None:
        """Send skipped.json, or remove an old one."""
        if (work / SKIPPED_REPORT).exists():
            self.target.put([Upload(path=SKIPPED_REPORT, content=work / SKIPPED_REPORT)])
        elif SKIPPED_REPORT in self._there:
            self.target.remove([SKIPPED_REPORT])

    def publish(self, work: Path) -> None:
        """Send the index, then dataset.json; the receipts have done their work then."""
        index = Upload(path=EPISODE_INDEX, content=work / EPISODE_INDEX)
        if EPISODE_INDEX not in self._there or not self.target.matches(
            index, self._there[EPISODE_INDEX]
        ):
            self.target.put([index])
        interrupts.check()
        self.target.put([Upload(path=DATASET_MANIFEST, content=work / DATASET_MANIFEST)])
        self.target.remove(
            sorted(path for path in self.target.files() if path in map(receipt_name, self._shards))
        )


def foreign(url: str, path: str) -> OptionError:
    """Somebody else's shard is there."""
    return OptionError(
        f"{redacted(url)}: holds shards of another conversion (another source, other options or other library "
        f"versions: {path}). Choose another place, or remove them first"
    )


@contextmanager
def work_folder(base: str | None) -> Iterator[Path]:
    """A folder for the shards on their way, removed at the end; what killed runs left of theirs is removed first.

    Held by a lock that goes with the process, which is how a killed run's is told.
    """
    root = Path(base or tempfile.gettempdir())
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f"{WORK_PREFIX}*"):
            _remove_unless_held(left)
        folder = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=root))
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        raise StorageError(
            f"{root}: no folder for shards can be made there: {error.strerror}"
        ) from error
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    try:
        with interrupts.removed_at_exit(remove):
            yield folder
    finally:
        remove()
        os.close(descriptor)


def _remove_unless_held(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:
        return
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _conversion_of_dataset(data: bytes) -> object:
    try:
        conversion = jsonio.load(data, DATASET_MANIFEST, MAX_MANIFEST_BYTES).get("conversion")
    except FormatError:
        return None
    return conversion.get("id") if isinstance(conversion, dict) else None
