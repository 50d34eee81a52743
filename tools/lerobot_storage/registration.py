"""Telling LeRobot of the storage format, and making its datasets that are recorded into shards."""

import contextlib
import importlib
import shutil
from pathlib import Path
from typing import Any

from roboshard import storage
from roboshard.common.errors import MissingError, OptionError
from roboshard.shards.names import DATASET_MANIFEST
from roboshard.tools.lerobot_storage.meta_folder import FORMAT, INFO, write_meta
from roboshard.tools.lerobot_storage.staging import SHARD_SIZE, recover
from roboshard.tools.lerobot_storage.writer import ShardWriter, mark

BACKEND = "roboshard.tools.lerobot_storage.backend"


def register() -> None:
    """Let LeRobot read folders and URLs of shards as its own datasets, and record into them.

    Afterwards `LeRobotDataset(repo_id, root=URL)` reads shards in place. Where LeRobot has a
    registry of writers as well, `LeRobotDataset.resume` records into them.

    Raises:
        OptionError: LeRobot is not installed, or is of a release without the registry.
    """
    try:
        registry = importlib.import_module("lerobot.datasets.storage")
    except ImportError as error:
        raise OptionError(
            f"LeRobot has no registry of storage formats here ({error}); releases up to 0.6.1 are "
            "without. roboshard.loader.open_dataset reads the same samples with any release"
        ) from error
    registry.register_dataset_reader(FORMAT, BACKEND)
    writers = getattr(registry, "register_dataset_writer", None)
    if writers is not None:
        writers(FORMAT, BACKEND)


def create(  # noqa: PLR0913 - the names of LeRobotDataset.create
    repo_id: str,
    fps: int,
    features: dict[str, dict[str, Any]],
    root: str | Path,
    *,
    robot_type: str | None = None,
    use_videos: bool = True,
    image_writer_processes: int = 0,
    image_writer_threads: int = 0,
    **options: Any,
) -> Any:
    """Create a `LeRobotDataset` that is recorded straight into shards.

    Args:
        repo_id: as for `LeRobotDataset.create`, like all that follow.
        fps: frames a second.
        features: feature key -> its dtype, shape and names.
        root: folder of the shards, which must not exist.
        robot_type: name of the robot.
        use_videos: whether cameras are stored as video.
        image_writer_processes: how many processes write images aside.
        image_writer_threads: how many threads write images in each of them.
        options: further options of `ShardWriter`: rgb_encoder, streaming_encoding, shard_size, ….

    Returns:
        The dataset: add_frame, save_episode, clear_episode_buffer, finalize.

    Raises:
        OptionError: options that cannot be used.
    """
    folder = storage.local_path(str(root))
    dataset = _facade().create(
        repo_id=repo_id,
        fps=fps,
        features=features,
        root=folder,
        robot_type=robot_type,
        use_videos=use_videos,
    )
    mark(dataset.meta.info)
    try:
        return _recorded_by(dataset, folder, image_writer_processes, image_writer_threads, options)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # LeRobot has just made it
        raise


def resume(
    repo_id: str,
    root: str | Path,
    *,
    image_writer_processes: int = 0,
    image_writer_threads: int = 0,
    **options: Any,
) -> Any:
    """Open a folder of shards as a `LeRobotDataset` to which more episodes are recorded.

    What an interrupted recording left goes into shards first.

    Args:
        repo_id: as for `LeRobotDataset.resume`.
        root: folder of the shards: recorded, or converted.
        image_writer_processes: how many processes write images aside.
        image_writer_threads: how many threads write images in each of them.
        options: further options of `ShardWriter`: rgb_encoder, streaming_encoding, shard_size, ….

    Returns:
        The dataset: add_frame, save_episode, clear_episode_buffer, finalize.

    Raises:
        OptionError: options that cannot be used; another recorder is at work.
        MissingError: there are no shards, and nothing was recorded.
    """
    folder = storage.local_path(str(root))
    recover(folder, options.get("shard_size", SHARD_SIZE))
    if (folder / DATASET_MANIFEST).exists():
        write_meta(folder)
    if not (folder / INFO).exists():
        raise MissingError(
            f"{folder}: no shards, and no recording that was begun; create makes one"
        )
    dataset = _facade().resume(repo_id, root=folder)
    if isinstance(dataset.writer, ShardWriter):  # LeRobot's registry has chosen it
        dataset.writer.finalize()
    return _recorded_by(dataset, folder, image_writer_processes, image_writer_threads, options)


def _recorded_by(
    dataset: Any, root: Path, processes: int, threads: int, options: dict[str, Any]
) -> Any:
    dataset.writer = ShardWriter(dataset.meta, root, **options)
    if processes or threads:
        dataset.writer.start_image_writer(processes, threads)
    return dataset


def _facade() -> Any:
    with contextlib.suppress(OptionError):  # a release without the registry asks nothing of it
        register()
    try:
        return importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    except ImportError as error:
        raise OptionError(
            f"LeRobot is not installed here: {error}; to record, pip install 'lerobot[dataset]'"
        ) from error
