"""The folder meta/ of a LeRobot dataset, made for shards: by it LeRobot knows the dataset's format.

    meta/info.json        the source's, with "storage_format": "roboshard"
    meta/stats.json       the source's
    meta/tasks.parquet    the tasks
    meta/episodes/...     a row an episode: its length, tasks and place in the dataset
    meta/roboshard.json   which snapshot of the dataset all that is of

It is derived: nothing of roboshard's own reads it, and it can be made again at any time.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common import jsonio
from roboshard.common.errors import FormatError, OptionError
from roboshard.shards.episode_tasks import EpisodeTasks, read_episode_tasks
from roboshard.shards.names import LEROBOT_FOLDER
from roboshard.shards.reader import ShardedDataset
from roboshard.tools.export.layout import VIDEO_PATH
from roboshard.tools.export.meta import indented, info_of, write_tasks

FORMAT = "roboshard"
"""What info.json of LeRobot calls the storage format."""
EPISODES = f"{LEROBOT_FOLDER}/episodes"
INFO = f"{LEROBOT_FOLDER}/info.json"
TASKS = f"{LEROBOT_FOLDER}/tasks.parquet"
STATS = f"{LEROBOT_FOLDER}/stats.json"
SNAPSHOT = f"{LEROBOT_FOLDER}/roboshard.json"
MAX_SNAPSHOT_BYTES = 1 << 16


def write_meta(root: str | Path, folder: str | Path | None = None) -> Path:
    """Write meta/ for a dataset of shards, so that LeRobot reads it.

    Args:
        root: the dataset, a folder or a URL.
        folder: where meta/ is written; None: into `root`, which must be a folder of this machine.

    Returns:
        The folder that meta/ is in, which is `root` of a LeRobotDataset.

    Raises:
        OptionError: `root` is not of this machine, and no folder was given.
        MissingError, FormatError, VersionError, DamageError, StorageError: no usable dataset at
            `root`, or the folder cannot be written.

    Example:
        >>> write_meta("my_dataset_shards").name
        'my_dataset_shards'
    """
    url = str(root)
    if folder is None and not storage.is_local(url):
        raise OptionError(
            f"{storage.redacted(url)}: meta/ is written to a folder of this machine: name one. "
            "LeRobotDataset(root=URL) needs none"
        )
    target = storage.local_path(url) if folder is None else Path(folder)
    write_meta_of(ShardedDataset.open(url), target)
    return target


def write_meta_of(dataset: ShardedDataset, folder: Path) -> None:
    """Write meta/ for a dataset that is open, each file whole or not at all.

    Raises:
        DamageError, FormatError, MissingError, StorageError: as reading the index does; or the
            folder cannot be written.
    """
    manifest = dataset.manifest
    info = info_of(
        manifest,
        episodes=manifest.total_episodes,
        frames=manifest.total_frames,
        is_whole=True,
        video_path=VIDEO_PATH,
    )
    info |= {
        "total_tasks": len(manifest.tasks),
        "splits": {"train": f"0:{manifest.total_episodes}"},
        "storage_format": FORMAT,
    }
    episodes = f"{EPISODES}/chunk-000/file-000.parquet"
    files = {
        episodes: _episodes(dataset.index.length, read_episode_tasks(dataset)),
        TASKS: _tasks(dataset),
        SNAPSHOT: jsonio.dump({"fingerprint": manifest.fingerprint}),
        INFO: indented(info),
    }
    if manifest.stats is not None:
        files = {STATS: indented(manifest.stats), **files}
    for name, data in files.items():
        storage.write_bytes(folder / name, data, below=folder)
    for path in (folder / EPISODES).glob("*/*.parquet"):
        if path != folder / episodes:  # LeRobot reads all that are there
            storage.remove_file(path, below=folder)


def snapshot_of(folder: Path) -> str | None:
    """Return the fingerprint of the dataset that a meta/ was made of; None: it does not say.

    Raises:
        FormatError, StorageError: the file cannot be read.
    """
    path = folder / SNAPSHOT
    if not path.exists():
        return None
    data = storage.read_all(str(path), MAX_SNAPSHOT_BYTES)
    fingerprint = jsonio.load(data, str(path), MAX_SNAPSHOT_BYTES).get("fingerprint")
    if not isinstance(fingerprint, str):
        raise FormatError(f"{path}: names no fingerprint; `roboshard lerobot-meta` writes it anew")
    return fingerprint


def _episodes(lengths: NDArray[np.int64], tasks: EpisodeTasks) -> bytes:
    """Return the rows of meta/episodes, without where LeRobot's own files would be."""
    count = len(lengths)
    ends = np.cumsum(lengths)
    texts = pa.array(tasks.texts, pa.string()).take(pa.array(tasks.codes))
    zeros = np.zeros(count, dtype=np.int64)
    table = pa.table(
        {
            "episode_index": np.arange(count),
            "tasks": pa.ListArray.from_arrays(pa.array(tasks.starts, pa.int32()), texts),
            "length": lengths,
            "dataset_from_index": ends - lengths,
            "dataset_to_index": ends,
            "meta/episodes/chunk_index": zeros,
            "meta/episodes/file_index": zeros,
        }
    )
    return parquet_bytes(table)


def _tasks(dataset: ShardedDataset) -> bytes:
    file = io.BytesIO()
    write_tasks(file, dataset.manifest.task_texts, dataset.manifest.task_columns)
    return file.getvalue()


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as the bytes of a parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()
