"""Deriving manifests and index again from bare tars: nothing but the shards is read."""

import hashlib
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import pyarrow as pa
from crc32c import crc32c

from roboshard import storage
from roboshard.common import interrupts
from roboshard.common.errors import FormatError, MissingError
from roboshard.shards.generations import derived_files, generations_of
from roboshard.shards.manifest import load_dataset_manifest
from roboshard.shards.missing import missing_values
from roboshard.shards.names import (
    DATASET_MANIFEST,
    RECORD_SUFFIX,
    ROWS_SUFFIX,
    SHARD_FOLDER,
    episode_of_key,
    is_shard_name,
    shard_manifest_name,
    split_member_name,
)
from roboshard.shards.problems import shard_problems
from roboshard.shards.rows import MAX_ROWS_BYTES, decode_rows, read_provenance
from roboshard.shards.schema import (
    MAX_RECORD_BYTES,
    DatasetManifest,
    EpisodeRecord,
    MemberEntry,
    Provenance,
    SampleEntry,
    ShardManifest,
    document_bytes,
    parse,
)
from roboshard.shards.tar import TarMember, scan
from roboshard.shards.versions import version_of
from roboshard.shards.writer import crc_text

MAX_SAMPLES_PER_SHARD = 1_000_000


@interrupts.interruptible
def rebuild(root: Path, *, partial_dataset: bool = False) -> DatasetManifest:
    """Write every shard manifest, the index and dataset.json of `root` again from its shards.

    The result is byte for byte what the conversion wrote, as long as every shard is there and
    undamaged: hashes are taken of what lies on disk now.

    Args:
        root: a local dataset folder.
        partial_dataset: accept that shards of the conversion are missing, and make a smaller
            dataset.

    Returns:
        What dataset.json says now.

    Raises:
        MissingError: no shards, or fewer than were written.
        FormatError, DamageError: a shard that is not in the format, with its name.

    Example:
        >>> from pathlib import Path
        >>> rebuild(Path("my_dataset_shards")).total_episodes
        14
    """
    names = sorted(
        name
        for path in (root / SHARD_FOLDER).glob("*.tar")
        if is_shard_name(name := f"{SHARD_FOLDER}/{path.name}")
    )
    if not names:
        raise MissingError(f"{root / SHARD_FOLDER}: no shards")
    parts = [rebuild_shard(root, name) for name in names]
    manifests = [manifest for manifest, _ in parts]
    _check_episodes_once(root, manifests)
    files = derived_files(root, generations_of(root, parts), partial_dataset=partial_dataset)
    (root / DATASET_MANIFEST).unlink(missing_ok=True)  # no dataset until all its parts agree again
    for manifest in manifests:
        path = root / shard_manifest_name(manifest.shard)
        storage.write_bytes(path, document_bytes(manifest), below=root)
    for name, data in files.items():
        storage.write_bytes(root / name, data, below=root)
    return load_dataset_manifest(str(root))


def rebuild_shard(root: Path, name: str) -> tuple[ShardManifest, Provenance]:
    """The manifest of one shard and the provenance that it carries.

    Raises:
        FormatError, DamageError: naming the shard, and the member where it can be known.
    """
    url = str(root / name)
    size = storage.size(url)
    samples = list(_samples(url, size))
    provenance: Provenance | None = None
    entries = []
    sha256 = hashlib.sha256()
    for i, members in enumerate(samples):
        start = members[0].start if i else 0
        end = samples[i + 1][0].start if i + 1 < len(samples) else size
        crc = 0
        for chunk in storage.read_range_chunks(url, start, end - start):
            interrupts.check()
            sha256.update(chunk)
            crc = crc32c(chunk, crc)
        record, rows = _contents(url, members)
        provenance = provenance or _provenance(url, members)
        entries.append(
            SampleEntry(
                key=_key(members),
                episode_index=record.episode_index,
                length=record.length,
                tasks=record.tasks,
                offset=start,
                size=end - start,
                crc32c=crc_text(crc),
                members=[_member_entry(url, member) for member in members],
                findings=record.findings,
                missing=missing_values(rows, provenance.features),
            )
        )
    if provenance is None:
        raise FormatError(f"{url}: holds no sample")
    manifest = ShardManifest(
        version=version_of(member.name for entry in entries for member in entry.members),
        shard=name,
        size=size,
        sha256=sha256.hexdigest(),
        conversion=provenance.conversion.id,
        samples=entries,
    )
    problems = shard_problems(manifest)
    if problems:
        raise FormatError(f"{url}: not laid out as the format says:", problems)
    return manifest, provenance


