"""A root, a pattern or a list of URLs becomes one dataset and some of its shards, or an error."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common.errors import OptionError, StorageError
from roboshard.shards import locate as module
from roboshard.shards.locate import locate

numbers = st.integers(0, 99)
ranges = st.builds("{{{:02d}..{:02d}}}".format, numbers, numbers) | st.sampled_from(
    ["{a..e}", "{a..5}", "{5..a}"]
)
literals = st.text("abc-/._", max_size=4)
groups = st.lists(literals | ranges, min_size=2, max_size=3).map(
    lambda parts: "{" + ",".join(parts) + "}"
)
patterns = st.lists(literals | ranges | groups, max_size=2).map("".join)


def shard(number: int, root: str = "/data/x") -> str:
    return f"{root}/shards/shard-{number:06d}.tar"


@pytest.mark.parametrize(
    "root", ["/data/x", "/data/x/", "x", ".", "file:///data/x", "/data/tar", "/data/a{b}c", "/a b"]
)
def test_a_root_means_the_whole_dataset(root: str) -> None:
    assert locate(root) == (root, None)
    assert locate([root]) == (root, None)


def test_a_pattern_or_a_list_means_those_shards_in_order_of_name() -> None:
    expected = ("/data/x", tuple(f"shards/shard-{number:06d}.tar" for number in range(3)))
    assert locate("/data/x/shards/shard-{000000..000002}.tar") == expected
    assert locate([shard(2), shard(0), shard(1)]) == expected
    assert locate(("/data/x/shards/shard-{000001,000002}.tar", shard(0))) == expected
    assert locate(shard(1)) == ("/data/x", ("shards/shard-000001.tar",))


def test_the_root_is_what_lies_before_the_shards_folder() -> None:
    assert locate("shards/shard-000000.tar")[0] == "."
    assert locate("/shards/shard-000000.tar")[0] == "/"
    assert locate("file:///d/shards/shard-000000.tar")[0] == "file:///d"


@pytest.mark.parametrize("urls", [[], ()])
def test_nothing_is_refused(urls: str | list[str]) -> None:
    with pytest.raises(OptionError, match="no URL given"):
        locate(urls)


@pytest.mark.parametrize("urls", ["", [""], [shard(0), ""], "{,/data/x}"])
def test_an_empty_url_is_called_so(urls: str | list[str]) -> None:
    with pytest.raises(OptionError, match="an empty URL was given: pass a dataset root"):
        locate(urls)


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("/data/x/dataset.json", "/data/x"),
        ("dataset.json", "."),
        ("/dataset.json", "/"),
        ("file:///d/dataset.json", "file:///d"),
        ("https://h/d/dataset.json?sig=1", "https://h/d?sig=1"),
        ("hf://datasets/me/arm@v2/dataset.json", "hf://datasets/me/arm@v2"),
    ],
)
def test_the_root_may_be_given_as_its_dataset_json(url: str, root: str) -> None:
    assert locate(url) == (root, None)


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ([shard(0), shard(0)], "given twice"),
        ([shard(0), shard(1, "/data/y")], r"several datasets in one loader: /data/x, /data/y"),
        (["/data/x", shard(0)], "not a shard of a roboshard dataset"),
        (["/data/x", "/data/y"], "not a shard of a roboshard dataset"),
        ("/data/x/shard-000000.tar", r"expected ROOT/shards/shard-NNNNNN\.tar"),
        ("shard-000000.tar", "not a shard"),
        (["/data/x/shards/a.json", shard(0)], "not a shard"),
        ("/data/{x", "unbalanced braces"),
        ("/data/x}", None),
        ("/data/{x}}{", "unbalanced braces"),
    ],
)
def test_what_is_not_shards_of_one_dataset_is_refused(
    urls: str | list[str], message: str | None
) -> None:
    if message is None:
        assert locate(urls) == (urls, None)  # without an opening brace it is a name
        return
    with pytest.raises(OptionError, match=message):
        locate(urls)


@pytest.mark.parametrize(
    "urls", ["pipe:cat x", ["pipe:cat /data/x/shards/shard-000000.tar"], "pipe:{a,b}"]
)
def test_pipes_are_refused(urls: str | list[str]) -> None:
    with pytest.raises(StorageError, match="refused"):
        locate(urls)


def test_schemes_that_are_not_served_are_refused() -> None:
    with pytest.raises(StorageError, match="ftp"):
        locate(["ftp://h/shards/shard-000000.tar", shard(0)])


@given(patterns)
def test_patterns_are_counted_before_they_are_expanded(pattern: str) -> None:
    expanded = list(braceexpand(pattern))
    assert module._expand(pattern) == expanded
    count = module._num_expanded(pattern)
    assert count == len(expanded) or ("a" in pattern and count > len(expanded))


@pytest.mark.parametrize(
    "pattern",
    [
        "/x/{0..999999999999}", "/x/{0..٩٩٩٩٩٩٩٩٩}", "/x/{0..999999999\n}",
        "/x/{0..9999999999999999999999999}", "/x/{1..2}{1..100000000}", "{a..z}" * 9,
        "{1,2}" * 64, "/x/{y,{1..1000}{1..1000}{1..1000}}", "/x/{-1000000..1}", "/x/{0..99999999..3}",
        "{" + "9" * 5000 + "..1}", "{" * 100_000 + "}" * 100_000, "{" * 100_000,
    ],
    ids=lambda pattern: pattern[:24],
)  # fmt: skip
def test_patterns_without_bounds_cost_nothing(pattern: str) -> None:
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(
            OptionError, match=r"expands to more than 1000000 URLs|nested deeper|unbalanced"
        ):
            locate(pattern)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 10
