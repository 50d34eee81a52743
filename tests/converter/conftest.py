"""What the converter's tests share: converting in one line, and whole folders as values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roboshard.converter import ConversionReport, ConvertConfig, convert

Tree = dict[str, str]
"""A folder's content: relative path -> SHA-256 of the file."""


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], Tree]:
    """The files of a folder as a value to compare; temporary and hidden files are files too."""

    def read(root: Path) -> Tree:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    return read


@pytest.fixture(scope="session")
def run() -> Callable[..., ConversionReport]:
    """`run(source, destination, **options)`: a conversion into the smallest shards there are, in
    this process.
    """

    def go(source: Path, destination: Path, **options: Any) -> ConversionReport:
        defaults: dict[str, Any] = {"shard_size": "64KB", "workers": 1}
        return convert(
            ConvertConfig(source=str(source), destination=str(destination), **defaults | options)
        )

    return go
