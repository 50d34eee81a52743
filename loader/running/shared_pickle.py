"""A value for many processes, pickled once: its large arrays lie in memory that all of them
share.
"""

import io
import mmap
from typing import Any

import cloudpickle

from roboshard.common.memory_files import SharedMemoryFile, anonymous_file

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
        self._shared: SharedMemoryFile | None = None
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
            self._shared = SharedMemoryFile(file)

    def load(self) -> Any:
        """Return the value. What is written into its arrays only this process sees."""
        if self._shared is None:
            return cloudpickle.loads(self._data)
        whole = memoryview(mmap.mmap(self._shared.descriptor, 0, access=mmap.ACCESS_COPY))
        shared = [whole[start:end] for start, end in self._places]
        return cloudpickle.loads(self._data, buffers=shared)
