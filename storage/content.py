"""What is stored and what is sent, and the hashes by which storages know content."""

import hashlib
import os
import tempfile
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20
MIN_PART_BYTES = 64 << 20
MAX_PARTS = 9000  # S3 allows 10,000
SINGLE_PUT_BYTES = 5 << 30

Content = Path | bytes


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file as its storage describes it."""

    size: int
    hash: str | None = None
    """Hash of the content: "xet:", "sha256:", "git:", "md5:" or "s3:" and hex digits. None: the
    storage keeps none.
    """


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file to send to a store."""

    path: str
    """Path that the file gets, under the URL of its store."""
    content: Content
    """What is sent: a local file, or bytes."""
    sha256: str | None = None
    """SHA-256 of the content, where the caller has computed it."""

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def chunks(self, start: int = 0, length: int | None = None) -> Iterable[bytes]:
        """The content in order, CHUNK at a time, from `start`; all that is left where no length is
        given.
        """
        if isinstance(self.content, bytes):
            yield self.content[start:] if length is None else self.content[start : start + length]
            return
        with self.content.open("rb") as file:
            file.seek(start, os.SEEK_SET)
            while (length is None or length > 0) and (
                chunk := file.read(CHUNK if length is None else min(CHUNK, length))
            ):
                length = None if length is None else length - len(chunk)
                yield chunk


def fits_hash(upload: Upload, found: StoredFile) -> bool | None:
    """Whether the content has the hash that the storage states; None where that cannot be told from
    the hash.
    """
    kind, _, stated = (found.hash or "").partition(":")
    if not kind:
        return None
    fits = hash_of(upload, kind) == stated
    # An S3 ETag is a hash of the content unless KMS encrypts it or somebody else chose the parts.
    return True if fits else None if kind == "s3" else False


def hash_of(upload: Upload, kind: str) -> str:
    """The content's hash, of a kind that `StoredFile.hash` names."""
    if kind == "sha256":
        return sha256_of(upload)
    if kind == "xet":
        return _xet_hash(upload.content)
    if kind == "s3":
        return _s3_etag(upload)
    if kind == "git":
        return _digest(upload, hashlib.sha1(b"blob %d\0" % upload.size, usedforsecurity=False))
    return _digest(upload, hashlib.md5(usedforsecurity=False))


def sha256_of(upload: Upload) -> str:
    """SHA-256 of what is to be sent."""
    return upload.sha256 or _digest(upload, hashlib.sha256())


def part_bytes(size: int) -> int:
    """Bytes of a part of an S3 multipart upload of a file of this size."""
    return max(MIN_PART_BYTES, -(-size // MAX_PARTS))


def md5_of_base64(text: str) -> str:
    """A base64 MD5, as Google Cloud Storage states it, as a StoredFile hash."""
    return f"md5:{b64decode(text).hex()}"


def _xet_hash(content: Content) -> str:
    """The hash by which the Hub's storage knows this content."""
    import hf_xet  # noqa: PLC0415 - only those who publish on the Hub wait for it

    if isinstance(content, Path):
        return str(hf_xet.hash_files([str(content)])[0].hash)
    with tempfile.NamedTemporaryFile(prefix="roboshard-") as file:
        file.write(content)
        file.flush()
        return str(hf_xet.hash_files([file.name])[0].hash)


def _s3_etag(upload: Upload) -> str:
    """The ETag that S3 gives content which is sent in one piece, or in parts of `part_bytes`."""
    size, part = upload.size, part_bytes(upload.size)
    if size < min(SINGLE_PUT_BYTES, 2 * part):  # as s3fs decides
        return _digest(upload, hashlib.md5(usedforsecurity=False))
    digests = b""
    for start in range(0, size, part):
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in upload.chunks(start, min(part, size - start)):
            digest.update(chunk)
        digests += digest.digest()
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{-(-size // part)}"


def _digest(upload: Upload, digest: "hashlib._Hash") -> str:
    for chunk in upload.chunks():
        digest.update(chunk)
    return digest.hexdigest()
