"""Making, reading and cross-checking the manifests of a dataset.

dataset.json is the root of trust: it holds its own fingerprint and the hashes of the index, of every shard and
of every shard's manifest, so that a change anywhere contradicts something that was read before it.
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
    RoboshardError,
    StorageError,
)
from roboshard.shards.features import spec_problems
from roboshard.shards.index import index_bytes
from roboshard.shards.missing import total
from roboshard.shards.names import (
    DATASET_MANIFEST,
    EPISODE_INDEX,
    is_shard_name,
    sample_key,
    shard_manifest_name,
)
from roboshard.shards.schema import (
    FORMAT_VERSION,
    MAX_MANIFEST_BYTES,
    DatasetManifest,
    FileEntry,
    Provenance,
    SampleEntry,
    ShardEntry,
    ShardManifest,
    check_version,
    document_bytes,
    newest,
    parse,
    validate_json,
)
from roboshard.shards.tar import BLOCK, padded
from roboshard.storage.cache import CacheKey, DiskCache, object_of

SOURCE_INFO = "meta/info.json"
"""What every LeRobot dataset has."""


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
) -> DatasetManifest:
    """The dataset manifest over finished shards, with its fingerprint; `version` is the newest of theirs."""
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
    value["fingerprint"] = fingerprint(value)
    return validate_json(DatasetManifest, jsonio.dump(value), DATASET_MANIFEST)


def write_dataset(
    root: Path, provenance: Provenance, manifests: Sequence[ShardManifest]
) -> DatasetManifest:
    """Write the index and, last of all, dataset.json over finished shards of a local folder."""
    index = index_bytes(manifests)
    storage.write_bytes(root / EPISODE_INDEX, index)
    shards = [shard_entry(manifest) for manifest in manifests]
    version = newest(manifest.version for manifest in manifests)
    sealed = seal(provenance, shards, file_entry(EPISODE_INDEX, index), version)
    storage.write_bytes(root / DATASET_MANIFEST, document_bytes(sealed))
    return sealed


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
    url = storage.join(root, DATASET_MANIFEST)
    what = storage.redacted(url)
    try:
        data = storage.read_all(url, MAX_MANIFEST_BYTES, policy=policy)
    except MissingError:
        raise MissingError(f"{what}: no such file. {_what_instead(root, policy)}") from None
    value = jsonio.load(data, what, MAX_MANIFEST_BYTES)
    check_version(value.get("version"), what)
    found, data = fingerprint(value), jsonio.dump(value)
    del value  # of many shards it is larger than all that follows
    manifest = validate_json(DatasetManifest, data, what)
    if found != manifest.fingerprint:
        raise DamageError(
            f"{what}: damaged: its content does not have the fingerprint that it states"
        )
    problems = _dataset_problems(manifest)
    if problems:
        raise FormatError(f"{what}: contradicts itself:", problems)
    return manifest


def _what_instead(root: str, policy: storage.RetryPolicy) -> str:
    """What to do about a place without a dataset."""
    url = storage.join(root, SOURCE_INFO)
    try:
        storage.size(url, policy=policy)
    except RoboshardError:  # none, or not to be told
        return (
            "Not a roboshard dataset, or its conversion has not finished: run convert-to-shards again "
            "to complete it"
        )
    return (
        "This is a LeRobot dataset, which is not loaded as it is: convert it first, "
        f"`convert-to-shards {storage.redacted(root)} DST`, and load DST"
    )


def load_index(
    root: str,
    manifest: DatasetManifest,
    max_bytes: int,
    *,
    policy: storage.RetryPolicy = storage.READING,
) -> bytes:
    """The bytes of the episode index, checked against dataset.json."""
    return _load_checked(
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
    """Return a shard's manifest, compared with its hash in dataset.json; a remote one is kept in `cache`.

    Raises:
        MissingError, DamageError, StorageError: with the manifest's name.
    """

    def load() -> bytes:
        remedy = "`roboshard rebuild` derives it from its shard"
        return _load_checked(root, shard.manifest, MAX_MANIFEST_BYTES, policy, remedy)

    key = _cache_key(root, shard)
    if cache is None or key is None:
        return load()
    data = cache.get(key, shard.manifest.size, load)
    if hashlib.sha256(data).hexdigest() != shard.manifest.sha256:  # the cache knows no such hash
        data = load()
        cache.get(key._replace(crc32c=crc32c(data)), len(data), lambda: data)
    return data


def stored_manifest(root: str, shard: ShardEntry, cache: DiskCache | None) -> str | None:
    """Return the local file that begins with a shard's manifest, once it was loaded; None: there is none."""
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
    """Parse a shard's manifest and check it against dataset.json and against itself; `url` names it in errors.

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


def _load_checked(
    root: str, entry: FileEntry, max_bytes: int, policy: storage.RetryPolicy, remedy: str
) -> bytes:
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
            f"{storage.redacted(url)}: {entry.size} bytes, more than the {max_bytes} that such a file may have"
        )
    if not storage.is_local(
        url
    ):  # one request: the reply that brings the bytes says how large the file is
        return storage.read_range(url, 0, entry.size, total=entry.size, policy=policy)
    found = storage.size(url)
    if found != entry.size:
        raise DamageError(f"{url}: {found} bytes where {DATASET_MANIFEST} says {entry.size}")
    return storage.read_all(url, max_bytes)


def _dataset_problems(manifest: DatasetManifest) -> list[str]:
    problems = []
    names = [shard.name for shard in manifest.shards]
    for i, shard in enumerate(manifest.shards):
        if not is_shard_name(shard.name):
            problems.append(f"shards.{i}.name: {shard.name!r} is not shards/shard-NNNNNN.tar")
        elif shard.manifest.name != shard_manifest_name(shard.name):
            problems.append(
                f"shards.{i}.manifest.name: {shard.manifest.name!r} does not belong to {shard.name}"
            )
    if sorted(set(names)) != names:
        problems.append("shards: not in ascending order of name, or one occurs twice")
    if manifest.index.name != EPISODE_INDEX:
        problems.append(f"index.name: must be {EPISODE_INDEX}, not {manifest.index.name!r}")
    if sum(shard.episodes for shard in manifest.shards) != manifest.total_episodes:
        problems.append("total_episodes: not the sum over shards")
    if sum(shard.frames for shard in manifest.shards) != manifest.total_frames:
        problems.append("total_frames: not the sum over shards")
    return [*problems, *spec_problems(manifest.features)]


def shard_problems(manifest: ShardManifest) -> list[str]:
    """What contradicts itself in a shard manifest: samples must tile the shard, members their sample."""
    problems, position = [], 0
    for i, sample in enumerate(manifest.samples):
        if sample.key != sample_key(sample.episode_index):
            problems.append(
                f"samples.{i}.key: {sample.key!r} is not episode {sample.episode_index}'s"
            )
        if sample.offset != position:
            problems.append(
                f"samples.{i}.offset: {sample.offset} where the sample before ends at {position}"
            )
        position = sample.offset + sample.size
        problems += [f"samples.{i}.{problem}" for problem in member_problems(sample)]
    if position != manifest.size:
        problems.append(f"samples end at {position}, the shard at {manifest.size}")
    if len({sample.key for sample in manifest.samples}) != len(manifest.samples):
        problems.append("samples: a key occurs twice")
    return problems


def member_problems(sample: SampleEntry) -> list[str]:
    """Return what contradicts itself in the members of a sample: they must lie in its range, one after the other."""
    problems, position = [], sample.offset
    for j, member in enumerate(sample.members):
        if not member.name.startswith(f"{sample.key}."):
            problems.append(f"members.{j}.name: {member.name!r} is not of sample {sample.key}")
        if member.offset < position + BLOCK or member.offset % BLOCK:
            problems.append(f"members.{j}.offset: {member.offset} leaves no room for a tar header")
        position = member.offset + padded(member.size)
    if position > sample.offset + sample.size:
        problems.append("members: reach past the end of the sample")
    if len({member.name.lower() for member in sample.members}) != len(sample.members):
        problems.append("members: a name occurs twice (case does not count)")
    return problems
