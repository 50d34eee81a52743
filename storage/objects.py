"""s3://, gs://, az:// and whatever else fsspec serves: the same promises, as far as fsspec lets them be kept."""

import errno
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from roboshard.common.errors import DamageError, MissingError, OptionError, StorageError
from roboshard.storage.replies import DOUBTED
from roboshard.storage.retry import AttemptError, Effort, Patience, persist
from roboshard.storage.urls import redacted

PART = 8 << 20
"""A long range is read in parts: what has come is kept when one breaks."""
MAX_CHECKED = 1 << 16

_WRAPPERS = "reference zip tar libarchive dir generic git cached blockcache filecache simplecache async_wrapper"
_SERVED_ELSEWHERE = "file local asynclocal http https hf pipe data ftp"
REFUSED = frozenset(f"{_WRAPPERS} {_SERVED_ELSEWHERE}".split())
"""Not storages but wrappers around files, or served elsewhere, or without ranges and encryption."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws (AWS_PROFILE), or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
_CREDENTIALS |= {"s3a": _CREDENTIALS["s3"], "gcs": _CREDENTIALS["gs"]}
_CREDENTIALS |= dict.fromkeys(("abfs", "abfss", "adl"), _CREDENTIALS["az"])
_FINAL = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG})

Result = TypeVar("Result")


class _Opened:
    """What this process has _opened. Filesystems do not survive a fork: the child opens its own."""

    def __init__(self) -> None:
        self.inherited: list[object] = []
        self.reset()

    def after_fork(self) -> None:
        """Keep what the parent opened, untouched: its event loop would lose the sockets that a child lets go of."""
        self.inherited.append(self.shared)
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.shared: dict[tuple[str, str, float, float], Any] = {}
        self.checked: dict[tuple[str, int], None] = {}


_opened = _Opened()
os.register_at_fork(after_in_child=_opened.after_fork)


def forget_all() -> None:
    """Open filesystems anew, with the credentials and endpoints that are found then."""
    _opened.reset()


class FsspecStorage:
    """Objects behind any URL that fsspec serves."""

    @classmethod
    def serving(cls, url: str) -> "FsspecStorage":
        """The storage of a URL, not opened yet. Raises StorageError for schemes that are not served."""
        from fsspec.registry import known_implementations, registry  # noqa: PLC0415 - only for such URLs

        scheme = _scheme(url)
        if (
            "::" in url.partition("://")[0]
            or scheme in REFUSED
            or not (scheme in known_implementations or scheme in registry)
        ):
            raise StorageError(
                f"{redacted(url)}: {scheme}:// is not served; give a path, or an http(s), hf, s3, gs or az URL"
            )
        return cls()

    def size(self, url: str, *, patience: Patience) -> int:
        """Size in bytes."""
        return self._info_size(url, Effort(patience, 0))

    def read_range(
        self, url: str, offset: int, length: int, *, total: int | None, patience: Patience
    ) -> bytes:
        """Exactly `length` bytes from `offset`.

        `total` costs one request for each object and process, unless the range reaches the end: a byte more is
        asked for then, and must not be there.
        """
        effort = Effort(patience, length)
        at_end = total is not None and length > 0 and offset + length == total
        if total is not None and not at_end:
            self._check_total(url, total, effort)
        parts = []
        for start in range(offset, offset + length, PART):
            end = min(start + PART, offset + length)
            parts.append(
                self._part(
                    url, range(start, end), offset + length, effort, at_end=at_end and end == total
                )
            )
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def read_all(self, url: str, max_bytes: int, *, patience: Patience) -> bytes:
        """A whole file of at most `max_bytes`."""
        length = self.size(url, patience=patience)
        if length > max_bytes:
            raise StorageError(
                f"{redacted(url)}: {length} bytes, more than the {max_bytes} that such a file may have"
            )
        return self.read_range(url, 0, length, total=None, patience=patience)

    def list_files(self, url: str, *, patience: Patience) -> dict[str, int]:
        """Size in bytes of every file under a folder, by path relative to it; hidden files do not count."""

        def find(system: Any, path: str, call: dict[str, Any]) -> dict[str, int]:
            system.invalidate_cache()
            prefix = f"{path.strip('/')}/"
            found = system.find(path, detail=True, **call)
            files = {
                name.lstrip("/").removeprefix(prefix): int(info["size"])
                for name, info in found.items()
            }
            return {
                name: size
                for name, size in files.items()
                if not name.rpartition("/")[2].startswith(".")
            }

        files = _persisted(url, Effort(patience, 0), find, listing=True)
        if not files:
            raise MissingError(f"{redacted(url)}: no such folder, or nothing in it")
        return dict(sorted(files.items()))

    def forget(self, url: str) -> None:
        """Ask for the size anew when it is read next."""
        with _opened.lock:
            for known in [key for key in _opened.checked if key[0] == url]:
                del _opened.checked[known]

    def _part(self, url: str, part: range, reach: int, effort: Effort, *, at_end: bool) -> bytes:
        """A part of a range that reaches to `reach`, and with it to the object's end where `at_end`."""
        start, end = part.start, part.stop

        def read(system: Any, path: str, call: dict[str, Any]) -> bytes:
            data = bytes(system.cat_file(path, start=start, end=end + at_end, **call))
            if at_end and len(data) == end - start + 1:
                raise AttemptError(
                    f"more than the {end} bytes that are expected: replaced",
                    error=DamageError,
                    tries=DOUBTED,
                )
            if len(data) > end - start:
                raise AttemptError(
                    f"{len(data)} bytes for a range of {end - start}: the server ignores Range",
                    tries=DOUBTED,
                )
            if len(data) < end - start:
                raise AttemptError(
                    f"{len(data)} bytes for a range of {end - start}", error=_ShortError, tries=1
                )
            effort.advance(end, is_all=end == reach)
            return data

        said = ""
        for _ in range(DOUBTED):
            try:
                return _persisted(url, effort, read)
            except _ShortError as short:
                said = str(short)
            size = self._info_size(url, Effort(effort.patience, 0))
            if size < reach:
                raise DamageError(
                    f"{redacted(url)}: ends {reach - size} bytes before offset {reach}"
                )
        raise StorageError(said)

    def _check_total(self, url: str, total: int, effort: Effort) -> None:
        if (url, total) in _opened.checked:
            return
        found = self._info_size(url, effort)
        if found != total:
            raise DamageError(
                f"{redacted(url)}: {found} bytes where {total} are expected: cut off or replaced"
            )
        with _opened.lock:
            if len(_opened.checked) >= MAX_CHECKED:
                _opened.checked.clear()
            _opened.checked[url, total] = None

    def _info_size(self, url: str, effort: Effort) -> int:
        def ask(system: Any, path: str, call: dict[str, Any]) -> int:
            info = system.info(path, **call)
            if info.get("type", "file") != "file" or not isinstance(info.get("size"), int):
                raise AttemptError("no such file (it is a folder)", error=MissingError, tries=1)
            return int(info["size"])

        return _persisted(url, effort, ask)


