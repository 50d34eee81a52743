"""HTTP connections of this process: kept open, shared by its threads, never with another
process.
"""

import http.client
import os
import ssl
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3 import exceptions

from roboshard.storage import retry
from roboshard.storage.retry import AttemptError, RetryPolicy

KEPT_PER_HOST = 64
HOSTS = 32
MAX_DRAINED = 1 << 16

Response = urllib3.BaseHTTPResponse


class _Managers:
    """Pools of connections by proxy.

    The child of a fork starts without any, and with a lock that nobody holds.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.by_proxy: dict[str, urllib3.PoolManager] = {}


_managers = _Managers()
os.register_at_fork(after_in_child=_managers.reset)


def close_all() -> None:
    """Close all idle connections; those in use are closed when they are given back."""
    managers = list(_managers.by_proxy.values())
    _managers.reset()
    for manager in managers:
        for key in list(manager.pools.keys()):
            pool = manager.pools.get(key)
            if pool is not None:
                pool.close()


def get(url: str, headers: Mapping[str, str], policy: RetryPolicy) -> Response:
    """Send a GET and return the reply once its headers are there. Redirects are not followed.

    The caller ends it by `finish` or by `close`. Raises AttemptError.
    """
    with explained(policy):
        return _manager(url).request(
            "GET",
            url,
            headers=dict(headers),
            timeout=urllib3.Timeout(connect=policy.connect_s, read=policy.stall_s),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )


def finish(response: Response) -> None:
    """Give the connection of a reply back for reuse, after what little is left of its body; else
    close it.
    """
    try:
        for _ in range(8):
            if not response.read1(MAX_DRAINED // 8):
                response.release_conn()
                return
    except (exceptions.HTTPError, http.client.HTTPException, OSError):
        pass
    response.close()


def explained(policy: RetryPolicy) -> AbstractContextManager[None]:
    """Say what went wrong on a connection in words that hold no URL."""
    raised = (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
    return retry.explained(raised, lambda error: _explain(error, policy))


def _explain(error: Exception, policy: RetryPolicy) -> AttemptError:
    if isinstance(error, exceptions.SSLError | ssl.SSLError):
        return _explain_tls(error)
    for kind, cause in (  # the first that fits: some are subclasses of later ones
        (exceptions.ProxyError, f"the proxy does not answer ({_reason(error)})"),
        (exceptions.NameResolutionError, "the host's name cannot be resolved (DNS)"),
        (exceptions.NewConnectionError, f"no connection ({_reason(error)})"),
        (exceptions.ConnectTimeoutError, f"no connection within {policy.connect_s:g} s"),
        (
            exceptions.ReadTimeoutError | TimeoutError,
            f"stalled: nothing came for {policy.stall_s:g} s",
        ),
        (
            exceptions.ProtocolError | http.client.HTTPException | OSError,
            f"the connection broke ({_reason(error)})",
        ),
    ):
        if isinstance(error, kind):
            return AttemptError(cause)
    if isinstance(error, ValueError):
        return AttemptError("not a URL that can be asked for", tries=1)
    return AttemptError(f"the request failed ({type(error).__name__})")


def _explain_tls(error: BaseException) -> AttemptError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return AttemptError(
                f"its TLS certificate is not trusted ({cause.verify_message})", tries=1
            )
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return AttemptError("the connection broke (TLS ended early)")
    reasons = [
        cause.reason for cause in _causes(error) if isinstance(cause, ssl.SSLError) and cause.reason
    ]
    return AttemptError(
        f"no TLS connection ({', '.join(reasons[:1]) or 'handshake failed'})", tries=1
    )


def _reason(error: BaseException) -> str:
    """What the operating system said, or the name of the innermost error."""
    causes = list(_causes(error))
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.errno is not None:
            return os.strerror(cause.errno) if cause.errno > 0 else type(cause).__name__
        if isinstance(cause, http.client.IncompleteRead):
            return "it ended before the body did"
        if isinstance(cause, http.client.RemoteDisconnected):
            return "closed without an answer"
    return type(causes[-1]).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from or holds."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(seen) < 16:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            yield cause
            waiting += [cause.__cause__, cause.__context__, *cause.args]


def _manager(url: str) -> urllib3.PoolManager:
    proxy = _proxy_for(url)
    with _managers.lock:
        if proxy not in _managers.by_proxy:
            _managers.by_proxy[proxy] = _made(proxy)
        return _managers.by_proxy[proxy]


def _made(proxy: str) -> urllib3.PoolManager:
    if not proxy:
        return urllib3.PoolManager(num_pools=HOSTS, maxsize=KEPT_PER_HOST, block=False)
    parts = urlsplit(proxy)
    secret = (
        f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    )
    return urllib3.ProxyManager(
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        proxy_headers=urllib3.make_headers(proxy_basic_auth=secret),
        num_pools=HOSTS,
        maxsize=KEPT_PER_HOST,
        block=False,
    )


def _proxy_for(url: str) -> str:
    """The proxy that the system's settings name for a URL; empty for none."""
    proxies = urllib.request.getproxies()
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"
