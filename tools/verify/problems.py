"""Problems: what is wrong, where, and what to do about it.

All are collected; none ends a verification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock

from roboshard.common.errors import RoboshardError
from roboshard.shards.missing import total

MAX_KEPT = 10_000
"""Most problems that are kept. Further ones are counted alone, so that memory stays bounded
whatever a dataset holds.
"""

COPY_AGAIN = "copy or upload this file again from where it is whole; otherwise convert again"
REBUILD = "`roboshard rebuild` derives it from the shards"
CONVERT_AGAIN = "convert the source again: it was changed by something that made the checksums fit"
READ_AGAIN = "look at storage and network, then verify again"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a dataset: where, what, and what to do about it."""

    file: str
    """Path of the file, relative to the dataset's root."""
    episode: int | None
    member: str | None
    """Full name of the member of the shard; None: it is not about one."""
    what: str
    remedy: str


class Problems:
    """Collects problems from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: list[Problem] = []
        self.count = 0
        self.missing: dict[str, int] = {}
        """Feature key -> how many rows have no value; no problem, but worth a note."""

    def count_missing(self, missing: Mapping[str, int]) -> None:
        """Add an episode's rows without a value."""
        with self._lock:
            self.missing = total([self.missing, missing])

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it unless there are `MAX_KEPT`."""
        with self._lock:
            self.count += 1
            if len(self._kept) < MAX_KEPT:
                self._kept.append(problem)

    def sorted(self) -> tuple[Problem, ...]:
        """Return the problems by file and episode, and as they were found within one."""
        return tuple(
            sorted(self._kept, key=lambda p: (p.file, -1 if p.episode is None else p.episode))
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a check looks: what it finds is reported with that place."""

    problems: Problems
    file: str
    episode: int | None = None
    member: str | None = None

    def at(self, *, episode: int | None = None, member: str | None = None) -> "Place":
        """Return a place inside this one: an episode, a member, or both."""
        inner = self if episode is None else replace(self, episode=episode)
        return inner if member is None else replace(inner, member=member)

    def report(self, what: str, remedy: str) -> None:
        """Report that something is wrong at this place."""
        self.problems.add(
            Problem(
                file=self.file, episode=self.episode, member=self.member, what=what, remedy=remedy
            )
        )

    def report_error(self, error: RoboshardError, remedy: str) -> None:
        """Report as wrong at this place an error that a reader would meet."""
        self.report(str(error), remedy)
