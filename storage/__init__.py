"""The one boundary through which shards, manifests and indexes are read and written.

Callers say `read_range(url, offset, length)` and get exactly those bytes or an error that names the URL.

    access       by URL: size, read_range, read_all, list_files, pinned     what all others call
    urls         what a URL says by itself
    local        paths of this machine; files appear whole or not at all
    http         http(s), by ranges: `redirects` says where a URL leads, `replies` what is believed,
                 `connections` keeps them open
    hub          hf://buckets/... and hf://datasets/..., which is http with a token
    objects      s3://, gs:// and whatever else fsspec serves
    targets      by URL: listing, sending and removing files there   what an upload calls
    cache/       a bounded copy on disk of what was read from afar
    retry        when a remote read is tried again, and when it is given up
"""

from roboshard.storage.access import (
    Storage,
    forget,
    identity,
    list_files,
    pinned,
    read_all,
    read_range,
    read_range_chunks,
    size,
    storage_of,
)
from roboshard.storage.local import (
    opened_folder,
    remove_file,
    remove_temporaries,
    remove_temporaries_of,
    sync_folder,
    write_atomic,
    write_bytes,
)
from roboshard.storage.retry import PATIENCE, Patience
from roboshard.storage.urls import is_local, join, local_path, redacted

__all__ = [
    "PATIENCE",
    "Patience",
    "Storage",
    "forget",
    "identity",
    "is_local",
    "join",
    "list_files",
    "local_path",
    "opened_folder",
    "pinned",
    "read_all",
    "read_range",
    "read_range_chunks",
    "redacted",
    "remove_file",
    "remove_temporaries",
    "remove_temporaries_of",
    "size",
    "storage_of",
    "sync_folder",
    "write_atomic",
    "write_bytes",
]
