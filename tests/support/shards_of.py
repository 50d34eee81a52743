"""Sources that are built and converted, for tests of several datasets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from roboshard.converter import ConvertConfig, convert
from support.lerobot_source import Source, build


def shards_of(sources: Mapping[str, Source], folder: Path) -> dict[str, str]:
    """Build and convert sources, and return where the shards of each lie."""
    found = {}
    for name, source in sources.items():
        found[name] = str(folder / f"{name}-shards")
        root = build(folder / name, source).root
        convert(ConvertConfig(source=str(root), destination=found[name], workers=1))
    return found
