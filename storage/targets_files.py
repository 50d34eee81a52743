"""Publishing to anything that fsspec writes to (s3://, gs://, sftp://, …), and to folders of this machine."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar

import fsspec

from roboshard.common.errors import MissingError, OptionError, StorageError
from roboshard.storage.local import (
    TEMPORARY_SUFFIX,
    LocalStorage,
    remove_file,
    write_atomic,
)
from roboshard.storage.targets_base import (
    CHUNK,
    RemoteFile,
    Target,
    TransientError,
    Upload,
    md5_of_base64,
    part_bytes,
)
from roboshard.storage.urls import local_path, redacted

READ_BACK_BYTES = 8 << 20
S3 = {"s3", "s3a"}
OBJECT_STORES = S3 | {"gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"}
"""Where an object appears whole, and folders are not made."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class FsspecTarget(Target):
    """A folder that an fsspec filesystem writes to.

    On S3 a file of less than 128 MiB is one object whose ETag is its MD5; a larger one is sent in parts of 64 MiB,
    which give an ETag that can be foretold too. Where the ETag is something else (KMS keys, other parts) and on
    filesystems that state no hash, the content is read back after it was sent. Parts that a killed upload left of a
    file, which nobody sees but which cost, are removed before the file is sent again.
    """

    errors: ClassVar[tuple[type[Exception], ...]] = (Exception,)  # every filesystem has its own

    def __init__(self, url: str) -> None:
        """Publish below an fsspec URL."""
        super().__init__(url)
        self._scheme = url.partition("://")[0]

    @cached_property
    def _fs(self) -> Any:
        try:
            fs, root = fsspec.core.url_to_fs(
                self.url, use_listings_cache=False, skip_instance_cache=True
            )
        except ImportError as error:
            extra = (
                f"; pip install 'roboshard[{EXTRAS[self._scheme]}]'"
                if self._scheme in EXTRAS
                else ""
            )
            raise StorageError(f"{redacted(self.url)}: {redacted(str(error))}{extra}") from None
        except ValueError as error:
            raise OptionError(f"{redacted(self.url)}: {redacted(str(error))}") from None
        self._root = str(root).rstrip("/")
        return fs

    def _full(self, path: str) -> str:
        fs = self._fs
        return f"{self._root}/{path}" if fs is not None else path

    def create(self, *, private: bool) -> None:
        """Make the folder. Buckets are not made: where they lie and who may read them is not ours to choose."""
        if private:
            raise OptionError(
                f"{redacted(self.url)}: --private is for the Hub; who may read this is set where it is kept"
            )
        if self._scheme not in OBJECT_STORES:
            self._retried(
                lambda: self._fs.makedirs(self._full("").rstrip("/"), exist_ok=True),
                "cannot be created",
            )

    def hash_kind(self, upload: Upload) -> str | None:  # noqa: ARG002
        """ETags on S3, MD5 on Google Cloud Storage."""
        return "s3" if self._scheme in S3 else "md5" if self._scheme in ("gs", "gcs") else None

    def _list(self) -> dict[str, RemoteFile]:
        root = self._full("")
        self._fs.invalidate_cache()
        found = self._fs.find(root.rstrip("/"), detail=True)
        paths = {
            name.removeprefix(root): info for name, info in found.items() if name.startswith(root)
        }
        return {
            path: self._described(info)
            for path, info in paths.items()
            if info["type"] == "file" and path
        }

    def _look(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        found = {}
        self._fs.invalidate_cache()
        for path in paths:
            try:
                found[path] = self._described(self._fs.info(self._full(path)))
            except FileNotFoundError:
                continue
        return found

    def _described(self, info: dict[str, Any]) -> RemoteFile:
        stated = None
        if self._scheme in S3 and info.get("ETag"):
            stated = f"s3:{str(info['ETag']).strip(chr(34))}"
        elif self._scheme in ("gs", "gcs") and info.get("md5Hash"):
            stated = md5_of_base64(info["md5Hash"])
        return RemoteFile(size=int(info["size"]), hash=stated)

    def _send(self, uploads: Sequence[Upload]) -> None:
        for upload in uploads:
            full = self._full(upload.path)
            if self._scheme not in OBJECT_STORES:
                self._fs.makedirs(full.rpartition("/")[0], exist_ok=True)
            if isinstance(upload.content, bytes):
                self._fs.pipe_file(full, upload.content)
            elif self._scheme in S3:
                self._remove_parts(full)
                self._fs.put_file(str(upload.content), full, chunksize=part_bytes(upload.size))
            else:
                self._fs.put_file(str(upload.content), full)

    def _remove_parts(self, full: str) -> None:
        """Abort what killed uploads of this very object have left; without the right to, leave it."""
        bucket, _, key = full.partition("/")
        try:
            left = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key).get(
                "Uploads", []
            )
            for one in left:
                if one["Key"] == key:
                    self._fs.call_s3(
                        "abort_multipart_upload", Bucket=bucket, Key=key, UploadId=one["UploadId"]
                    )
        except (OSError, NotImplementedError):
            return

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._fs.rm_file(self._full(path))

    def _read_chunks(self, path: str) -> Iterator[bytes]:
        with self._fs.open(
            self._full(path), "rb", block_size=READ_BACK_BYTES, cache_type="none"
        ) as file:
            while chunk := file.read(READ_BACK_BYTES):
                yield chunk

    def _explained(self, error: Exception, doing: str) -> StorageError | MissingError:
        said = redacted(str(error).strip())
        cause = next(iter(said.splitlines()), type(error).__name__)
        if isinstance(error, FileNotFoundError):
            return MissingError(f"{doing}: {cause}; a bucket must exist before it is written to")
        if isinstance(error, PermissionError) or "redential" in type(error).__name__:
            return StorageError(
                f"{doing}: no permission ({cause}). Check the credentials of {self._scheme}://"
            )
        if isinstance(error, NotImplementedError | TypeError | ValueError | ImportError):
            return StorageError(f"{doing}: {cause}")
        return TransientError(
            f"{doing}, after several attempts: {cause}. Run the same command again to go on from here"
        )


