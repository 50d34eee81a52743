"""What a conversion can be told, and what it refuses with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common.selection import parse_episodes
from roboshard.converter import ConvertConfig
from roboshard.converter.config import MAX_SHARD_SIZE, MIN_SHARD_SIZE, parse_size
from roboshard.shards import OptionError

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "KiB": 2**10,
    "MB": 10**6,
    "MiB": 2**20,
    "GB": 10**9,
    "GiB": 2**30,
    "TiB": 2**40,
}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KB", 64_000),
        ("64000", 64_000),
        ("256MB", 256_000_000),
        ("256M", 256_000_000),
        ("1GiB", 1 << 30),
        ("0.5gb", 500_000_000),
        ("0.5 gib", 1 << 29),
        ("  512 mib ", 512 << 20),
        ("1TiB", 1 << 40),
        ("1000000b", 1_000_000),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert ConvertConfig(source="s", destination="d", shard_size=text).shard_bytes == size


@given(st.integers(1, 10**13), st.sampled_from(sorted(UNITS)), st.booleans())
def test_a_size_is_its_number_times_its_unit_or_out_of_range(
    number: int, unit: str, lower: bool
) -> None:
    text = f"{number}{unit.lower() if lower else unit}"
    size = number * UNITS[unit]
    if MIN_SHARD_SIZE <= size <= MAX_SHARD_SIZE:
        assert parse_size(text) == size
    else:
        with pytest.raises(OptionError, match=r"is outside 64KB\.\.1TiB"):
            parse_size(text)


@pytest.mark.parametrize(
    "text", ["63999", "63KB", "0", "1", "0.01MB", "2TiB", "99999999TB", "9" * 5000 + "TB"]
)
def test_sizes_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"is outside 64KB\.\.1TiB"):
        parse_size(text)


@pytest.mark.parametrize(
    "text", ["", "MB", "-1MB", "1e6", "1,5MB", "256 M B", "256PB", "nan", "inf", "1..5MB", "0x10"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OptionError, match="is not a size; write it like 256MB or 1GiB"):
        parse_size(text)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_an_option_error(text: str) -> None:
    with contextlib.suppress(OptionError):
        assert MIN_SHARD_SIZE <= parse_size(text) <= MAX_SHARD_SIZE


# -- Episodes --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6)), min_size=1, max_size=10))
def test_episode_ranges_are_read_back(pairs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{start}:{start + count}" if count else f"{start}" for start, count in pairs)
    assert parse_episodes(text) == [range(start, start + max(count, 1)) for start, count in pairs]


def test_spaces_in_episode_ranges_do_not_count() -> None:
    assert parse_episodes(" 0:100 , 205 ,7 : 9") == [range(100), range(205, 206), range(7, 9)]


@pytest.mark.parametrize(
    "text", ["", "a", "1,", ",1", "1:2:3", "-1", "1:-2", ":5", "5:", "1.5", "1;2", "9" * 5000]
)
def test_what_is_no_episode_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OptionError, match='neither an index nor START:STOP, as in "0:100,205"'):
        parse_episodes(text)


@pytest.mark.parametrize("text", ["5:5", "9:3", "0:3,7:7"])
def test_empty_episode_ranges_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is an empty range"):
        parse_episodes(text)


@given(st.text("0123456789:, -a", max_size=12))
def test_any_text_is_episode_ranges_or_an_option_error(text: str) -> None:
    with contextlib.suppress(OptionError):
        assert all(len(r) > 0 for r in parse_episodes(text))


# -- The rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"workers": -3}, "workers must be at least 1, not -3"),
        ({"tolerance_s": -1e-9}, r"tolerance_s must be in 0\.\.10 seconds"),
        ({"tolerance_s": 10.0}, r"tolerance_s must be in 0\.\.10 seconds"),
        ({"tolerance_s": float("nan")}, r"tolerance_s must be in 0\.\.10 seconds"),
        ({"shuffle_episodes": -1}, "must not be negative"),
        ({"shard_size": "1KB"}, "outside 64KB"),
        ({"episodes": "x"}, "neither an index"),
    ],
)
def test_options_that_cannot_be_used_are_refused_at_once(
    option: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        ConvertConfig(source="s", destination="d", **option)
    assert isinstance(caught.value, ValueError)


def test_options_cannot_be_changed_later() -> None:
    config = ConvertConfig(source="s", destination="d")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.shard_size = "1GB"  # type: ignore[misc]
