"""Whether two tables are the same to the bit: columns, types, values, metadata of the schema."""

from collections.abc import Iterator

import pyarrow as pa

from roboshard.shards.rows import source_metadata


def compare_tables(here: pa.Table, source: pa.Table) -> Iterator[str]:
    """Yield what differs between two tables, in words."""
    if here.column_names != source.column_names:
        yield f"columns are {here.column_names}, {source.column_names} in the source"
        return
    if here.num_rows != source.num_rows:
        yield f"{here.num_rows} rows, {source.num_rows} in the source"
        return
    for i, name in enumerate(here.column_names):
        ours, theirs = here.schema.field(i), source.schema.field(i)
        if not ours.equals(theirs, check_metadata=True):
            stated = (ours, theirs) if ours.type == theirs.type else (ours.type, theirs.type)
            yield f"column {name!r} is {stated[0]}, {stated[1]} in the source"
        if ours.type == theirs.type:
            yield from _compare_columns(
                name, here.column(i).combine_chunks(), source.column(i).combine_chunks()
            )
    if source_metadata(here) != (source.schema.metadata or {}):
        yield "the schema's metadata differs from the source's"


def _compare_columns(name: str, here: pa.Array, source: pa.Array) -> Iterator[str]:
    if here.equals(source) and _bits(here) == _bits(source):
        return
    wrong = [  # repr: NaN equals itself, and -0.0 is not 0.0
        row
        for row in range(len(here))
        if (
            not here[row].equals(source[row])
            or pa.types.is_floating(here.type)
            or pa.types.is_nested(here.type)
        )
        and repr(here[row].as_py()) != repr(source[row].as_py())
    ]
    if wrong:
        row = wrong[0]
        yield (
            f"column {name!r} differs in {len(wrong)} rows: row {row} is "
            f"{here[row].as_py()!r:.60}, in the source {source[row].as_py()!r:.60}"
        )


def _bits(array: pa.Array) -> bytes:
    """Return the bytes of floating-point values, nested or not: equal values may have different
    signs of zero.
    """
    if pa.types.is_struct(array.type):
        return b"".join(map(_bits, array.flatten()))
    if (
        pa.types.is_list(array.type)
        or pa.types.is_fixed_size_list(array.type)
        or pa.types.is_large_list(array.type)
    ):
        return _bits(array.flatten())
    if not pa.types.is_floating(array.type):
        return b""
    return bytes(array.to_numpy(zero_copy_only=False).tobytes())
