"""Values of meta/episodes as JSON, with text for what JSON has no type for."""

import base64
import datetime
from collections.abc import Mapping

import pyarrow as pa

from roboshard.common.jsonio import Json


def plain_row(row: Mapping[str, object]) -> tuple[dict[str, Json], list[str]]:
    """(the row as JSON, names of the fields that hold text for something else)."""
    texts: list[str] = []
    return {name: _plain(value, name, texts) for name, value in row.items()}, texts


def without_nanoseconds(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """(the table with times in nanoseconds, for which Python has no type, as text; the names of
    those columns).
    """
    names = []
    for i, field in enumerate(table.schema):
        if pa.types.is_temporal(field.type) and getattr(field.type, "unit", "") == "ns":
            text = pa.field(field.name, pa.string())
            table = table.set_column(i, text, table.column(i).cast(pa.string()))
            names.append(field.name)
    return table, names


def _plain(value: object, name: str, texts: list[str]) -> Json:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, name, texts) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name, texts) for key, item in value.items()}
    if name not in texts:
        texts.append(name)
    return _text(value)


def _text(value: object) -> str:
    """Dates and times in ISO 8601, durations in seconds, bytes in base64."""
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return f"{value.total_seconds()!r} s"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)  # decimals
