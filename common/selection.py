"""Which episodes a command is to work on, as users write it: "0:100,205"; and a few of many."""

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import OptionError

_EPISODES = re.compile(r"\s*(\d{1,12})\s*(?::\s*(\d{1,12})\s*)?")


def parse_episodes(text: str) -> list[range]:
    """Ranges of episode indices from "0:100,205". Raises OptionError for anything else."""
    ranges = []
    for part in text.split(","):
        match = _EPISODES.fullmatch(part)
        if match is None:
            raise OptionError(
                f'episodes {text!r}: {part!r} is neither an index nor START:STOP, as in "0:100,205"'
            )
        start = int(match[1])
        ranges.append(range(start, int(match[2]) if match[2] else start + 1))
        if not ranges[-1]:
            raise OptionError(f"episodes {text!r}: {part.strip()!r} is an empty range")
    return ranges


def select_episodes(
    available: NDArray[np.int64],
    wanted: Sequence[range] | None,
    excluded: Sequence[range] | None = None,
) -> NDArray[np.int64]:
    """Return the wanted episode indices without the excluded ones, ascending, each once.

    Args:
        available: all indices, ascending.
        wanted: which ones; None: all.
        excluded: which not; None: none.

    Raises:
        OptionError: some of them do not exist, or none is left.
    """
    selected = available if wanted is None else _existing(available, wanted, "chosen")
    if excluded is None:
        return selected
    left = np.setdiff1d(selected, _existing(available, excluded, "excluded"))
    if not left.size:
        raise OptionError("no episode is left: all that were chosen are excluded")
    return left


def _existing(available: NDArray[np.int64], wanted: Sequence[range], how: str) -> NDArray[np.int64]:
    end = int(available.max()) + 1
    known = [np.arange(r.start, min(r.stop, end)) for r in wanted]
    selected = np.unique(np.concatenate(known))
    unknown = [
        *np.setdiff1d(selected, available).tolist(),
        *(max(r.start, end) for r in wanted if r.stop > end),
    ]
    if unknown:
        raise OptionError(
            f"episode {min(unknown)} was {how} and does not exist; "
            f"the dataset has {available.size}, from {available.min()} to {available.max()}"
        )
    return selected


def check_tasks(wanted: Collection[str], known: Sequence[str]) -> None:
    """Raise OptionError, which names the most similar ones, for a task that no episode has."""
    there = frozenset(known)
    unknown = [task for task in wanted if task not in there]
    if unknown:
        near = get_close_matches(unknown[0], known, n=3, cutoff=0.3) or known[:3]
        raise OptionError(
            f"tasks: no episode has {unknown[0]!r:.200}; the dataset has {len(there)} tasks, such "
            "as " + (some([f"{text!r:.200}" for text in near]) or "none")
        )


def spread(length: int, count: int) -> list[int]:
    """At most `count` different places of `length`, ascending and evenly spaced: first, last, and
    some between.
    """
    places: list[int] = (
        np.linspace(0, length - 1, min(count, length)).round().astype(np.int64).tolist()
    )
    return places


def positions_of(wanted: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each wanted index is among `indices`, which ascend; -1: it is not there."""
    if not indices.size:
        return np.full(len(wanted), -1, dtype=np.int64)
    found = np.searchsorted(indices, wanted).clip(max=len(indices) - 1)
    return np.where(indices[found] == wanted, found, -1)


def some(values: Sequence[object], most: int = 3) -> str:
    """Return the first few of some values, for messages."""
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")
