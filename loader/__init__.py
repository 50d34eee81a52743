"""Shards in, training batches out. `make.py` takes the keywords, `pipeline.py` shows the whole chain."""

from roboshard.loader.loader import Loader
from roboshard.loader.make import make_loader
from roboshard.loader.meta import DatasetMeta
from roboshard.loader.stats import LoaderStats

__all__ = ["DatasetMeta", "Loader", "LoaderStats", "make_loader"]
