"""Where a source's files come from: a local folder, or a place from which each is downloaded when
it is needed.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roboshard import storage
from roboshard.common.errors import MissingError, SourceError

_LFS_POINTER = b"version https://git-lfs"
MAX_POINTER_BYTES = 1024
_METADATA = (".json", ".jsonl", ".parquet")


class HeldFiles(Protocol):
    """The files that one reader works with. They stay where they are as long as it holds them."""

    def hold(self, paths: Collection[str]) -> None:
        """Hold these files from now on, and release all others; may wait for room, and download."""

    def path(self, path: str) -> Path:
        """The local file behind a path that is held.

        A path that the source does not have leads nowhere.
        """

    def close(self) -> None:
        """Release all files."""


class SourceFiles(Protocol):
    """The files of a source, by path relative to its root. Can be sent to other processes."""

    @property
    def name(self) -> str:
        """What the dataset is called; says nothing of where it lies, except on the Hub."""

    @property
    def revision(self) -> str | None:
        """The commit of a dataset of the Hub; None: the source has none."""

    @property
    def folder(self) -> Path | None:
        """The source's folder, if it is one of this machine."""

    @property
    def capacity(self) -> int | None:
        """Bytes of files that can be held at once; None: any number."""

    def where(self, path: str = "") -> str:
        """Return the name that messages have for a file, or for the whole source."""

    def metadata(self) -> list[str]:
        """Paths of the JSON, JSON Lines and parquet files under meta/, in a fixed order."""

    def metadata_path(self, path: str) -> Path:
        """Return the local file behind a metadata file. Raises MissingError."""

    def size(self, path: str) -> int | None:
        """Bytes of a file; None: there is none. Raises OSError where that cannot be told."""

    def listed(self, folder: str) -> list[str]:
        """Paths of all files below a folder of the source, in LeRobot's order: by the names on the
        way to them.
        """

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read `length` bytes of a file from `offset`, without holding it. Raises MissingError,
        StorageError.
        """

    def held(self, on_release: Callable[[str], None]) -> HeldFiles:
        """Files for one reader, which closes a file that it has open when `on_release` is called
        with its path.
        """

    def close(self) -> None:
        """Remove what was downloaded. No file may be in use any more."""


def metadata_among(paths: Iterable[str]) -> list[str]:
    """The metadata files among a source's files, in a fixed order: a folder's files together."""
    split = sorted(
        path.split("/") for path in paths if path.startswith("meta/") and path.endswith(_METADATA)
    )
    return ["/".join(parts) for parts in split if not any(part.startswith(".") for part in parts)]


def by_names(paths: Iterable[str]) -> list[str]:
    """Paths in the order in which LeRobot reads them: compared folder by folder."""
    return sorted(paths, key=lambda path: path.split("/"))


def refuse_pointer(path: Path, where: str) -> None:
    """Raise SourceError for a file that git-lfs has left a pointer of; `where` names it."""
    with suppress(OSError), path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER and (
            path.stat().st_size <= MAX_POINTER_BYTES
        ):
            raise SourceError(
                f"{where}: a pointer of git-lfs, not the file that it stands for; run `git lfs "
                "pull` where the dataset was cloned"
            )


@dataclass(frozen=True)
class LocalFiles:
    """The files of a source that is a folder of this machine."""

    folder: Path
    revision: str | None = None
    capacity: None = None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    def where(self, path: str = "") -> str:
        """Return the path of a file, or of the folder, for messages."""
        return str(self.folder / path)

    def metadata(self) -> list[str]:
        """Paths of the JSON, JSON Lines and parquet files under meta/, in a fixed order."""
        with suppress(MissingError):
            return metadata_among(
                f"meta/{path}" for path in storage.list_files(str(self.folder / "meta"))
            )
        return []

    def metadata_path(self, path: str) -> Path:
        """Return the path of a metadata file. Raises MissingError."""
        if not (self.folder / path).is_file():
            raise MissingError(f"{self.where(path)}: no such file")
        return self.folder / path

    def size(self, path: str) -> int | None:
        """Bytes of a file; None: there is none."""
        try:
            return (self.folder / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def listed(self, folder: str) -> list[str]:
        """Paths of all files below a folder of the source, in LeRobot's order; none where it is
        missing.
        """
        with suppress(MissingError):
            return by_names(
                f"{folder}/{path}" for path in storage.list_files(str(self.folder / folder))
            )
        return []

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of a file from `offset`."""
        return storage.read_range(str(self.folder / path), offset, length)

    def held(self, on_release: Callable[[str], None]) -> HeldFiles:  # noqa: ARG002 - files of a folder stay
        """Return the folder's files, of which none has to be held."""
        return _Folder(self.folder)

    def close(self) -> None:
        """Do nothing: no file was downloaded."""


@dataclass(frozen=True)
class _Folder:
    """Files of a folder, of which none has to be held: nobody tidies up there."""

    folder: Path

    def hold(self, paths: Collection[str]) -> None:
        pass

    def path(self, path: str) -> Path:
        return self.folder / path

    def close(self) -> None:
        pass
