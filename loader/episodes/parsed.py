"""The rows of an episode as arrays, and what its record says of its cameras: all but the slices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from roboshard.common.errors import FormatError
from roboshard.loader.episodes.columns import Column, TensorColumn, make_column, padded_column
from roboshard.loader.episodes.images import ImageFiles, make_images
from roboshard.loader.episodes.row_table import RowTable
from roboshard.shards.features import ROW_DTYPES, ROW_NUMBERS, Features, shape_of
from roboshard.shards.reader import EpisodeData
from roboshard.shards.rows import decode_rows
from roboshard.shards.schema import CameraRecord
from roboshard.storage.stored import StoredRange


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What an episode must know of what it is loaded with: other datasets, values that rows may
    lack.
    """

    dataset: int | None = None
    """Which of the mixture's datasets the episode is of; None: there is but one dataset."""
    missing: Features = field(default_factory=dict)
    """Features of the mixture that the episode's dataset lacks, and that are filled with zeros."""
    optional: tuple[str, ...] = ()
    """Features with a mask `<key>_is_missing`: some dataset of the mixture lacks them, or some
    row.
    """
    nullable: tuple[str, ...] = ()
    """Features of `optional` whose values single rows may lack: masks of windows say it of each
    row.
    """
    is_lenient: bool = False
    """Whether rows may lack any value; one that does makes its feature nullable in the step."""
    own_keys: Mapping[str, str] = field(default_factory=dict)
    """Key in samples -> the dataset's own key, of features that are renamed."""
    pad_to: Mapping[str, int] = field(default_factory=dict)
    """Feature key -> numbers that its vectors have in samples."""

    def own_key(self, key: str) -> str:
        """Return the dataset's own key of a feature."""
        return self.own_keys.get(key, key)


PLAIN = Membership()


@dataclass(frozen=True, kw_only=True)
class ParsedEpisode:
    """What is known of an episode once it was read, verified and parsed. Picklable."""

    where: str
    """Shard and episode, for messages."""
    length: int
    table: RowTable
    """The values of most columns, side by side."""
    columns: Mapping[str, Column | None]
    """Feature key -> its column, in the dataset's order; None: its values lie in `table`."""
    widths: Mapping[str, int]
    """Feature key -> numbers of its vectors that are the dataset's, of features that are padded."""
    images: Mapping[str, ImageFiles]
    cameras: Mapping[str, CameraRecord]
    """Records of the cameras that were read, by key in samples."""
    stored: Mapping[str, StoredRange]
    """The dataset's camera key -> where its slice lies in a local file, if it lies in one."""
    num_bytes: int
    """Bytes that the rows take in memory."""

    @property
    def is_whole(self) -> bool:
        """Whether an episode can be made of it without reading: nothing is left out but what lies
        in files.
        """
        cameras = self.cameras.values()
        return not self.images and all(camera.key in self.stored for camera in cameras)


def parse_episode(
    data: EpisodeData, features: Features, tasks: Sequence[str | None], membership: Membership
) -> ParsedEpisode:
    """Return the rows of a fetched episode as arrays.

    Args:
        data: the episode.
        features: of the dataset, by key in samples: those that are loaded.
        tasks: of the dataset, by index.
        membership: says which values may be missing, and what is renamed and padded.

    Raises:
        FormatError: naming shard, episode and feature.
    """
    dtypes = {
        key: str(spec.get("dtype"))
        for key, spec in features.items()
        if spec.get("dtype") in ROW_DTYPES
    }
    own_keys = {membership.own_key(key): key for key in features}
    own_rows = [membership.own_key(key) for key in dtypes]
    table = decode_rows(data.rows, data.where, data.record.length, own_rows)
    stored = dict(zip(table.column_names, table.columns, strict=True))
    columns: dict[str, Column] = {}
    widths: dict[str, int] = {}
    images: dict[str, ImageFiles] = {}
    for key, dtype in dtypes.items():
        own = membership.own_key(key)
        where, spec = f"{data.where}, feature {own!r}", features[key]
        is_stored = own in stored
        values = stored[own] if is_stored else pa.chunked_array([pa.nulls(data.record.length)])
        made: Column | ImageFiles
        if dtype == "image":
            made = images[key] = make_images(values, spec, where)
        else:
            made = columns[key] = make_column(values, dtype, where, shape_of(spec) or (1,))
        if made.missing is not None and not (membership.is_lenient or key in membership.nullable):
            raise _missing(own, where, int(made.missing.sum()), is_stored=is_stored)
        if key in membership.pad_to and not isinstance(made, ImageFiles):
            columns[key], widths[key] = padded_column(made, membership.pad_to[key], where)
    _check_numbers(columns, data.where)
    _check_tasks(columns, tasks, data)
    unknown = [key for key in data.videos if key not in own_keys]
    if unknown:
        raise FormatError(
            f"{data.where}: has a camera that dataset.json does not know: {unknown[0]!r}"
        )
    rows = RowTable.of(columns, data.record.length)
    cameras = [camera for camera in data.record.cameras if camera.key in data.videos]
    return ParsedEpisode(
        where=data.where,
        length=data.record.length,
        table=rows,
        columns={key: None if key in rows.layout else it for key, it in columns.items()},
        widths=widths,
        images=images,
        cameras={own_keys[camera.key]: camera for camera in cameras},
        stored=data.stored,
        num_bytes=max(table.nbytes, rows.values.nbytes) if widths else table.nbytes,
    )


def _missing(key: str, where: str, number: int, *, is_stored: bool) -> FormatError:
    """Return the error for values that are missing where nothing said that they would be."""
    what = f"{number} rows have no value" if is_stored else f"its rows have no column {key!r}"
    return FormatError(
        f"{where}: {what}, which dataset.json does not say: `roboshard rebuild` writes it there, "
        "and then on_missing= says what becomes of it"
    )


def _check_numbers(columns: Mapping[str, Column], where: str) -> None:
    """Raise FormatError where a column that says which row it is does not hold one number in
    each.
    """
    for key in ROW_NUMBERS:
        column = columns.get(key)
        if column is not None and not (
            isinstance(column, TensorColumn) and math.prod(column.shape[1:]) == 1
        ):
            raise FormatError(f"{where}, feature {key!r}: its rows do not hold one number each")


def _check_tasks(
    columns: Mapping[str, Column], tasks: Sequence[str | None], data: EpisodeData
) -> None:
    """Raise FormatError for a row whose task is none of the dataset's."""
    column, length = columns.get("task_index"), data.record.length
    if column is None or not tasks:
        return
    indices = np.asarray(column.take(np.arange(length))).reshape(length)
    if indices.dtype.kind == "f":
        whole = indices.astype(np.int64)
        indices = whole if np.array_equal(whole, indices) else indices
    if indices.dtype.kind != "i":
        raise FormatError(f"{data.where}: task_index is not a whole number in each row")
    number = len(tasks)
    wrong = np.flatnonzero((indices < -number) | (indices >= number))
    if wrong.size:
        row = int(wrong[0])
        raise FormatError(
            f"{data.where}: row {row} has task_index {indices[row]} of {number} tasks"
        )
