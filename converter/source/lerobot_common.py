"""What datasets of all LeRobot versions have in common: info.json, stats.json, path templates, a
fingerprint.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from roboshard.common import jsonio
from roboshard.common.errors import FormatError, MissingError, SourceError
from roboshard.converter.source.files import MAX_POINTER_BYTES, SourceFiles, refuse_pointer
from roboshard.converter.source.findings import Report, finding
from roboshard.shards.documents import Finding
from roboshard.shards.features import DTYPES, Features, keys_of
from roboshard.shards.names import DATASET_MANIFEST

INFO, STATS = "meta/info.json", "meta/stats.json"
MAX_JSON_BYTES = 256 << 20
TAR_OVERHEAD = 4096  # headers, padding and record of a sample

_FIELD = re.compile(
    r"\{\w+(:\d{1,2}d?)?\}"
)  # of a path template; format() itself can be made to fill the memory
_VERSION = re.compile(r"v?(2\.[01]|3(\..*)?)")
DEFAULT_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
"""Path template of LeRobot v3's data files, for an info.json that has none."""


def read_info(files: SourceFiles) -> dict[str, Any]:
    """meta/info.json of a version that is read, with usable fps, features and path templates.

    Raises MissingError or SourceError, naming the field.
    """
    path = files.where(INFO)
    try:
        data = _read(files, INFO)
    except MissingError as error:
        if files.size(DATASET_MANIFEST) is not None:
            raise SourceError(
                f"{files.where()}: these are shards already: load them with make_loader or "
                "open_dataset; `roboshard export` makes a LeRobot dataset of them"
            ) from None
        raise MissingError(
            f"{error}; SOURCE must be a LeRobot dataset, with meta/, data/, videos/"
        ) from None
    info = jsonio.load(data, path, MAX_JSON_BYTES)
    version = info.get("codebase_version")
    if not (isinstance(version, str) and _VERSION.fullmatch(version)):
        raise SourceError(
            f"{path}: codebase_version {version!r}; this release reads v2.0, v2.1 and v3.x. Bring "
            "other datasets to one of these with LeRobot's own converters"
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
    if not isinstance(info.get("data_path"), str) and _is_v2(version):
        problems.append("data_path is missing")
    if problems:
        raise SourceError("\n  - ".join([f"{path}: not usable:", *problems]))
    return info


def is_v2(info: dict[str, Any]) -> bool:
    """Whether the dataset is of LeRobot v2.0 or v2.1."""
    return _is_v2(str(info["codebase_version"]))


def _is_v2(version: str) -> bool:
    return version.removeprefix("v").startswith("2.")


def camera_keys(info: dict[str, Any]) -> tuple[str, ...]:
    """Keys of the video features, in order."""
    return keys_of(info["features"], "video")


def read_stats(files: SourceFiles, report: Report) -> dict[str, Any] | None:
    """meta/stats.json; None: there is none, or none that can be read, which `report` is told."""
    if STATS not in files.metadata():
        return None
    try:
        return jsonio.load(_read(files, STATS), files.where(STATS), MAX_JSON_BYTES)
    except FormatError as error:
        report(finding("stats-ignored", STATS, str(error).removeprefix(f"{files.where(STATS)}: ")))
        return None


def _read(files: SourceFiles, path: str) -> bytes:
    refuse_pointer(files.metadata_path(path), files.where(path))
    return files.metadata_path(path).read_bytes()


def with_data_path(info: dict[str, Any], report: Report) -> dict[str, Any]:
    """info.json with a path template for data files; LeRobot v3 reads those that lie where its own
    would be.
    """
    if isinstance(info.get("data_path"), str):
        return info
    report(finding("info-field-missing", INFO, f"data_path is {info.get('data_path')!r:.60}"))
    return info | {"data_path": DEFAULT_DATA_PATH}


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
    """Bytes of a file.

    Raises MissingError or SourceError, saying by `needed_for` which metadata names it.
    """
    try:
        size = files.size(path)
    except OSError as error:
        raise SourceError(f"{files.where(path)}: {error.strerror}; {needed_for()}") from error
    if size is None:
        raise MissingError(f"{files.where(path)}: missing, though {needed_for()}")
    if files.folder is not None and size <= MAX_POINTER_BYTES:
        refuse_pointer(files.folder / path, files.where(path))
    return size


def fingerprint_of(files: SourceFiles, others: Iterable[str]) -> str:
    """SHA-256 over the metadata's contents and over names and sizes of `others`: all data and video
    files.
    """
    digest = hashlib.sha256()
    for path in files.metadata():
        with files.metadata_path(path).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path} {content}\n".encode())
    for name in sorted(set(others)):
        with suppress(OSError):  # an error where a chosen episode needs it
            digest.update(f"{name} {files.size(name)}\n".encode())
    return digest.hexdigest()


def unknown_dtypes(features: Features) -> list[Finding]:
    """Features of kinds that no loader of this release knows."""
    return [
        finding(
            "dtype-unknown", f"meta/info.json, feature {key!r}", f"dtype {spec.get('dtype')!r:.60}"
        )
        for key, spec in features.items()
        if spec.get("dtype") not in DTYPES
    ]
