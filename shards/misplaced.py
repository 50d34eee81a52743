"""What to do about a place that was given as a dataset and has no dataset.json."""

import posixpath

from roboshard import storage
from roboshard.common.errors import RoboshardError
from roboshard.shards.names import DATASET_MANIFEST, SHARD_FOLDER, shard_name

SOURCE_INFO = "meta/info.json"
"""A file that every LeRobot dataset has."""


def what_instead(root: str, *, policy: storage.RetryPolicy = storage.READING) -> str:
    """What to do about a place without dataset.json."""
    where = storage.redacted(root)
    folder, name = posixpath.split(where.rstrip("/"))
    first_shard = posixpath.basename(shard_name(0))
    if name == SHARD_FOLDER and _is_there(storage.join(root, first_shard), policy):
        return (
            "These are the shards of a dataset: give the folder that holds "
            f"{DATASET_MANIFEST}, {folder or '.'}"
        )
    if _is_there(storage.join(root, SOURCE_INFO), policy):
        return (
            "This is a LeRobot dataset, which is not loaded as it is: convert it first, "
            f"`convert-to-shards {where} DST`, and load DST"
        )
    return (
        "Not a roboshard dataset, or its conversion has not finished: run convert-to-shards "
        "again to complete it"
    )


def _is_there(url: str, policy: storage.RetryPolicy) -> bool:
    try:
        storage.size(url, policy=policy)
    except RoboshardError:  # none, or not to be told
        return False
    return True
