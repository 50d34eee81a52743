"""Entries of shards come out of a list as they went in, and are written as they were read."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common import jsonio
from roboshard.common.errors import FormatError
from roboshard.shards.documents import MAX_FRAMES
from roboshard.shards.names import shard_manifest_name, shard_name
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    DatasetManifest,
    document_bytes,
    validate_json,
)
from roboshard.shards.shard_list import ShardEntry, ShardList

Json = dict[str, Any]
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
COUNTS = st.integers(1, MAX_FRAMES)


@st.composite
def values(draw: st.DrawFn) -> Json:
    """An entry as JSON: one as all are, or one with something that few have."""
    name = draw(st.integers(0, 999_999).map(shard_name) | st.just("shards/other.tar"))
    manifest = draw(st.just(shard_manifest_name(name)) | st.just("elsewhere.json"))
    more: Json = draw(st.just({}) | st.just({"missing": {"reward": 3}}) | st.just({"new": [1]}))
    return {
        "name": name,
        "size": draw(COUNTS),
        "sha256": draw(HASHES),
        "episodes": draw(COUNTS),
        "frames": draw(COUNTS),
        "manifest": {
            "name": manifest,
            "size": draw(st.integers(0, MAX_FRAMES)),
            "sha256": draw(HASHES),
            **draw(st.just({}) | st.just({"newer": "x"})),
        },
        **more,
    }


def dataset(shards: Any) -> Json:
    """A dataset.json of these shards."""
    return {
        "format": "roboshard",
        "version": "1.0",
        "fingerprint": "0" * 64,
        "source": {
            "name": "x",
            "revision": None,
            "codebase_version": "v3.0",
            "fingerprint": "0" * 64,
        },
        "conversion": {"id": "0" * 64, "options": {}, "versions": {}, "num_shards": 0},
        "fps": 30.0,
        "features": {},
        "tasks": [],
        "info": {},
        "stats": None,
        "total_episodes": 0,
        "total_frames": 0,
        "shards": shards,
        "index": {"name": "episodes.parquet", "size": 0, "sha256": "0" * 64},
    }


def read(shards: Any) -> DatasetManifest:
    """Validate such a dataset.json, as it is read from a file."""
    return validate_json(DatasetManifest, jsonio.dump(dataset(shards)), "x")


@given(st.lists(values(), max_size=6), st.slices(6))
def test_entries_come_out_as_they_went_in(given_values: list[Json], part: slice) -> None:
    entries = [validate_json(ShardEntry, jsonio.dump(value), "x") for value in given_values]
    shards = read(given_values).shards
    assert list(shards) == entries
    assert [shards[i] for i in range(-len(entries), 0)] == entries
    assert shards == ShardList.of(entries) == pickle.loads(pickle.dumps(shards))
    assert list(shards[part]) == entries[part]
    assert shards[part] == ShardList.of(entries[part])
    assert shards.names == [entry.name for entry in entries]
    for column in ("sizes", "episodes", "frames"):
        of_one = column.removesuffix("s") if column == "sizes" else column
        assert getattr(shards, column).tolist() == [getattr(entry, of_one) for entry in entries]


@given(st.lists(values(), max_size=6))
def test_entries_are_written_as_they_were_read(given_values: list[Json]) -> None:
    written = jsonio.load(document_bytes(read(given_values)), "x", MAX_MANIFEST_BYTES)["shards"]
    assert jsonio.dump(written) == jsonio.dump(given_values)


@given(values(), values())
def test_lists_are_equal_where_their_entries_are(one: Json, other: Json) -> None:
    assert (read([one]).shards == read([other]).shards) == (one == other)
    assert read([one]).shards != read([one, one]).shards
    assert read([one]).shards != [one]


def test_what_names_missing_values_and_fields_differ_are_found() -> None:
    like, lacking, named = plain(0), plain(1) | {"missing": {"a": 1}}, plain(2) | {"name": "x"}
    shards = read([like, lacking, named]).shards
    assert sorted(shards.unlike) == [1, 2]
    assert shards.unlike[1].missing == {"a": 1}


def test_there_is_nothing_past_the_ends() -> None:
    shards = read([plain(0), plain(1) | {"missing": {"a": 1}}]).shards
    for place in (2, -3):
        with pytest.raises(IndexError):
            shards[place]


def test_every_fault_of_every_entry_is_told_with_its_place() -> None:
    wrong = [plain(0), plain(1) | {"size": 0}, plain(2) | {"sha256": "x", "frames": "3"}]
    with pytest.raises(FormatError) as caught:
        read(wrong)
    places = ["shards.1.size: ", "shards.2.sha256: ", "shards.2.frames: "]
    assert all(place in str(caught.value) for place in places)


@pytest.mark.parametrize("shards", [{}, {"a": 1}, None, "", 3])
def test_what_is_no_list_is_refused(shards: Any) -> None:
    with pytest.raises(FormatError, match="shards: "):
        read(shards)


def test_a_list_has_no_hash_as_it_would_have_if_it_were_a_list() -> None:
    with pytest.raises(TypeError):
        hash(read([]).shards)


def plain(number: int) -> Json:
    """An entry as most are."""
    name = shard_name(number)
    manifest = {"name": shard_manifest_name(name), "size": 5, "sha256": "a" * 64}
    counts = {"episodes": 2, "frames": 7}
    return {"name": name, "size": 100, "sha256": "b" * 64, **counts, "manifest": manifest}
