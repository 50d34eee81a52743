"""The folder that a conversion writes to: one writer at a time, and nothing in it that another one wrote."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from roboshard.converter.shard import SkippedEpisode
from roboshard.shards import jsonio, storage
from roboshard.shards.errors import OptionError, RoboshardError
from roboshard.shards.manifest import load_dataset_manifest
from roboshard.shards.names import DATASET_MANIFEST, SHARD_FOLDER
from roboshard.shards.schema import MAX_MANIFEST_BYTES

SKIPPED_REPORT = "skipped.json"


@contextmanager
def locked(destination: Path) -> Iterator[None]:
    """Make the folder and hold it against a second conversion; the lock goes with the process."""
    destination.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(destination, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(f"{destination}: another conversion is writing here; wait until it ends") from None
        yield
    finally:
        os.close(descriptor)


def prepare(destination: Path, conversion: str) -> None:
    """Refuse a folder that holds other shards; withdraw dataset.json until all shards are seen to be there.

    Raises:
        OptionError: shards of another conversion.
    """
    storage.remove_temporaries(destination)
    for path in sorted((destination / SHARD_FOLDER).glob("shard-*.json")):
        if _conversion_of(path) not in (conversion, None):
            raise OptionError(
                f"{destination}: holds shards of another conversion (another source, other options or other library "
                f"versions: {path.name}). Choose another folder, or remove this one first"
            )
    manifest = destination / DATASET_MANIFEST
    if manifest.exists() and _dataset_conversion(destination) not in (conversion, None):
        raise OptionError(f"{destination}: holds another dataset. Choose another folder, or remove this one first")
    if manifest.exists():
        manifest.unlink()
        storage.sync_folder(destination)


def write_skipped(destination: Path, skipped: Sequence[SkippedEpisode]) -> None:
    """Write skipped.json: what was left out and why; remove an old one where nothing was."""
    path = destination / SKIPPED_REPORT
    if not skipped:
        path.unlink(missing_ok=True)
        return
    episodes = [asdict(episode) for episode in sorted(skipped, key=lambda episode: episode.episode_index)]
    storage.write_bytes(path, jsonio.dump({"skipped": episodes}))


def _conversion_of(path: Path) -> object:
    """The conversion a shard manifest names; None where it is damaged, and will be written again."""
    try:
        data = storage.read_all(str(path), MAX_MANIFEST_BYTES)
        return jsonio.load(data, str(path), MAX_MANIFEST_BYTES).get("conversion")
    except RoboshardError:
        return None


def _dataset_conversion(destination: Path) -> str | None:
    try:
        return load_dataset_manifest(str(destination)).conversion.id
    except RoboshardError:
        return None
