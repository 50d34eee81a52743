"""How workers share out steps: arithmetic.

    teams     N workers are N/M teams of M; the steps go to the teams in turn
    members   of a step each member of its team makes the samples of its own episodes: every M-th
              on the tape

Two frames of a GOP are then mostly one worker's, in whatever steps they are wanted, and each frame
is decoded as often as one process alone would. Workers decide nothing about the order: what a step
holds is the same whoever makes it.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from roboshard.loader.order.plan import Draw, Share

LEAST_PIXELS = 200_000
"""Pixels of a step that a member has, on average, at the least. Each part has a price, about that
of decoding some of the smallest pictures.
"""
MESSAGE_BYTES = 32 << 20
"""Bytes of batches of which a worker sends its parts together, at the most: larger ones would only
be waited for.
"""
MESSAGE_STEPS = 8
"""Steps of which it does, at the most. A message has a price, about that of decoding ten of the
smallest pictures on both sides together; steps that come in bursts are waited for.
"""

Item = TypeVar("Item")
Note = TypeVar("Note")


@dataclass(frozen=True, kw_only=True)
class Team:
    """A worker's place among all of them. Without workers a process is the only member of its team.

    Example:
        >>> team = Team.of(worker=5, num_workers=8, members=4)
        >>> team.number, team.number_of_teams, team.member
        (1, 2, 1)
    """

    number: int = 0
    """Which of the teams it is."""
    number_of_teams: int = 1
    member: int = 0
    members: int = 1

    @classmethod
    def of(cls, worker: int, num_workers: int, members: int) -> "Team":
        """Return the place of a worker; `members` divides `num_workers`."""
        number, member = divmod(worker, members)
        return cls(
            number=number,
            number_of_teams=num_workers // members,
            member=member,
            members=members,
        )

    def parts(self, draws: Sequence[Draw], epoch: int) -> Sequence[Draw]:
        """Return what this member makes of steps: all of them if it is alone."""
        if self.members == 1:
            return draws
        turns, positions, rows = (
            np.concatenate(values)
            for values in zip(*((d.turns, d.positions, d.rows) for d in draws), strict=True)
        )
        own = np.flatnonzero(turns % self.members == self.member)
        ends = np.cumsum([len(draw.rows) for draw in draws])
        bounds = [0, *np.searchsorted(own, ends).tolist()]
        turns, positions, rows = turns[own], positions[own], rows[own]
        parts = []
        for draw, end, first, last in zip(draws, ends.tolist(), bounds, bounds[1:], strict=False):
            size = len(draw.rows)
            places = own[first:last] - (end - size)
            parts.append(
                Draw(
                    step=draw.step,
                    positions=positions[first:last],
                    rows=rows[first:last],
                    turns=turns[first:last],
                    share=Share(epoch=epoch, step=draw.step, places=places, size=size),
                )
            )
        return parts


ALONE = Team()
"""A process that makes all of every step."""


def members_of(num_workers: int, batch_size: int, pixels: int) -> int:
    """Return how many workers make a step together: as many as leave each enough of it to do.

    Args:
        num_workers: Of the rank; 0: there are none.
        batch_size: Samples of a step, of this rank.
        pixels: Of all pictures of a sample.

    Example:
        >>> members_of(num_workers=4, batch_size=64, pixels=480 * 640)
        4
        >>> members_of(num_workers=8, batch_size=64, pixels=96 * 96)  # 22 pictures for each
        2
    """
    divisors = [m for m in range(2, min(batch_size, num_workers) + 1) if num_workers % m == 0]
    enough = [m for m in divisors if m * LEAST_PIXELS <= batch_size * pixels]
    return max(enough, default=1)


def steps_of_message(batch_bytes: int) -> int:
    """Return the parts of how many steps a worker sends together: several, if batches are small.

    Example:
        >>> steps_of_message(64 * 3 * 96 * 96), steps_of_message(64 * 3 * 480 * 640)
        (8, 1)
    """
    return min(MESSAGE_STEPS, max(1, MESSAGE_BYTES // max(1, batch_bytes)))


def steps_on_their_way(number_of_teams: int, steps_of_message: int) -> int:
    """Return how many steps have memory beside those that are decoded at once: made by some members
    and not by all, or on their way in a message.

    The steps of a message are a team's own, so they lie `number_of_teams` apart; all of them must
    have memory before the first of them comes.

    Example:
        >>> steps_on_their_way(number_of_teams=12, steps_of_message=2)  # 0, 12, or 1, 13 ..
        24
    """
    return max(2, number_of_teams) * steps_of_message


def in_messages(items: Iterable[Item], number: int, most: int) -> Iterator[list[Item]]:
    """Yield so many items in lists: of one, so that nobody waits for the first, then of 2, 4 ..
    `most`. None is asked for that is not of the next list. What came before an error comes in a
    list of its own.

    Example:
        >>> list(in_messages(itertools.count(), number=8, most=3))
        [[0], [1, 2], [3, 4, 5], [6, 7]]
    """
    remaining, size = iter(items), 1
    while number:
        together: list[Item] = []
        try:
            for item in itertools.islice(remaining, min(size, number)):
                together.append(item)  # noqa: PERF402 - and stays there if the next one fails
        except Exception:
            if together:
                yield together
            raise
        number -= len(together)
        yield together
        size = min(most, 2 * size)


def by_step(
    messages: Iterator[tuple[list[Item], Note]], number_of_teams: int, members: int
) -> Iterator[tuple[tuple[Item, ...], tuple[Note, ...]]]:
    """Yield for each step, in order, its parts, and the notes of messages that came for it.

    Args:
        messages: In turn one of each worker, those of members of a team in a row, until a worker
            has no more: (what it has of some of its team's steps, a note), as `in_messages` has it.
        number_of_teams: Which serve the steps in turn.
        members: Of each team.

    Example:
        >>> messages = [([0], "a"), ([1], "b"), ([2, 4], "c"), ([3], "d")]
        >>> list(by_step(iter(messages), number_of_teams=2, members=1))
        [((0,), ('a',)), ((1,), ('b',)), ((2,), ('c',)), ((3,), ('d',)), ((4,), ())]
    """
    arrived: list[deque[tuple[Item, ...]]] = [deque() for _ in range(number_of_teams)]
    for team in itertools.cycle(arrived):
        notes: tuple[Note, ...] = ()
        if not team:
            together = list(itertools.islice(messages, members))
            if not together:
                return
            parts, notes = zip(*together, strict=True)
            # A member may have come upon an error, which follows. Were it not so, what the others
            # have more of would be missed by whoever puts the steps together.
            team.extend(zip(*parts, strict=False))
            del together, parts  # what is given away is not held here
        yield team.popleft(), notes
