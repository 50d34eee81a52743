"""What has to be sent: the dataset's files beside those that are at the destination.

Changes nothing.

Names of shards are the same in every dataset, so what is there may be another dataset's. That is
refused, unless it shall be replaced: it would be destroyed shard by shard, while its readers go on.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.common.errors import DamageError, MissingError, OptionError, RoboshardError
from roboshard.shards.documents import FileEntry
from roboshard.shards.manifest import conversion_named, load_dataset_manifest, load_shard_manifest
from roboshard.shards.names import DATASET_MANIFEST, is_shard_name, shard_manifest_name
from roboshard.shards.schema import MAX_MANIFEST_BYTES, DatasetManifest
from roboshard.shards.shard_list import ShardEntry
from roboshard.storage import StoredFile, Upload, WritableStore, writable_store
from roboshard.tools.upload.card import CARD, PREVIEW, is_ours, make_card
from roboshard.tools.upload.config import UploadConfig
from roboshard.tools.upload.growth import listed_by, published, snapshot_there

MAX_CARD_BYTES = 16 << 20
PART_OF_A_REPOSITORY = {".gitattributes"}

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class UploadPlan:
    """What an upload will do, in this order."""

    target: WritableStore
    dataset: DatasetManifest
    withdraw: bool
    """Remove dataset.json first: what it promises is not, or will not be, there."""
    remove: tuple[str, ...]
    """Files to remove, of the dataset that is replaced."""
    shards: tuple[tuple[Upload, ...], ...]
    """Per shard that is not there as it should be: what to send of it and its manifest."""
    last: tuple[Upload, ...]
    """What to send after the shards: the index, snapshots, the card and its picture."""
    manifest: Upload | None
    """dataset.json, last of all. None: it is there, and stays."""
    kept: tuple[str, ...]
    """Files that are there already, whole and right."""
    unlisted: tuple[str, ...]
    """Files at the destination that are not the dataset's and are left alone."""
    notes: tuple[str, ...]

    @property
    def uploads(self) -> list[Upload]:
        """Everything to send, in order."""
        shards = [upload for shard in self.shards for upload in shard]
        return [*shards, *self.last, *([self.manifest] if self.manifest else [])]


@interrupts.interruptible
def make_plan(config: UploadConfig) -> UploadPlan:
    """Verify the source, look at the destination, and decide what to send.

    Args:
        config: the options of the upload.

    Returns:
        What would be sent and removed.

    Raises:
        OptionError: another dataset is there, or the destination cannot be written to.
        MissingError, DamageError, FormatError: the source is not a whole dataset.
        StorageError: the destination cannot be looked into.

    Example:
        >>> plan = make_plan(UploadConfig(source="my_dataset_shards", destination="planned"))
        >>> len(plan.uploads) > 0
        True
    """
    target = writable_store(config.destination)
    root, dataset = _open_source(config)
    there = _files_there(target)
    wanted = _wanted(root, dataset)
    old = (
        target.read_all(DATASET_MANIFEST, MAX_MANIFEST_BYTES) if DATASET_MANIFEST in there else None
    )
    is_same = old == wanted[DATASET_MANIFEST].content
    before = snapshot_there(old, dataset)
    if old is not None and not is_same and before is None and not config.replace:
        raise OptionError(
            f"{storage.redacted(target.url)}: holds {_named(old, dataset)}. {_REMEDY}"
        )
    kept = set() if before is None else published(before, dataset, there)
    looked_at = [
        s
        for s in dataset.shards
        if s.name not in kept and (s.name in there or old is not None or config.replace)
    ]
    # Before anything is removed for it; the others when they are sent.
    wanted |= in_parallel(
        lambda s: (s.name, check_shard(wanted[s.name], s)), looked_at, config.jobs
    )
    unknown = {path: upload for path, upload in wanted.items() if path not in kept}
    right = kept | _right(target, unknown, there, config.jobs)
    if old is None and not config.replace:
        _refuse_foreign_shards(target, dataset, there, right)
    cards, notes = _card(target, root, there) if config.card else ({}, [])
    wrong = [path for path in wanted if path not in right]
    is_replaced = config.replace and not is_same and before is None
    remove = _to_remove(dataset, there) if is_replaced else []
    promised = set(wanted) if before is None else listed_by(before, dataset)
    withdraw = old is not None and not promised.isdisjoint(wrong)
    shards = [
        tuple(wanted[path] for path in (shard.name, shard.manifest.name) if path not in right)
        for shard in dataset.shards
    ]
    beside = {entry.name for entry in _beside(dataset)}
    last = [wanted[path] for path in wrong if path in beside]
    known = {*wanted, *remove, CARD, PREVIEW, *PART_OF_A_REPOSITORY}
    return UploadPlan(
        target=target,
        dataset=dataset,
        withdraw=withdraw,
        remove=tuple(remove),
        shards=tuple(shard for shard in shards if shard),
        last=(*last, *cards.values()),
        manifest=None if is_same and not withdraw else wanted[DATASET_MANIFEST],
        kept=tuple(path for path in wanted if path in right),
        unlisted=tuple(path for path in sorted(there) if path not in known),
        notes=tuple(notes),
    )


