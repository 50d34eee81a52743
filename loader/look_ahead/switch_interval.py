"""How long a thread of the user's program keeps the interpreter's lock while others decode.

Decoding threads ask for the lock a few times a frame, for microseconds each. A program that
computes in Python keeps it for 5 ms at a time unless told otherwise (`sys.setswitchinterval`), and
all but stops them.
"""

import os
import sys
from threading import Lock

TURN_S = 0.001


class ShortTurns:
    """The interpreter's switch interval: a millisecond from the first `begin` to the last `end`,
    unless the user has set less.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._before: float | None = None
        """The switch interval that was set before, in seconds; None: it is left alone."""
        self._ours = 0.0

    def begin(self) -> None:
        """Count one more who decodes; the first one shortens the switch interval."""
        with self._lock:
            self._users += 1
            if self._users == 1 and sys.getswitchinterval() > TURN_S:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(TURN_S)
                self._ours = sys.getswitchinterval()  # whole microseconds

    def end(self) -> None:
        """Count one less who decodes; after the last one, what was set before comes back, unless
        somebody has set something else meanwhile.
        """
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._bring_back()

    def after_fork(self) -> None:
        """Forget who decodes in the parent: a fork has none of those threads."""
        self._lock = Lock()  # one of them may have had it
        self._users = 0
        self._bring_back()

    def _bring_back(self) -> None:
        if self._before is not None:
            if sys.getswitchinterval() == self._ours:
                sys.setswitchinterval(self._before)
            self._before = None


SHORT_SWITCH_INTERVAL = ShortTurns()
"""The switch interval of this process, which all of its loaders share."""
os.register_at_fork(after_in_child=SHORT_SWITCH_INTERVAL.after_fork)
