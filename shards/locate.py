"""From what a user gives (a root, a brace pattern, a list of shard URLs) to a dataset root and its shards."""

import posixpath
from collections.abc import Sequence

import braceexpand

from roboshard.shards import storage
from roboshard.shards.errors import OptionError
from roboshard.shards.names import SHARD_FOLDER

MAX_URLS = 1_000_000


def locate(urls: str | Sequence[str]) -> tuple[str, tuple[str, ...] | None]:
    """(root, shard names under it), names being None when a whole dataset is meant.

    Accepts a dataset root, one shard URL, a brace pattern (`DST/shards/shard-{000000..000007}.tar`), or a list
    of shard URLs or patterns of one dataset.

    Raises:
        OptionError: nothing given, shards of several datasets, or a URL that is neither root nor shard.
    """
    given = [urls] if isinstance(urls, str) else [str(url) for url in urls]
    expanded = [url for pattern in given for url in _expand(pattern)]
    if not expanded:
        raise OptionError("no URL given: pass a dataset root or shard URLs")
    for url in expanded:
        storage.storage_of(url)  # refuses pipe: and schemes that are not served
    if len(expanded) == 1 and not expanded[0].endswith(".tar"):
        return expanded[0], None
    roots = {_root_of_shard(url) for url in expanded}
    if len(roots) > 1:
        raise OptionError(f"shards of several datasets in one loader: {', '.join(sorted(roots))}")
    names = [f"{SHARD_FOLDER}/{posixpath.basename(url)}" for url in expanded]
    if len(set(names)) != len(names):
        raise OptionError("a shard URL is given twice")
    return roots.pop(), tuple(sorted(names))


def _expand(pattern: str) -> list[str]:
    expanded = []
    for url in braceexpand.braceexpand(pattern) if "{" in pattern else (pattern,):
        expanded.append(url)
        if len(expanded) > MAX_URLS:
            raise OptionError(f"{pattern}: expands to more than {MAX_URLS} URLs")
    return expanded


def _root_of_shard(url: str) -> str:
    folder, name = posixpath.split(url)
    if not name.endswith(".tar") or posixpath.basename(folder) != SHARD_FOLDER:
        raise OptionError(
            f"{url}: not a shard of a roboshard dataset; expected ROOT/{SHARD_FOLDER}/shard-NNNNNN.tar, or ROOT"
        )
    return posixpath.dirname(folder) or "."