def _samples(url: str, size: int) -> Iterator[list[TarMember]]:
    """Adjacent members of one key; a key that comes back later is refused."""
    seen: set[str] = set()
    for key, members in groupby(
        scan(partial(storage.read_range, url), size, url),
        key=lambda member: split_member_name(member.name)[0],
    ):
        if key in seen or len(seen) >= MAX_SAMPLES_PER_SHARD:
            raise FormatError(
                f"{url}: members of sample {key!r} are not adjacent, or the sample occurs twice"
            )
        seen.add(key)
        try:
            episode_of_key(key)
        except FormatError as error:
            raise FormatError(f"{url}: {error}") from None
        yield list(members)


def _key(members: list[TarMember]) -> str:
    return split_member_name(members[0].name)[0]


def _payload(url: str, members: list[TarMember], suffix: str, max_bytes: int) -> bytes:
    wanted = [member for member in members if split_member_name(member.name)[1] == suffix]
    if len(wanted) != 1:
        raise FormatError(
            f"{url}: sample {_key(members)} has {len(wanted)} members {suffix!r}, not one"
        )
    if wanted[0].size > max_bytes:
        raise FormatError(
            f"{url}: {wanted[0].name} has {wanted[0].size} bytes, more than {max_bytes}"
        )
    return storage.read_range(url, wanted[0].offset, wanted[0].size)


def _contents(url: str, members: list[TarMember]) -> tuple[EpisodeRecord, pa.Table]:
    """The sample's record, checked against its members and its rows; and those rows."""
    where = f"{url}, {_key(members)}"
    record = parse(
        EpisodeRecord,
        _payload(url, members, RECORD_SUFFIX, MAX_RECORD_BYTES),
        where,
        MAX_RECORD_BYTES,
    )
    if record.episode_index != episode_of_key(_key(members)):
        raise FormatError(f"{where}: its record is of episode {record.episode_index}")
    found = {split_member_name(member.name)[1] for member in members}
    expected = {RECORD_SUFFIX, ROWS_SUFFIX, *(camera.member for camera in record.cameras)}
    if found != expected or len(members) != len(expected):
        raise FormatError(
            f"{where}: members {sorted(found)} where its record names {sorted(expected)}"
        )
    rows = decode_rows(_payload(url, members, ROWS_SUFFIX, MAX_ROWS_BYTES), where, record.length)
    return record, rows


def _member_entry(url: str, member: TarMember) -> MemberEntry:
    crc = 0
    for chunk in storage.read_range_chunks(url, member.offset, member.size):
        crc = crc32c(chunk, crc)
    return MemberEntry(
        name=member.name, offset=member.offset, size=member.size, crc32c=crc_text(crc)
    )


def _provenance(url: str, members: list[TarMember]) -> Provenance:
    where = f"{url}, {_key(members)}"
    provenance = read_provenance(_payload(url, members, ROWS_SUFFIX, MAX_ROWS_BYTES), where)
    if provenance is None:
        raise FormatError(f"{where}: carries no provenance; roboshard did not write this shard")
    return provenance


def _check_episodes_once(root: Path, manifests: list[ShardManifest]) -> None:
    holders: dict[int, str] = {}
    for manifest in manifests:
        for sample in manifest.samples:
            other = holders.setdefault(sample.episode_index, manifest.shard)
            if other != manifest.shard:
                raise FormatError(
                    f"{root / manifest.shard}: holds episode {sample.episode_index}, as {other} "
                    "does: a shard that was copied under a second name; remove one"
                )
