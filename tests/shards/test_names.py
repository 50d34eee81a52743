"""Names are short, plain, and split by other readers the way they were joined here."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from roboshard.common.errors import FormatError, OptionError
from roboshard.shards.names import (
    MAX_EPISODES,
    MAX_SHARDS,
    camera_suffixes,
    episode_of_key,
    is_shard_name,
    member_name,
    sample_key,
    shard_manifest_name,
    shard_name,
    split_member_name,
)

plain = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), max_size=50
)
few = st.text("aAbBéÉ-2.", max_size=6)


@given(st.integers(0, MAX_EPISODES - 1))
def test_a_sample_key_and_its_episode_give_each_other(episode: int) -> None:
    assert episode_of_key(sample_key(episode)) == episode
    assert "." not in sample_key(episode)


@given(st.lists(st.integers(0, MAX_EPISODES - 1), unique=True))
def test_keys_sort_as_their_episodes_do(episodes: list[int]) -> None:
    assert sorted(map(sample_key, episodes)) == [
        sample_key(episode) for episode in sorted(episodes)
    ]


@pytest.mark.parametrize("episode", [-1, MAX_EPISODES])
def test_an_episode_that_no_key_can_name_is_refused(episode: int) -> None:
    with pytest.raises(OptionError, match=f"episode index {episode} is outside"):
        sample_key(episode)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ep-1",
        "ep-0000000012",
        "ep-00000000a",
        "EP-000000001",
        "ep-000000001\n",
        "ep-٠٠٠٠٠٠٠٠١",
        " ep-000000001",
    ],
)
def test_only_keys_as_they_are_written_are_read(key: str) -> None:
    with pytest.raises(FormatError, match="is not of the form ep-000000012"):
        episode_of_key(key)


@given(plain.filter(bool))
def test_a_member_name_is_split_where_it_was_joined_and_where_webdataset_splits_it(
    suffix: str,
) -> None:
    name = member_name(sample_key(12), suffix)
    assert split_member_name(name) == (sample_key(12), suffix)
    if (
        "\u2028" not in suffix
    ):  # WebDataset's `.` also stops at line separators, which no camera key holds
        assert base_plus_ext(name) == (sample_key(12), suffix)


@given(st.integers(0, MAX_SHARDS - 1))
def test_shard_names_are_told_from_other_names(number: int) -> None:
    name = shard_name(number)
    assert is_shard_name(name)
    assert shard_manifest_name(name) == name[: -len("tar")] + "json"
    others = (
        f"{name}\n",
        f"../{name}",
        f"/{name}",
        name[7:],
        name.upper(),
        f"{name}.tar",
        name.replace("0", "٠"),
    )
    assert not any(is_shard_name(other) for other in others if other != name)


@pytest.mark.parametrize("number", [-1, MAX_SHARDS])
def test_a_shard_that_no_name_can_hold_is_refused(number: int) -> None:
    with pytest.raises(OptionError, match=f"shard number {number} is outside"):
        shard_name(number)


@given(st.lists(few, unique=True, max_size=8))
def test_no_two_cameras_share_a_suffix_whatever_the_case(keys: list[str]) -> None:
    suffixes = camera_suffixes(keys)
    assert list(suffixes) == keys
    assert len({suffix.lower() for suffix in suffixes.values()}) == len(keys)
    assert all(
        suffix.startswith(key) and suffix.endswith(".mp4") for key, suffix in suffixes.items()
    )


@given(st.lists(few, unique=True, max_size=8), st.randoms(use_true_random=False))
def test_a_suffix_does_not_depend_on_the_order_of_cameras(
    keys: list[str], generator: random.Random
) -> None:
    shuffled = generator.sample(keys, len(keys))
    assert camera_suffixes(shuffled) == camera_suffixes(keys)


@given(st.lists(plain, unique_by=str.lower, max_size=5))
def test_cameras_that_do_not_collide_keep_their_names(keys: list[str]) -> None:
    assert camera_suffixes(keys) == {key: f"{key}.mp4" for key in keys}


def test_collisions_are_numbered_around_names_that_are_taken() -> None:
    assert camera_suffixes(["top", "Top", "TOP", "top-2"]) == {
        "top": "top-4.mp4",
        "Top": "Top-3.mp4",
        "TOP": "TOP.mp4",
        "top-2": "top-2.mp4",
    }


@pytest.mark.parametrize("key", ["x" * 300, "é" * 120])
def test_a_camera_key_that_cannot_be_a_file_name_is_refused(key: str) -> None:
    with pytest.raises(OptionError, match="name a tar member"):
        camera_suffixes([key])


@pytest.mark.parametrize("key", ["a/b", "..\\a", "a\0b", "a\nb"])
def test_what_cannot_stand_in_a_name_is_replaced(key: str) -> None:
    (suffix,) = camera_suffixes([key]).values()
    assert suffix.endswith(".mp4")
    assert not set("/\\\0\n") & set(suffix)
