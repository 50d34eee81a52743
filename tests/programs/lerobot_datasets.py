"""Runs in LeRobot's own environment: a dataset of each kind that LeRobot's recorder and tools make.

    python lerobot_datasets.py OUTPUT DATASET_OF_V21 [NAME ...]

Below OUTPUT each has a folder of its name with the dataset in `src`. Where a dataset of LeRobot 0.3.3 is made, the
name is `v21_recorded`; that is also the second argument, when the converter to v3.0 runs on it.
"""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image

from programs.lerobot_annotation import annotate
from programs.lerobot_recording import (
    DEPTH,
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

ONE = {**STATE, TOP: camera()}
TWO = {**STATE, TOP: camera(), WRIST: camera()}
IMAGES = {**STATE, TOP: camera("image")}


@dataclass(frozen=True)
class Workshop:
    """Where datasets are made, out of each other and of one that LeRobot 0.3.3 recorded."""

    output: Path
    v21: Path

    def root(self, name: str) -> Path:
        """The folder of a dataset's files, not made yet."""
        folder = self.output / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "src"

    def opened(self, name: str) -> Any:
        """A dataset made before, or now."""
        from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

        if not self.root(name).exists():
            MAKERS[name](self, name)
        return LeRobotDataset(f"local/{name}", root=self.root(name), video_backend="torchcodec")

    def copied(self, name: str, copy: str) -> Any:
        """The same for a tool that changes a dataset in place: a copy of it."""
        self.opened(name)
        shutil.copytree(self.root(name), self.root(copy), dirs_exist_ok=True)
        return self.opened(copy)


Maker = Callable[[Workshop, str], object]
MAKERS: dict[str, Maker] = {}


def maker(*, since: tuple[int, int] = (0, 4), until: tuple[int, int] = (0, 6)) -> Any:
    """Register a maker under its function's name, for these versions of LeRobot."""

    def register(function: Maker) -> Maker:
        if since <= VERSION <= until:
            MAKERS[function.__name__] = function
        return function

    return register


def _recorder(features: dict[str, dict[str, Any]], **options: Any) -> Maker:
    return lambda shop, name: record(shop.root(name), features, **options)


def register_recordings() -> None:
    """What the recorder alone makes: each encoder, frames encoded as they come or afterwards, images."""
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
        MAKERS["recorded_depth"] = _recorder({**STATE, DEPTH: camera(channels=1)}, lengths=(4, 3))
        MAKERS["recorded_depth_images"] = _recorder(
            {**STATE, DEPTH: camera("image", channels=1)}, lengths=(3, 2)
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
def recorded_with_frames_dropped(shop: Workshop, name: str) -> None:
    """An encoder is held up in episode 0: its queue is full, and frames are dropped while rows go on."""
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


@maker()
def converted_from_v21(shop: Workshop, name: str) -> None:
    """LeRobot's converter to v3.0, of a dataset of LeRobot 0.3.3, with several files."""
    root = shop.root(name)
    shutil.copytree(shop.v21, root)
    sizes = {"data_file_size_in_mb": 0.01, "video_file_size_in_mb": 0.02}
    if VERSION >= (0, 6):
        from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset  # noqa: PLC0415

        convert_dataset(f"local/{name}", root=root, push_to_hub=False, **sizes)
    else:
        from lerobot.datasets.v30.convert_dataset_v21_to_v30 import (  # noqa: PLC0415
            convert_dataset,
        )

        convert_dataset(root.name, root=root.parent, push_to_hub=False, **sizes)
    shutil.rmtree(root.with_name("src_old"))


@maker()
def deleted(shop: Workshop, name: str) -> None:
    """An episode deleted out of the middle of a file: what is left is encoded again, as one stream."""
    tools().delete_episodes(
        shop.opened("recorded_libsvtav1"), [1], output_dir=shop.root(name), repo_id=f"local/{name}"
    )


@maker()
def deleted_whole_files(shop: Workshop, name: str) -> None:
    """An episode deleted whose files hold nothing else: the numbers of files have a gap."""
    tools().delete_episodes(
        shop.opened("recorded_small_files"),
        [1],
        output_dir=shop.root(name),
        repo_id=f"local/{name}",
    )


@maker()
def split_train(shop: Workshop, name: str) -> None:
    """The first and the last episode split off."""
    _split_into(shop, name, "train")


@maker()
def split_val(shop: Workshop, name: str) -> None:
    """The episode in the middle split off."""
    _split_into(shop, name, "val")


def _split_into(shop: Workshop, name: str, part: str) -> None:
    folder = shop.output / f"{name}_parts"
    parts = tools().split_dataset(
        shop.opened("recorded_h264"), {"train": [0, 2], "val": [1]}, output_dir=folder
    )
    shutil.move(parts[part].root, shop.root(name))
    shutil.rmtree(folder)


@maker()
def merged(shop: Workshop, name: str) -> None:
    """Two datasets merged: an edited one and its source."""
    parts = [shop.opened("deleted"), shop.opened("recorded_libsvtav1")]
    tools().merge_datasets(parts, f"local/{name}", output_dir=shop.root(name))


@maker()
def merged_small_files(shop: Workshop, name: str) -> None:
    """The same of a dataset of many files and one with gaps in their numbers."""
    parts = [shop.opened("deleted_whole_files"), shop.opened("recorded_small_files")]
    tools().merge_datasets(parts, f"local/{name}", output_dir=shop.root(name))


@maker()
def tasks_modified(shop: Workshop, name: str) -> None:
    """Tasks replaced in place: one for all, another one for an episode."""
    dataset = shop.copied("recorded_h264", name)
    tools().modify_tasks(dataset, new_task="sort", episode_tasks={1: "stack 積む"})


@maker()
def features_added(shop: Workshop, name: str) -> None:
    """A feature of one number and one of three added."""
    dataset = shop.opened("recorded_h264")
    frames = len(dataset)
    tools().add_features(
        dataset,
        {
            "reward": (
                np.arange(frames, dtype=np.float32),
                {"dtype": "float32", "shape": (1,), "names": None},
            ),
            "embedding": (
                lambda row, episode, frame: [row["timestamp"], episode / 3, frame],
                {"dtype": "float32", "shape": (3,), "names": None},
            ),
        },
        output_dir=shop.root(name),
        repo_id=f"local/{name}",
    )


@maker()
def features_removed(shop: Workshop, name: str) -> None:
    """A camera and a column removed."""
    tools().remove_feature(
        shop.opened("recorded_libsvtav1"),
        [WRIST, "observation.state"],
        output_dir=shop.root(name),
        repo_id=f"local/{name}",
    )


@maker()
def features_modified(shop: Workshop, name: str) -> None:
    """A column added and another one removed at once."""
    dataset = shop.opened("recorded_small_files")
    success = np.arange(len(dataset)) % 2 == 0
    tools().modify_features(
        dataset,
        add_features={"success": (success, {"dtype": "bool", "shape": (1,), "names": None})},
        remove_features=["action"],
        output_dir=shop.root(name),
        repo_id=f"local/{name}",
    )


@maker()
def images_to_video(shop: Workshop, name: str) -> None:
    """Images in parquet turned into video."""
    tools().convert_image_to_video_dataset(
        shop.opened("recorded_images"), output_dir=shop.root(name), repo_id=f"local/{name}"
    )


@maker(since=(0, 6))
def reencoded(shop: Workshop, name: str) -> None:
    """Every video encoded again with another encoder, as one stream a file."""
    dataset = shop.copied("recorded_libsvtav1", name)
    tools().reencode_dataset(dataset, **encoder("hevc", g=4, crf=20))


@maker(since=(0, 6))
def merged_encoders(shop: Workshop, name: str) -> None:
    """Two datasets recorded with other settings of one encoder, concatenated into one file."""
    record(shop.root(name), ONE, **encoder("h264", preset="ultrafast"))
    other = shop.root(name).rename(shop.output / f"{name}_other")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

    parts = [shop.opened("recorded_h264"), LeRobotDataset("local/other", root=other)]
    tools().merge_datasets(parts, f"local/{name}", output_dir=shop.root(name))
    shutil.rmtree(other)


@maker(since=(0, 6))
def merged_not_concatenated(shop: Workshop, name: str) -> None:
    """Two datasets merged with each of their files kept as it is."""
    parts = [shop.opened("recorded_hevc"), shop.opened("recorded_hevc_long_gop")]
    tools().merge_datasets(
        parts,
        f"local/{name}",
        output_dir=shop.root(name),
        concatenate_videos=False,
        concatenate_data=False,
    )


@maker(since=(0, 6))
def annotated(shop: Workshop, name: str) -> None:
    """Language columns, as lerobot-annotate writes them; what a model says to it is staged here."""
    dataset = shop.copied("recorded_h264", name)
    annotate(Path(dataset.root))


@maker(since=(0, 6))
def annotated_without_calls(shop: Workshop, name: str) -> None:
    """The same where nothing was said and no event was found: the columns' types are of nulls."""
    dataset = shop.copied("recorded_h264", name)
    annotate(Path(dataset.root), events=False)


def tools() -> Any:
    """LeRobot's dataset tools."""
    from lerobot.datasets import dataset_tools  # noqa: PLC0415

    return dataset_tools


def main() -> None:
    """Make the datasets that were asked for, or all of this version."""
    register_recordings()
    shop = Workshop(output=Path(sys.argv[1]).resolve(), v21=Path(sys.argv[2]).resolve())
    for name in sys.argv[3:] or list(MAKERS):
        shop.opened(name)


if __name__ == "__main__":
    main()
