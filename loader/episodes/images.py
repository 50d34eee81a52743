"""Images of an episode's rows, one file per row, decoded when a sample needs them."""

from collections.abc import Sequence
from threading import Lock

import numpy as np
import pyarrow as pa

from roboshard.common.errors import FormatError
from roboshard.loader.episodes.columns import stored, unreadable
from roboshard.loader.episodes.spill import SpillStore
from roboshard.shards.features import Spec, depth_factor, is_depth, picture_shape
from roboshard.shards.images import Pixels, check_image, most_pixels, read_image
from roboshard.shards.missing import Mask, missing_rows


class ImageFiles:
    """Images of an episode: files of PNG, JPEG, WebP, TIFF or BMP."""

    def __init__(
        self, files: Sequence[bytes | None], spec: Spec, where: str, missing: Mask | None = None
    ) -> None:
        """Keep the files of a feature; `where` names episode and feature in errors."""
        self._files = files
        self._where = where
        self._spec = spec
        self._most = most_pixels(spec)
        self._depth_factor = depth_factor(spec) if is_depth(spec) else None
        self._blank: Pixels | None = None
        self._lock = Lock()
        self.missing = missing
        """(rows,) Which rows have no image; None: all have one."""

    def keep_in(self, store: SpillStore) -> int:
        """Keep large files in a store instead of memory, and return how many bytes that freed."""
        before = self._files
        self._files = store.keep(before)
        return 0 if self._files is before else sum(len(file or b"") for file in before)

    def pixels(self, row: int) -> Pixels:
        """Return the picture of a row.

        It is (H, W, C): uint8 levels; float32 of depth and of 16-bit and floating-point files;
        int32 of files of 32-bit integers. Zeros for a row without an image, as large as the first
        image of the episode.

        Raises:
            FormatError: what is no image, or is too large for its feature.
        """
        file = self._files[row]
        if file is None:
            return self._zeros()
        pixels = read_image(file, self._most, f"{self._where}, row {row}")
        return pixels if self._depth_factor is None else _depth(pixels, self._depth_factor)

    def check(self) -> None:
        """Raise FormatError for a file whose header is not that of an image, or of too large a
        one.
        """
        for row, file in enumerate(self._files):
            if file is not None:
                check_image(file, self._most, f"{self._where}, row {row}")

    def _zeros(self) -> Pixels:
        with self._lock:
            if self._blank is None:
                self._blank = self._make_zeros()
            return self._blank

    def _make_zeros(self) -> Pixels:
        first = next((row for row, file in enumerate(self._files) if file is not None), None)
        if first is not None:
            return np.zeros_like(self.pixels(first))
        shape = picture_shape(self._spec)
        if shape is None:
            raise FormatError(
                f"{self._where}: no row has an image, and its shape {self._spec.get('shape')} says "
                'no size: leave it out with on_missing="drop"'
            )
        if is_depth(self._spec):
            return np.zeros(shape, dtype=np.float32)
        return np.zeros(shape, dtype=np.uint8)


def _depth(pixels: Pixels, factor: float) -> Pixels:
    """Return depths as LeRobot does (`pil_to_chw_tensor`, `convert_image_depth_units`): 8-bit
    levels over 255.
    """
    if pixels.dtype == np.uint8:
        pixels = np.divide(pixels, np.float32(255), dtype=np.float32)
    if factor == 1.0:
        return pixels
    return np.multiply(pixels, np.float32(factor), dtype=np.float32)


def make_images(array: pa.ChunkedArray, spec: Spec, where: str) -> ImageFiles:
    """Return the images of a feature.

    Raises:
        FormatError: stored as what is no file, or a file that is not in the dataset.
    """
    with unreadable(where):
        values = stored(array)
        if pa.types.is_null(values.type):
            return ImageFiles([None] * len(values), spec, where, np.ones(len(values), np.bool_))
        missing = missing_rows(values, "image")
        return ImageFiles(_files(values, missing, where), spec, where, missing)


def _files(values: pa.Array, missing: Mask | None, where: str) -> list[bytes | None]:
    kind = values.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        values = values.field("bytes")
    if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        raise FormatError(
            f"{where}: images are stored as {kind}, not as files or as a struct with a field "
            "'bytes'"
        )
    files: list[bytes | None] = values.to_pylist()
    if missing is not None:
        files = [None if gone else file for file, gone in zip(files, missing.tolist(), strict=True)]
    if files.count(None) > (0 if missing is None else int(missing.sum())):
        raise FormatError(
            f"{where}: an image has no bytes; it points to a file outside the dataset"
        )
    return files
