"""huggingface_hub as the stores of the Hub call it to write, and what its errors mean.

Slow to import.
"""

import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub import errors as hub_errors
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined,unused-ignore]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from roboshard.common.errors import MissingError
from roboshard.storage import retry
from roboshard.storage.content import Content
from roboshard.storage.retry import AttemptError
from roboshard.storage.urls import redacted

try:  # httpx2 from 2.0 on
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined,unused-ignore]
except ImportError:
    import httpx  # type: ignore[no-redef,import-not-found,unused-ignore]

ERRORS: tuple[type[Exception], ...] = (
    OSError,
    RuntimeError,
    ValueError,
    httpx.HTTPError,
    getattr(hub_errors, "XetError", OSError),  # of releases before 2.0
)
_STATUS_OF_XET = re.compile(r"HTTP status (?:client|server) error \((\d{3}) ")
_PASSING = {408, 409, 412, 425, 429}
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _ALL_OF_BATCH, _SERVER_ERROR = 401, 403, 404, 422, 500


def send(bucket: str, files: Mapping[str, Content]) -> None:
    """Send files to a bucket, in one batch."""
    with tempfile.TemporaryDirectory(prefix="roboshard-") as folder, _no_bars():
        add: list[tuple[str | Path | bytes, str]] = []
        for number, (path, content) in enumerate(files.items()):
            local = content
            if isinstance(local, bytes):  # hf_xet takes the two kinds by different ways: use one
                data, local = local, Path(folder) / str(number)
                local.write_bytes(data)
            add.append((str(local), path))
        HfApi().batch_bucket_files(bucket, add=add)


def commit(
    repository: str,
    branch: str,
    message: str,
    *,
    add: Mapping[str, Content] | None = None,
    delete: Sequence[str] = (),
) -> None:
    """Add files to a branch of a dataset repository, or delete some, in one commit."""
    added = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in (add or {}).items()
    ]
    with _no_bars():
        HfApi().create_commit(
            repo_id=repository,
            repo_type="dataset",
            operations=[*added, *map(CommitOperationDelete, delete)],
            commit_message=message,
            revision=branch,
        )


def explained() -> AbstractContextManager[None]:
    """Say in words that hold no secret what the library raises inside."""
    return retry.explained(ERRORS, _explain)


def _explain(error: Exception) -> AttemptError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = redacted(" ".join(str(error).split()))
    cause = " ".join(said.split(" ")[:60]) or type(error).__name__
    if (
        isinstance(error, LocalTokenNotFoundError)
        or type(error).__name__ == "XetAuthorizationError"
    ):
        status = _UNAUTHORIZED
    if status is None and (told := _STATUS_OF_XET.search(str(error))):
        status = int(told[1])
    if status == _UNAUTHORIZED:
        return AttemptError(
            f"the Hub knows no such place, or does not accept the token, or got none ({cause}). "
            "Log in with `hf auth login`, or set HF_TOKEN to a token that may write there",
            tries=1,
        )
    if status == _FORBIDDEN:
        return AttemptError(
            f"the token may not write there ({cause}). Log in with `hf auth login` as someone who "
            "may",
            tries=1,
        )
    if status == _NOT_FOUND or (status is None and isinstance(error, FileNotFoundError)):
        return AttemptError(cause, error=MissingError, tries=1)
    permanent = isinstance(error, OfflineModeIsEnabled | HFValidationError | ValueError)
    if permanent and status not in _PASSING and not isinstance(error, JSONDecodeError):
        return AttemptError(cause, tries=1)
    passes = (
        status is None
        or status in _PASSING
        or status >= _SERVER_ERROR
        or _is_of_batch(error, status)
    )
    if not passes:
        return AttemptError(f"the Hub answered {status}: {cause}", tries=1)
    after = response.headers.get("Retry-After", "") if response is not None else ""
    return AttemptError(cause, wait_s=float(after) if after.isdigit() else None)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the library's progress bars off for all threads while one is in here: ours shows the
    whole.
    """
    with _bars.lock:
        if _bars.users == 0:
            _bars.were_on = not are_progress_bars_disabled()
            disable_progress_bars()
        _bars.users += 1
    try:
        yield
    finally:
        with _bars.lock:
            _bars.users -= 1
            if _bars.users == 0 and _bars.were_on:
                enable_progress_bars()


class _Bars:
    """How many users keep the library's progress bars off, and whether they were on before."""

    lock = threading.Lock()
    users = 0
    were_on = False


_bars = _Bars()


def _is_of_batch(error: Exception, status: int | None) -> bool:
    """Whether operations of a batch failed, each perhaps for a passing cause: from 1.33 on an error
    of its own.
    """
    return type(error).__name__ == "BucketBatchError" or status == _ALL_OF_BATCH