_REMEDY = (
    "Choose another place, or pass --replace to remove that dataset first; until the new one is "
    "complete, readers then find none"
)


def check_shard(upload: Upload, entry: ShardEntry) -> Upload:
    """Take the SHA-256 of a local shard, once; it must be the one in dataset.json."""
    path = upload.content
    if upload.sha256 is not None or isinstance(path, bytes):
        return upload
    if upload.size != entry.size or _sha256(path) != entry.sha256:
        raise DamageError(
            f"{path}: damaged: its size or SHA-256 is not the one that {DATASET_MANIFEST} holds; "
            "convert it again, and nothing of it is published before"
        )
    return replace(upload, sha256=entry.sha256)


def in_parallel(
    call: Callable[[ItemT], ResultT], items: Iterable[ItemT], jobs: int
) -> list[ResultT]:
    """Call a function with each item, in threads, and return the results in order; the first error
    ends the rest.
    """
    executor = interrupts.thread_pool(jobs, "upload")
    try:
        futures = [executor.submit(call, item) for item in items]
        for future in interrupts.as_completed(futures):
            future.result()
        return [future.result() for future in futures]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _open_source(config: UploadConfig) -> tuple[Path, DatasetManifest]:
    if not storage.is_local(config.source):
        raise OptionError(
            f"{storage.redacted(config.source)}: is not a local folder; copy the dataset to one "
            "first"
        )
    root = storage.local_path(config.source)
    if (
        storage.is_local(config.destination)
        and storage.local_path(config.destination).resolve() == root.resolve()
    ):
        raise OptionError(f"{config.destination}: is the source itself")
    dataset = load_dataset_manifest(str(root))
    for shard in dataset.shards:
        load_shard_manifest(str(root), shard)
        _check_size(root, shard.name, shard.size)
    for entry in _beside(dataset):
        _check_size(root, entry.name, entry.size)
        if _sha256(root / entry.name) != entry.sha256:
            raise DamageError(f"{root / entry.name}: damaged; `roboshard rebuild` derives it again")
    return root, dataset


def _beside(dataset: DatasetManifest) -> list[FileEntry]:
    """Return what dataset.json lists beside the shards: the index, and snapshots with theirs."""
    snapshots = [entry for each in dataset.snapshots for entry in (each.manifest, each.index)]
    return [*snapshots, dataset.index]


def _check_size(root: Path, name: str, size: int) -> None:
    found = storage.size(str(root / name))
    if found != size:
        raise DamageError(
            f"{root / name}: {found} bytes where {DATASET_MANIFEST} says {size}; convert it again"
        )


def _files_there(target: WritableStore) -> dict[str, StoredFile]:
    try:
        return target.files()
    except MissingError:
        return {}


def _wanted(root: Path, dataset: DatasetManifest) -> dict[str, Upload]:
    """Return every file that the destination must hold, dataset.json last."""
    files: dict[str, Upload] = {}
    for shard in dataset.shards:
        files[shard.name] = Upload(path=shard.name, content=root / shard.name)
        files[shard.manifest.name] = _small(root, shard.manifest)
    for entry in _beside(dataset):
        files[entry.name] = _small(root, entry)
    files[DATASET_MANIFEST] = Upload(
        path=DATASET_MANIFEST, content=(root / DATASET_MANIFEST).read_bytes()
    )
    return files


