"""Numbers of Arrow columns as NumPy arrays.

Arrow's own `to_numpy` imports pandas first where that is installed, as older releases do to name a
type: a third of a second and 30 MB of each process, in which Ctrl-C is lost.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def to_numpy(values: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return what `to_numpy(zero_copy_only=False)` of a column returns: (n,), NaN for nulls among
    numbers. It may be read-only.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    kind = array.type
    if pa.types.is_boolean(kind) and not array.null_count:
        return to_numpy(array.cast(pa.uint8())).view(np.bool_)
    if array.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    letter = (
        "f" if pa.types.is_floating(kind) else "u" if pa.types.is_unsigned_integer(kind) else "i"
    )
    dtype = np.dtype(f"{letter}{kind.bit_width // 8}")
    memory = array.buffers()[1]
    if memory is None:  # as an array without values may be
        return np.empty(0, dtype)
    return np.frombuffer(memory, dtype, len(array), array.offset * dtype.itemsize)
