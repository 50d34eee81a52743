"""The folder that a conversion writes to: one writer at a time, and nothing in it that another one wrote."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.common.errors import OptionError, RoboshardError, StorageError
from roboshard.converter.shard import SkippedEpisode
from roboshard.shards.manifest import load_dataset_manifest
from roboshard.shards.names import (
    DATASET_MANIFEST,
    SHARD_FOLDER,
    is_shard_name,
    shard_manifest_name,
    shard_name,
)
from roboshard.shards.rebuild import rebuild_shard
from roboshard.shards.schema import MAX_MANIFEST_BYTES

SKIPPED_REPORT = "skipped.json"


@contextmanager
def locked(destination: Path, *, shared: bool = False) -> Iterator[None]:
    """Make the folder and hold it against a second conversion; the lock goes with the process.

    Temporary files are removed at the end, however it comes: workers may have been killed.

    Args:
        destination: the folder.
        shared: hold it together with other parts of the same conversion, whose temporary files
            stay.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(destination, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"{destination}: cannot be made or opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(
                f"{destination}: another conversion is writing here; wait until it ends"
            ) from None
        tidy = partial(_remove_temporaries, destination, shared)
        with interrupts.removed_at_exit(tidy):
            try:
                yield
            finally:
                tidy()
    finally:
        os.close(descriptor)


def _remove_temporaries(destination: Path, shared: bool) -> None:
    if not shared:
        storage.remove_temporaries(destination, [SHARD_FOLDER])


def prepare(destination: Path, conversion: str, part: range | None = None) -> None:
    """Refuse a folder that holds other shards; withdraw dataset.json until all shards are seen to be there.

    With the numbers of a part's shards only those are looked at, and temporaries stay: they may be of parts that are
    being written now.

    Raises:
        OptionError: shards of another conversion, or such as no conversion wrote.
    """
    if part is None:
        storage.remove_temporaries(destination, [SHARD_FOLDER])
        found = _shards_in(destination)
    else:
        found = {shard_name(number) for number in part}
    for name in sorted(found):
        if not _is_ours(destination, name, conversion):
            raise OptionError(
                f"{destination}: holds shards of another conversion (another source, other options or other library "
                f"versions: {name}). Choose another folder, or remove this one first"
            )
    manifest = destination / DATASET_MANIFEST
    if manifest.exists() and _dataset_conversion(destination) not in (conversion, None):
        raise OptionError(
            f"{destination}: holds another dataset. Choose another folder, or remove this one first"
        )
    if manifest.exists():
        manifest.unlink(missing_ok=True)  # another part may have come first
        storage.sync_folder(destination)


def _shards_in(destination: Path) -> set[str]:
    """Names of the shards of which there is anything."""
    paths = (destination / SHARD_FOLDER).glob("shard-*.*")
    return {name for path in paths if is_shard_name(name := f"{SHARD_FOLDER}/{path.stem}.tar")}


def write_skipped(destination: Path, skipped: Sequence[SkippedEpisode]) -> None:
    """Write skipped.json: what was left out and why; remove an old one where nothing was."""
    path = destination / SKIPPED_REPORT
    if not skipped:
        path.unlink(missing_ok=True)
        return
    episodes = [
        asdict(episode) for episode in sorted(skipped, key=lambda episode: episode.episode_index)
    ]
    storage.write_bytes(path, jsonio.dump({"skipped": episodes}))


def _is_ours(root: Path, name: str, conversion: str) -> bool:
    """Whether the conversion may write this shard again: it wrote it before, or nothing is there to be lost."""
    stated = _conversion_of(root / shard_manifest_name(name))
    if stated is not None:
        return stated == conversion
    if not (root / name).exists():
        return True
    try:  # killed before the manifest was written, or that is damaged: the shard itself says whose it is
        return rebuild_shard(root, name)[1].conversion.id == conversion
    except RoboshardError:
        return False


def _conversion_of(path: Path) -> object:
    """The conversion a shard manifest names; None where there is no readable one."""
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
