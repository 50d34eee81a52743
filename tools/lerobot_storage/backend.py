"""The module that LeRobot's registry names for our format: imported when a dataset needs it.

The contract is that of `lerobot.datasets.storage`: `DATASET_READER`, `DATASET_WRITER` and
`localize_root`. LeRobot's base class of readers is there from the release on that has the registry.
"""

import importlib
from pathlib import Path

from lerobot.utils.constants import HF_LEROBOT_HOME

from roboshard.tools.lerobot_storage.localize import localized
from roboshard.tools.lerobot_storage.reader import ShardReader
from roboshard.tools.lerobot_storage.writer import ShardWriter

_module = importlib.import_module("lerobot.datasets.dataset_reader")
# A release without the registry has no such class.
_base: type = getattr(_module, "BaseDatasetReader", object)
DatasetReader = type("DatasetReader", (ShardReader, _base), {"__module__": __name__})
"""`ShardReader` as one of LeRobot's readers."""

DATASET_READER = DatasetReader
DATASET_WRITER = ShardWriter


def localize_root(
    repo_id: str | None,  # noqa: ARG001 - the URL says it all
    root: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    force_cache_sync: bool = False,
) -> Path:
    """Return a folder of this machine with meta/ of the shards at a URL; they stay where they are.

    Args:
        repo_id: what LeRobot calls the dataset.
        root: URL of the shards.
        revision: which revision of a dataset of the Hub.
        token: None or True; another one cannot be passed on.
        force_cache_sync: whether to write meta/ also where it is there.

    Raises:
        MissingError: there are no shards at the URL; LeRobot then asks the next format.
        OptionError, FormatError, VersionError, DamageError, StorageError: see `localized`.
    """
    base = Path(HF_LEROBOT_HOME) / "roboshard"
    return localized(str(root), base, revision=revision, token=token, anew=force_cache_sync)
