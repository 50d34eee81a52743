"""Choosing the destination of a conversion by its folder or URL."""

from pathlib import Path

from roboshard import storage
from roboshard.common.errors import OptionError
from roboshard.converter.base import Base
from roboshard.converter.destination.api import Destination
from roboshard.converter.destination.growing_folder import GrowingFolder
from roboshard.converter.destination.growing_remote import GrowingRemote
from roboshard.converter.destination.local import LocalDestination
from roboshard.converter.destination.remote import RemoteDestination
from roboshard.shards.schema import Conversion


def open_destination(
    url: str,
    conversion: Conversion,
    *,
    source: Path | None,
    scratch: str | None,
    base: Base | None = None,
) -> Destination:
    """Return the destination behind a folder or URL; nothing is written or connected to yet.

    Args:
        url: where the dataset goes.
        conversion: by whose id its shards are known, and how many there will be.
        source: the folder that is converted, if it is one.
        scratch: where shards wait that go elsewhere; None: the system's folder for temporary files.
        base: the dataset there that grows; None: there is none, or it is this conversion's own.

    Raises:
        OptionError: nothing can be written there, or it would lie in the source.
    """
    if not storage.is_local(url):
        if base is not None:
            return GrowingRemote(url, conversion, scratch, base)
        return RemoteDestination(url, conversion.id, conversion.num_shards, scratch)
    destination = storage.local_path(url).resolve()
    source = source and source.resolve()
    if source and (
        destination == source or source in destination.parents or destination in source.parents
    ):
        raise OptionError(
            f"{destination}: must not be the source folder, nor inside it or around it"
        )
    if base is not None:
        return GrowingFolder(destination, conversion, base)
    return LocalDestination(destination, conversion.id)
