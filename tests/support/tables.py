"""The rows of a dataset: features, parquet tables and statistics, in LeRobot's own layout."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from . import language
from .spec import Camera, Source
from .stamp import render

Json = dict[str, Any]
Values = NDArray[Any] | list[Any] | pa.Array
"""One episode of one column: an array (rows, *shape), strings, structs of image files; an Arrow
array as it is.
"""

_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
PIXELS_SKIPPED = 4
"""Of so many pixels of a row, and of so many rows, one counts in statistics."""
_ARROW_TYPES = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}


def features(source: Source) -> dict[str, Json]:
    """The `features` of info.json: the user's first, LeRobot's default ones last."""
    axes = [f"axis{i}" for i in range(source.state_dim)]
    declared = {
        "observation.state": _feature("float32", (source.state_dim,), axes),
        "action": _feature("float32", (source.state_dim,), axes),
    }
    for camera in source.cameras:
        declared[camera.key] = _video_feature(camera, source.fps)
    for key in source.image_keys:
        declared[key] = _feature("image", (*source.image_size, 3), ["height", "width", "channels"])
    for key, unit in source.depth_images.items():
        declared[key] = _feature("image", (*source.image_size, 1), ["height", "width", "channels"])
        declared[key]["info"] = {"is_depth_map": True} | ({"depth_unit": unit} if unit else {})
    if source.language:
        declared |= dict.fromkeys(language.KEYS, _feature("language", (1,)))
    if source.extra_features:
        declared |= {
            "note": _feature("string", (1,)),
            "flag": _feature("bool", (1,)),
            "score64": _feature("float64", (1,)),
            "matrix": _feature("float32", (3, 2)),
            "ints": _feature("int32", (2,)),
            "vec64": _feature("float64", (4,)),
        }
    declared["timestamp"] = _feature("float32", (1,))
    for key in ("frame_index", "episode_index", "index", "task_index"):
        declared[key] = _feature("int64", (1,))
    return declared


def task_indices(source: Source, episode: int) -> NDArray[np.int64]:
    """Task of each row of an episode, int64 (rows,)."""
    length, count = source.lengths[episode], source.tasks_per_episode
    step = np.minimum(np.arange(length) * count // length, count - 1)
    result: NDArray[np.int64] = (episode + step) % len(source.tasks)
    return result


def columns(source: Source, episode: int) -> dict[str, Values]:
    """All parquet columns of one episode, in the order of the schema."""
    length = source.lengths[episode]
    rng = np.random.default_rng((source.seed, episode))
    shape = (length,) if source.state_dim == 1 else (length, source.state_dim)
    result: dict[str, Values] = {
        "observation.state": rng.normal(size=shape).astype(np.float32),
        "action": rng.normal(size=shape).astype(np.float32),
    }
    for key in source.image_keys:
        result[key] = [_png(source, key, episode, row) for row in range(length)]
    for key, unit in source.depth_images.items():
        result[key] = [depth_file(depth, unit) for depth in depth_images(source, key, episode)]
    if source.language:
        result |= {key: language.column(key, episode, length, source.fps) for key in language.KEYS}
    if source.extra_features:
        result |= _extra_columns(length, episode, rng)
    frame_index = np.arange(length, dtype=np.int64)
    result["timestamp"] = (frame_index / source.fps).astype(np.float32)
    result["frame_index"] = frame_index
    result["episode_index"] = np.full(length, episode, np.int64)
    result["index"] = frame_index + source.from_index(episode)
    result["task_index"] = task_indices(source, episode)
    if source.undeclared_columns:
        result["_debug"] = rng.normal(size=length)
    return result


def table(source: Source, episode: int) -> pa.Table:
    """Return one episode as the Arrow table that `datasets` would have made of it."""
    schema = _schema(source)
    data = columns(source, episode)
    arrays = [_array(data[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_data_file(path: Path, source: Source, episodes: Sequence[int]) -> None:
    """Write one data file, in one row group an episode or in one for all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tables = [table(source, episode) for episode in episodes]
    if source.row_groups == "whole_file":
        tables = [pa.concat_tables(tables)]
    with pq.ParquetWriter(
        path, tables[0].schema, compression="snappy", use_dictionary=True
    ) as writer:
        for group in tables:
            writer.write_table(group)


def statistics(values: NDArray[Any], *, image: bool = False) -> dict[str, list[Any]]:
    """LeRobot's statistics of one feature.

    Args:
        values: (rows, *shape), or for images uint8 (frames, H, W, 3), which become (3, 1, 1) in [0,
            1]; depth (frames, H, W, 1) becomes (1, 1, 1) in its unit. Of images some pixels count,
            as in LeRobot's recorder.
    """
    array = (values[:, ::PIXELS_SKIPPED, ::PIXELS_SKIPPED] if image else values).astype(np.float64)
    if image:
        channels = array.shape[-1]
        array = array.reshape(-1, channels, 1, 1) / (255.0 if channels == 3 else 1.0)
    elif array.ndim == 1:
        array = array[:, None]
    result: dict[str, list[Any]] = {
        "min": array.min(axis=0).tolist(),
        "max": array.max(axis=0).tolist(),
        "mean": array.mean(axis=0).tolist(),
        "std": array.std(axis=0).tolist(),
        "count": [len(values)],
    }
    quantiles = np.quantile(array, _QUANTILES, axis=0)
    for quantile, found in zip(_QUANTILES, quantiles, strict=True):
        result[f"q{round(quantile * 100):02d}"] = found.tolist()
    return result


