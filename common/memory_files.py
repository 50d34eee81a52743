"""Files without a name, in memory where the system can: gone with the last process that has them
open.
"""

import os
import tempfile
from contextlib import ExitStack
from typing import Any


def anonymous_file(num_bytes: int | None = None) -> Any:
    """Return a binary file without a name, unbuffered, open for reading and writing.

    Args:
        num_bytes: reserved now, so that a lack of them is an error here and no crash at first use;
            None: the file is empty.

    Raises:
        OSError: there is no room.

    Example:
        >>> with anonymous_file(4096) as file:
        ...     os.fstat(file.fileno()).st_size
        4096
    """
    with ExitStack() as stack:
        if hasattr(os, "memfd_create"):  # not in /dev/shm, which containers keep small
            file = stack.enter_context(
                open(os.memfd_create("roboshard", os.MFD_CLOEXEC), "r+b", buffering=0)
            )
        else:
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        if num_bytes is not None and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        elif num_bytes is not None:
            file.truncate(num_bytes)
        stack.pop_all()
        return file
