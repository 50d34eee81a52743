"""What a disk cache removes to make room: the entries that were used longest ago."""

import os
import time

from roboshard.storage.cache import files
from roboshard.storage.cache import folder as cache_folder
from roboshard.storage.cache.files import PART
from roboshard.storage.cache.folder import OVERHEAD, Account

KEEP_FRACTION = 0.9
"""Share of `max_bytes` at which removing stops, so that the next scan is far away: a tenth of the
folder is written between two.
"""
EVICT_SECONDS = 3.0
"""Seconds after which removing stops too, once there is room: others wait to write, and give up
after `cache_folder.LOCK_SECONDS`.
"""


def evict(home: int, account: Account, needed: int, max_bytes: int) -> int:
    """Count all files, and if `needed` bytes do not fit, remove those used longest ago.

    Args:
        home: descriptor of the cache's folder.
        account: of its bytes, which the caller has locked; the bytes in use are written there.
        needed: bytes that are to be written.
        max_bytes: most that the folder may hold.

    Returns:
        The bytes in use then.
    """
    found = list(cache_folder.scan(home))
    used = OVERHEAD + sum(file.size for file in found)
    parts = sum(file.size for file in found if file.name.endswith(PART))
    if used + needed > max_bytes >= parts + needed + OVERHEAD:  # nothing goes in vain
        target = max(0, int(max_bytes * KEEP_FRACTION) - needed)
        found.sort(reverse=True)
        end = time.monotonic() + EVICT_SECONDS
        while found and used > target and (used + needed > max_bytes or time.monotonic() < end):
            file = found.pop()
            if not file.name.endswith(PART) and _unlinked(file.name, home):
                used -= file.size
    account.write(used)
    return used


def _unlinked(name: str, home: int) -> bool:
    try:
        with files.opened(files.bucket_name(name), os.O_RDONLY | os.O_DIRECTORY, home) as bucket:
            os.unlink(name, dir_fd=bucket)
    except FileNotFoundError:
        return True
    except OSError:  # another user's
        return False
    return True