def depth_images(source: Source, key: str, episode: int) -> NDArray[Any]:
    """Depth (rows, H, W) as the files of a depth camera hold it, float32 metres or uint16."""
    rng = np.random.default_rng((source.seed, episode, len(key)))
    millimetres = rng.integers(
        0, 1 << 16, (source.lengths[episode], *source.image_size), dtype=np.uint16
    )
    return (
        (millimetres / 1000).astype(np.float32) if source.depth_images[key] == "m" else millimetres
    )


def depth_file(depth: NDArray[Any], unit: str | None) -> dict[str, Any]:
    """Return one depth image (H, W) as LeRobot embeds it; a PNG where it has no unit."""
    buffer = io.BytesIO()
    Image.fromarray(depth).save(buffer, format="TIFF" if unit else "PNG")
    return {"bytes": buffer.getvalue(), "path": f"frame.{'tiff' if unit else 'png'}"}


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """RGB pixels of a PNG file, uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _feature(dtype: str, shape: tuple[int, ...], names: list[str] | None = None) -> Json:
    return {"dtype": dtype, "shape": list(shape), "names": names}


def _video_feature(camera: Camera, fps: int) -> Json:
    channels = 3 if camera.depth is None else 1
    feature = _feature("video", (*camera.size, channels), ["height", "width", "channels"])
    feature["info"] = {
        "video.height": camera.size[0],
        "video.width": camera.size[1],
        "video.codec": camera.codec,
        "video.pix_fmt": camera.pix_fmt,
        "video.fps": fps,
        "video.channels": channels,
        "has_audio": False,
        "is_depth_map": camera.depth is not None,
    }
    feature["info"] |= {f"video.{name}": value for name, value in (camera.depth or {}).items()}
    return feature


def _extra_columns(length: int, episode: int, rng: np.random.Generator) -> dict[str, Values]:
    return {
        "note": [f"note {episode}/{row}" for row in range(length)],
        "flag": np.arange(length) % 3 == 0,
        "score64": rng.normal(size=length),
        "matrix": rng.normal(size=(length, 3, 2)).astype(np.float32),
        "ints": rng.integers(-(2**31), 2**31, size=(length, 2), dtype=np.int32),
        "vec64": rng.normal(size=(length, 4)),
    }


def _png(source: Source, key: str, episode: int, row: int) -> dict[str, Any]:
    pixels = render(key=key, episode=episode, frame=row, size=source.image_size, seed=source.seed)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=6)
    return {"bytes": buffer.getvalue(), "path": f"frame-{row:06d}.png"}


def _array(values: Values, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    return pa.array(values.tolist() if isinstance(values, np.ndarray) else values, type=kind)


def _schema(source: Source) -> pa.Schema:
    """Arrow schema with the `huggingface` metadata that the `datasets` library writes and reads."""
    fields, hf = [], {}
    for key, feature in features(source).items():
        if feature["dtype"] != "video":
            field, hf[key] = _column(key, feature)
            fields.append(field)
    if source.undeclared_columns:
        field, hf["_debug"] = _column("_debug", _feature("float64", (1,)))
        fields.append(field)
    metadata = {"info": {"features": hf}, "fingerprint": f"{source.seed:016x}"}
    return pa.schema(fields, metadata={"huggingface": json.dumps(metadata)})


def _column(key: str, feature: Mapping[str, Any]) -> tuple[pa.Field, Json]:
    """Return one column's Arrow field and its `datasets` feature, by LeRobot's
    get_hf_features_from_features.
    """
    dtype, shape = feature["dtype"], tuple(feature["shape"])
    if dtype == "language":
        return pa.field(key, language.TYPES[key]), language.HF_TYPES[key]
    if dtype == "image":
        struct = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
        return pa.field(key, struct), {"_type": "Image"}
    value, hf = _ARROW_TYPES[dtype], {"dtype": dtype, "_type": "Value"}
    if shape == (1,):
        return pa.field(key, value), hf
    if len(shape) == 1:
        return pa.field(key, pa.list_(value, shape[0])), {
            "feature": hf,
            "length": shape[0],
            "_type": "List",
        }
    # What Array2D leaves in a file: plain nested lists, and the name of the Arrow extension type.
    extension = {
        "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
        "ARROW:extension:metadata": json.dumps([list(shape), dtype]),
    }
    storage = pa.list_(pa.list_(value))
    return pa.field(key, storage, metadata=extension), {
        "shape": list(shape),
        "dtype": dtype,
        "_type": "Array2D",
    }
