"""Ranged reads over http(s): believed only as far as the reply proves, resumed where they broke."""

import base64
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import SplitResult, unquote, urlsplit

from roboshard.common.errors import StorageError
from roboshard.storage.api import Store
from roboshard.storage.content import StoredFile
from roboshard.storage.http import connections, redirects, replies
from roboshard.storage.http.connections import Response
from roboshard.storage.http.redirects import Address
from roboshard.storage.retry import READING, AttemptError, RetryBudget, RetryPolicy, retry
from roboshard.storage.urls import redacted

CHUNK = 1 << 18
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "roboshard"}


class HttpStore(Store):
    """Files behind http(s) URLs.

    Holds nothing: connections are shared by all threads of the process.
    """

    def address(self, path: str = "") -> Address:
        """Return what to ask for a file. User and password in a URL go to its own host alone."""
        parts = _split(self.at(path))
        authorization = None
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(secret.encode()).decode("ascii")
        return Address(
            parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl(),
            authorization,
            "give user and password in the URL, or a signed URL that has not expired",
        )

    def size(self, path: str = "", *, policy: RetryPolicy = READING) -> int:
        """Size in bytes, from a request for the first one: signed URLs are rarely good for HEAD."""
        address = self.address(path)

        def attempt() -> int:
            with _asked(address, {"Range": "bytes=0-0"}, policy) as response:
                return replies.total_of(response)

        return retry(redacted(self.at(path)), RetryBudget(policy, 1), attempt)

    def read_range(
        self,
        path: str,
        offset: int,
        length: int,
        *,
        total: int | None = None,
        policy: RetryPolicy = READING,
    ) -> bytes:
        """Exactly `length` bytes from `offset`, in one request unless it breaks."""
        if length <= 0:
            return b""
        read = _RangeRead(self.address(path), offset, length, total, RetryBudget(policy, length))
        return retry(redacted(self.at(path)), read.budget, read.attempt)

    def read_all(self, path: str, max_bytes: int, *, policy: RetryPolicy = READING) -> bytes:
        """A whole file of at most `max_bytes`, in one request unless it breaks; the address is
        resolved anew.
        """
        return fetch(self.at(path), self.address(path), max_bytes, policy)[0]

    def forget(self, path: str = "") -> None:
        """Resolve the URL anew when it is read next."""
        redirects.forget(self.address(path))

    def files(self, *, policy: RetryPolicy = READING) -> dict[str, StoredFile]:  # noqa: ARG002
        """Raise StorageError: HTTP has no folders to list."""
        raise StorageError(
            f"{redacted(self.url)}: http(s) cannot list files; give a file, or a storage that "
            "lists (s3, hf)"
        )


def fetch(
    url: str, address: Address, max_bytes: int, policy: RetryPolicy
) -> tuple[bytes, Mapping[str, str]]:
    """A whole file of at most `max_bytes`, and the headers of the last reply."""
    read = _WholeRead(address, max_bytes, RetryBudget(policy))
    return retry(redacted(url), read.budget, read.attempt), read.headers


@contextmanager
def _asked(
    address: Address, headers: Mapping[str, str], policy: RetryPolicy, *, anew: bool = False
) -> Iterator[Response]:
    """Yield the reply to a request: ended cleanly, or closed with its connection on any error."""
    response, redirected = redirects.opened(address, _HEADERS | dict(headers), policy, anew=anew)
    try:
        replies.check_status(response, address, redirected)
        yield response
    except AttemptError:
        redirects.forget(address)
        response.close()
        raise
    except BaseException:
        response.close()
        raise
    connections.finish(response)


def _chunk(response: Response, most: int, policy: RetryPolicy) -> bytes:
    """Return what has come of a reply, at most `most` bytes; empty at the end."""
    with connections.explained(policy):
        return response.read1(min(CHUNK, most))