class LocalTarget(Target):
    """A folder of this machine, or one that is mounted."""

    def __init__(self, url: str) -> None:
        """Publish in a local folder."""
        super().__init__(url)
        self.root = local_path(self.url)

    def create(self, *, private: bool) -> None:
        """Make the folder."""
        if private:
            raise OptionError(f"{self.url}: --private is for the Hub; use the folder's permissions")
        self._retried(lambda: self.root.mkdir(parents=True, exist_ok=True), "cannot be made")

    def _list(self) -> dict[str, RemoteFile]:
        sizes = LocalStorage().list_files(str(self.root))
        return {path: RemoteFile(size=size, hash=None) for path, size in sizes.items()}

    def _look(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        there = [path for path in paths if (self.root / path).is_file()]
        return {
            path: RemoteFile(size=(self.root / path).stat().st_size, hash=None) for path in there
        }

    def _send(self, uploads: Sequence[Upload]) -> None:
        for upload in uploads:
            path = self.root / upload.path
            self._remove_temporaries(path)
            write_atomic(path, lambda file, upload=upload: _copy(upload, file), below=self.root)  # type: ignore[misc]

    def _remove_temporaries(self, path: Path) -> None:
        for left in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):
            remove_file(left, below=self.root)

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            remove_file(self.root / path, below=self.root)

    def _read_chunks(self, path: str) -> Iterator[bytes]:
        with (self.root / path).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def _explained(self, error: Exception, doing: str) -> StorageError | MissingError:
        cause = getattr(error, "strerror", None) or redacted(str(error))
        return (MissingError if isinstance(error, FileNotFoundError) else StorageError)(
            f"{doing}: {cause}"
        )


def _copy(upload: Upload, file: IO[bytes]) -> None:
    if isinstance(upload.content, bytes):
        file.write(upload.content)
        return
    with upload.content.open("rb") as source:
        while chunk := source.read(CHUNK):
            file.write(chunk)
