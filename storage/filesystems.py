"""The filesystems of fsspec: opened once a process, and what they raise in words of ours."""

import errno
import os
import sys
import threading
from typing import Any

from roboshard.common.errors import MissingError, OptionError, StorageError
from roboshard.storage.retry import AttemptError, RetryPolicy
from roboshard.storage.urls import redacted

_WRAPPERS = (
    "reference zip tar libarchive dir generic git "
    "cached blockcache filecache simplecache async_wrapper"
)
_SERVED_ELSEWHERE = "file local asynclocal http https hf pipe data ftp"
REFUSED = frozenset(f"{_WRAPPERS} {_SERVED_ELSEWHERE}".split())
"""Schemes that are refused: wrappers, served elsewhere, or without ranges and encryption."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws (AWS_PROFILE), or the machine's "
    "role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
_CREDENTIALS |= {"s3a": _CREDENTIALS["s3"], "gcs": _CREDENTIALS["gs"]}
_CREDENTIALS |= dict.fromkeys(("abfs", "abfss", "adl"), _CREDENTIALS["az"])
_FINAL = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG})


class Opened:
    """The filesystems that this process has opened. They do not survive a fork: the child opens its
    own.
    """

    def __init__(self) -> None:
        self.inherited: list[object] = []
        self.reset()

    def after_fork(self) -> None:
        """Keep what the parent opened, untouched: its event loop would lose the sockets that a
        child lets go of. fsspec 2024.6 would use it in the child, where its thread is gone.
        """
        self.inherited.append(self.shared)
        self.reset()
        if asyn := sys.modules.get("fsspec.asyn"):
            asyn.reset_lock()

    def reset(self) -> None:
        """Forget all filesystems that were opened."""
        self.lock = threading.Lock()
        self.shared: dict[tuple[str, str, float, float], Any] = {}
        self.checked: dict[tuple[str, int], None] = {}


opened = Opened()
os.register_at_fork(after_in_child=opened.after_fork)


def forget_all() -> None:
    """Open filesystems anew, with the credentials and endpoints that are found then."""
    opened.reset()


class ShortError(StorageError):
    """Fewer bytes than were asked for, or a request that is wrong in itself: perhaps the object
    ends before.
    """


def check_served(url: str) -> None:
    """Raise StorageError for schemes that are not read."""
    from fsspec.registry import known_implementations, registry  # noqa: PLC0415 - only for such URLs

    scheme = scheme_of(url)
    if (
        "::" in url.partition("://")[0]
        or scheme in REFUSED
        or not (scheme in known_implementations or scheme in registry)
    ):
        raise StorageError(
            f"{redacted(url)}: {scheme}:// is not served; give a path, or an http(s), hf, s3, gs "
            "or az URL"
        )


def reading(url: str, policy: RetryPolicy) -> tuple[Any, str, bool]:
    """The filesystem to read a URL, the path in it, and whether all threads share it, as they may
    of async ones.
    """
    import fsspec  # noqa: PLC0415 - only for such URLs

    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    place = host if "@" in host or scheme not in _EXTRAS else ""
    key = (scheme, place, policy.connect_s, policy.stall_s)
    system = opened.shared.get(key)
    if system is not None:
        return system, system._strip_protocol(url), True
    with opened.lock:
        system, path = fsspec.url_to_fs(url, **_options(scheme, policy))
        if not getattr(system, "async_impl", False):
            return system, path, False  # fsspec keeps one for each thread
        if isinstance(getattr(system, "retries", None), int):
            system.retries = 1  # all retries are counted here
        opened.shared[key] = system
    return system, path, True


def writing(url: str) -> tuple[Any, str]:
    """A filesystem of its own to write below a URL, with the library's retries of parts; and the
    path in it.
    """
    import fsspec  # noqa: PLC0415 - only for such URLs

    try:
        system, root = fsspec.core.url_to_fs(
            url, use_listings_cache=False, skip_instance_cache=True
        )
    except ValueError as error:
        raise OptionError(f"{redacted(url)}: {redacted(str(error))}") from None
    return system, str(root).rstrip("/")


def explain(error: Exception, url: str, policy: RetryPolicy, said: str = "") -> Exception:
    """Say what a filesystem's error means, in words that hold no secrets.

    Args:
        error: what it raised, of whatever library.
        url: what was asked for.
        policy: says how long was waited.
        said: the library's own words, redacted, of what was written; empty of what was read, where
            only what the system or the error's name says is told.
    """
    name = type(error).__name__
    scheme = scheme_of(url)
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(scheme)
        what = (
            f"`pip install 'roboshard[{extra}]'`"
            if extra
            else f"the fsspec filesystem for {scheme}://"
        )
        return OptionError(f"{redacted(url)}: {scheme}:// needs {what}")
    if isinstance(error, FileNotFoundError):
        cause = f"{said}; a bucket must exist before it is written to" if said else "no such file"
        return AttemptError(cause, error=MissingError, tries=1)
    told = said or (
        os.strerror(error.errno) if isinstance(error, OSError) and error.errno else name
    )
    words = name.lower()
    if isinstance(error, PermissionError) or "credential" in words or "token" in words:
        looked = _CREDENTIALS.get(scheme, "the places that its fsspec filesystem reads")
        return AttemptError(
            f"access is refused ({told}). Credentials are looked for in: {looked}, and fsspec's "
            "configuration (~/.config/fsspec, where a public bucket says "
            f'{{"{scheme}": {{"anon": true}}}})',
            tries=1,
        )
    stalled = isinstance(error, TimeoutError) or "timeout" in words
    if isinstance(error, OSError) and error.errno in _FINAL and not stalled:
        return AttemptError(f"the storage refuses the request ({told})", error=ShortError, tries=1)
    if not stalled and isinstance(
        error, TypeError | ValueError | LookupError | NotImplementedError | AttributeError
    ):
        return AttemptError(f"its filesystem cannot do that ({said or name})", tries=1)
    return AttemptError(
        f"stalled: no answer ({name}, after {policy.stall_s:g} s or more)"
        if stalled
        else f"the storage does not answer ({told})"
    )


def _options(scheme: str, policy: RetryPolicy) -> dict[str, Any]:
    if scheme.lower() not in _CREDENTIALS:
        return {}
    if scheme.lower() not in ("s3", "s3a"):
        return {"use_listings_cache": False}
    return {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": policy.connect_s,
            "read_timeout": policy.stall_s,
            "retries": {"max_attempts": 0},
            "max_pool_connections": 64,
        },
    }


def scheme_of(url: str) -> str:
    """The scheme, in small letters."""
    return url.partition("://")[0].lower()
