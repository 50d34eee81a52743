"""Episodes that were recorded and are not in shards yet: each is there whole, or not at all.

    ROOT/.recording/NAME/        a LeRobot dataset of these episodes, which follow the shards'
        data/, videos/           a file an episode, and one for each of its cameras
        meta/episodes/.../file-000003.parquet    written last: with it the episode is there
        meta/info.json, tasks.parquet, stats.json    of all of them, written at the end
    ROOT/.recording/episode-*    an episode that is being recorded

Killed at any moment: what has its row of meta/episodes is kept, all else is removed when the folder
is next opened. Going into shards is an append (`converter.run.add_episodes`), which is whole or not
at all by itself; after it the folder is renamed and removed.
"""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from roboshard import storage
from roboshard.common.errors import MissingError, OptionError, SourceError
from roboshard.converter.base import Base, read_base
from roboshard.converter.config import ConvertConfig, parse_size
from roboshard.converter.run import add_episodes
from roboshard.converter.source.files import LocalFiles
from roboshard.converter.source.opening import read_source
from roboshard.storage.locks import is_at, lock
from roboshard.tools.export.meta import indented, write_tasks
from roboshard.tools.lerobot_storage.meta_folder import parquet_bytes, write_meta
from roboshard.tools.lerobot_storage.recorded import (
    RecordedEpisode,
    aggregated,
    episode_files,
    read_recorded,
)

FOLDER = ".recording"
IN_WORK = "episode-"
DONE = "in-shards-"
SHARD_SIZE = "256MB"


