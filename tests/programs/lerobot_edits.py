"""Runs in LeRobot's own environment: datasets that its tools make out of recorded ones."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from programs.lerobot_annotation import annotate
from programs.lerobot_recording import STATE, TOP, VERSION, WRIST, camera, encoder, record
from programs.lerobot_workshop import Workshop, maker


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
    """An episode deleted out of the middle of a file: what is left is encoded again, as one
    stream.
    """
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
def depth_images_to_video(shop: Workshop, name: str) -> None:
    """The same of depth maps, in millimetres and in metres."""
    tools().convert_image_to_video_dataset(
        shop.opened("recorded_depth_images"), output_dir=shop.root(name), repo_id=f"local/{name}"
    )


@maker(since=(0, 6))
def reencoded(shop: Workshop, name: str) -> None:
    """Every video encoded again with another encoder, as one stream a file."""
    dataset = shop.copied("recorded_libsvtav1", name)
    tools().reencode_dataset(dataset, **encoder("hevc", g=4, crf=20))


@maker(since=(0, 6))
def merged_encoders(shop: Workshop, name: str) -> None:
    """Two datasets recorded with other settings of one encoder, concatenated into one file."""
    record(shop.root(name), {**STATE, TOP: camera()}, **encoder("h264", preset="ultrafast"))
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
