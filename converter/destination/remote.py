"""Converting to object storage: shards go there one by one, and leave this machine.

    URL/shards/shard-000000.tar          sent, seen to be there, then removed here
    URL/shards/shard-000000.json         its manifest, beside it
    URL/.roboshard/shard-000000.json     a receipt, before both: which conversion's it is, and the
                                         hash by which the storage will know it. Removed when
                                         dataset.json is there
    URL/dataset.json                     last of all

The receipt is what lets a later run believe a shard without reading it: its SHA-256 is in the
manifest, but storages list hashes of their own. Where a listing has SHA-256 itself (dataset
repositories) there are no receipts; where there is no receipt that fits, the shard is read back.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from roboshard.common import interrupts, jsonio
from roboshard.common.errors import FormatError, OptionError
from roboshard.converter.destination.api import GROW, SeenShard, files_of, write_skipped
from roboshard.converter.work_folder import work_folder
from roboshard.shards.manifest import conversion_named, write_dataset
from roboshard.shards.names import (
    DATASET_MANIFEST,
    EPISODE_INDEX,
    SHARD_FOLDER,
    SKIPPED_REPORT,
    is_shard_name,
    shard_manifest_name,
    shard_name,
)
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    Provenance,
    ShardManifest,
    document_bytes,
)
from roboshard.storage import StoredFile, Upload, WritableStore, redacted, writable_store

RECEIPTS = ".roboshard"
MAX_RECEIPT_BYTES = 1 << 16


def receipt_name(shard: str) -> str:
    """The path of a shard's receipt under the destination."""
    return shard_manifest_name(shard).replace(f"{SHARD_FOLDER}/", f"{RECEIPTS}/", 1)


@dataclass(frozen=True)
class RemotePlace:
    """Where one shard goes, and what was there when the run began."""

    folder: Path
    """Folder in which shards wait to be sent."""
    shard: str
    url: str
    conversion: str
    there: Mapping[str, StoredFile]
    """Path -> file, of the shard, its manifest and its receipt, as far as they are at the
    destination.
    """

    @cached_property
    def _target(self) -> WritableStore:
        return writable_store(self.url)

    def exists(self) -> bool:
        """Whether there is anything of the shard, but a receipt."""
        return any(name in self.there for name in files_of(self.shard))

    def finished(self) -> SeenShard | None:
        """Return what an earlier run sent of the shard and its manifest; None: one of them is
        missing.

        Raises:
            OptionError: what is there is another conversion's.
        """
        shard = self.shard
        if not self.there:
            return None
        receipt = self._read(receipt_name(shard), MAX_RECEIPT_BYTES)[1]
        data, manifest = self._read(shard_manifest_name(shard), MAX_MANIFEST_BYTES)
        owner = manifest.get("conversion") or receipt.get("conversion")
        if owner != self.conversion:
            raise other_conversion_error(self.url, shard)
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

    def deliver(self, manifest: ShardManifest | None) -> None:
        """Send the shard, see that it is there, and remove it here; or remove what an earlier run
        sent.
        """
        shard = self.shard
        if manifest is None:
            self._target.remove(
                [path for path in (shard_manifest_name(shard), shard) if path in self.there]
            )
            return
        upload = Upload(path=shard, content=self.folder / shard, sha256=manifest.sha256)
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
        (self.folder / shard).unlink()

    @contextmanager
    def on_node(self) -> Iterator["RemotePlace"]:
        """Yield this place with a folder of the machine's own.

        On a node other than the driver's, nothing keeps the driver's from being taken for a killed
        run's.
        """
        base = self.folder if self.folder.is_dir() else self.folder.parent
        with work_folder(str(base)) as work:
            yield replace(self, folder=work)

    def check_seen(self, manifest: ShardManifest) -> None:
        """Do nothing: `deliver` has seen the shard at the destination."""

    def _read(self, path: str, max_bytes: int) -> tuple[bytes, dict[str, jsonio.Json]]:
        """Return (a file's bytes, the JSON in them); empty where the file, or JSON, is missing."""
        if path not in self.there:
            return b"", {}
        data = self._target.read_all(path, max_bytes)
        try:
            return data, jsonio.load(data, path, max_bytes)
        except FormatError:
            return data, {}


