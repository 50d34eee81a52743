"""A preview, stage by stage: open the dataset, choose what to show, decode it, draw or record
it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roboshard import storage
from roboshard.common.errors import OptionError
from roboshard.common.selection import spread
from roboshard.tools.preview.config import PreviewConfig
from roboshard.tools.preview.content import Content, make_content
from roboshard.tools.preview.thumbnails import Picture, as_picture

if TYPE_CHECKING:
    from roboshard.loader import MapDataset
    from roboshard.loader.map_style import EpisodeView

OnProgress = Callable[[int, int], None]
"""A function that is called with how many rows are recorded, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class PreviewReport:
    """What a preview has written."""

    dataset: str
    episode_index: int
    length: int
    """How many rows the episode has."""
    output: Path | None
    """The file of the sheet; None: none was drawn."""
    rerun: Path | None
    """The file of the recording; None: none was made."""
    not_drawn: Mapping[str, str]
    """Features that are not shown, and why."""


def preview(config: PreviewConfig, on_progress: OnProgress | None = None) -> PreviewReport:
    """Draw an episode, or record it for the Rerun viewer, or both.

    Each file appears whole or not at all.

    Args:
        config: the dataset, the episode, and what to draw.
        on_progress: told how far it has come.

    Returns:
        What was drawn, and where it lies.

    Raises:
        OptionError: no such episode or camera; matplotlib or rerun-sdk is needed and not installed.
        MissingError, FormatError, VersionError, DamageError, StorageError: as opening and reading
            the dataset does; StorageError also where a file cannot be written.

    Example:
        >>> config = PreviewConfig(url="my_dataset_shards", episode=2, output="episode.png")
        >>> report = preview(config)
    """
    wants_sheet = config.output is not None or config.rerun is None
    sheet = (
        _import("roboshard.tools.preview.sheet", "matplotlib", "preview") if wants_sheet else None
    )
    recording = (
        _import("roboshard.tools.preview.recording", "rerun-sdk", "rerun") if config.rerun else None
    )
    from roboshard.loader import open_dataset  # noqa: PLC0415 - brings torch, which no other command for looking needs

    dataset = open_dataset(config.url, cameras=config.cameras, on_missing="fill")
    try:
        episode = dataset.episode(_first(dataset) if config.episode is None else config.episode)
        content = _content(dataset, episode)
        output = None
        if sheet is not None:
            output = config.output or Path(
                f"{_file_name(content.dataset)}-episode-{content.episode_index}.png"
            )
            chosen = spread(content.length, config.frames)
            png = sheet.draw(content, chosen, _pictures(dataset, episode, chosen))
            storage.write_bytes(output, png)
        if recording is not None and config.rerun is not None:
            recording.record(content, _all_pictures(dataset, episode), config.rerun, on_progress)
    finally:
        dataset.close()
    return PreviewReport(
        dataset=content.dataset,
        episode_index=content.episode_index,
        length=content.length,
        output=output,
        rerun=config.rerun,
        not_drawn=content.not_drawn,
    )


def _import(module: str, package: str, extra: str) -> Any:
    """Import a module that needs a package of an extra. Raises OptionError where it cannot be
    imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise OptionError(
            f"this needs {package}: pip install 'roboshard[{extra}]' ({error})"
        ) from None


def _first(dataset: "MapDataset") -> int:
    return int(dataset.rows([0])["episode_index"][0])


def _content(dataset: "MapDataset", episode: "EpisodeView") -> Content:
    rows, meta = dataset.rows(episode.numbers), dataset.meta
    return make_content(
        rows,
        meta.features,
        dataset=meta.manifest.source.name,
        episode_index=int(rows["episode_index"][0]),
        fps=float(meta.fps),
    )


def _pictures(
    dataset: "MapDataset", episode: "EpisodeView", rows: Sequence[int]
) -> dict[str, list[Picture]]:
    """Return camera -> its pictures of these rows.

    Rows are decoded one by one: only what is drawn need fit into memory.
    """
    pictures: dict[str, list[Picture]] = {}
    for row in rows:
        for key, picture in _of_sample(dataset, episode[row]).items():
            pictures.setdefault(key, []).append(picture)
    return pictures


def _all_pictures(dataset: "MapDataset", episode: "EpisodeView") -> Iterator[dict[str, Picture]]:
    for sample in episode:
        yield _of_sample(dataset, sample)


def _of_sample(dataset: "MapDataset", sample: Mapping[str, Any]) -> dict[str, Picture]:
    depth = dataset.meta.depth_keys
    keys = [key for key in dataset.meta.camera_keys if key in sample]
    return {key: as_picture(sample[key], is_depth=key in depth) for key in keys}


def _file_name(dataset: str) -> str:
    """Return the last part of a dataset's name, as it may stand in a file's."""
    last = dataset.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last)[:60].strip(".-") or "dataset"
