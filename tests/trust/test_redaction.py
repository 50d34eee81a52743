"""Passwords, signatures and tokens are in no message, whatever a library says in its own."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard import storage
from roboshard.cli.run import run_command
from roboshard.shards import RoboshardError, StorageError
from roboshard.storage import (
    Store,
    Upload,
    WritableStore,
    redacted,
    retry,
    store_of,
    writable_store,
)

SECRET = "s3cr3tV4lu3xyz"
SIGNED = f"https://me:{SECRET}@host.example/a/b?X-Amz-Signature={SECRET}&x=1#{SECRET}"
MESSAGES = [
    SIGNED,
    f"403 Client Error: Forbidden for url: {SIGNED}",
    f"Cannot connect to host ('{SIGNED}'), see {SIGNED}.",
    (
        "HTTPSConnectionPool(host='h', port=443): Max retries exceeded with url: "
        f"/a?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET} (Caused by ReadTimeoutError())"
    ),
    f"GET /container/blob?sv=2024&sp=r&sig={SECRET} failed",
    f"request headers: {{'authorization': 'Bearer {SECRET}'}}",
    f"Authorization: Basic {SECRET}=",
    f"Bearer {SECRET}",
    f"token hf_{SECRET} is not valid",
    "The key AKIAABCDEFGHIJKLMNOP does not exist",
    f"DefaultEndpointsProtocol=https;AccountKey={SECRET}==;EndpointSuffix=x",
    f'aws_secret_access_key = "{SECRET}"',
    f"https://host/x?token={SECRET}\nsecond line https://u:{SECRET}@host/",
    f"botocore: s3://key:{SECRET}@bucket/shards/shard-000000.tar?versionId={SECRET} was refused",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_no_secret_stays_in_what_is_shown(message: str) -> None:
    shown = redacted(message)
    assert SECRET not in shown
    assert "AKIAABCDEFGHIJKLMNOP" not in shown


def test_the_words_of_a_message_stay() -> None:
    assert redacted(MESSAGES[1]) == "403 Client Error: Forbidden for url: https://host.example/a/b"
    assert redacted("no space left on device: /data/run 1/a=b?c") == (
        "no space left on device: /data/run 1/a=b?c"
    )
    for url in ("hf://datasets/me/it@main/x", "s3://bucket/key", "/data/x", "data/x?y=1"):
        assert redacted(url) == url


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1).filter(
        lambda text: not set(text) & set("/?#@:")
    ),
    st.sampled_from(["", "what: ", "(see "]),
)
def test_no_password_stays(password: str, before: str) -> None:
    shown = redacted(f"{before}https://user:P{password}P@host/path?sig=Q{SECRET}Q")
    assert f"P{password}P" not in shown
    assert SECRET not in shown


class _LibraryError(OSError):
    """What requests, httpx, botocore or aiohttp raise: its text holds the URL."""


def refuse(*_: object, **__: object) -> NoReturn:
    try:
        raise ValueError(f"inner: {SIGNED}")
    except ValueError as error:
        raise _LibraryError(f"403 for url: {SIGNED} hf_{SECRET}") from error


ACTS: dict[str, Callable[[WritableStore], object]] = {
    "look": lambda target: target.look(["a"]),
    "put": lambda target: target.put([Upload(path="a", content=b"x")]),
    "remove": lambda target: target.remove(["a"]),
    "create": lambda target: target.create(private=False),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("url", ["hf://buckets/me/it", "hf://datasets/me/it", "s3://b/x", "{}"])
def test_publishing_shows_nothing_that_a_library_says_of_its_requests(
    act: str, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.01)
    target = writable_store(url.format(tmp_path / "out"))
    for name in ("_look", "_send", "_remove"):
        monkeypatch.setattr(target, name, refuse)
    monkeypatch.setattr("huggingface_hub.HfApi.bucket_info", refuse, raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    if url.startswith("s3") and act == "create":
        pytest.skip("buckets are not made")
    with pytest.raises(RoboshardError) as caught:
        ACTS[act](target)
    lines = "".join(traceback.format_exception(caught.value))
    assert SECRET not in lines
    assert "403 for url: https://host.example/a/b" in str(caught.value)


@pytest.mark.parametrize("error", [OSError, RoboshardError, StorageError])
def test_the_line_that_a_command_ends_with_holds_no_secret(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def command(_: object) -> None:
        raise error(f"403 for url: {SIGNED}")

    assert run_command(command, []) == 1
    shown = capsys.readouterr().err
    assert SECRET not in shown
    assert "403 for url: https://host.example/a/b" in shown


READS: dict[str, Callable[[Store, storage.RetryPolicy], object]] = {
    "range": lambda store, policy: store.read_range("x", 0, 4, policy=policy),
    "all": lambda store, policy: store.read_all("x", 10, policy=policy),
    "size": lambda store, policy: store.size("x", policy=policy),
    "list": lambda store, policy: store.list_files(policy=policy),
    "describe": lambda store, policy: store.files(policy=policy),
}


@pytest.mark.parametrize("act", READS)
@pytest.mark.parametrize(
    "url", [f"s3://k:{SECRET}@b", "hf://buckets/me/it", "hf://datasets/me/it/folder"]
)
def test_reading_shows_nothing_that_a_library_says(
    act: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roboshard.storage.filesystems.reading", refuse)
    monkeypatch.setattr("urllib3.PoolManager.request", refuse)
    with pytest.raises(RoboshardError) as caught:
        READS[act](store_of(url), storage.RetryPolicy(retry_s=0.1, connect_s=0.1))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_hashing_what_is_there_shows_nothing_that_a_library_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "THROTTLED", 0)
    monkeypatch.setattr("roboshard.storage.filesystems.reading", refuse)
    with pytest.raises(RoboshardError) as caught:
        writable_store(f"s3://k:{SECRET}@b").sha256("x")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
