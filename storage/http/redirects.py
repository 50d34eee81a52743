"""Where a URL leads: redirects followed by hand, remembered, and never given somebody's
credentials.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from roboshard.storage.http import connections
from roboshard.storage.retry import AttemptError, RetryPolicy

MAX_REDIRECTS = 10
MAX_REMEMBERED = 8192
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_THERE_ANY_MORE = frozenset({400, 401, 403, 404, 410})


@dataclass(frozen=True)
class Address:
    """A URL as HTTP asks for it. Neither its text nor what authorizes it is shown."""

    url: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)
    """Header for the URL's own scheme, host and port; never sent to where a redirect leads."""
    remedy: str = ""
    """What to do when access is refused."""


class _Targets:
    """Where addresses have led, of this process, least recently used first.

    The child of a fork starts empty.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.known: OrderedDict[Address, str] = OrderedDict()


_targets = _Targets()
os.register_at_fork(after_in_child=_targets.reset)


def forget(address: Address) -> None:
    """Forget where an address leads: what was remembered did not serve."""
    with _targets.lock:
        _targets.known.pop(address, None)


def opened(
    address: Address, headers: Mapping[str, str], policy: RetryPolicy, *, anew: bool = False
) -> tuple[connections.Response, bool]:
    """The reply of what an address leads to, and whether redirects led there.

    A target is remembered, as resolving costs a request that the Hub counts; once it refuses, and
    for `anew`, the address is asked again. Raises AttemptError.
    """
    target = None if anew else _remembered(address)
    if target is not None:
        response = connections.get(target, _headers(address, target, headers), policy)
        if response.status not in _NOT_THERE_ANY_MORE and response.status not in REDIRECTS:
            return response, True
        connections.finish(response)
        forget(address)
    return _followed(address, headers, policy)


def _followed(
    address: Address, headers: Mapping[str, str], policy: RetryPolicy
) -> tuple[connections.Response, bool]:
    url, seen = address.url, {address.url}
    while True:
        response = connections.get(url, _headers(address, url, headers), policy)
        if response.status not in REDIRECTS:
            if url != address.url and response.status in (200, 206):
                _remember(address, url)
            return response, url != address.url
        location = response.headers.get("Location")
        connections.finish(response)
        url = _next(url, location)
        if url in seen or len(seen) > MAX_REDIRECTS:
            raise AttemptError("its redirects lead in a circle or too far", tries=2)
        seen.add(url)


def _next(url: str, location: str | None) -> str:
    if not location:
        raise AttemptError("a redirect without a target", tries=2)
    try:
        target = urljoin(url, location)
        before, after = urlsplit(url).scheme, urlsplit(target).scheme
    except ValueError:
        raise AttemptError("a redirect to what is no URL", tries=2) from None
    if after not in ("http", "https"):
        raise AttemptError("a redirect to something else than http or https is refused", tries=1)
    if (before, after) == ("https", "http"):
        raise AttemptError("a redirect from https to http is refused", tries=1)
    return target


def _headers(address: Address, url: str, headers: Mapping[str, str]) -> dict[str, str]:
    if address.authorization is None or origin(url) != origin(address.url):
        return dict(headers)
    return {**headers, "Authorization": address.authorization}


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of a URL."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme,
            parts.hostname,
            parts.port or {"http": 80, "https": 443}.get(parts.scheme),
        )
    except ValueError:
        return url, None, None


def _remembered(address: Address) -> str | None:
    with _targets.lock:
        if address in _targets.known:
            _targets.known.move_to_end(address)
        return _targets.known.get(address)


def _remember(address: Address, target: str) -> None:
    with _targets.lock:
        _targets.known[address] = target
        _targets.known.move_to_end(address)
        while len(_targets.known) > MAX_REMEMBERED:
            _targets.known.popitem(last=False)
