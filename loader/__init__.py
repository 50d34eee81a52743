"""Shards in, training batches out.

`make.py` takes the keywords, `pipeline.py` shows the whole chain.
"""

from roboshard.loader.loader import Loader
from roboshard.loader.make import make_loader
from roboshard.loader.map_style import MapDataset, open_dataset
from roboshard.loader.meta import DatasetMeta
from roboshard.loader.mixtures.part import Part
from roboshard.loader.sampler import LoaderSampler
from roboshard.loader.selection.information import EpisodeInfo
from roboshard.loader.stats import LoaderStats

__all__ = [
    "DatasetMeta",
    "EpisodeInfo",
    "Loader",
    "LoaderSampler",
    "LoaderStats",
    "MapDataset",
    "Part",
    "make_loader",
    "open_dataset",
]