def _small(root: Path, entry: FileEntry) -> Upload:
    return Upload(path=entry.name, content=root / entry.name, sha256=entry.sha256)


def _right(
    target: WritableStore, wanted: Mapping[str, Upload], there: Mapping[str, StoredFile], jobs: int
) -> set[str]:
    """Return the paths that are there already with the right content, by the hashes that the
    storage states.
    """
    both = [upload for path, upload in wanted.items() if path in there]
    fits = in_parallel(lambda upload: target.matches(upload, there[upload.path]), both, jobs)
    return {upload.path for upload, is_right in zip(both, fits, strict=True) if is_right}


def _refuse_foreign_shards(
    target: WritableStore,
    dataset: DatasetManifest,
    there: Mapping[str, StoredFile],
    right: set[str],
) -> None:
    """Refuse shards of another conversion where no dataset is (yet): they are somebody's work.
    Those of this dataset may be sent again.
    """
    ours = {dataset.conversion.id, *(snapshot.conversion for snapshot in dataset.snapshots)}
    for shard in dataset.shards:
        manifest = shard.manifest.name
        if (shard.name not in there or shard.name in right) and (
            manifest not in there or manifest in right
        ):
            continue
        conversion = conversion_of(target, manifest) if manifest in there else None
        is_lost = conversion is None and shard.name in right
        if conversion not in ours and not is_lost:
            raise OptionError(
                f"{storage.redacted(target.url)}: holds {shard.name} of another conversion, which "
                f"may be under way. {_REMEDY}"
            )


def conversion_of(target: WritableStore, manifest: str) -> str | None:
    """Return which conversion a shard manifest at a target names; None where it is missing or not
    readable.
    """
    try:
        return conversion_named(target.read_all(manifest, MAX_MANIFEST_BYTES), manifest)
    except RoboshardError:
        return None


def _named(data: bytes, new: DatasetManifest) -> str:
    try:
        found = jsonio.load(data, DATASET_MANIFEST, MAX_MANIFEST_BYTES)
    except RoboshardError:
        return f"a {DATASET_MANIFEST} that cannot be read"
    source = found.get("source")
    name = str(source.get("name") if isinstance(source, dict) else None)[:80]
    which = (
        "another version of this dataset"
        if name == new.source.name
        else f"another dataset, {name},"
    )
    return f"{which} of {str(found.get('total_episodes'))[:20]} episodes"


def _to_remove(new: DatasetManifest, there: Mapping[str, StoredFile]) -> list[str]:
    """Return the shards and manifests of the old dataset that the new one does not overwrite.

    They are known by their names: a run that was killed after it had removed dataset.json left no
    other list of them.
    """
    mine = {name for shard in new.shards for name in (shard.name, shard.manifest.name)}
    named = set()
    for path in there:
        shard = path.removesuffix(".json") + ".tar" if path.endswith(".json") else path
        if is_shard_name(shard) and path in (shard, shard_manifest_name(shard)):
            named.add(path)
    return sorted(named - mine)


def _card(
    target: WritableStore, root: Path, there: Mapping[str, StoredFile]
) -> tuple[dict[str, Upload], list[str]]:
    """Return the card and its picture, as far as they have to be sent, and notes; no files where
    somebody else wrote the README.
    """
    if CARD in there:
        try:
            old = target.read_all(CARD, MAX_CARD_BYTES)
        except RoboshardError:
            old = b""
        if not is_ours(old):
            return {}, [f"{CARD} is not roboshard's and stays as it is"]
    card = make_card(str(root), target.url)
    files = {CARD: card.text.encode()} | ({PREVIEW: card.picture} if card.picture else {})
    uploads = {path: Upload(path=path, content=data) for path, data in files.items()}
    changed = {
        path: upload
        for path, upload in uploads.items()
        if path not in there or not target.matches(upload, there[path])
    }
    return changed, list(card.notes)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
