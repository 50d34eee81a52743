"""Sources that are converted, and built before if need be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roboshard.converter import ConvertConfig, convert
from support.lerobot_source import Source, build


def converted(source: Path, destination: Path | str, **options: Any) -> str:
    """Convert a dataset by one process into several shards, and return their root."""
    chosen = {"shard_size": "64KB", "workers": 1} | options
    convert(ConvertConfig(source=str(source), destination=str(destination), **chosen))
    return str(destination)


def shards_of(source: Source, folder: Path, **options: Any) -> str:
    """Build folder/source, convert it to folder/shards, and return that."""
    return converted(build(folder / "source", source).root, folder / "shards", **options)


def each_converted(sources: Mapping[str, Source], folder: Path) -> dict[str, str]:
    """Build and convert sources, and return where the shards of each lie."""
    return {name: shards_of(source, folder / name) for name, source in sources.items()}
