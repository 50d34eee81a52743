"""When a remote read is tried again, how long it waits before, and when it is given up."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from roboshard.common import interrupts
from roboshard.common.errors import RoboshardError, StorageError
from roboshard.storage.urls import redacted

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
THROTTLED = 3
"""How many times `retry_s` a read may last without progress where the server says how long to wait: the Hub counts
requests in windows of five minutes."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long a remote read may take. All in seconds.

    A read that makes no progress ends at the latest retry_s + connect_s + stall_s after its last new byte
    (THROTTLED times retry_s where the server itself says how long to wait). A read of n bytes that does make
    progress, however slowly, ends after THROTTLED * retry_s + n / bytes_per_s, or where its last
    attempt was kept waiting, within connect_s and stall_s, retry_s + n / bytes_per_s after that
    attempt's first bytes: what comes late is not slow.
    """

    connect_s: float = 10.0
    """To open one connection."""
    stall_s: float = 20.0
    """In which nothing at all comes over a connection: it is given up and another one made."""
    retry_s: float = 120.0
    """Without a new byte, over all attempts."""
    bytes_per_s: float = float(32 << 10)
    """A read that is slower than this on the whole is given up."""


PATIENCE = Patience()


class AttemptError(Exception):
    """One attempt has failed. `tries` is how often such an answer is asked for before it is believed.

    Its text says why, without the URL; it never leaves storage.
    """

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


class Effort:
    """What one read of about `num_bytes` has cost so far, and what it may still cost."""

    def __init__(self, patience: Patience, num_bytes: int) -> None:
        self.patience = patience
        self.attempts = 0
        self._begun = self._progressed = time.monotonic()
        self._flow_s = patience.retry_s + num_bytes / patience.bytes_per_s
        self._flowing: float | None = None
        """Since when the bytes of this attempt come."""
        self._end = self._begun + THROTTLED * patience.retry_s + num_bytes / patience.bytes_per_s
        self._reached = 0
        self._fruitless = 0
        self._doubted = 0

    def advance(self, reached: int, *, is_all: bool) -> None:
        """`reached` bytes have come; those that came before are no progress when they come again.

        Raises AttemptError when they come so slowly that the read is given up; not when nothing is missing any more.
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
            raise AttemptError(f"slower than {self.patience.bytes_per_s:.0f} bytes/s", tries=1)

    def expect(self, num_bytes: int) -> None:
        """Allow time for bytes that nobody knew of before."""
        self._end += num_bytes / self.patience.bytes_per_s
        self._flow_s += num_bytes / self.patience.bytes_per_s

    def failed(self, error: AttemptError) -> None:
        """Count an attempt that has failed."""
        self._flowing = None
        self._fruitless += 1
        self._doubted += error.tries is not None

    def is_over(self, error: AttemptError) -> bool:
        """Whether this failure was the last one."""
        return (error.tries is not None and self._doubted >= error.tries) or self._left(error) <= 0

    def wait_s(self, error: AttemptError) -> float:
        """Full jitter, or what the server asked for and a little: not all shall come back at the same moment."""
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(self._fruitless - 1, 16))
        wait = random.uniform(0, longest)  # noqa: S311 - jitter, no secret
        if error.wait_s is not None:
            wait = error.wait_s + min(wait, 0.1 * error.wait_s)
        return max(0.0, min(wait, self._left(error)))

    def summary(self) -> str:
        """How much was tried, for the message."""
        return f"given up after {self.attempts} attempts in {time.monotonic() - self._begun:.0f} s"

    def _left(self, error: AttemptError) -> float:
        allowed = self.patience.retry_s * (THROTTLED if error.wait_s is not None else 1)
        return min(self._progressed + allowed, self._end) - time.monotonic()


def persist(url: str, effort: Effort, attempt: Callable[[], Result]) -> Result:
    """The result of the first attempt that succeeds.

    Raises the error of the last one, naming the URL, the cause and how much was tried.
    """
    import tenacity  # noqa: PLC0415 - not needed where everything is local

    def count() -> Result:
        interrupts.check()
        effort.attempts += 1
        try:
            return attempt()
        except AttemptError as error:
            effort.failed(error)
            raise

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(AttemptError),
        stop=lambda state: effort.is_over(_failure(state)),
        wait=lambda state: effort.wait_s(_failure(state)),
        sleep=interrupts.pause,
        reraise=True,
    )
    try:
        return retrying(count)
    except AttemptError as last:
        text = f"{redacted(url)}: {last}"
        if effort.attempts > 1:
            text += f"; {effort.summary()}"
        if last.tries is None:
            text += ". Check the network and the server, then run the same again"
        failure = last.error(text)
    raise failure  # outside the handler: what libraries say of an attempt may hold what must not be shown


def _failure(state: object) -> AttemptError:
    """The error of the attempt that tenacity asks about."""
    outcome = getattr(state, "outcome", None)
    error = None if outcome is None else outcome.exception()
    return (
        error if isinstance(error, AttemptError) else AttemptError("no attempt was made", tries=1)
    )
