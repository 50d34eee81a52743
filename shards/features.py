"""What kinds of features a dataset has, read from the `features` of info.json. docs/format.md has
them as a table.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from roboshard.common.errors import FormatError
from roboshard.common.jsonio import Json

Spec = Mapping[str, Json]
"""What info.json says of one feature: dtype, shape, names, and `info` of cameras."""
Features = Mapping[str, Spec]

FLOAT_DTYPES = ("float16", "float32", "float64")
SCALAR_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    *FLOAT_DTYPES,
)
OBJECT_DTYPES = ("string", "language")
"""Dtypes of what is no number: batches hold it in lists, and it has no delta windows."""
ROW_DTYPES = (*SCALAR_DTYPES, *OBJECT_DTYPES, "image")
"""Dtypes of the features that are columns of the rows."""
DTYPES = (*ROW_DTYPES, "video")
"""All dtypes that are known; video alone lies beside the rows."""
ROW_NUMBERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that say which row it is. Each row holds one number of them, or a list of one."""

MM_PER_M = 1000.0
MAX_SIDE = 1 << 40
"""Largest side of a shape: what is larger is no number of values that anything holds."""
MAX_VALUES = 1 << 28
"""Most values of one feature in one row, where a shape alone says how many to make."""


def spec_problems(features: Features) -> Iterator[str]:
    """What makes the specs of a dataset unusable, each with its place.

    What is merely unknown is none: dtypes of later releases, sizes by name, keys that others added.
    """
    for key, spec in features.items():
        where = f"features.{key[:200]}"
        if not isinstance(spec.get("dtype"), str | None):
            yield f"{where}.dtype: must be a string, not {spec['dtype']!r:.60}"
        for name in ("info", "video_info"):
            if not isinstance(spec.get(name), dict | None):
                yield f"{where}.{name}: must be an object, not {spec[name]!r:.60}"
        shape = spec.get("shape")
        if not isinstance(shape, list | None):
            yield f"{where}.shape: must be a list, not {shape!r:.60}"
        elif any(isinstance(side, int | float) and not _is_side(side) for side in shape or ()):
            yield f"{where}.shape: {shape!r:.60} has a size that is none"
        elif any(isinstance(side, dict | list) for side in shape or ()):
            yield f"{where}.shape: {shape!r:.60} is not a list of sizes"


def _is_side(side: float) -> bool:
    """Whether a number can stand in a shape; -1 is a list of any length."""
    return -1 <= side <= MAX_SIDE and side == int(side)


def shape_of(spec: Spec) -> tuple[int, ...] | None:
    """Return the shape of one value; None: it is unknown, or some size of it is."""
    shape = spec.get("shape")
    if not isinstance(shape, list | tuple):
        return None
    sizes = tuple(
        int(side)
        for side in shape
        if isinstance(side, int | float) and side >= 0 and _is_side(side)
    )
    return sizes if len(sizes) == len(shape) and math.prod(sizes) <= MAX_VALUES else None


def picture_shape(spec: Spec) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of a camera, whichever way round they are said; None:
    unknown.
    """
    shape = shape_of(spec)
    if shape is None or len(shape) != 3:
        return None
    first, second, third = shape
    names = spec.get("names")
    is_channel_first = (
        str(names[0]).startswith("channel")
        if isinstance(names, list) and names
        else first in (1, 3)
    )
    return (second, third, first) if is_channel_first else shape


def keys_of(features: Features, dtype: str) -> tuple[str, ...]:
    """Keys of the features of one dtype, in order."""
    return tuple(key for key, spec in features.items() if spec.get("dtype") == dtype)


def is_depth(spec: Spec) -> bool:
    """Whether a camera shows distances, by the marks that LeRobot's
    `LeRobotDatasetMetadata.depth_keys` looks for.
    """
    info, older = spec.get("info") or {}, spec.get("video_info") or {}
    marks = (
        info.get("is_depth_map"),
        info.get("video.is_depth_map"),
        older.get("video.is_depth_map"),
    )
    return spec.get("dtype") in ("image", "video") and any(marks)


def depth_factor(spec: Spec) -> float:
    """What depth images, and statistics of depth cameras, are multiplied with to be in millimetres.

    LeRobot (`convert_image_depth_units`, `rescale_depth_stats`) leaves those as they are whose unit
    is not recorded.
    """
    in_metres = is_depth(spec) and (spec.get("info") or {}).get("depth_unit") == "m"
    return MM_PER_M if in_metres else 1.0


@dataclass(frozen=True, kw_only=True)
class DepthScale:
    """How a depth video's codes lie between two distances.

    Defaults are those of LeRobot's `DepthEncoderConfig`.
    """

    depth_min: float = 0.01
    """Distance that the lowest code stands for, in meters."""
    depth_max: float = 10.0
    """Distance that the highest code stands for, in meters."""
    shift: float = 3.5
    """Meters that are added to a distance before its logarithm is taken."""
    use_log: bool = True
    """Whether codes are evenly spaced in the logarithm of the distance; False: in the distance."""

    @classmethod
    def of(cls, spec: Spec) -> Self:
        """Return the scale of a camera, from `video.depth_min`, … of its `info`; what is missing
        there has its default.

        Raises:
            FormatError: values that no distance follows from.
        """
        info = spec.get("info") or {}
        found = {name: info.get(f"video.{name}") for name in ("depth_min", "depth_max", "shift")}
        numbers = {name: value for name, value in found.items() if value is not None}
        if not all(map(_is_finite, numbers.values())):
            raise FormatError(f"its depth scale {numbers} is not made of numbers")
        use_log = info.get("video.use_log")
        scale = cls(
            **{name: float(value) for name, value in numbers.items()},
            use_log=cls.use_log if use_log is None else bool(use_log),
        )
        if scale.depth_min >= scale.depth_max or (
            scale.use_log and scale.depth_min + scale.shift <= 0
        ):
            rule = "depth_min must be below depth_max, and above -shift"
            raise FormatError(f"no distance follows from its {scale}: {rule}")
        return scale

    @property
    def start(self) -> float:
        """What the lowest code stands for: meters, or their logarithm."""
        return math.log(self.depth_min + self.shift) if self.use_log else self.depth_min

    @property
    def end(self) -> float:
        """What the highest code stands for: meters, or their logarithm."""
        return math.log(self.depth_max + self.shift) if self.use_log else self.depth_max


def _is_finite(value: Json) -> bool:
    """Whether a value is a number that a float can be: JSON has integers without an end."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def depth_scale(spec: Spec) -> DepthScale | None:
    """Return the scale of a depth video; None for other cameras. Raises as `DepthScale.of` does."""
    return DepthScale.of(spec) if spec.get("dtype") == "video" and is_depth(spec) else None
