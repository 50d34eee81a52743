"""When something remote is tried again, how long it waits before, and when it is given up."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from roboshard.common import interrupts
from roboshard.common.errors import RoboshardError, StorageError

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
THROTTLED = 3
"""How many times `retry_s` a read may last without progress where the server says how long to wait:
the Hub counts requests in windows of five minutes.
"""
LONGEST_ASKED_WAIT_S = 300.0
"""Longest wait in seconds that a server may ask for where attempts are counted, not their time."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class RetryPolicy:
    """How long a remote read, or how often something else, is tried. All times in seconds.

    A read that makes no progress ends at the latest retry_s + connect_s + stall_s after its last
    new byte (THROTTLED times retry_s where the server itself says how long to wait), but never
    before it was tried again once: a process may be frozen for as long as that. A read of n bytes
    that does make progress, however slowly, ends after THROTTLED * retry_s + n / bytes_per_s, or
    where its last attempt was kept waiting, within connect_s and stall_s, retry_s + n / bytes_per_s
    after that attempt's first bytes: what comes late is not slow.
    """

    connect_s: float = 10.0
    """Seconds that opening one connection may take."""
    stall_s: float = 20.0
    """Seconds in which nothing comes over a connection: it is given up and another one made."""
    retry_s: float = 120.0
    """Seconds without a new byte, over all attempts."""
    bytes_per_s: float = float(32 << 10)
    """A read that is slower than this on the whole is given up."""
    attempts: int | None = None
    """How many attempts are made, whatever time they take, as what is sent needs; None: as many as
    `retry_s` and `bytes_per_s` allow.
    """


READING = RetryPolicy()
WRITING = RetryPolicy(attempts=6)


class AttemptError(Exception):
    """One attempt has failed.

    `tries` is how often such an answer is asked for before it is believed.

    Its text says why, without the URL; it never leaves storage. `where` is told instead of the URL
    that was asked, where something below that failed.
    """

    where: str | None = None

    def __init__(
        self,
        cause: str,
        *,
        error: type[RoboshardError] = StorageError,
        tries: int | None = None,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(cause)
        self.error = error
        self.tries = tries
        self.wait_s = wait_s


class RetryBudget:
    """What one read of about `num_bytes`, or another task, has cost so far, and what it may still
    cost.
    """

    def __init__(self, policy: RetryPolicy, num_bytes: int = 0) -> None:
        self.policy = policy
        self.attempts = 0
        self._begun = self._progressed = time.monotonic()
        self._flow_s = policy.retry_s + num_bytes / policy.bytes_per_s
        self._flowing: float | None = None
        """When the first bytes of this attempt came; None: none have come yet."""
        self._end = self._begun + THROTTLED * policy.retry_s + num_bytes / policy.bytes_per_s
        self._reached = 0
        self._fruitless = 0
        self._doubted = 0

    def advance(self, reached: int, *, is_all: bool) -> None:
        """Note that `reached` bytes have come; what came before is no progress when it comes again.

        Raises AttemptError when they come so slowly that the read is given up; not when nothing is
        missing any more.
        """
        interrupts.check()
        now = time.monotonic()
        if reached > self._reached:
            self._reached = reached
            self._progressed = now
            self._fruitless = self._doubted = 0
        if self._flowing is None:
            self._flowing = now
        if now > max(self._end, self._flowing + self._flow_s) and not is_all:
            raise AttemptError(f"slower than {self.policy.bytes_per_s:.0f} bytes/s", tries=1)

    def expect(self, num_bytes: int) -> None:
        """Allow time for bytes that nobody knew of before."""
        self._end += num_bytes / self.policy.bytes_per_s
        self._flow_s += num_bytes / self.policy.bytes_per_s

    def failed(self, error: AttemptError) -> None:
        """Count an attempt that has failed."""
        self._flowing = None
        self._fruitless += 1
        self._doubted += error.tries is not None

    def is_over(self, error: AttemptError) -> bool:
        """Return whether this failure was the last one."""
        if error.tries is not None and self._doubted >= error.tries:
            return True
        is_due_another = self.policy.attempts is None and self.policy.retry_s > 0
        return self._left(error) <= 0 and not (is_due_another and self._fruitless == 1)

    def wait_s(self, error: AttemptError) -> float:
        """Return how long to wait: full jitter, or what the server asked for and a little. Not all
        shall come back at the same moment.
        """
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(self._fruitless - 1, 16))
        wait = random.uniform(0, longest)  # noqa: S311 - jitter, no secret
        if error.wait_s is not None:
            wait = error.wait_s + min(wait, 0.1 * error.wait_s)
        return max(0.0, min(wait, self._left(error)))

    def summary(self) -> str:
        """Return how much was tried, for the message."""
        return f"given up after {self.attempts} attempts in {time.monotonic() - self._begun:.0f} s"

    def _left(self, error: AttemptError) -> float:
        if self.policy.attempts is not None:
            return LONGEST_ASKED_WAIT_S if self.attempts < self.policy.attempts else 0
        allowed = self.policy.retry_s * (THROTTLED if error.wait_s is not None else 1)
        return min(self._progressed + allowed, self._end) - time.monotonic()


def retry(
    where: str, budget: RetryBudget, attempt: Callable[[], Result], *, doing: str = ""
) -> Result:
    """Return the result of the first attempt that succeeds.

    Args:
        where: the URL, redacted, for the message.
        budget: what the attempts may cost.
        attempt: raises AttemptError for what may be tried again; all else ends it.
        doing: what cannot be done where all fail ("cannot be written"); empty where it is a read.

    Raises:
        The error of the last attempt, naming the URL, the cause and how much was tried.
    """
    import tenacity  # noqa: PLC0415 - not needed where everything is local

    def count() -> Result:
        interrupts.check()
        budget.attempts += 1
        try:
            return attempt()
        except AttemptError as error:
            budget.failed(error)
            raise

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(AttemptError),
        stop=lambda state: budget.is_over(_failure(state)),
        wait=lambda state: budget.wait_s(_failure(state)),
        sleep=interrupts.pause,
        reraise=True,
    )
    try:
        return retrying(count)
    except AttemptError as last:
        failure = last.error(_told(last, last.where or where, budget, doing))
    # outside the handler: what libraries say of an attempt may hold what must not be shown
    raise failure


def _told(last: AttemptError, where: str, budget: RetryBudget, doing: str) -> str:
    if doing and last.tries is None:
        return (
            f"{where}: {doing}, after several attempts: {last}. "
            "Run the same command again to go on from here"
        )
    if doing:
        return f"{where}: {doing}: {last}"
    tried = f"; {budget.summary()}" if budget.attempts > 1 else ""
    remedy = (
        ". Check the network and the server, then run the same again" if last.tries is None else ""
    )
    return f"{where}: {last}{tried}{remedy}"


@contextmanager
def explained(
    errors: tuple[type[Exception], ...], explain: Callable[[Exception], Exception]
) -> Iterator[None]:
    """Say in words that hold no secret what a library raises inside.

    Args:
        errors: what the library raises. Errors of ours among them pass as they are.
        explain: makes of one of them what is raised instead: an AttemptError, or an error for
            users.
    """
    try:
        yield
    except (AttemptError, RoboshardError):
        raise
    except errors as error:
        failure = explain(error)
    else:
        return
    raise failure  # outside the handler, as above


def _failure(state: object) -> AttemptError:
    """The error of the attempt that tenacity asks about."""
    outcome = getattr(state, "outcome", None)
    error = None if outcome is None else outcome.exception()
    return (
        error if isinstance(error, AttemptError) else AttemptError("no attempt was made", tries=1)
    )
