"""What features are called in samples, where a part of a mixture renames some of its own."""

from collections import defaultdict
from collections.abc import Mapping

from roboshard.common.errors import OptionError
from roboshard.loader.mixtures.part import Rename
from roboshard.shards.features import ROW_NUMBERS, Features

MADE = ("task", "dataset_index")
"""Keys of samples that are no feature's."""


def sample_keys(features: Features, rename: Rename | None, where: str) -> dict[str, str]:
    """Return feature key -> key in samples, of the features that are not left out.

    Args:
        features: of the dataset, under its own keys.
        rename: own key -> key in samples, or None for a feature that is left out.
        where: names the dataset in errors.

    Raises:
        OptionError: a name of no feature, a key that the loader itself needs, or two features of
            one key.
    """
    rename = rename or {}
    unknown = [key for key in rename if key not in features]
    if unknown:
        raise OptionError(
            f"{where}: rename names {unknown}, which it does not have; it has {list(features)}"
        )
    for own, key in rename.items():
        if own != key and own in ROW_NUMBERS:
            raise OptionError(
                f"{where}: rename: {own!r} says which row a sample is of, under this name in every "
                "dataset: leave it out of rename="
            )
        if own != key and key in (*ROW_NUMBERS, *MADE):
            raise OptionError(
                f"{where}: rename gives {own!r} the key {key!r}, which is the loader's own: choose "
                "another one"
            )
    renamed = {own: rename.get(own, own) for own in features}
    taken: dict[str, list[str]] = defaultdict(list)
    for own, key in renamed.items():
        if key is not None:
            taken[key].append(own)
    for key, owners in taken.items():
        if len(owners) > 1:
            raise OptionError(
                f"{where}: rename gives {' and '.join(map(repr, owners))} the same key {key!r}: "
                "rename the other one too, or leave it out with None in the place of its key"
            )
    return {own: key for own, key in renamed.items() if key is not None}


def under(keys: Mapping[str, str], features: Features) -> Features:
    """Return features under their keys in samples."""
    return {keys[own]: spec for own, spec in features.items() if own in keys}
