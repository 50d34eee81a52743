"""When a reply to a request for a range is believed."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from roboshard.common.errors import DamageError, MissingError
from roboshard.storage.http.connections import Response
from roboshard.storage.http.redirects import Address
from roboshard.storage.retry import AttemptError

DOUBTED = 2
"""How often an answer that makes no sense is asked for before it is an error."""

_MISSING = {
    "RepoNotFound": "repository",
    "RevisionNotFound": "revision",
}  # of the Hub's error codes
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)")
_RESET = re.compile(
    r"(?:^|;)\s*(?:t|reset)=(\d{1,6})\s*(?:;|,|$)"
)  # as the Hub says it: "resolvers";r=0;t=55


@dataclass(frozen=True)
class Version:
    """What tells an object from another one at the same URL; None where the server does not say."""

    etag: str | None
    modified: str | None
    total: int | None

    def differs(self, other: "Version") -> bool:
        """Whether these are certainly two objects."""
        pairs = [(self.total, other.total), (self.etag, other.etag)]
        if self.etag is None and other.etag is None:
            pairs.append((self.modified, other.modified))
        return any(a is not None and b is not None and a != b for a, b in pairs)


def check_status(response: Response, address: Address, redirected: bool) -> None:
    """Raise AttemptError for every reply that is neither 200 nor 206 nor 416."""
    status = response.status
    if status in (200, 206, 416):
        return
    said = f"HTTP {status}{_code(response)}"
    tries = DOUBTED if redirected else 1  # a link may have been expired as it was given
    if status in (404, 410):
        what = _MISSING.get(response.headers.get("X-Error-Code", ""), "file")
        raise AttemptError(f"no such {what} ({said})", error=MissingError, tries=tries)
    if status in (401, 403, 407):
        raise AttemptError(f"access is refused ({said}); {address.remedy}", tries=tries)
    if status in (408, 425, 429) or (status >= 500 and status not in (501, 505)):
        raise AttemptError(f"the server cannot answer now ({said})", wait_s=_asked_wait(response))
    raise AttemptError(f"the server refuses the request ({said})", tries=tries)


def range_of(response: Response, start: int, end: int, total: int | None) -> Version:
    """Check that a reply holds exactly bytes [start, end) of an object of `total` bytes, if that is
    known.

    Raises AttemptError.
    """
    check_not_encoded(response)
    length = _content_length(response)
    if response.status == 200:
        found = length
        if start != 0 or length != end:
            raise AttemptError(
                "the server ignores Range and sends the whole file; serve it from one that "
                "answers ranges",
                tries=DOUBTED,
            )
    else:
        first, last, found = _content_range(response)
        check_total(found, total)
        if found is not None and found < end:
            raise AttemptError(
                f"ends {end - found} bytes before offset {end}", error=DamageError, tries=DOUBTED
            )
        if response.status == 416 or (first, last) != (start, end - 1):
            raise AttemptError(
                f"the server answers bytes {first}-{last} where {start}-{end - 1} were asked for",
                tries=DOUBTED,
            )
        if length is not None and length != end - start:
            raise AttemptError(
                f"the server sends {length} bytes for a range of {end - start}", tries=DOUBTED
            )
    check_total(found, total)
    return version_of(response, found)


def check_total(found: int | None, total: int | None) -> None:
    """Raise AttemptError when an object has not the size that it must have."""
    if found is not None and total is not None and found != total:
        raise AttemptError(
            f"{found} bytes where {total} are expected: cut off or replaced",
            error=DamageError,
            tries=DOUBTED,
        )


def check_same(seen: Version | None, found: Version, tries: int = 1) -> Version:
    """Raise AttemptError when a read goes on in another object than it began in."""
    if seen is not None and seen.differs(found):
        raise AttemptError("was replaced while it was being read", error=DamageError, tries=tries)
    return seen or found


def whole_length(response: Response) -> int | None:
    """Size of the object that a 200 reply is about to send; None where the server does not say."""
    check_not_encoded(response)
    if response.status != 200:
        raise AttemptError(
            f"HTTP {response.status} where the whole file was asked for", tries=DOUBTED
        )
    return _content_length(response)


def total_of(response: Response) -> int:
    """Size of the object from the reply to a request for its first byte."""
    check_not_encoded(response)
    found = _content_length(response) if response.status == 200 else _content_range(response)[2]
    if found is None:
        raise AttemptError("the server does not say how large it is", tries=DOUBTED)
    return found


def check_not_encoded(response: Response) -> None:
    """Raise AttemptError for a body that is not the object's own bytes."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise AttemptError(
            f"sent with Content-Encoding {encoding[:20]!r}, which was not asked for", tries=DOUBTED
        )


def version_of(response: Response, total: int | None) -> Version:
    """What the reply says of the object.

    A weak ETag is none: it does not promise the same bytes.
    """
    etag = response.headers.get("ETag")
    strong = etag if etag is not None and not etag.startswith("W/") else None
    return Version(strong, response.headers.get("Last-Modified"), total)


def _content_length(response: Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,19}", text) else None


def _content_range(response: Response) -> tuple[int | None, int | None, int | None]:
    """Return (first, last, total) of the header Content-Range."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None:
        raise AttemptError(
            f"HTTP {response.status} without a Content-Range that says what it holds", tries=DOUBTED
        )
    first, last, total = (None if text in (None, "*") else int(text) for text in match.groups())
    return first, last, total


def _code(response: Response) -> str:
    """The Hub's name of an error, if it looks like one."""
    code = response.headers.get("X-Error-Code", "")
    return f", {code}" if re.fullmatch(r"[A-Za-z]{1,40}", code) else ""


def _asked_wait(response: Response) -> float | None:
    """Return the seconds that the server wants to be left alone; None: it does not say."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d*)?", text):
        return float(text)
    if text:
        try:
            when = parsedate_to_datetime(text)
            return max(0.0, (when - datetime.now(when.tzinfo or UTC)).total_seconds())
        except (ValueError, TypeError):
            return None
    limit = _RESET.search(response.headers.get("RateLimit", ""))
    return float(limit[1]) if limit is not None and response.status == 429 else None
