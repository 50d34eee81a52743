"""JSON comes out the same every time, and goes in only if it is small, flat and unambiguous."""

from __future__ import annotations

import math
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common.errors import FormatError
from roboshard.common.jsonio import MAX_DEPTH, canonical, dump, load

text = st.text(st.characters(codec="utf-8"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20
)
objects = st.dictionaries(text, values)
LIMIT = 1 << 20


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@given(objects)
def test_what_is_dumped_is_loaded_with_its_order_and_its_types(value: dict[str, Any]) -> None:
    loaded = load(dump(value), "x", LIMIT)
    assert repr(loaded) == repr(value)
    assert dump(loaded) == dump(value)
    assert load(memoryview(dump(value)), "x", LIMIT) == value


@given(objects, st.randoms(use_true_random=False))
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(
    value: dict[str, Any], generator: Any
) -> None:
    keys = list(value)
    generator.shuffle(keys)
    assert canonical({key: value[key] for key in keys}) == canonical(value)
    assert load(canonical(value), "x", LIMIT) == value


def test_text_is_written_as_it_is() -> None:
    assert (
        dump({"b": [1, 2.5, None], "a": "拿起 🧊"}) == '{"b":[1,2.5,null],"a":"拿起 🧊"}\n'.encode()
    )


def test_not_a_number_and_infinity_are_kept_as_lerobot_writes_them() -> None:
    data = b'{"stats":[NaN,Infinity,-Infinity]}\n'
    loaded = load(data, "x", LIMIT)["stats"]
    assert math.isnan(loaded[0])
    assert loaded[1:] == [math.inf, -math.inf]
    assert dump({"stats": loaded}) == data


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"{", b'{"a":1,}', b"{'a':1}", b'{"a":01}', b'{"a":1}{}', b'{"a":1}x', b'{a:1}', b'{"a":"\n"}',
        b'{"a":+1}', b'{"a":.5}', b'{"a":0x1}', b'{"a":nan}', b'\xef\xbb\xbf{"a":1}', '{"a":1}'.encode("utf-16"),
        b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\x80"}', b'{"a":"\\ud800"}', b'{"\\uDFFF":1}',
        b'{"a":"\\udc00\\ud800"}', b'{"a":' + b"9" * 5000 + b"}", b"\0", b'{"a":1}\0',
    ],
)  # fmt: skip
def test_what_is_not_json_in_utf8_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^the file: not valid JSON: "):
        load(data, "the file", LIMIT)


def test_a_surrogate_pair_is_a_character() -> None:
    assert load(b'{"a":"\\ud83e\\uddca"}', "x", LIMIT) == {"a": "🧊"}


@pytest.mark.parametrize("data", [b"[]", b"1", b'"a"', b"null", b"NaN", b"true"])
def test_only_an_object_is_a_document(data: bytes) -> None:
    with pytest.raises(FormatError, match="expected a JSON object, found"):
        load(data, "x", LIMIT)


@pytest.mark.parametrize(
    "data", [b'{"a":1,"a":1}', b'{"b":{"a":1,"c":2,"a":3}}', b'{"b":[{"a":1,"\\u0061":2}]}']
)
def test_a_key_that_occurs_twice_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(FormatError, match="key 'a' occurs twice in one object"):
        load(data, "x", LIMIT)


def test_a_doubled_key_among_very_many_is_found_in_no_time() -> None:
    data = b"{" + b",".join(b'"%d":0' % i for i in range(300_000)) + b',"299999":1}'
    start = time.process_time()
    with pytest.raises(FormatError, match="key '299999' occurs twice"):
        load(data, "x", len(data))
    assert time.process_time() - start < 10


def test_the_size_is_checked_before_anything_is_parsed() -> None:
    data = memoryview(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(
            FormatError, match="67108864 bytes of JSON, more than the 67108863 that are read"
        ):
            load(data, "x", len(data) - 1)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [1, 2, MAX_DEPTH])
def test_as_deep_as_allowed_is_read(depth: int) -> None:
    assert load(nested(depth), "x", LIMIT)


@pytest.mark.parametrize(
    "data",
    [nested(MAX_DEPTH + 1), nested(900), nested(100_000), b"[" * 100_000, b'{"a":' * 100_000,
     b'{"\\u0061":' * 900 + b"1" + b"}" * 900, b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"],
    ids=len,
)  # fmt: skip
def test_deeper_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=f"x: nested deeper than {MAX_DEPTH} levels"):
        load(data, "x", LIMIT)
