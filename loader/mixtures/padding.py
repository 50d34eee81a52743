"""Vectors of different lengths as vectors of one: what `pad_to=` makes of features and of their
statistics.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from roboshard.common.errors import OptionError
from roboshard.common.jsonio import Json
from roboshard.shards.features import ROW_NUMBERS, SCALAR_DTYPES, Features, Spec, shape_of

DIM_MASK = "_dim_is_pad"


def check_padding(pad_to: Mapping[str, int], known: Collection[str]) -> None:
    """Raise OptionError for a key of no feature, and for a mask that a feature has the name of."""
    for key in pad_to:
        if key not in known:
            raise OptionError(f"pad_to: {key!r} is not a feature; there are {sorted(known)}")
        if key in ROW_NUMBERS:
            raise OptionError(
                f"pad_to: {key!r} says which row a sample is of: leave it out of pad_to="
            )
        if f"{key}{DIM_MASK}" in known:
            raise OptionError(
                f"pad_to: {key!r} would have the mask '{key}{DIM_MASK}', which is the name of a "
                "feature: give that one another name with Part(rename=...)"
            )


def padded_features(features: Features, pad_to: Mapping[str, int], where: str = "") -> Features:
    """Return the features as samples have them. Their `names` no longer fit, and are None.

    Args:
        features: of a dataset, under their keys in samples.
        pad_to: feature key -> numbers in its vectors.
        where: goes before messages.

    Raises:
        OptionError: a feature that is no vector, or a longer one.
    """
    return {
        key: _padded(spec, pad_to[key], f"{where}pad_to: {key!r}") if key in pad_to else spec
        for key, spec in features.items()
    }


def width_of(spec: Spec) -> int | None:
    """Return how many numbers a vector has; None: the feature is no vector of numbers."""
    shape = shape_of(spec)
    if spec.get("dtype") not in SCALAR_DTYPES or shape is None or len(shape) > 1:
        return None
    return shape[0] if shape else 1


def _padded(spec: Spec, width: int, where: str) -> Spec:
    own = width_of(spec)
    if own is None:
        raise OptionError(
            f"{where} has dtype {spec.get('dtype')} and shape {spec.get('shape')}: only vectors of "
            "numbers are padded, so leave it out of pad_to="
        )
    if own > width:
        raise OptionError(
            f"{where} has {own} numbers, more than the {width} that it is to be padded to: give "
            f"{own} or more"
        )
    return spec if own == width else {**spec, "shape": [width], "names": None}


def padded_stats(
    stats: Mapping[str, Json], features: Features, pad_to: Mapping[str, int]
) -> dict[str, Json]:
    """Return statistics with zeros where `pad_to` puts zeros.

    Args:
        stats: feature key -> name -> values, as the manifest has them.
        features: before they are padded.
        pad_to: feature key -> numbers in its vectors.
    """
    return {
        key: _padded_values(values, width_of(features[key]), pad_to[key])
        if key in pad_to and key in features and isinstance(values, dict)
        else values
        for key, values in stats.items()
    }


def _padded_values(values: Mapping[str, Json], own: int | None, width: int) -> dict[str, Json]:
    return {
        name: [*value, *[0] * (width - len(value))]
        if name != "count" and _is_vector(value, own)
        else value
        for name, value in values.items()
    }


def _is_vector(value: Any, width: int | None) -> bool:
    return isinstance(value, Sequence) and len(value) == width and np.ndim(value) == 1
