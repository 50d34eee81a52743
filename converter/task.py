"""What the engines need to know of a task: a function of a spec, which any of their processes may
be given.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, Self, TypeVar

OnEpisode = Callable[[int], None]
"""A callback that is told the bytes of each episode that is done."""


class TaskSpec(Protocol):
    """What one task works on. Can be sent to other processes and machines."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Libraries that every machine must have in these versions."""

    def on_node(self) -> AbstractContextManager[Self]:
        """Return this task for another machine of a cluster.

        Raises OptionError where that cannot be.
        """

    def check_seen(self, result: object) -> None:
        """See that what another machine has written is there. Raises OptionError."""

    def remove_unfinished(self, process: int) -> None:
        """Remove what a process that was killed at the task had written."""


Spec = TypeVar("Spec", bound=TaskSpec)
Result = TypeVar("Result")
