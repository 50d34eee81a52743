"""Shards that are far away: their meta/ in a folder of this machine, for LeRobot to read."""

import hashlib
from pathlib import Path

from roboshard import storage
from roboshard.shards.reader import ShardedDataset
from roboshard.tools.lerobot_storage.meta_folder import INFO, write_meta_of
from roboshard.tools.lerobot_storage.reader import check_token, with_revision


def localized(
    root: str, base: Path, *, revision: str | None, token: str | bool | None, anew: bool
) -> Path:
    """Return a folder with meta/ of the dataset as it is now; its shards stay where they are.

    A dataset that has grown gets a folder of its own, so that what runs keeps the one that it has.

    Args:
        root: URL of the dataset.
        base: where such folders lie.
        revision: which revision of a dataset of the Hub.
        token: None or True; another one cannot be passed on.
        anew: whether to write meta/ also where it is there.

    Raises:
        MissingError: there are no shards at the URL.
        OptionError: a token that cannot be passed on.
        FormatError, VersionError, DamageError, StorageError: the dataset cannot be read.
    """
    check_token(token)
    dataset = ShardedDataset.open(with_revision(root, revision))
    place = hashlib.sha256(storage.identity(dataset.root).encode()).hexdigest()[:16]
    folder = base / f"{place}-{dataset.manifest.fingerprint[:16]}"
    if anew or not (folder / INFO).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_meta_of(dataset, folder)
    return folder