class Staging:
    """The recorded episodes of a folder of shards, held by one recorder at a time."""

    def __init__(self, root: Path, shard_size: str = SHARD_SIZE) -> None:
        """Open the folder below `root`, and put what an interrupted recording left into shards.

        Args:
            root: folder of the shards, or where they will be.
            shard_size: target size of a shard; with so much recorded, the episodes become shards.

        Raises:
            OptionError: another recorder is at work, or what is there continues another dataset.
            StorageError: the folder cannot be made or read.
        """
        self.root = root
        self._shard_size = shard_size
        self._shard_bytes = parse_size(shard_size)
        self._place = root / FOLDER
        self._folder = self._place / (root.resolve().name or "dataset")
        self._place.mkdir(parents=True, exist_ok=True)
        held = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY)
        self._release = weakref.finalize(self, os.close, held)
        try:
            if not (lock(held, wait=False) and is_at(held, self._place)):
                raise OptionError(f"{root}: another recorder writes here; wait until it ends")
            self._recover()
        except BaseException:
            self._release()
            raise

    num_recovered = 0
    """How many episodes an interrupted recording had left."""

    @property
    def num_episodes(self) -> int:
        """How many episodes there are in shards and in the recording."""
        return self._base_episodes + len(self._recorded)

    @property
    def num_published(self) -> int:
        """How many episodes are in shards."""
        return self._base_episodes

    @property
    def num_frames(self) -> int:
        """How many frames there are in shards and in the recording."""
        return self._base_frames + sum(each.length for each in self._recorded)

    def work_folder(self) -> Path:
        """Return a name for a folder to record an episode in; nothing is there yet."""
        return Path(tempfile.mkdtemp(prefix=IN_WORK, dir=self._place)) / "episode"

    def discard(self, work_folder: Path) -> None:
        """Remove a folder that `work_folder` returned, and what was recorded in it."""
        shutil.rmtree(work_folder.parent, ignore_errors=True)

    def add(self, recorded: Path) -> None:
        """Keep the episode of a LeRobot dataset of its own, as the next one; then it is safe.

        With enough for a shard, what is kept goes into shards.

        Args:
            recorded: the dataset, finished; from `work_folder`. It is removed.

        Raises:
            SourceError, MissingError: it is not such a dataset.
            OptionError: its features are not those of the dataset.
            StorageError: it cannot be kept; no space perhaps.
        """
        episode = read_recorded(recorded)
        self._check_features(episode)
        number = len(self._recorded)
        tasks = list(dict.fromkeys([*self._tasks, *episode.tasks]))
        if not self._recorded:
            self._write("meta/info.json", indented(self._first_info(episode)))
        files = episode_files(number, episode)
        for key, (source, target) in files.videos.items():
            _check_file(source, key)
            _move(source, self._folder / target)
        table, row = episode.numbered(number, self.num_episodes, self.num_frames, tasks)
        self._write(files.rows, parquet_bytes(table))
        self._write(files.row, parquet_bytes(row))
        self._keep(RecordedEpisode.of_row(row), tasks)
        self.discard(recorded)
        if self._bytes >= self._shard_bytes:
            self.publish()

    def publish(self) -> None:
        """Put what was recorded into new shards, and write meta/ of the dataset as it is then.

        Raises:
            OptionError: another writer has added to the dataset meanwhile.
            StorageError: the shards cannot be written. What was recorded stays.
        """
        if self._recorded:
            self._describe()
            add_episodes(self._conversion())
            self._clear()
            self._read_base()
        if self._base is not None:
            write_meta(self.root)

    def close(self) -> None:
        """Remove what is unfinished, and let others record into the folder."""
        if self._release.alive:
            self._remove_in_work()
            if not self._recorded:
                shutil.rmtree(self._place, ignore_errors=True)
            self._release()

    def _recover(self) -> None:
        self._remove_in_work()
        self._read_base()
        if self._is_in_shards():
            self._clear()
            self._read_base()
        for path in sorted(self._folder.glob("meta/episodes/*/*.parquet")):
            episode = RecordedEpisode.of_row(pq.read_table(path))
            self._keep(episode, list(dict.fromkeys([*self._tasks, *episode.tasks])))
        self._remove_unlisted()
        if self._recorded and self._recorded[0].index != self._base_episodes:
            raise OptionError(
                f"{self._folder}: was recorded to follow {self._recorded[0].index} episodes, and "
                f"{self.root} has {self._base_episodes}: another writer has added to it. "
                "The folder is a LeRobot dataset: take it elsewhere"
            )
        self.num_recovered = len(self._recorded)
        self.publish()

    def _read_base(self) -> None:
        """Read what is in shards, and begin with no recorded episode."""
        self._base: Base | None = read_base(str(self.root))
        manifest = None if self._base is None else self._base.manifest
        self._base_episodes = 0 if manifest is None else manifest.total_episodes
        self._base_frames = 0 if manifest is None else manifest.total_frames
        self._tasks: list[str] = [] if manifest is None else list(manifest.tasks)
        self._recorded: list[RecordedEpisode] = []
        self._bytes = 0

    def _keep(self, episode: RecordedEpisode, tasks: list[str]) -> None:
        self._recorded.append(episode)
        self._tasks = tasks
        paths = (self._folder / path for path in episode.paths)
        self._bytes += sum(path.stat().st_size for path in paths)

    def _is_in_shards(self) -> bool:
        """Whether the folder is what the dataset last grew by: the end of a killed recorder."""
        if self._base is None or not (self._folder / "meta/info.json").exists():
            return False
        try:
            fingerprint = read_source(LocalFiles(self._folder)).meta.fingerprint
        except (SourceError, MissingError):
            return False
        return fingerprint == self._base.manifest.source.fingerprint

    def _describe(self) -> None:
        """Write what a LeRobot dataset says of all its episodes; equal bytes for equal episodes."""
        info = json.loads((self._folder / "meta/info.json").read_text(encoding="utf-8"))
        count, frames = len(self._recorded), sum(each.length for each in self._recorded)
        totals = {
            "total_episodes": count,
            "total_frames": frames,
            "total_tasks": len(self._tasks),
            "splits": {"train": f"0:{count}"},
        }
        self._write("meta/info.json", indented(info | totals))
        stats = None if self._base is None else self._base.manifest.stats
        together = aggregated(stats or {}, self._base_frames, self._recorded)
        self._write("meta/stats.json", indented(together))
        target = self._folder / "meta/tasks.parquet"
        storage.write_atomic(
            target, lambda file: write_tasks(file, self._tasks, {}), below=self.root
        )

    def _conversion(self) -> ConvertConfig:
        return ConvertConfig(
            source=str(self._folder),
            destination=str(self.root),
            append=True,
            shard_size=self._shard_size,
            workers=1,
        )

    def _first_info(self, episode: RecordedEpisode) -> dict[str, Any]:
        """Return info.json of what is recorded: the dataset's own, or that of its first episode."""
        return episode.info if self._base is None else dict(self._base.manifest.info)

    def _check_features(self, episode: RecordedEpisode) -> None:
        before = self._folder / "meta/info.json"
        if self._recorded:
            info = json.loads(before.read_text(encoding="utf-8"))
        elif self._base is not None:
            info = self._base.manifest.info
        else:
            return
        here, there = (_shapes(each) for each in (episode.info, info))
        if here != there:
            other = [key for key in {**here, **there} if here.get(key) != there.get(key)]
            raise OptionError(
                f"{self.root}: features that the dataset has otherwise: {', '.join(other)}; "
                "record to another place"
            )

    def _write(self, name: str, data: bytes) -> None:
        storage.write_bytes(self._folder / name, data, below=self.root)

    def _clear(self) -> None:
        """Remove recorded episodes that are in shards now: in one step for whoever opens the folder
        next.
        """
        done = Path(tempfile.mkdtemp(prefix=DONE, dir=self._place))
        self._folder.rename(done / "episodes")
        storage.sync_folder(self._place)
        shutil.rmtree(done, ignore_errors=True)

    def _remove_in_work(self) -> None:
        for pattern in (f"{IN_WORK}*", f"{DONE}*"):
            for path in self._place.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def _remove_unlisted(self) -> None:
        """Remove files of an episode whose row was never written."""
        kept = {self._folder / path for episode in self._recorded for path in episode.paths}
        for folder in ("data", "videos"):
            for path in (self._folder / folder).rglob("*"):
                if path.is_file() and path not in kept:
                    storage.remove_file(path, below=self.root)


@contextmanager
def staging(root: Path, shard_size: str = SHARD_SIZE) -> Iterator[Staging]:
    """Open the recorded episodes of a folder of shards, and let go of it at the end."""
    found = Staging(root, shard_size)
    try:
        yield found
    finally:
        found.close()


def recover(root: str | Path, shard_size: str = SHARD_SIZE) -> int:
    """Put the episodes that an interrupted recording left into shards.

    Args:
        root: folder of the shards. Where nothing was left nothing is done.
        shard_size: target size of a shard.

    Returns:
        Episodes that were left, and are in shards now.

    Raises:
        OptionError: a recorder is at work, or what it left continues another dataset.
        StorageError: the shards cannot be written. What was recorded stays.
    """
    folder = storage.local_path(str(root))
    if not (storage.is_local(str(root)) and (folder / FOLDER).is_dir()):
        return 0
    with staging(folder, shard_size) as found:
        return found.num_recovered


def _shapes(info: dict[str, Any]) -> dict[str, Any]:
    return {
        key: (spec["dtype"], list(spec["shape"]), spec.get("names"))
        for key, spec in info["features"].items()
    }


def _check_file(path: Path, key: str) -> None:
    if not path.is_file():
        raise MissingError(f"{path}: the recorded video of camera {key!r} is not there")


def _move(source: Path, target: Path) -> None:
    """Bring a file to its place so that it survives a power cut there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.rename(target)
    storage.sync_folder(target.parent)
