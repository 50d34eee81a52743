"""Images of the rows: files that lie beside the rows come into them, and all are looked at once.

What a loader would refuse to open is refused here, where something can still be done about it.
"""

from collections.abc import Set
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pyarrow as pa

from roboshard.common.errors import FormatError, SourceError
from roboshard.converter.source.api import SourceMeta
from roboshard.converter.source.files import SourceFiles
from roboshard.shards.features import keys_of
from roboshard.shards.images import FORMATS, check_image, most_pixels

MAX_FILE_BYTES = 256 << 20
_IMAGES = "images"
_FOLDERS = ("episode_{:06d}", "episode-{:06d}")
"""Folders of an episode's images below images/KEY/, as LeRobot's recorders name them."""


class Held(Protocol):
    """Keeps files of a source at hand."""

    def __call__(self, paths: Set[str]) -> None:
        """Hold these files too, until the next episode."""

    def path(self, path: str) -> Path:
        """Return the local file behind a file that is held."""


def with_images(
    rows: pa.Table, episode: int, rows_where: str, source: SourceMeta, held: Held
) -> pa.Table:
    """The rows with every image in them; as they are, where all of them are there already.

    Args:
        rows: all columns of the episode's rows.
        episode: its index.
        rows_where: the file of the rows and the episode, as messages name them.
        source: what the dataset says of itself.
        held: the episode's files; images that rows point to are held too, until the next episode.

    Raises:
        SourceError: an image that is not in the dataset, or that no loader would open, with its
            row.
    """
    for key in keys_of(source.features, "image"):
        at = rows.schema.get_field_index(key)
        if at < 0:
            continue
        where = f"{rows_where}, feature {key!r}"
        column = rows.column(at).combine_chunks()
        places = _places(column, key, episode, source.files, where)
        if places:
            column = _embedded(column, places, held, where)
            rows = rows.set_column(at, rows.schema.field(at).with_type(column.type), column)
        _check(column, most_pixels(source.features[key]), where)
    return rows


def _places(
    column: pa.Array, key: str, episode: int, files: SourceFiles, where: str
) -> dict[int, str]:
    """Row -> file of the source, of rows that point to one instead of holding it."""
    paths, data = _field(column, "path"), _field(column, "bytes")
    places: dict[int, str] = {}
    if paths is None:
        return places
    for row, path in enumerate(paths.to_pylist()):
        if path is None or (data is not None and data[row].is_valid):
            continue
        found = next((file for file in _candidates(path, key, episode) if files.size(file)), None)
        if found is None:
            raise SourceError(
                f"{where}, row {row}: its image {path!r:.200} is not in the dataset: copy it to "
                f"{_IMAGES}/{key}/{_FOLDERS[0].format(episode)}/, or store the images in the "
                "rows"
            )
        places[row] = found
    return places


def _candidates(path: str, key: str, episode: int) -> list[str]:
    """Places of an image in the source: where it says, below images/, or where LeRobot records
    it.
    """
    parts = PurePosixPath(path).parts
    inside = [parts[parts.index(_IMAGES) :]] if _IMAGES in parts else []
    recorded = [
        (_IMAGES, key, folder.format(episode), PurePosixPath(path).name) for folder in _FOLDERS
    ]
    found = [PurePosixPath(*parts) for parts in (parts, *inside, *recorded) if parts]
    return [str(file) for file in found if not file.is_absolute() and ".." not in file.parts]


def _embedded(column: pa.Array, places: dict[int, str], held: Held, where: str) -> pa.Array:
    """The column as LeRobot stores images, (bytes, path), with the files in it."""
    held(set(places.values()))
    paths: Any = _field(column, "path")
    data = _field(column, "bytes")
    files = [None] * len(column) if data is None else data.to_pylist()
    for row, place in places.items():
        files[row] = _read(held.path(place), f"{where}, row {row}, {place}")
    stored = {"bytes": pa.array(files, pa.binary()), "path": paths.cast(pa.string())}
    gone = [file is None for file in files]
    return pa.StructArray.from_arrays(list(stored.values()), list(stored), mask=pa.array(gone))


def _read(path: Path, where: str) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SourceError(f"{where}: more than {MAX_FILE_BYTES} bytes are no image of a row")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{where}: cannot be read: {error.strerror}") from error


def _field(column: pa.Array, name: str) -> pa.Array | None:
    """The paths or the bytes of an image column, which may also hold nothing but one of them."""
    kind = column.type
    if pa.types.is_struct(kind):
        return column.field(name) if kind.get_field_index(name) >= 0 else None
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return column if (is_text and name == "path") or (is_binary and name == "bytes") else None


def _check(column: pa.Array, most: int, where: str) -> None:
    data = _field(column, "bytes")
    if pa.types.is_null(column.type):
        return
    if data is None:
        raise SourceError(f"{where}: images are stored as {column.type}, not as files")
    for row, file in enumerate(data):
        if file.is_valid:
            try:
                check_image(file.as_py(), most, f"{where}, row {row}")
            except FormatError as error:
                raise SourceError(f"{error}. Loaded are {', '.join(FORMATS)}") from None
