"""The writing side: what LeRobot's recorder calls, so that its episodes go into shards.

An episode is recorded and encoded by LeRobot itself, into a dataset that it is alone in: with
whatever encoders, image writers and statistics the installed release has. `save_episode` hands that
to the staging folder; with enough of them, and at the end, they go into shards.
"""

import contextlib
import importlib
from pathlib import Path
from typing import Any

from roboshard.common.errors import OptionError
from roboshard.tools.lerobot_storage.meta_folder import FORMAT
from roboshard.tools.lerobot_storage.staging import SHARD_SIZE, Staging


class ShardWriter:
    """Records episodes into a folder of shards; what LeRobot's facade calls its writer."""

    image_writer: None = None
    """None: each episode has an image writer of its own. LeRobot's tools ask whether one is at
    work.
    """

    def __init__(  # noqa: PLR0913 - the names that LeRobot passes
        self,
        meta: Any,
        root: str | Path,
        initial_frames: int = 0,  # noqa: ARG002 - the shards say how many there are
        *,
        rgb_encoder: Any = None,
        depth_encoder: Any = None,
        encoder_threads: int | None = None,
        batch_encoding_size: int = 1,
        streaming_encoder: Any = None,
        streaming_encoding: bool = False,
        shard_size: str = SHARD_SIZE,
    ) -> None:
        """Open the folder, and put what an interrupted recording left into shards.

        Args:
            meta: LeRobot's metadata of the dataset, which is kept up to date.
            root: folder of the shards.
            initial_frames: without effect: the shards say how many frames there are.
            rgb_encoder: LeRobot's settings of the encoder of color video.
            depth_encoder: LeRobot's settings of the encoder of depth video.
            encoder_threads: how many threads each encoder has.
            batch_encoding_size: must be 1: episodes are encoded as they are saved.
            streaming_encoder: not None: frames are encoded as they come.
            streaming_encoding: whether frames are encoded as they come.
            shard_size: target size of a shard; with so much recorded, the episodes become shards.

        Raises:
            OptionError: options that cannot be used; another recorder is at work.
            StorageError: the folder cannot be made or written.
        """
        if batch_encoding_size != 1:
            raise OptionError(
                f"batch_encoding_size={batch_encoding_size}: episodes are encoded as they are "
                "saved; leave it at 1, or use streaming_encoding"
            )
        self._meta = meta
        options = {
            "rgb_encoder": rgb_encoder,
            "depth_encoder": depth_encoder,
            "encoder_threads": encoder_threads,
            "streaming_encoding": streaming_encoding or streaming_encoder is not None or None,
        }
        self._options = {name: value for name, value in options.items() if value is not None}
        self._image_writer: tuple[int, int] = (0, 0)
        self._episode: Any = None
        self._place = Path()
        self._staging = Staging(Path(root), shard_size)
        if self._staging.num_episodes != meta.total_episodes:
            self._reload()

    @property
    def episode_buffer(self) -> dict[str, Any]:
        """The frames of the episode that is being recorded, under LeRobot's names."""
        if self._episode is None:
            return {"size": 0, "episode_index": self._staging.num_episodes}
        buffer: dict[str, Any] = self._episode.writer.episode_buffer
        return buffer

    @property
    def is_streaming_encoding(self) -> bool:
        """Whether frames are encoded as they come."""
        return bool(self._options.get("streaming_encoding"))

    @property
    def _streaming_encoder(self) -> None:
        """None, so that LeRobot lets an unfinished episode be removed where a recording ends."""
        return None

    def add_frame(self, frame: dict[str, Any]) -> None:
        """Add a frame to the episode that is being recorded; the first one begins it.

        Args:
            frame: a value for each feature, and the task, as LeRobot takes it.
        """
        if self._episode is None:
            self._episode = self._begun()
        self._episode.add_frame(frame)

    def save_episode(
        self, episode_data: dict[str, Any] | None = None, parallel_encoding: bool = True
    ) -> None:
        """End the episode that is being recorded. It is safe when this returns.

        Args:
            episode_data: must be None: the frames are those that were added.
            parallel_encoding: whether cameras are encoded in processes of their own.

        Raises:
            OptionError: there are no frames, or they were not added by `add_frame`.
            StorageError: the episode cannot be kept; no space perhaps.
        """
        if episode_data is not None:
            raise OptionError("episode_data: add the episode's frames by add_frame")
        if self._episode is None:
            raise OptionError("save_episode: no frame was added")
        self._episode.save_episode(parallel_encoding=parallel_encoding)
        self._episode.finalize()
        self._episode = None
        before = self._staging.num_published
        self._staging.add(self._place)
        if self._staging.num_published != before:
            self._reload()
        self._count()

    def clear_episode_buffer(self, delete_images: bool = True) -> None:  # noqa: ARG002
        """Forget the episode that is being recorded."""
        if self._episode is not None:
            with contextlib.suppress(OSError):  # whatever is left goes with its folder
                self._episode.clear_episode_buffer()
            self._episode.finalize()
            self._episode = None
            self._staging.discard(self._place)

    def has_pending_frames(self) -> bool:
        """Whether an episode is being recorded."""
        return bool(self.episode_buffer.get("size", 0))

    def start_image_writer(self, num_processes: int = 0, num_threads: int = 4) -> None:
        """Let images of the episodes that follow be written aside, by so many processes and
        threads.
        """
        self._image_writer = (num_processes, num_threads)

    def stop_image_writer(self) -> None:
        """Let images of the episodes that follow be written at once."""
        self._image_writer = (0, 0)

    def flush_pending_videos(self) -> None:
        """Do nothing: episodes are encoded as they are saved."""

    def cancel_pending_videos(self) -> None:
        """Forget the episode that is being recorded."""
        self.clear_episode_buffer()

    def cleanup_interrupted_episode(self, episode_index: int) -> None:  # noqa: ARG002 - just one
        """Forget the episode that is being recorded."""
        self.clear_episode_buffer()

    def close_writer(self) -> None:
        """Do nothing: the files of saved episodes are closed already."""

    def finalize(self) -> None:
        """Put all saved episodes into shards, and let others record; forget an unsaved one.

        Raises:
            OptionError: another writer has added to the dataset meanwhile.
            StorageError: the shards cannot be written. The episodes stay, for `recover`.
        """
        self.clear_episode_buffer()
        try:
            self._staging.publish()
            self._reload()
        finally:
            self._staging.close()

    def _begun(self) -> Any:
        """Return a new dataset of LeRobot's own, which the next episode is alone in."""
        facade = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
        self._place = self._staging.work_folder()
        processes, threads = self._image_writer
        return facade.create(
            repo_id=self._meta.repo_id,
            fps=self._meta.fps,
            features=self._meta.features,
            root=self._place,
            robot_type=self._meta.robot_type,
            image_writer_processes=processes,
            image_writer_threads=threads,
            **self._options,
        )

    def _count(self) -> None:
        """Let LeRobot's metadata count the episodes that are recorded."""
        info = self._meta.info
        for name, number in (
            ("total_episodes", self._staging.num_episodes),
            ("total_frames", self._staging.num_frames),
        ):
            if isinstance(info, dict):
                info[name] = number
            else:
                setattr(info, name, number)

    def _reload(self) -> None:
        """Let LeRobot's metadata be that of the shards, which it has been written for anew."""
        if not self._staging.num_published:
            return
        name = "load_metadata" if hasattr(self._meta, "load_metadata") else "_load_metadata"
        getattr(self._meta, name)()


def mark(info: Any) -> None:
    """Let LeRobot's info say that its dataset is one of shards, where it has a word for that."""
    if not isinstance(info, dict) and hasattr(info, "storage_format"):
        info.storage_format = FORMAT
