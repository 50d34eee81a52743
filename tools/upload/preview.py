"""The sample picture of a card: the first frame of each camera, of a few episodes, on one sheet."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from roboshard.common.errors import RoboshardError
from roboshard.shards.reader import ShardedDataset

MAX_EPISODES, MAX_CAMERAS = 4, 6
CELL = (224, 168)
GAP = 4
BACKGROUND = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A PNG file, or why there is none."""

    png: bytes | None
    why_not: str = ""


def make_preview(root: str, dataset: ShardedDataset) -> Preview:
    """Decode the first frames of a few episodes, and draw them on one sheet.

    Where frames cannot be decoded on this machine, there is no picture, and no error.
    """
    positions = np.unique(np.linspace(0, len(dataset.index) - 1, MAX_EPISODES, dtype=np.int64))
    episodes = dataset.index.episode_index[positions].tolist()
    try:
        pictures = [_first_frames(root, episode) for episode in episodes]
    except (RoboshardError, ImportError, RuntimeError, OSError, ValueError) as error:
        return Preview(png=None, why_not=" ".join(str(error).split())[:200] or type(error).__name__)
    if not any(pictures):
        return Preview(png=None, why_not="the dataset has no camera")
    return Preview(png=_sheet(pictures))


def _first_frames(root: str, episode: int) -> list[NDArray[np.uint8]]:
    """Return an episode's first frame of each camera (H, W, 3) uint8, in the order of the cameras'
    names.
    """
    from roboshard.loader import make_loader  # noqa: PLC0415 - brings torch, which sending does not need

    frames = []
    loader = make_loader(
        root,
        batch_size=1,
        episodes=[episode],
        shuffle=False,
        decode_threads=1,
        on_missing="fill",
    )
    try:
        cameras = sorted(loader.meta.camera_keys)[:MAX_CAMERAS]
        batch: Any = next(iter(loader), None) if cameras else None
        for camera in cameras if batch is not None else []:
            frame = batch[camera][0].numpy()
            if frame.dtype == np.uint8 and frame.shape[0] == 3:
                frames.append(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    finally:
        loader.close()
    return frames


def _sheet(episodes: list[list[NDArray[np.uint8]]]) -> bytes:
    """Return a PNG file with a column per episode and a row per camera."""
    cameras = max(len(frames) for frames in episodes)
    size = (len(episodes) * (CELL[0] + GAP) + GAP, cameras * (CELL[1] + GAP) + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    for i, frames in enumerate(episodes):
        for j, frame in enumerate(frames):
            picture = Image.fromarray(frame)
            picture.thumbnail(CELL, Image.Resampling.LANCZOS)
            if picture.size[0] < CELL[0] and picture.size[1] < CELL[1]:  # thumbnail never enlarges
                scale = min(CELL[0] / picture.size[0], CELL[1] / picture.size[1])
                larger = (round(picture.size[0] * scale), round(picture.size[1] * scale))
                picture = picture.resize(larger, Image.Resampling.LANCZOS)
            x = GAP + i * (CELL[0] + GAP) + (CELL[0] - picture.size[0]) // 2
            y = GAP + j * (CELL[1] + GAP) + (CELL[1] - picture.size[1]) // 2
            sheet.paste(picture, (x, y))
    info = PngInfo()
    info.add_text("Software", "roboshard")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
