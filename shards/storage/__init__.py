"""The one boundary through which shards, manifests and indexes are read and written.

Callers say `read_range(url, offset, length)` and get exactly those bytes or an error that names the URL.

    access    by URL: size, read_range, read_all, list_files     what all others call
    urls      what a URL says by itself
    local     paths of this machine; files appear whole or not at all
"""

from roboshard.shards.storage.access import (
    Storage,
    list_files,
    read_all,
    read_range,
    read_range_chunks,
    size,
    storage_of,
)
from roboshard.shards.storage.local import remove_temporaries, sync_folder, write_atomic, write_bytes
from roboshard.shards.storage.urls import is_local, join, local_path, shown

__all__ = [
    "Storage",
    "is_local",
    "join",
    "list_files",
    "local_path",
    "read_all",
    "read_range",
    "read_range_chunks",
    "remove_temporaries",
    "shown",
    "size",
    "storage_of",
    "sync_folder",
    "write_atomic",
    "write_bytes",
]
