"""What samples of a mixture hold: features of one key, dtype and shape in all its datasets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import OptionError
from roboshard.loader.config import SampleConfig
from roboshard.loader.meta import DatasetMeta
from roboshard.loader.samples.windows import frame_offsets
from roboshard.shards.features import (
    FLOAT_DTYPES,
    OBJECT_DTYPES,
    Features,
    Spec,
    is_depth,
    picture_shape,
    shape_of,
)

TASK: Spec = {"dtype": "string", "shape": [1], "names": None}
ANOTHER_KEY = "Part(rename=) can give one of them another key"
Offsets = dict[str, NDArray[np.int64]]
Windows = Mapping[str, Sequence[float]]


def loaded_features(meta: DatasetMeta, sample: SampleConfig) -> Features:
    """Return the features of a dataset that would be loaded of it alone; "task" is one of them."""
    chosen = meta.video_keys if sample.cameras is None else sample.cameras
    features = {
        key: spec
        for key, spec in meta.features.items()
        if key not in meta.video_keys or key in chosen
    }
    has_tasks = meta.tasks and "task_index" in features
    return features | ({"task": TASK} if has_tasks else {})


def agreed_features(
    loaded: Sequence[Features], where: Sequence[str], sample: SampleConfig
) -> Features:
    """Return the features of the mixture's samples.

    Args:
        loaded: features of each dataset, by key in samples, padded.
        where: names each dataset in errors.
        sample: says what becomes of features that some datasets lack.

    Raises:
        OptionError: the datasets do not agree.
    """
    union = {key: spec for features in reversed(loaded) for key, spec in features.items()}
    lacking = {
        key: [name for name, own in zip(where, loaded, strict=True) if key not in own]
        for key in union
    }
    lacking = {key: names for key, names in lacking.items() if names}
    if lacking and sample.on_missing == "error":
        raise OptionError(
            "the datasets of a mixture have different features: "
            + "; ".join(
                f"{key!r} is missing from {', '.join(names)}" for key, names in lacking.items()
            )
            + '. on_missing="drop" loads only what all have; on_missing="fill" fills with zeros '
            "and adds a mask <key>_is_missing; cameras= can leave cameras out, and Part(rename=) "
            "gives features that are the same one key"
        )
    kept = {
        key: union[key]
        for key in sorted(union)
        if sample.on_missing != "drop" or key not in lacking
    }
    for key in kept:
        kinds = {
            name: _kind(key, own[key], sample)
            for name, own in zip(where, loaded, strict=True)
            if key in own
        }
        if len(set(kinds.values())) > 1:
            shown = "; ".join(
                f"{kind} {list(shape)} in {name}" for name, (kind, shape) in kinds.items()
            )
            raise OptionError(
                f"the datasets of a mixture must agree in dtype and shape of {key!r}, which is "
                f"{shown}" + _remedy(key, list(kinds.values()))
            )
    return kept


def _remedy(key: str, kinds: Sequence[tuple[str, tuple[Any, ...]]]) -> str:
    dtypes = {dtype for dtype, _ in kinds}
    shapes = {shape for _, shape in kinds}
    if all("video" in dtype or "image" in dtype for dtype in dtypes):
        return ": image_size= makes pictures equal in size" if len(dtypes) == 1 else ""
    are_vectors = all(len(shape) == 1 and isinstance(shape[0], int) for shape in shapes)
    if len(dtypes) == 1 and are_vectors and not dtypes & {*OBJECT_DTYPES}:
        widest = max(shape[0] for shape in shapes)
        return f": pad_to={{{key!r}: {widest}}} makes them equally long; {ANOTHER_KEY}"
    return f": {ANOTHER_KEY}"


def _kind(key: str, spec: Spec, sample: SampleConfig) -> tuple[str, tuple[Any, ...]]:
    """Return (dtype, shape) as loaded. Raises OptionError for a picture of no known size."""
    dtype = str(spec["dtype"])
    if dtype in ("image", "video"):
        shape = picture_shape(spec)
        if shape is None:
            raise OptionError(
                f"{key!r} has shape {spec.get('shape')}, which says no height, width and channels: "
                "a mixture needs them"
            )
        height, width, channels = shape
        kind = f"depth {dtype}" if is_depth(spec) else dtype
        return kind, (*(sample.image_size or (height, width)), channels)
    kind = (
        dtype
        if dtype in ("bool", *OBJECT_DTYPES)
        else "float32"
        if dtype in FLOAT_DTYPES
        else "int64"
    )
    return kind, shape_of(spec) or tuple(map(str, spec.get("shape") or ()))


# -- Windows ---------------------------------------------------------------------------------------


def agreed_windows(
    windows: Sequence[Windows],
    loaded: Sequence[Features],
    metas: Sequence[DatasetMeta],
    where: Sequence[str],
    tolerance_s: float,
) -> Offsets:
    """Return key -> windows in frames (datasets, T): each dataset's seconds at its own rate.

    A dataset that lacks the feature has a window of as many zeros.

    Args:
        windows: for each dataset, feature key -> seconds.
        loaded: features of each dataset, by key in samples.
        metas: metadata of each dataset.
        where: names each dataset in errors.
        tolerance_s: how far an offset may be from a whole number of frames.

    Raises:
        OptionError: windows of different lengths, or of some datasets alone; offsets that are no
            whole frames.
    """
    keys = list(dict.fromkeys(key for own in windows for key in own))
    found = [
        _frames(own, features, meta.fps, name, tolerance_s)
        for own, features, meta, name in zip(windows, loaded, metas, where, strict=True)
    ]
    return {key: _side_by_side(key, found, loaded, where) for key in keys}


def _frames(
    windows: Windows, features: Features, fps: float, where: str, tolerance_s: float
) -> Offsets:
    own = {key: seconds for key, seconds in windows.items() if key in features}
    try:
        return frame_offsets(own, fps, tolerance_s)
    except OptionError as error:
        raise OptionError(
            f"{where}: {error}; Part(delta_timestamps=) gives a part windows of its own"
        ) from None


def _side_by_side(
    key: str, found: Sequence[Offsets], loaded: Sequence[Features], where: Sequence[str]
) -> NDArray[np.int64]:
    lengths = {name: len(own[key]) for name, own in zip(where, found, strict=True) if key in own}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} in {name}" for name, length in lengths.items())
        raise OptionError(
            f"delta_timestamps: the windows of {key!r} have different lengths, {told}: a batch "
            "needs one length"
        )
    for own, features, name in zip(found, loaded, where, strict=True):
        if key in features and key not in own:
            raise OptionError(
                f"delta_timestamps: {key!r} has a window in {next(iter(lengths))} and none in "
                f"{name}: give it one of as many offsets there, or one for all in "
                "make_loader(delta_timestamps=)"
            )
    none = np.zeros(next(iter(lengths.values()), 1), dtype=np.int64)
    return np.stack([own.get(key, none) for own in found])