class _RangeRead:
    """Reads one range, over as many attempts as it takes."""

    def __init__(
        self, address: Address, offset: int, length: int, total: int | None, budget: RetryBudget
    ) -> None:
        self.budget = budget
        self._address = address
        self._offset = offset
        self._length = length
        self._total = total
        self._buffer = io.BytesIO()
        self._reached = 0
        self._version: replies.Version | None = None

    def attempt(self) -> bytes:
        """Ask for what is left of the range, and read it."""
        if self._reached == self._length:  # and yet it failed: more came than was asked for
            self._reached = 0
        start, end = self._offset + self._reached, self._offset + self._length
        policy = self.budget.policy
        with _asked(self._address, {"Range": f"bytes={start}-{end - 1}"}, policy) as response:
            found = replies.range_of(response, start, end, self._total)
            self._version = replies.check_same(self._version, found)
            self._allocate()
            while self._reached < self._length:
                chunk = _chunk(response, self._length - self._reached, policy)
                if not chunk:
                    missing = self._length - self._reached
                    raise AttemptError(
                        f"the connection ended {missing} of {self._length} bytes too early"
                    )
                self._buffer.write(chunk)
                self._reached += len(chunk)
                self.budget.advance(self._reached, is_all=self._reached == self._length)
            if _chunk(response, 1, policy):
                raise AttemptError(
                    "the server sends more bytes than were asked for", tries=replies.DOUBTED
                )
        return self._buffer.getvalue()

    def _allocate(self) -> None:
        """Take all of the memory at once, after a server has agreed to send as much."""
        if self._reached == 0:
            self._buffer.seek(self._length - 1)
            self._buffer.write(b"\0")
            self._buffer.seek(0)


class _WholeRead:
    """Reads one whole file, over as many attempts as it takes; resumed if the first reply said how
    long it is.
    """

    def __init__(self, address: Address, max_bytes: int, budget: RetryBudget) -> None:
        self.budget = budget
        self.headers: Mapping[str, str] = {}
        self._address = address
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._expected = 0
        self._length: int | None = None
        self._version: replies.Version | None = None

    def attempt(self) -> bytes:
        """Ask for all of the file, or for what is left, and read it."""
        reached, length = len(self._data), self._length
        rest = {"Range": f"bytes={reached}-{length - 1}"} if reached and length is not None else {}
        with _asked(self._address, rest, self.budget.policy, anew=True) as response:
            if rest and length is not None and response.status != 200:
                self._check_rest(response, reached, length)
            else:
                self._start(response)
            self.headers = dict(response.headers)
            self._read(response)
        return bytes(self._data)

    def _start(self, response: Response) -> None:
        self._data.clear()
        self._length = replies.whole_length(response)
        self._check_size(self._length or 0)
        if not self._expected:
            self._expected = self._length or self._max_bytes
            self.budget.expect(self._expected)
        self._version = replies.version_of(response, self._length)

    def _check_rest(self, response: Response, reached: int, length: int) -> None:
        try:
            found = replies.range_of(response, reached, length, length)
            replies.check_same(self._version, found, replies.DOUBTED)
        except AttemptError:
            self._data.clear()  # the next attempt takes what is there then
            raise

    def _read(self, response: Response) -> None:
        while self._length is None or len(self._data) < self._length:
            most = self._max_bytes + 1 if self._length is None else self._length
            chunk = _chunk(response, most - len(self._data), self.budget.policy)
            if not chunk:
                break
            self._data += chunk
            self._check_size(len(self._data))
            self.budget.advance(len(self._data), is_all=len(self._data) == self._length)
        if self._length is not None and len(self._data) < self._length:
            raise AttemptError(
                f"the connection ended {self._length - len(self._data)} bytes too early"
            )

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            said = f"{size} bytes, " if self._length is not None else ""
            raise AttemptError(
                f"{said}more than the {self._max_bytes} that such a file may have", tries=1
            )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if not parts.hostname or (parts.port or 1) < 1:
            raise ValueError
    except ValueError:
        raise StorageError(
            f"{redacted(url)}: not a URL; expected http(s)://host[:port]/path"
        ) from None
    return parts
