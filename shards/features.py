"""What kinds of features a dataset has, read from the `features` of info.json. docs/format.md has them as a table."""

from collections.abc import Mapping

from roboshard.shards.jsonio import Json

Spec = Mapping[str, Json]
"""One feature: dtype, shape, names, and `info` of cameras."""
Features = Mapping[str, Spec]

FLOAT_DTYPES = ("float16", "float32", "float64")
SCALAR_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", *FLOAT_DTYPES)
OBJECT_DTYPES = ("string", "language")
"""Values that are no numbers: batches hold them in lists, and they have no delta windows."""
ROW_DTYPES = (*SCALAR_DTYPES, *OBJECT_DTYPES, "image")
"""Columns of the rows."""
DTYPES = (*ROW_DTYPES, "video")
"""All that is known; video alone lies beside the rows."""

MM_PER_M = 1000.0


def keys_of(features: Features, dtype: str) -> tuple[str, ...]:
    """Keys of the features of one dtype, in order."""
    return tuple(key for key, spec in features.items() if spec.get("dtype") == dtype)


def is_depth(spec: Spec) -> bool:
    """Whether a camera shows distances, by the marks that LeRobot's `LeRobotDatasetMetadata.depth_keys` looks for."""
    info, older = spec.get("info") or {}, spec.get("video_info") or {}
    marks = (info.get("is_depth_map"), info.get("video.is_depth_map"), older.get("video.is_depth_map"))
    return spec.get("dtype") in ("image", "video") and any(marks)


def depth_factor(spec: Spec) -> float:
    """What depth images, and statistics of depth cameras, are multiplied with to be in millimetres.

    LeRobot (`convert_image_depth_units`, `rescale_depth_stats`) leaves those as they are whose unit is not recorded.
    """
    in_metres = is_depth(spec) and (spec.get("info") or {}).get("depth_unit") == "m"
    return MM_PER_M if in_metres else 1.0
