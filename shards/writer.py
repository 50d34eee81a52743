"""Writing a shard: samples in, tar bytes and a manifest out."""

import hashlib
from collections.abc import Mapping
from typing import IO

from crc32c import crc32c

from roboshard.shards.names import RECORD_SUFFIX, ROWS_SUFFIX, member_name, sample_key
from roboshard.shards.schema import (
    EpisodeRecord,
    MemberEntry,
    SampleEntry,
    ShardManifest,
    document_bytes,
)
from roboshard.shards.tar import END_OF_ARCHIVE, member_header, padded
from roboshard.shards.versions import version_of


def crc_text(value: int) -> str:
    """A CRC32C as manifests spell it."""
    return f"{value:08x}"


class ShardWriter:
    """Writes one shard to an open file, sample by sample; checksums are taken of the bytes as they
    pass.
    """

    def __init__(self, file: IO[bytes], *, shard: str, conversion: str) -> None:
        """Start a shard named `shard` for the conversion with that id."""
        self._file = file
        self._shard = shard
        self._conversion = conversion
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._samples: list[SampleEntry] = []

    @property
    def num_samples(self) -> int:
        """Samples added so far."""
        return len(self._samples)

    def add(self, record: EpisodeRecord, rows: bytes, videos: Mapping[str, bytes]) -> None:
        """Add one episode: its record, its parquet file, and per member suffix a video file."""
        key = sample_key(record.episode_index)
        payloads = {RECORD_SUFFIX: document_bytes(record), ROWS_SUFFIX: rows}
        payloads |= {camera.member: videos[camera.member] for camera in record.cameras}
        start, crc = self._size, 0
        members = []
        for suffix, payload in payloads.items():
            name = member_name(key, suffix)
            crc = self._write(member_header(name, len(payload)), crc)
            members.append(
                MemberEntry(
                    name=name,
                    offset=self._size,
                    size=len(payload),
                    crc32c=crc_text(crc32c(payload)),
                )
            )
            crc = self._write(payload, crc)
            crc = self._write(bytes(padded(len(payload)) - len(payload)), crc)
        self._samples.append(
            SampleEntry(
                key=key,
                episode_index=record.episode_index,
                length=record.length,
                tasks=record.tasks,
                offset=start,
                size=self._size - start,
                crc32c=crc_text(crc),
                members=members,
                missing=record.missing,
                findings=record.findings,
            )
        )

    def finish(self) -> ShardManifest:
        """Write the tar's end mark, which counts as part of the last sample's range."""
        last = self._samples[-1]
        crc = self._write(END_OF_ARCHIVE, int(last.crc32c, 16))
        self._samples[-1] = last.model_copy(
            update={"size": self._size - last.offset, "crc32c": crc_text(crc)}
        )
        return ShardManifest(
            version=version_of(
                member.name for sample in self._samples for member in sample.members
            ),
            shard=self._shard,
            size=self._size,
            sha256=self._sha256.hexdigest(),
            conversion=self._conversion,
            samples=self._samples,
        )

    def _write(self, data: bytes, crc: int) -> int:
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)
        return int(crc32c(data, crc))
