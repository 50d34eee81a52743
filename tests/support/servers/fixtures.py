"""Fixtures for tests of remote storage.

A conftest has them by `pytest_plugins = ["support.servers.fixtures"]`.

Servers live as long as the session; each test finds them without faults and with an empty log.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .hub import LocalHub
from .range_server import RangeServer
from .s3 import S3Server


@pytest.fixture(scope="session")
def _range_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    with RangeServer(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def range_server(_range_server: RangeServer, tmp_path: Path) -> Iterator[RangeServer]:
    """A server of this test's `tmp_path`."""
    _range_server.serve(tmp_path)
    yield _range_server
    _range_server.reset()
    _range_server.configure(latency_s=0.0, bytes_per_second=None)


@pytest.fixture(scope="session")
def _local_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with LocalHub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def local_hub(_local_hub: LocalHub) -> Iterator[LocalHub]:
    """A Hub for client processes that run with its `environment`.

    Buckets of other tests are still there.
    """
    yield _local_hub
    _local_hub.reset()
    _local_hub.configure(latency_s=0.0, bytes_per_second=None, page_size=1000)


@pytest.fixture
def this_hub(local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """`local_hub`, for the huggingface_hub of this process and of those that it starts."""
    local_hub.use(monkeypatch)
    return local_hub


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[S3Server]:
    pytest.importorskip("moto")
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_server(_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An empty bucket that s3fs finds, here and in processes started from here."""
    for name, value in _s3_server.environment.items():
        monkeypatch.setenv(name, value)
    yield _s3_server
    _s3_server.reset()
    _s3_server.configure(latency_s=0.0, bytes_per_second=None)
    _s3_server.empty()