class RemoteDestination:
    """The whole of a conversion's destination: shards wait in a folder of this machine to be
    sent.
    """

    def __init__(self, url: str, conversion: str, num_shards: int, scratch: str | None) -> None:
        """Convert to `url`, which is not connected to yet.

        Raises OptionError for what cannot be written to.
        """
        self._target = writable_store(url)
        self.root = self._target.url
        self.shown = redacted(self.root)
        self._conversion = conversion
        self._num_shards = num_shards
        self._scratch = scratch
        self._there: dict[str, StoredFile] = {}

    @contextmanager
    def prepared(self, part: range | None) -> Iterator[None]:  # noqa: ARG002 - of all shards at once
        """Make the place and a folder for what is on its way; refuse what another conversion wrote
        there.

        Raises:
            OptionError: shards or a dataset of another conversion. Those that only reading them
                would tell apart are refused by the worker that comes to them.
        """
        with work_folder(self._scratch) as self._work:
            self._prepare()
            yield

    def _prepare(self) -> None:
        self._target.create(private=False)
        self._there = self._target.files()
        mine = {path for shard in self._shards() for path in (shard, shard_manifest_name(shard))}
        for path in sorted(self._there):
            shard = f"{path.removesuffix('.json')}.tar" if path.endswith(".json") else path
            if is_shard_name(shard) and path not in mine:
                raise other_conversion_error(self.root, path)
        if DATASET_MANIFEST in self._there:
            data = self._target.read_all(DATASET_MANIFEST, MAX_MANIFEST_BYTES)
            if conversion_named(data, DATASET_MANIFEST) != self._conversion:
                raise OptionError(
                    f"{redacted(self.root)}: holds another dataset. Choose another place, or "
                    f"remove this one first; {GROW}"
                )
            self._target.remove([DATASET_MANIFEST])

    @property
    def first_shard(self) -> int:
        """Number of the first shard."""
        return 0

    def _shards(self) -> list[str]:
        """Names of all shards that are planned."""
        first = self.first_shard
        return [shard_name(number) for number in range(first, first + self._num_shards)]

    def place(self, number: int) -> RemotePlace:
        """Return where a shard goes, by its number in the plan."""
        shard = shard_name(self.first_shard + number)
        paths = (*files_of(shard), receipt_name(shard))
        there = {path: self._there[path] for path in paths if path in self._there}
        return RemotePlace(self._work, shard, self.root, self._conversion, there)

    def publish_skipped(self, skipped: Sequence[tuple[int, str]], tried: Set[int]) -> None:  # noqa: ARG002 - all were
        """Send skipped.json, or remove an old one."""
        write_skipped(self._work, skipped)
        if skipped:
            self._target.put([Upload(path=SKIPPED_REPORT, content=self._work / SKIPPED_REPORT)])
        elif SKIPPED_REPORT in self._there:
            self._target.remove([SKIPPED_REPORT])

    def publish(self, provenance: Provenance, manifests: Sequence[ShardManifest]) -> None:
        """Send the index, then dataset.json; the receipts have done their work then."""
        write_dataset(self._work, provenance, manifests)
        index = Upload(path=EPISODE_INDEX, content=self._work / EPISODE_INDEX)
        if EPISODE_INDEX not in self._there or not self._target.matches(
            index, self._there[EPISODE_INDEX]
        ):
            self._target.put([index])
        interrupts.check()
        dataset = Upload(path=DATASET_MANIFEST, content=self._work / DATASET_MANIFEST)
        self._target.put([dataset])
        receipts = set(map(receipt_name, self._shards()))
        self._target.remove(sorted(receipts & set(self._target.files())))


def other_conversion_error(url: str, path: str) -> OptionError:
    """Return the error that somebody else's shard is there."""
    return OptionError(
        f"{redacted(url)}: holds shards of another conversion (another source, other options or "
        f"other library versions: {path}). Choose another place, or remove them first; {GROW}"
    )
