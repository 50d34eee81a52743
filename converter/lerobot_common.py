"""What datasets of all LeRobot versions have in common: info.json, stats.json, path templates, a fingerprint."""

import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from roboshard.converter.source_files import SourceFiles
from roboshard.shards import jsonio
from roboshard.shards.errors import MissingError, SourceError
from roboshard.shards.features import keys_of

INFO, STATS = "meta/info.json", "meta/stats.json"
MAX_JSON_BYTES = 256 << 20
TAR_OVERHEAD = 4096  # headers, padding and record of a sample

_FIELD = re.compile(
    r"\{\w+(:\d{1,2}d?)?\}"
)  # of a path template; format() itself can be made to fill the memory
_VERSION = re.compile(r"v(2\.[01]|3\..*)")


def read_info(files: SourceFiles) -> dict[str, Any]:
    """meta/info.json of a version that is read, with usable fps, features and path templates.

    Raises MissingError or SourceError, naming the field.
    """
    path = files.where(INFO)
    try:
        data = files.metadata_path(INFO).read_bytes()
    except MissingError as error:
        raise MissingError(
            f"{error}; SOURCE must be a LeRobot dataset, with meta/, data/, videos/"
        ) from None
    info = jsonio.load(data, path, MAX_JSON_BYTES)
    version = info.get("codebase_version")
    if not (isinstance(version, str) and _VERSION.fullmatch(version)):
        raise SourceError(
            f"{path}: codebase_version {version!r}; this release reads v2.0, v2.1 and v3.x. Bring other datasets to "
            "one of these with LeRobot's own converters"
            + (", or name a revision that is, as in ORG/NAME@v3.0" if files.revision else "")
        )
    problems = []
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        problems.append(f"fps must be a positive number, not {fps!r}")
    features = info.get("features")
    if not isinstance(features, dict) or not all(
        isinstance(spec, dict) for spec in features.values()
    ):
        problems.append("features must be an object of objects")
    elif camera_keys(info) and not info.get("video_path"):
        problems.append("video_path is missing, though there are video features")
    if not isinstance(info.get("data_path"), str):
        problems.append("data_path is missing")
    if problems:
        raise SourceError("\n  - ".join([f"{path}: not usable:", *problems]))
    return info


def camera_keys(info: dict[str, Any]) -> tuple[str, ...]:
    """Keys of the video features, in order."""
    return keys_of(info["features"], "video")


def read_stats(files: SourceFiles) -> dict[str, Any] | None:
    """meta/stats.json; None: there is none."""
    if STATS not in files.metadata():
        return None
    return jsonio.load(files.metadata_path(STATS).read_bytes(), files.where(STATS), MAX_JSON_BYTES)


def fill(info: dict[str, Any], template: str, **values: object) -> str:
    """A path from one of info.json's templates. It must stay inside the dataset."""
    try:
        if "{" in _FIELD.sub("", str(info[template])):
            raise ValueError("fields are {name} or {name:03d}")
        path = str(info[template]).format(**values)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise SourceError(
            f"info.json: {template} {info.get(template)!r} cannot be filled: {error!r}"
        ) from None
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
        raise SourceError(f"info.json: {template} leads outside the dataset: {path!r}")
    return path


def size_of(files: SourceFiles, path: str, needed_for: Callable[[], str]) -> int:
    """Bytes of a file. Raises MissingError or SourceError, saying by `needed_for` which metadata names it."""
    try:
        size = files.size(path)
    except OSError as error:
        raise SourceError(f"{files.where(path)}: {error.strerror}; {needed_for()}") from error
    if size is None:
        raise MissingError(f"{files.where(path)}: missing, though {needed_for()}")
    return size


def total_problems(info: dict[str, Any], episodes: int, frames: int, counted: str) -> list[str]:
    """Where info.json's totals differ from what `counted` adds up to."""
    return [
        f"info.json says {name} {info.get(name)}, {counted} adds up to {found}"
        for name, found in (("total_episodes", episodes), ("total_frames", frames))
        if info.get(name) != found
    ]


def contradiction(files: SourceFiles, problems: Iterable[str]) -> SourceError:
    """The error that tells all of these together."""
    return SourceError("\n  - ".join([f"{files.where()}: metadata contradicts itself:", *problems]))


def fingerprint_of(files: SourceFiles, others: Iterable[str]) -> str:
    """SHA-256 over the metadata's contents and over names and sizes of `others`: all data and video files."""
    digest = hashlib.sha256()
    for path in files.metadata():
        with files.metadata_path(path).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path} {content}\n".encode())
    for name in sorted(set(others)):
        with suppress(OSError):  # an error where a chosen episode needs it
            digest.update(f"{name} {files.size(name)}\n".encode())
    return digest.hexdigest()
