"""A value for many processes, pickled once: its large arrays lie in memory that all of them
share.
"""

import io
import mmap
import os
import weakref
from multiprocessing.reduction import DupFd
from typing import Any

import cloudpickle

from roboshard.common.memory_files import anonymous_file

SHARED_BYTES = 1 << 16
"""Arrays of as many bytes are shared; smaller ones are pickled with the rest."""
ALIGNED = 64


class SharedPickle:
    """A value as bytes. Pickled while a process is started, it gives that process the value."""

    def __init__(self, value: Any) -> None:
        """Pickle the value, by value also what the user's program defines.

        Raises:
            Exception: whatever the value raises when it is pickled; OSError: no memory is left.
        """
        self._places: list[tuple[int, int]] = []
        self._descriptor: int | None = None
        buffers: list[memoryview] = []

        def is_small(buffer: Any) -> bool:
            view = buffer.raw()
            if view.nbytes >= SHARED_BYTES:
                buffers.append(view)
                return False
            return True

        self._data: bytes = cloudpickle.dumps(value, protocol=5, buffer_callback=is_small)
        if buffers:
            self._share(buffers)

    def _share(self, buffers: list[memoryview]) -> None:
        with io.BufferedWriter(anonymous_file()) as file:
            for view in buffers:
                start = -(-file.tell() // ALIGNED) * ALIGNED
                file.seek(start)
                file.write(view)
                self._places.append((start, start + view.nbytes))
            file.flush()
            self._own(os.dup(file.fileno()))

    def _own(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def load(self) -> Any:
        """Return the value. What is written into its arrays only this process sees."""
        if self._descriptor is None:
            return cloudpickle.loads(self._data)
        whole = memoryview(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_COPY))
        shared = [whole[start:end] for start, end in self._places]
        return cloudpickle.loads(self._data, buffers=shared)

    def __getstate__(self) -> dict[str, Any]:
        handle = None if self._descriptor is None else DupFd(self._descriptor)
        return {"data": self._data, "places": self._places, "handle": handle}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._data, self._places, self._descriptor = state["data"], state["places"], None
        if state["handle"] is not None:
            self._own(state["handle"].detach())
