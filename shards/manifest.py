"""Making, reading and cross-checking the manifests of a dataset.

dataset.json is the root of trust: it holds its own fingerprint and the hashes of the index, of
every shard and of every shard's manifest, so that a change anywhere contradicts something that was
read before it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from crc32c import crc32c

from roboshard import storage
from roboshard.common import jsonio
from roboshard.common.errors import (
    DamageError,
    FormatError,
    MissingError,
    StorageError,
)
from roboshard.shards.documents import FileEntry
from roboshard.shards.index import index_bytes
from roboshard.shards.misplaced import what_instead
from roboshard.shards.missing import total
from roboshard.shards.names import (
    DATASET_MANIFEST,
    EPISODE_INDEX,
    shard_manifest_name,
)
from roboshard.shards.problems import dataset_problems, shard_problems
from roboshard.shards.schema import (
    FORMAT_VERSION,
    MAX_MANIFEST_BYTES,
    DatasetManifest,
    Provenance,
    ShardManifest,
    Snapshot,
    check_version,
    document_bytes,
    parse,
    validate_json,
)
from roboshard.shards.shard_list import ShardEntry
from roboshard.shards.versions import newest
from roboshard.storage.cache import CacheKey, DiskCache, object_of

MAX_READS = 4
"""How often dataset.json is read at the most: one that grows at that moment may come half old and
half new.
"""


def file_entry(name: str, data: bytes) -> FileEntry:
    """Size and hash of a small file."""
    return FileEntry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def shard_entry(manifest: ShardManifest) -> ShardEntry:
    """The dataset.json entry of a shard."""
    return ShardEntry(
        name=manifest.shard,
        size=manifest.size,
        sha256=manifest.sha256,
        episodes=len(manifest.samples),
        frames=sum(sample.length for sample in manifest.samples),
        manifest=file_entry(shard_manifest_name(manifest.shard), document_bytes(manifest)),
        missing=total([sample.missing for sample in manifest.samples]),
    )


def seal(
    provenance: Provenance,
    shards: Sequence[ShardEntry],
    index: FileEntry,
    version: str = FORMAT_VERSION,
    snapshots: Sequence[Snapshot] = (),
) -> DatasetManifest:
    """The dataset manifest over finished shards, with its fingerprint; `version` is the newest of
    theirs.
    """
    value = {
        "format": "roboshard",
        "version": version,
        "fingerprint": "",
        **provenance.model_dump(mode="json"),
        "total_episodes": sum(shard.episodes for shard in shards),
        "total_frames": sum(shard.frames for shard in shards),
        "shards": [shard.model_dump(mode="json") for shard in shards],
        "index": index.model_dump(mode="json"),
    }
    if snapshots:
        value["snapshots"] = [snapshot.model_dump(mode="json") for snapshot in snapshots]
    value["fingerprint"] = fingerprint(value)
    return validate_json(DatasetManifest, jsonio.dump(value), DATASET_MANIFEST)


def write_dataset(
    root: Path, provenance: Provenance, manifests: Sequence[ShardManifest]
) -> DatasetManifest:
    """Write the index and, last of all, dataset.json over finished shards of a local folder."""
    sealed, index = first_dataset(provenance, manifests)
    storage.write_bytes(root / EPISODE_INDEX, index)
    storage.write_bytes(root / DATASET_MANIFEST, document_bytes(sealed))
    return sealed


def first_dataset(
    provenance: Provenance, manifests: Sequence[ShardManifest]
) -> tuple[DatasetManifest, bytes]:
    """Return dataset.json and the index over shards, as of a dataset that has not grown."""
    index = index_bytes(manifests)
    shards = [shard_entry(manifest) for manifest in manifests]
    version = newest(manifest.version for manifest in manifests)
    return seal(provenance, shards, file_entry(EPISODE_INDEX, index), version), index


def fingerprint(value: dict[str, jsonio.Json]) -> str:
    """SHA-256 over the canonical JSON of a dataset manifest without its `fingerprint`."""
    rest = {name: item for name, item in value.items() if name != "fingerprint"}
    return hashlib.sha256(jsonio.canonical(rest)).hexdigest()


def load_dataset_manifest(
    root: str, *, policy: storage.RetryPolicy = storage.READING
) -> DatasetManifest:
    """Read and check `root`/dataset.json.

    Raises:
        MissingError: there is none: no dataset, or a conversion that has not finished.
        FormatError, VersionError: not a manifest that this release reads.
        DamageError: its content is not the one that its fingerprint was taken of.
    """
    what = storage.redacted(storage.join(root, DATASET_MANIFEST))
    before, reads = None, 0
    while True:
        data = b""
        try:
            data = _read_dataset_manifest(root, policy)
            return parse_dataset_manifest(data, what)
        except (FormatError, DamageError):
            reads += 1
            if data == before or reads == MAX_READS:  # nobody is replacing it
                raise
            before = data


def _read_dataset_manifest(root: str, policy: storage.RetryPolicy) -> bytes:
    url = storage.join(root, DATASET_MANIFEST)
    try:
        return storage.read_all(url, MAX_MANIFEST_BYTES, policy=policy)
    except MissingError:
        raise MissingError(
            f"{storage.redacted(url)}: no such file. {what_instead(root, policy=policy)}"
        ) from None


def parse_dataset_manifest(data: bytes, what: str) -> DatasetManifest:
    """Parse and check a dataset.json; `what` names it in errors.

    Raises:
        FormatError, VersionError: not a manifest that this release reads.
        DamageError: its content is not the one that its fingerprint was taken of.
    """
    value = jsonio.load(data, what, MAX_MANIFEST_BYTES)
    check_version(value.get("version"), what)
    found, data = fingerprint(value), jsonio.dump(value)
    del value  # of many shards it is larger than all that follows
    manifest = validate_json(DatasetManifest, data, what)
    if found != manifest.fingerprint:
        raise DamageError(
            f"{what}: damaged: its content does not have the fingerprint that it states"
        )
    problems = dataset_problems(manifest)
    if problems:
        raise FormatError(f"{what}: contradicts itself:", problems)
    return manifest


def conversion_named(manifest: bytes, what: str) -> str | None:
    """Return the id of the conversion that a shard's manifest or dataset.json names; None: it
    cannot be read.
    """
    try:
        named = jsonio.load(manifest, what, MAX_MANIFEST_BYTES).get("conversion")
    except FormatError:
        return None
    named = named.get("id") if isinstance(named, dict) else named
    return named if isinstance(named, str) else None


def load_index(
    root: str,
    manifest: DatasetManifest,
    max_bytes: int,
    *,
    policy: storage.RetryPolicy = storage.READING,
) -> bytes:
    """The bytes of the episode index, checked against dataset.json."""
    return load_checked(
        root, manifest.index, max_bytes, policy, "`roboshard rebuild` derives it again"
    )


def load_shard_manifest(
    root: str, shard: ShardEntry, *, policy: storage.RetryPolicy = storage.READING
) -> ShardManifest:
    """Read a shard's manifest and check it against dataset.json and against itself.

    Raises:
        MissingError, DamageError, FormatError, VersionError: with the shard's name.
    """
    data = load_manifest_bytes(root, shard, policy=policy)
    return parse_shard_manifest(
        data, shard, storage.redacted(storage.join(root, shard.manifest.name))
    )


def load_manifest_bytes(
    root: str,
    shard: ShardEntry,
    *,
    policy: storage.RetryPolicy = storage.READING,
    cache: DiskCache | None = None,
) -> bytes:
    """Return a shard's manifest, compared with its hash in dataset.json; a remote one is kept in
    `cache`.

    Raises:
        MissingError, DamageError, StorageError: with the manifest's name.
    """

    def load() -> bytes:
        remedy = "`roboshard rebuild` derives it from its shard"
        return load_checked(root, shard.manifest, MAX_MANIFEST_BYTES, policy, remedy)

    key = _cache_key(root, shard)
    if cache is None or key is None:
        return load()
    data = cache.get(key, shard.manifest.size, load)
    if hashlib.sha256(data).hexdigest() != shard.manifest.sha256:  # the cache knows no such hash
        data = load()
        cache.get(key._replace(crc32c=crc32c(data)), len(data), lambda: data)
    return data


def stored_manifest(root: str, shard: ShardEntry, cache: DiskCache | None) -> str | None:
    """Return the local file that begins with a shard's manifest, once it was loaded; None: there is
    none.
    """
    key = _cache_key(root, shard)
    if key is None:
        return storage.join(root, shard.manifest.name)
    return None if cache is None else str(cache.path(key, shard.manifest.size))


def _cache_key(root: str, shard: ShardEntry) -> CacheKey | None:
    """What a remote shard's manifest is called in caches; None of a local one."""
    url = storage.join(root, shard.manifest.name)
    if storage.is_local(url) or not shard.manifest.size:
        return None
    place = object_of(storage.identity(url), shard.manifest.size, shard.manifest.sha256)
    return CacheKey(place, 0, None)


