"""The datasets that the trainer asks for: what it counts, makes policies of and evaluates on."""

from collections.abc import Sequence
from typing import Any

import torch.utils.data

from roboshard.loader import EpisodeInfo, MapDataset, open_dataset
from roboshard.loader.meta import MapMeta
from roboshard.tools.lerobot_train.split import first_of_each, hold_out


class TrainerMeta:
    """Metadata under the names of LeRobotDatasetMetadata: those of `MapMeta` and a few more."""

    def __init__(self, meta: MapMeta, repo_id: str) -> None:
        self._meta = meta
        self.repo_id = repo_id
        self.stats = {key: dict(values) for key, values in meta.stats.items()}
        """A copy of the dataset's statistics, which the trainer's options may change."""

    @property
    def tasks(self) -> Any:
        """The task texts as the index of a DataFrame, as LeRobot has them."""
        import pandas as pd  # noqa: PLC0415 - LeRobot brings it

        tasks = self._meta.tasks
        return pd.DataFrame({"task_index": range(len(tasks))}, index=pd.Index(tasks, name="task"))

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the dataset says of itself by this name."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._meta, name)


class TrainerDataset(torch.utils.data.Dataset[Any]):
    """Samples by number, with what LeRobot's trainer asks of a dataset."""

    absolute_to_relative_idx: None = None
    """None: the boundaries in `meta.episodes` are numbers of samples as they stand."""

    def __init__(self, samples: MapDataset, meta: TrainerMeta) -> None:
        self._samples = samples
        self.meta = meta
        self.episodes = samples.episodes
        self.num_episodes = samples.num_episodes
        self.num_frames = samples.num_frames

    def __len__(self) -> int:
        """Return how many samples there are: one per row."""
        return self.num_frames

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return the sample with this number."""
        return self._samples[number]

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return several samples, decoded together."""
        return self._samples.__getitems__(numbers)


def split_episodes(
    root: str, episodes: Sequence[int] | None, fraction: float, **storage: Any
) -> tuple[list[int], list[int]]:
    """Return the episodes for training and for evaluation, as LeRobot's eval split has them.

    Args:
        root: The dataset.
        episodes: Indices of the episodes to be split; None: all.
        fraction: Share of each task's episodes that is held out.
        storage: Options of `open_dataset` for reading remote shards.
    """
    task_of: dict[int, str] = {}

    def note(episode: EpisodeInfo) -> bool:
        task_of[episode.episode_index] = next(iter(episode.tasks), "")
        return True

    open_dataset(root, episodes=note, **storage)
    chosen = episodes if episodes is not None else sorted(task_of)
    return hold_out({episode: task_of.get(episode, "") for episode in chosen}, fraction)


def evaluation_samples(
    dataset: TrainerDataset, root: str, most: int, **storage: Any
) -> "torch.utils.data.Dataset[Any]":
    """Return a dataset's samples for evaluation: all, or the first ones of each task.

    Args:
        dataset: The episodes that are held out.
        root: The dataset that they are of.
        most: How many samples at most; 0: all.
        storage: Options of `open_dataset` for reading remote shards.
    """
    if most <= 0:
        return dataset
    rows = open_dataset(root, episodes=dataset.episodes, cameras=(), **storage)
    episodes = [rows.episode(episode).numbers for episode in rows.meta.episodes.episode_index]
    task_index = [task for own in episodes for task in rows.rows(own)["task_index"].tolist()]
    rows.close()
    return torch.utils.data.Subset(dataset, first_of_each(task_index, most))


def put_imagenet_stats(meta: TrainerMeta) -> None:
    """Let colors be normalized by ImageNet's statistics, as LeRobot does; depth keeps its own."""
    from lerobot.datasets.factory import IMAGENET_STATS  # noqa: PLC0415

    for key in set(meta.camera_keys) - set(meta.depth_keys):
        meta.stats[key] |= {
            name: torch.tensor(values, dtype=torch.float32)
            for name, values in IMAGENET_STATS.items()
        }
