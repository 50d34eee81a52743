"""Which kind of destination a conversion has."""

from pathlib import Path

from roboshard import storage
from roboshard.common.errors import OptionError
from roboshard.converter.destination.api import Destination
from roboshard.converter.destination.local import LocalDestination
from roboshard.converter.destination.remote import RemoteDestination


def open_destination(
    url: str, conversion: str, num_shards: int, *, source: Path | None, scratch: str | None
) -> Destination:
    """Return the destination behind a folder or URL; nothing is written or connected to yet.

    Args:
        url: where the dataset goes.
        conversion: the id by which its shards are known.
        num_shards: how many it will have.
        source: the folder that is converted, if it is one.
        scratch: where shards wait that go elsewhere; None: the system's folder for temporary files.

    Raises:
        OptionError: nothing can be written there, or it would lie in the source.
    """
    if not storage.is_local(url):
        return RemoteDestination(url, conversion, num_shards, scratch)
    destination = storage.local_path(url).resolve()
    source = source and source.resolve()
    if source and (
        destination == source or source in destination.parents or destination in source.parents
    ):
        raise OptionError(
            f"{destination}: must not be the source folder, nor inside it or around it"
        )
    return LocalDestination(destination, conversion)
