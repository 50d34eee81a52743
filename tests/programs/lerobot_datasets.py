"""Runs in LeRobot's own environment: a dataset of each kind that LeRobot's recorder and tools make.

    python lerobot_datasets.py OUTPUT DATASET_OF_V21 [NAME ...]

Below OUTPUT each has a folder of its name with the dataset in `src`. Where a dataset of LeRobot
0.3.3 is made, the name is `v21_recorded`; that is also the second argument, when the converter to
v3.0 runs on it.
"""

import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import PIL.Image

import programs.lerobot_edits  # noqa: F401 - registers its makers
from programs.lerobot_recording import (
    DEPTH,
    DEPTH_IN_METRES,
    LENGTHS,
    STATE,
    TOP,
    VERSION,
    WRIST,
    add_episode,
    add_frame,
    camera,
    encoder,
    every_dtype,
    new_dataset,
    record,
)
from programs.lerobot_workshop import MAKERS, Maker, Workshop, maker

ONE = {**STATE, TOP: camera()}
TWO = {**STATE, TOP: camera(), WRIST: camera()}
IMAGES = {**STATE, TOP: camera("image")}


def _recorder(features: dict[str, dict[str, Any]], **options: Any) -> Maker:
    return lambda shop, name: record(shop.root(name), features, **options)


def register_recordings() -> None:
    """What the recorder alone makes: each encoder, frames encoded as they come or afterwards,
    images.
    """
    if VERSION < (0, 4):
        MAKERS["v21_recorded"] = _recorder(TWO)
        MAKERS["v21_recorded_images"] = _recorder({**IMAGES, **every_dtype()})
        return
    MAKERS["recorded_libsvtav1"] = _recorder(TWO)
    MAKERS["recorded_h264"] = _recorder(ONE, **encoder("h264"))
    MAKERS["recorded_hevc"] = _recorder(ONE, **encoder("hevc"))
    MAKERS["recorded_streaming_libsvtav1"] = _recorder(ONE, streaming_encoding=True)
    for codec in ("h264", "hevc"):
        MAKERS[f"recorded_streaming_{codec}"] = _recorder(
            ONE, streaming_encoding=True, **encoder(codec)
        )
    MAKERS["recorded_images"] = _recorder(IMAGES)
    MAKERS["recorded_every_dtype"] = _recorder(every_dtype(), lengths=(3, 2))
    if VERSION >= (0, 6):
        wide = {"g": 12, "crf": 12, "extra_options": {"bf": 2}}
        MAKERS["recorded_libaom_av1"] = _recorder(ONE, **encoder("libaom-av1", preset=None))
        MAKERS["recorded_h264_long_gop"] = _recorder(ONE, **encoder("h264", **wide))
        MAKERS["recorded_hevc_long_gop"] = _recorder(ONE, **encoder("hevc", **wide))
        MAKERS["recorded_h264_yuv444p"] = _recorder(ONE, **encoder("h264", pix_fmt="yuv444p"))
        MAKERS["recorded_hevc_10bit"] = _recorder(ONE, **encoder("hevc", pix_fmt="yuv420p10le"))
        for name, dtype in (("recorded_depth", "video"), ("recorded_depth_images", "image")):
            depth = camera(dtype, channels=1)
            MAKERS[name] = _recorder(
                {**STATE, DEPTH: depth, DEPTH_IN_METRES: depth}, lengths=(4, 3)
            )


@maker()
def recorded_small_files(shop: Workshop, name: str) -> None:
    """A file an episode, two files a chunk: the numbering goes on in the next chunk's folder."""
    dataset = new_dataset(shop.root(name), ONE)
    dataset.meta.update_chunk_settings(
        chunks_size=2, data_files_size_in_mb=0.001, video_files_size_in_mb=0.001
    )
    for episode, length in enumerate(LENGTHS):
        add_episode(dataset, ONE, episode, length)
    dataset.finalize()


@maker()
def recorded_resumed(shop: Workshop, name: str) -> None:
    """Two episodes, and later two more: the second run begins new files."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

    root = record(shop.root(name), ONE, lengths=LENGTHS[:2])
    opening = LeRobotDataset.resume if VERSION >= (0, 6) else LeRobotDataset
    dataset = opening(f"local/{name}", root=root)
    for episode in (2, 3):
        add_episode(dataset, ONE, episode, 4)
    dataset.finalize()


@maker()
def recorded_resumed_encoder(shop: Workshop, name: str) -> None:
    """Two episodes, and one more that is encoded otherwise: the camera's files are of two
    codecs.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

    root = record(shop.root(name), ONE, lengths=LENGTHS[:2], **encoder("h264"))
    opening = LeRobotDataset.resume if VERSION >= (0, 6) else LeRobotDataset
    dataset = opening(f"local/{name}", root=root, **encoder("hevc"))
    add_episode(dataset, ONE, 2, 4)
    dataset.finalize()


@maker()
def recorded_with_frames_dropped(shop: Workshop, name: str) -> None:
    """An encoder is held up in episode 0: its queue is full, and frames are dropped while rows go
    on.
    """
    dataset = new_dataset(shop.root(name), ONE, streaming_encoding=True, encoder_queue_maxsize=1)
    as_image, encoded = PIL.Image.fromarray, []

    def held_up(array: Any) -> Any:
        encoded.append(array)
        if len(encoded) == 3:
            time.sleep(2)
        return as_image(array)

    with mock.patch("PIL.Image.fromarray", held_up):
        for episode, length in enumerate((7, 5)):
            for frame in range(length):
                add_frame(dataset, ONE, episode, frame)
                time.sleep(0.15)
            dataset.save_episode()
    dataset.finalize()


def main() -> None:
    """Make the datasets that were asked for, or all of this version."""
    register_recordings()
    shop = Workshop(output=Path(sys.argv[1]).resolve(), v21=Path(sys.argv[2]).resolve())
    for name in sys.argv[3:] or list(MAKERS):
        shop.opened(name)


if __name__ == "__main__":
    main()
