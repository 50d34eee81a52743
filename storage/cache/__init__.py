"""A bounded copy, in a folder of this machine, of bytes that were read from afar.

disk       `DiskCache`: one `get` on one page
claims     an entry that is being brought
files      entries and parts: their names, their trailers, their locks
folder     the account of a folder: how many bytes are in it, what is removed first
process    what one process knows of the caches that it has opened
"""

from roboshard.storage.cache.claims import Keep
from roboshard.storage.cache.disk import MIN_BYTES, DiskCache
from roboshard.storage.cache.files import CacheKey, object_of
from roboshard.storage.cache.folder import claim_folder

__all__ = ["MIN_BYTES", "CacheKey", "DiskCache", "Keep", "claim_folder", "object_of"]
