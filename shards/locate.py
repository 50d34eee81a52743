"""Locating a dataset: from what a user gives (a root, a brace pattern, a list of shard URLs) to its
root and its shards.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import braceexpand

from roboshard import storage
from roboshard.common.errors import OptionError
from roboshard.shards.names import DATASET_MANIFEST, SHARD_FOLDER

MAX_URLS = 1_000_000
MAX_NESTING = 8

_TOKEN = re.compile(r"\\.|[{,}]")
_RANGE = re.compile(
    r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(\.\.-?\d+)?\n?"
)  # as braceexpand reads them


Urls = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A dataset root, a shard, a brace pattern, or a list of shards or patterns."""


def locate(urls: Urls) -> tuple[str, tuple[str, ...] | None]:
    """(root, shard names under it), names being None when a whole dataset is meant.

    Accepts a dataset root, or its dataset.json; one shard URL, a brace pattern
    (`DST/shards/shard-{000000..000007}.tar`), or a list of shard URLs or patterns of one dataset.

    Raises:
        OptionError: nothing, an empty URL or no URLs given, shards of several datasets, or a URL
            that is neither root nor shard.
    """
    given = _given(urls)
    expanded = [url for pattern in given for url in _expand(pattern)]
    if not expanded:
        raise OptionError("no URL given: pass a dataset root or shard URLs")
    if not all(expanded):
        raise OptionError(
            "an empty URL was given: pass a dataset root or shard URLs ('.' is the current folder)"
        )
    for url in expanded:
        storage.store_of(url)  # refuses pipe: and schemes that are not served
    if len(expanded) == 1 and not _path_of(expanded[0]).endswith(".tar"):
        return _without_manifest(expanded[0]), None
    roots = {_root_of_shard(url) for url in expanded}
    if len(roots) > 1:
        shown = sorted({storage.redacted(root) for root in roots})
        differing = (
            ", ".join(shown)
            if len(shown) > 1
            else f"{shown[0]} with different signatures or passwords"
        )
        raise OptionError(f"shards of several datasets in one loader: {differing}")
    names = [f"{SHARD_FOLDER}/{posixpath.basename(_path_of(url))}" for url in expanded]
    if len(set(names)) != len(names):
        raise OptionError("a shard URL is given twice")
    return roots.pop(), tuple(sorted(names))


def _given(urls: Any) -> list[str]:
    """Return what was given as a list of strings."""
    wrong = urls
    if isinstance(urls, str | os.PathLike):
        urls = [urls]
    if isinstance(urls, Mapping | bytes):
        wrong = type(urls)  # URLs in it may hold passwords
    elif isinstance(urls, Iterable):
        given = list(urls)
        others = [url for url in given if not isinstance(url, str | os.PathLike)]
        if not others:
            return [os.fspath(url) for url in given]
        wrong = f"a list with {type(others[0])}"
    raise OptionError(
        "urls must be a dataset's root, a shard, a brace pattern or a list of shards; or, for a "
        f"loader of several datasets, a list of pairs (urls, weight); not {wrong!s:.100}"
    )


def _expand(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    if (
        _num_expanded(pattern) > MAX_URLS
    ):  # asked first: braceexpand holds whole ranges before its first URL
        raise OptionError(f"{storage.redacted(pattern)}: expands to more than {MAX_URLS} URLs")
    return list(braceexpand.braceexpand(pattern))


@dataclass
class _Group:
    """A brace group while it is read: what its alternatives so far, and the one being read, expand
    to.
    """

    start: int
    before_comma: int = 0
    product: int = 1


def _num_expanded(pattern: str) -> int:
    """How many URLs a brace pattern stands for, at the most."""
    groups = [_Group(start=0)]
    for token in _TOKEN.finditer(pattern):
        if token[0] == "{":
            groups.append(_Group(start=token.end()))
        elif token[0] == "," and len(groups) > 1:
            groups[-1].before_comma += groups[-1].product
            groups[-1].product = 1
        elif token[0] == "}":
            group = groups.pop()
            if not groups:
                break
            groups[-1].product *= max(
                _range_length(pattern[group.start : token.start()]),
                group.before_comma + group.product,
            )
        if len(groups) > MAX_NESTING:
            raise OptionError(
                f"{storage.redacted(pattern)[:200]}: braces nested deeper than {MAX_NESTING} levels"
            )
    if len(groups) != 1:
        raise OptionError(f"{storage.redacted(pattern)}: unbalanced braces")
    return groups[0].product


def _range_length(text: str) -> int:
    """Values of `000..007` or `a..e`, whatever the step; 0 for anything else."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return 0
    if match[1].isalpha() or match[2].isalpha():
        return 2 * 26
    return abs(int(match[1]) - int(match[2])) + 1 if len(text) < 64 else MAX_URLS + 1


def _path_of(url: str) -> str:
    """A URL without its query, as signed ones have it."""
    return url if storage.is_local(url) else url.partition("?")[0]


def _without_manifest(root: str) -> str:
    """Return a root as it is; where its dataset.json was given, the folder that holds it."""
    path = _path_of(root)
    folder, name = posixpath.split(path)
    return root if name != DATASET_MANIFEST else (folder or ".") + root[len(path) :]


def _root_of_shard(url: str) -> str:
    path = _path_of(url)
    query = url[len(path) :]
    folder, name = posixpath.split(path)
    if not name.endswith(".tar") or posixpath.basename(folder) != SHARD_FOLDER:
        raise OptionError(
            f"{storage.redacted(url)}: not a shard of a roboshard dataset; expected "
            f"ROOT/{SHARD_FOLDER}/shard-NNNNNN.tar, or ROOT"
        )
    return (posixpath.dirname(folder) or ".") + query
