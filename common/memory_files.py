"""Files without a name, in memory where the system can: gone with the last process that has them
open.
"""

import os
import tempfile
import weakref
from contextlib import ExitStack
from multiprocessing.reduction import DupFd
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


class SharedMemoryFile:
    """A descriptor of a file in memory. Pickled while a process is started, it is open there too.

    Closed when nobody refers to it any longer.

    Example:
        >>> with anonymous_file() as file:
        ...     _ = file.write(b"episode")
        ...     shared = SharedMemoryFile(file)
        >>> os.pread(shared.descriptor, 7, 0)
        b'episode'
    """

    def __init__(self, file: Any) -> None:
        """Keep a file of `anonymous_file`, which may be closed then.

        Raises:
            OSError: too many files are open.
        """
        self._own(os.dup(file.fileno()))

    def _own(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def __getstate__(self) -> Any:
        return DupFd(self.descriptor)

    def __setstate__(self, handle: Any) -> None:
        self._own(handle.detach())
