"""The version of the format that a document states: the lowest that says all that is in it."""

from collections.abc import Iterable

from roboshard.shards.names import is_matroska
from roboshard.shards.schema import FORMAT_MAJOR, FORMAT_VERSION

MATROSKA_VERSION = f"{FORMAT_MAJOR}.1"
"""Version of documents that hold or list a slice in Matroska."""
GROWN_VERSION = f"{FORMAT_MAJOR}.2"
"""Version of a dataset.json that has snapshots."""


def version_of(members: Iterable[str]) -> str:
    """Return the version that a document states which holds or lists members of these names."""
    return MATROSKA_VERSION if any(map(is_matroska, members)) else FORMAT_VERSION


def newest(versions: Iterable[str]) -> str:
    """Return the version that a document states which lists documents of these versions."""
    return MATROSKA_VERSION if MATROSKA_VERSION in set(versions) else FORMAT_VERSION