def parse_shard_manifest(data: bytes, shard: ShardEntry, url: str) -> ShardManifest:
    """Parse a shard's manifest and check it against dataset.json and against itself; `url` names it
    in errors.

    Raises:
        FormatError, VersionError: with every problem.
    """
    manifest = parse(ShardManifest, data, url, MAX_MANIFEST_BYTES)
    problems = shard_problems(manifest)
    if (manifest.shard, manifest.size, manifest.sha256) != (shard.name, shard.size, shard.sha256):
        problems.append("shard, size or sha256 differ from dataset.json")
    if (len(manifest.samples), sum(sample.length for sample in manifest.samples)) != (
        shard.episodes,
        shard.frames,
    ):
        problems.append("samples: not as many episodes or frames as dataset.json says")
    if problems:
        raise FormatError(f"{url}: contradicts itself or dataset.json:", problems)
    return manifest


def load_checked(
    root: str, entry: FileEntry, max_bytes: int, policy: storage.RetryPolicy, remedy: str
) -> bytes:
    """Read a small file that dataset.json lists, and compare it with its size and hash there.

    Raises:
        MissingError, DamageError, StorageError: with the file's name, and `remedy`.
    """
    url = storage.join(root, entry.name)
    what = storage.redacted(url)
    try:
        data = _read_entry(url, entry, max_bytes, policy)
        if hashlib.sha256(data).hexdigest() != entry.sha256 and not storage.is_local(url):
            storage.forget(url)
            data = _read_entry(
                url, entry, max_bytes, policy
            )  # a proxy's or a network's fault may not come twice
    except MissingError:
        raise MissingError(
            f"{what}: missing, though {DATASET_MANIFEST} lists it; {remedy}"
        ) from None
    except DamageError as error:
        raise DamageError(f"{error}; {remedy}") from None
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DamageError(
            f"{what}: damaged: its SHA-256 is not the one that {DATASET_MANIFEST} holds; {remedy}"
        )
    return data


def _read_entry(url: str, entry: FileEntry, max_bytes: int, policy: storage.RetryPolicy) -> bytes:
    if entry.size > max_bytes:
        raise StorageError(
            f"{storage.redacted(url)}: {entry.size} bytes, more than the {max_bytes} that such a "
            "file may have"
        )
    if not storage.is_local(
        url
    ):  # one request: the reply that brings the bytes says how large the file is
        return storage.read_range(url, 0, entry.size, total=entry.size, policy=policy)
    found = storage.size(url)
    if found != entry.size:
        raise DamageError(f"{url}: {found} bytes where {DATASET_MANIFEST} says {entry.size}")
    return storage.read_all(url, max_bytes)