class _ShortError(StorageError):
    """Fewer bytes than were asked for, or a request that is wrong in itself: perhaps the object ends before."""


def _persisted(
    url: str,
    effort: Effort,
    ask: Callable[[Any, str, dict[str, Any]], Result],
    *,
    listing: bool = False,
) -> Result:
    """What `ask` returns, given the filesystem, the path in it and arguments for each call of it."""
    patience = effort.patience

    def attempt() -> Result:
        try:
            system, path, shared = _filesystem(url, patience)
            limit = (
                patience.connect_s
                + patience.stall_s
                + (0 if listing else PART / patience.bytes_per_s)
            )
            call = {"timeout": patience.retry_s if listing else limit} if shared else {}
            result = ask(system, path, call)
        except (AttemptError, StorageError, MissingError, OptionError):
            raise
        except Exception as error:  # noqa: BLE001 - filesystems raise whatever their libraries do
            failure = _explained(url, error, patience)
        else:
            return result
        raise failure

    return persist(url, effort, attempt)


def _explained(url: str, error: Exception, patience: Patience) -> Exception:
    """What a filesystem's error means, in words that hold no secrets."""
    name = type(error).__name__
    scheme = _scheme(url)
    said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else name
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(scheme)
        what = (
            f"`pip install 'roboshard[{extra}]'`"
            if extra
            else f"the fsspec filesystem for {scheme}://"
        )
        return OptionError(f"{redacted(url)}: {scheme}:// needs {what}")
    if isinstance(error, FileNotFoundError):
        failure = AttemptError("no such file", error=MissingError, tries=1)
    elif (
        isinstance(error, PermissionError)
        or "credential" in name.lower()
        or "token" in name.lower()
    ):
        looked = _CREDENTIALS.get(scheme, "the places that its fsspec filesystem reads")
        failure = AttemptError(
            f"access is refused ({said}). Credentials are looked for in: {looked}, and fsspec's configuration "
            f'(~/.config/fsspec, where a public bucket says {{"{scheme}": {{"anon": true}}}})',
            tries=1,
        )
    elif isinstance(error, TimeoutError) or "timeout" in name.lower():
        failure = AttemptError(f"stalled: no answer ({name}, after {patience.stall_s:g} s or more)")
    elif isinstance(error, OSError) and error.errno in _FINAL:
        failure = AttemptError(
            f"the storage refuses the request ({said})", error=_ShortError, tries=1
        )
    elif isinstance(
        error, TypeError | ValueError | LookupError | NotImplementedError | AttributeError
    ):
        failure = AttemptError(f"its filesystem cannot do that ({name})", tries=1)
    else:
        failure = AttemptError(f"the storage does not answer ({said})")
    return failure


def _filesystem(url: str, patience: Patience) -> tuple[Any, str, bool]:
    """The filesystem of a URL, the path in it, and whether all threads share it, as they may of async ones."""
    import fsspec  # noqa: PLC0415 - only for such URLs

    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    place = host if "@" in host or scheme not in _EXTRAS else ""
    key = (scheme, place, patience.connect_s, patience.stall_s)
    system = _opened.shared.get(key)
    if system is not None:
        return system, system._strip_protocol(url), True
    with _opened.lock:
        system, path = fsspec.url_to_fs(url, **_options(scheme, patience))
        if not getattr(system, "async_impl", False):
            return system, path, False  # fsspec keeps one for each thread
        if isinstance(getattr(system, "retries", None), int):
            system.retries = 1  # all retries are counted here
        _opened.shared[key] = system
    return system, path, True


def _options(scheme: str, patience: Patience) -> dict[str, Any]:
    if scheme.lower() not in _CREDENTIALS:
        return {}
    if scheme.lower() not in ("s3", "s3a"):
        return {"use_listings_cache": False}
    return {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": patience.connect_s,
            "read_timeout": patience.stall_s,
            "retries": {"max_attempts": 0},
            "max_pool_connections": 64,
        },
    }


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()
