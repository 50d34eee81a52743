"""What becomes of features whose values some rows lack: chosen before anything is read."""

from collections.abc import Mapping

import numpy as np

from roboshard.common.errors import FormatError, OptionError
from roboshard.loader.config import OnMissingByNumber
from roboshard.loader.order.episodes import Episodes
from roboshard.loader.samples.rows import Batch
from roboshard.shards.features import ROW_DTYPES, Features
from roboshard.shards.missing import total
from roboshard.shards.reader import ShardedDataset

MASK = "_is_missing"


def lacking_values(dataset: ShardedDataset, episodes: Episodes, *, are_all: bool) -> dict[str, int]:
    """Return feature key -> rows without a value, over the chosen episodes.

    dataset.json says it of whole shards. Where episodes were chosen, their entries in the manifests
    of those shards say it of each.
    """
    manifest = dataset.manifest
    lacking = np.zeros(len(manifest.shards), dtype=np.bool_)
    lacking[[number for number, shard in manifest.shards.unlike.items() if shard.missing]] = True
    used = [number for number in np.unique(episodes.shard).tolist() if lacking[number]]
    features = manifest.features
    if are_all or not used:
        return _of_rows(total([manifest.shards[number].missing for number in used]), features)
    samples = map(dataset.sample, episodes.position[lacking[episodes.shard]].tolist())
    return _of_rows(total([sample.missing for sample in samples]), features)


def _of_rows(missing: Mapping[str, int], features: Features) -> dict[str, int]:
    return {
        key: count
        for key, count in missing.items()
        if count and features.get(key, {}).get("dtype") in ROW_DTYPES
    }


def choose_features(
    features: Features, missing: Mapping[str, int], on_missing: OnMissingByNumber, where: str = ""
) -> Features:
    """Return the features that are loaded of a dataset, of which `missing` rows lack values.

    Raises:
        OptionError: there are such features, and on_missing="error".
    """
    lacking = {key: missing[key] for key in features if key in missing}
    if lacking and on_missing == "error":
        told = ", ".join(f"{key!r} in {count} rows" for key, count in list(lacking.items())[:10])
        raise OptionError(
            f'{where}values are missing: {told}. on_missing="drop" loads without these features; '
            'on_missing="fill" puts zeros there and adds masks <key>_is_missing'
        )
    taken = [key for key in lacking if f"{key}{MASK}" in features]
    if taken and on_missing != "drop":
        raise OptionError(
            f"{where}{taken[0]!r} lacks values, and the name of its mask is that of a feature: "
            'on_missing="drop" loads without it'
        )
    if on_missing == "drop":
        return {key: spec for key, spec in features.items() if key not in lacking}
    return features


def with_none(batch: Batch, features: Features) -> Batch:
    """Return a filled batch with None where values are missing, and without its masks.

    Raises:
        FormatError: a window in which a row has no value, which LeRobot cannot stack either.
    """
    added = {key: f"{key}{MASK}" for key in features if f"{key}{MASK}" not in features}
    masks = {key: batch[mask] for key, mask in added.items() if mask in batch}
    dropped = {added[key] for key in masks}
    found = {key: value for key, value in batch.items() if key not in dropped}
    if "task_index" in masks and "task" in found:
        masks["task"] = masks["task_index"]
    for key, mask in masks.items():
        if key not in found or not mask.any():
            continue
        if mask.dim() > 1:
            raise FormatError(
                f"{key!r} has rows without a value in a delta window, where None cannot be: use "
                'on_missing="fill", which adds a mask, or on_missing="drop"'
            )
        gone = mask.tolist()
        found[key] = [None if gone[i] else value for i, value in enumerate(found[key])]
    return found
