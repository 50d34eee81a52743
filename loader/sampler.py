"""The order of a loader for torch's DataLoader: batches of numbers of samples, for whoever keeps
one.
"""

from collections.abc import Iterator

import numpy as np
import torch.utils.data

from roboshard.common.errors import OptionError
from roboshard.loader.loader import Loader
from roboshard.loader.map_style import MapDataset


class LoaderSampler(torch.utils.data.Sampler[list[int]]):
    """The samples that each step of a loader takes, as numbers of an `open_dataset`.

    `DataLoader(dataset, batch_sampler=LoaderSampler(loader, dataset))` has the batches that the
    loader has on this rank, but reads and decodes them sample by sample. The loader is not iterated
    over and reads nothing: it says the order and the epoch, and where to begin.
    """

    def __init__(self, loader: Loader, dataset: MapDataset) -> None:
        """Hold the loader and the dataset against each other.

        Args:
            loader: Of `make_loader`, of one dataset, with a batch size.
            dataset: Of `open_dataset`, with all episodes that the loader has.

        Raises:
            OptionError: The loader has single samples, or a mixture; or it is of another dataset,
                or has episodes that `dataset` has not.
        """
        if loader.batch_size is None:
            raise OptionError("the loader has no batches: make it with a batch_size")
        if len(loader.metas) > 1:
            raise OptionError("the loader is of a mixture, whose samples have no numbers")
        fingerprints = [meta.manifest.fingerprint for meta in (loader.meta, dataset.meta)]
        if fingerprints[0] != fingerprints[1]:
            raise OptionError(f"the loader and the dataset are of different data: {fingerprints}")
        self._loader = loader
        self._at = dataset.meta.episodes.episode_index
        ends = np.cumsum(dataset.meta.episodes.num_samples)
        self._first = ends - dataset.meta.episodes.num_samples
        lacking = np.setdiff1d(loader.episodes, self._at)
        if len(lacking):
            raise OptionError(
                f"the dataset has not all episodes of the loader: {lacking[:5].tolist()} are not "
                "among those that open_dataset was told to choose"
            )

    def __len__(self) -> int:
        """Return how many steps the epoch has."""
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        """Go through this epoch next, as `Loader.set_epoch` does."""
        self._loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the numbers of each step's samples; at the end the loader is at the next epoch.

        A DataLoader asks for steps before they are used, so they are not counted here. To resume,
        count those that were used and give them to the loader: `loader.state_at(...)`.
        """
        for episode_index, rows in self._loader.draws():
            first = self._first[np.searchsorted(self._at, episode_index)]
            yield (first + rows).tolist()
