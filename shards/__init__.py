"""The shard format: the vocabulary that converter and loader share.

Reading top-down: `schema` (the documents), `names`, `tar` and `rows` (what a shard is made of),
`writer` and `reader` (a shard out, an episode in), `manifest` and `index` (what holds a dataset
together), `rebuild` (deriving those again from bare tars).
"""

from roboshard.common.errors import (
    DamageError,
    FormatError,
    MissingError,
    OptionError,
    RoboshardError,
    SourceError,
    StorageError,
    VersionError,
)
from roboshard.shards.reader import EpisodeData, ReadSettings, ShardedDataset
from roboshard.shards.rebuild import rebuild
from roboshard.shards.schema import FORMAT_VERSION, DatasetManifest, EpisodeRecord, ShardManifest

__all__ = [
    "FORMAT_VERSION",
    "DamageError",
    "DatasetManifest",
    "EpisodeData",
    "EpisodeRecord",
    "FormatError",
    "MissingError",
    "OptionError",
    "ReadSettings",
    "RoboshardError",
    "ShardManifest",
    "ShardedDataset",
    "SourceError",
    "StorageError",
    "VersionError",
    "rebuild",
]
