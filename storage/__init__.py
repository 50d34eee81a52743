"""The one boundary through which shards, manifests and indexes are read and written.

Callers say `read_range(url, offset, length)` and get exactly those bytes or an error that names the
URL, or `writable_store(url).put(files)` and know that these files are there.

    access       by URL: which store serves one; size, read_range, read_all, list_files, pinned
    api          what a store can do: `Store` reads, `WritableStore` writes too
    local        folders of this machine; `files` writes each whole or not at all
    http/        http(s), by ranges
    hub/         hf://buckets/... and hf://datasets/..., read by http with a token
    objects      s3://, gs:// and whatever else fsspec serves; `filesystems` opens them
    cache/       a bounded copy on disk of what was read from afar
    content      what is sent and stored, and its hashes
    retry        when something is tried again, and when it is given up
    locks        of the kernel, on open files
    urls         what a URL says by itself
"""

from roboshard.storage.access import (
    forget,
    identity,
    list_files,
    pinned,
    read_all,
    read_range,
    read_range_chunks,
    size,
    store_of,
    writable_store,
)
from roboshard.storage.api import Store, WritableStore
from roboshard.storage.content import StoredFile, Upload, sha256_of
from roboshard.storage.files import (
    opened_folder,
    remove_file,
    remove_temporaries,
    remove_temporaries_of,
    sync_folder,
    write_atomic,
    write_bytes,
)
from roboshard.storage.retry import READING, RetryPolicy
from roboshard.storage.urls import is_local, join, local_path, redacted

__all__ = [
    "READING",
    "RetryPolicy",
    "Store",
    "StoredFile",
    "Upload",
    "WritableStore",
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
    "sha256_of",
    "size",
    "store_of",
    "sync_folder",
    "writable_store",
    "write_atomic",
    "write_bytes",
]
