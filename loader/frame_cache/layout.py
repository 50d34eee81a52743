"""Which pictures a frame cache keeps, and where each of them lies: pure functions of data and
options.

A camera of a dataset has one store, in which the picture of every row has a place. The places are
the same whatever is selected and however much is kept: so runs with other selections or budgets,
and ranks and workers, find each other's pictures.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import av
import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.common.permute import derive_key, random_integers
from roboshard.loader.sources import Source
from roboshard.shards.features import Spec, is_depth, picture_shape

LAYOUT_VERSION = 1
"""Version of the files, and of pixels where they change without a change of any library."""
MARK_BYTES = 8
"""Bytes of the mark that says that a picture is there."""
DIGEST_CHARS = 32
"""Characters of the name of a store."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """The pictures of one camera or image feature of one dataset, all of one shape and type."""

    source: int
    """Which of the loader's datasets the pictures are of."""
    key: str
    about: str
    """JSON of all that decides what the pictures are and where they lie; it names the store."""
    shape: tuple[int, int, int]
    """Shape of a picture: (H, W, C)."""
    dtype: str
    """uint8: levels of brightness; float32: depth in millimetres."""
    num_rows: int
    """How many rows the dataset has."""

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        return hashlib.sha256(self.about.encode()).hexdigest()[:DIGEST_CHARS]

    @property
    def picture_bytes(self) -> int:
        """Return how many bytes a picture takes."""
        height, width, channels = self.shape
        return height * width * channels * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is kept of a loader's datasets. Picklable."""

    stores: tuple[StoreSpec, ...]
    first: IntArray
    """(sources,) position of the first episode of each dataset among those of all."""
    first_row: tuple[IntArray, ...]
    """For each dataset, (episodes + 1,): the first row of each episode among its rows, and how many
    rows there are.
    """
    kept: tuple[NDArray[np.bool_], ...]
    """For each dataset, (episodes,): whether the pictures of an episode are kept."""
    num_bytes: int
    """Bytes of all pictures that are kept, with their marks."""
    all_bytes: int
    """Bytes of all pictures of the episodes that are loaded."""


def make_layout(
    sources: Sequence[Source],
    keys: Sequence[str],
    image_size: tuple[int, int] | None,
    max_bytes: int,
) -> Layout:
    """Return what is kept where: whole episodes in a fixed pseudo-random order, while they fit.

    Args:
        sources: the datasets, with the episodes that are loaded of each.
        keys: cameras and image features that are loaded.
        image_size: (H, W) that pictures are resized to; None: as stored.
        max_bytes: that all pictures together may take.
    """
    stores = tuple(
        store
        for number, source in enumerate(sources)
        for key in keys
        if (store := _store(number, source, key, image_size)) is not None
    )
    bytes_a_row = [
        sum(store.picture_bytes + MARK_BYTES for store in stores if store.source == number)
        for number in range(len(sources))
    ]
    lengths = [source.dataset.index.length.astype(np.int64) for source in sources]
    source_of = np.repeat(np.arange(len(sources)), [len(source.episodes) for source in sources])
    place = np.concatenate([source.episodes.position - source.first for source in sources])
    rank = np.concatenate([_ranks(source) for source in sources])
    size = np.concatenate(
        [
            lengths[number][source.episodes.position - source.first] * bytes_a_row[number]
            for number, source in enumerate(sources)
        ]
    )
    order = np.lexsort((place, source_of, rank))
    ends = np.cumsum(size[order])
    chosen = order[: int(np.searchsorted(ends, max_bytes, side="right"))]
    kept = tuple(np.zeros(len(own), dtype=np.bool_) for own in lengths)
    for number, own in enumerate(kept):
        own[place[chosen[source_of[chosen] == number]]] = bytes_a_row[number] > 0
    return Layout(
        stores=stores,
        first=np.asarray([source.first for source in sources], dtype=np.int64),
        first_row=tuple(np.concatenate([[0], np.cumsum(own)]) for own in lengths),
        kept=kept,
        num_bytes=int(size[chosen].sum()),
        all_bytes=int(size.sum()),
    )


def _store(
    number: int, source: Source, key: str, image_size: tuple[int, int] | None
) -> StoreSpec | None:
    """Return the store of a camera; None where its dataset lacks it, or nothing says its size."""
    spec = source.features.get(key)
    shape = None if spec is None else picture_shape(spec)
    if spec is None or shape is None:
        return None
    shape = (*(image_size or shape[:2]), _channels(spec, shape))
    dtype = "float32" if is_depth(spec) else "uint8"
    index = source.dataset.index
    rows = hashlib.sha256(
        index.episode_index.astype("<i8").tobytes() + index.length.astype("<i8").tobytes()
    )
    about = {
        "layout": LAYOUT_VERSION,
        "dataset": source.dataset.manifest.fingerprint,
        "rows": rows.hexdigest(),
        "camera": source.membership.own_key(key),
        "shape": list(shape),
        "dtype": dtype,
        "is_resized": image_size is not None,
        "made_by": made_by(),
    }
    return StoreSpec(
        source=number,
        key=key,
        about=json.dumps(about, sort_keys=True),
        shape=shape,
        dtype=dtype,
        num_rows=int(index.length.sum()),
    )


def _channels(spec: Spec, shape: tuple[int, int, int]) -> int:
    """Return how many channels pictures have: video is decoded to colors, depth has one."""
    if is_depth(spec):
        return 1
    return 3 if spec.get("dtype") == "video" else shape[2]


def made_by() -> dict[str, str]:
    """Return the versions of all that decides the pixels of a picture."""
    libraries = {name: ".".join(map(str, found)) for name, found in av.library_versions.items()}
    return {
        "roboshard": version("roboshard"),
        "torch": torch.__version__,
        "torchcodec": version("torchcodec"),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "pillow": version("pillow"),
        **libraries,
    }


def _ranks(source: Source) -> NDArray[np.uint64]:
    """Return of each episode that is loaded where it comes in the order of keeping.

    It depends on nothing but dataset and episode: what a smaller budget or selection keeps, a
    larger one keeps too, as far as it fits.
    """
    key = derive_key(f"frame cache {source.dataset.manifest.fingerprint}")
    ranks = random_integers(len(source.dataset.index), key)
    return ranks[source.episodes.position - source.first]
