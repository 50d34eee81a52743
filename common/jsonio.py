"""JSON as the format writes and reads it: deterministic to write, bounded and strict to read."""

import json
from collections import Counter
from typing import Any

from roboshard.common.errors import FormatError

MAX_DEPTH = 64
MAX_CONTAINERS = 1 << 20
"""Most objects and arrays in one document: each costs some hundred bytes of memory, and two in the
file.
"""
MAX_VALUES = 1 << 23
"""Most values in one document."""

Json = Any


def dump(value: Json) -> bytes:
    """Compact UTF-8 JSON with a newline at the end; keys keep the order they have.

    NaN and infinities are written as LeRobot's own stats.json writes them (`NaN`, `Infinity`).
    """
    return (json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def canonical(value: Json) -> bytes:
    """Bytes that are equal for equal values, whatever the order of keys: what fingerprints are
    taken of.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def load(data: bytes | memoryview, what: str, max_bytes: int) -> dict[str, Json]:
    """Parse one JSON object; `what` names it in errors.

    Raises:
        FormatError: larger than `max_bytes`, of more than MAX_CONTAINERS objects and arrays or
            MAX_VALUES values, nested deeper than MAX_DEPTH, not UTF-8, not JSON, with a key
            that occurs twice in one object, with half a surrogate pair, or not an object.
    """
    if len(data) > max_bytes:
        raise FormatError(
            f"{what}: {len(data)} bytes of JSON, more than the {max_bytes} that are read"
        )
    check_counts(data, what)
    try:
        text = bytes(data).decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:  # the one way to half a surrogate pair, which is no text and has no UTF-8
            dump(value)
    except RecursionError:
        raise FormatError(f"{what}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # UnicodeError, JSONDecodeError, duplicate keys, overlong integers
        raise FormatError(f"{what}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what}: expected a JSON object, found {type(value).__name__}")
    _check_depth(value, what)
    return value


def check_counts(data: bytes | memoryview, what: str) -> None:
    """Refuse what would become many objects, before there is any.

    Texts may hold such characters: they count too.

    Raises:
        FormatError: more than MAX_CONTAINERS objects and arrays, or MAX_VALUES values.
    """
    whole = bytes(data)
    for number, most, named in (
        (whole.count(b"[") + whole.count(b"{"), MAX_CONTAINERS, "objects and arrays"),
        (whole.count(b","), MAX_VALUES, "values"),
    ):
        if number > most:
            raise FormatError(f"{what}: {number} {named} or so, more than the {most} that are read")


def _unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        key = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {key!r} occurs twice in one object")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
"""The decoder of all documents: making one takes longer than to decode a small document."""


def _check_depth(value: Json, what: str) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise FormatError(f"{what}: nested deeper than {MAX_DEPTH} levels")
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
