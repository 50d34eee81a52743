"""What `--append` adds to: the dataset that is at the destination, and whether a source has only
grown since.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common import jsonio
from roboshard.common.errors import MissingError, OptionError
from roboshard.common.selection import some
from roboshard.converter.source.api import Source, SourceMeta
from roboshard.shards.index import MAX_INDEX_BYTES, EpisodeIndex, read_index
from roboshard.shards.manifest import load_index, parse_dataset_manifest
from roboshard.shards.names import DATASET_MANIFEST, shard_number
from roboshard.shards.schema import MAX_MANIFEST_BYTES, DatasetManifest, Provenance

ANEW = "convert it anew, to another place"
SHOWN = 10


@dataclass(frozen=True)
class Base:
    """The dataset that `--append` adds to."""

    root: str
    """Folder or URL of the dataset."""
    data: bytes
    """The dataset's dataset.json."""
    manifest: DatasetManifest
    index: bytes
    """The dataset's index, as bytes that were checked."""

    @property
    def shown(self) -> str:
        """Folder or URL of the dataset for messages, without credentials."""
        return storage.redacted(self.root)

    @cached_property
    def rows(self) -> EpisodeIndex:
        """The dataset's index, parsed and checked."""
        return read_index(self.index, self.manifest, self.manifest.index.name)

    @property
    def episodes(self) -> NDArray[np.int64]:
        """Indices of the dataset's episodes, ascending."""
        return self.rows.episode_index

    @property
    def next_shard(self) -> int:
        """The number after that of the dataset's last shard."""
        return shard_number(self.manifest.shards[-1].name) + 1


def read_base(destination: str) -> Base | None:
    """Return the dataset at a destination; None: there is none.

    Raises:
        OptionError: nothing can be written there.
        DamageError, FormatError, StorageError: the dataset cannot be read.
    """
    store = storage.writable_store(destination)
    root = store.url
    store.forget(DATASET_MANIFEST)
    try:
        data = store.read_all(DATASET_MANIFEST, MAX_MANIFEST_BYTES)
    except MissingError:
        return None
    what = storage.redacted(storage.join(root, DATASET_MANIFEST))
    manifest = parse_dataset_manifest(data, what)
    return Base(root, data, manifest, load_index(root, manifest, MAX_INDEX_BYTES))


def check_has_grown(source: Source, base: Base) -> None:
    """Raise OptionError unless all episodes and tasks of the dataset are in the source, at their
    places.
    """
    gone = np.setdiff1d(base.episodes, source.episode_indices).tolist()
    where = source.meta.files.where()
    if gone:
        raise OptionError(
            f"{where}: {len(gone)} episodes that {base.shown} has are not there any more: "
            f"{some(gone, SHOWN)}. What has lost or renumbered episodes is another dataset: {ANEW}"
        )
    _check_tasks(source, base)


def check_continues(source: Source, base: Base) -> None:
    """Raise OptionError unless the source's episodes and tasks follow those of the dataset.

    Args:
        source: has only the episodes that are to be added, and all tasks.
        base: the dataset.
    """
    where, count = source.meta.files.where(), len(base.episodes)
    if not np.array_equal(base.episodes, np.arange(count)):
        raise OptionError(
            f"{base.shown}: its episodes are not numbered from 0 without gaps, so that none can "
            "come after them. `roboshard export` numbers them anew: convert what it writes"
        )
    new = source.episode_indices
    if not np.array_equal(new, np.arange(count, count + len(new))):
        raise OptionError(
            f"{where}: its episodes are {some(new.tolist(), SHOWN)}, where {base.shown} has "
            f"{count} and the next one is {count}: another writer has added to it. Number them anew"
        )
    _check_tasks(source, base)


def _check_tasks(source: Source, base: Base) -> None:
    where = source.meta.files.where()
    here, there = base.manifest.task_texts, list(source.meta.tasks.texts)
    changed = [i for i, text in enumerate(here) if i >= len(there) or there[i] != text]
    if changed:
        i = changed[0]
        now = repr(there[i])[:100] if i < len(there) else "gone"
        raise OptionError(
            f"{where}: task {i} was {here[i]!r:.100} and is {now}: the rows of the episodes that "
            f"{base.shown} has would name another one. {ANEW.capitalize()}"
        )


def check_fits(provenance: Provenance, base: Base, where: str) -> None:
    """Raise OptionError unless shards of this provenance can stand beside those of the dataset.

    Args:
        provenance: of the new shards.
        base: the dataset.
        where: the source, for messages.
    """
    old = base.manifest
    if provenance.fps != old.fps:
        raise OptionError(
            f"{where}: {provenance.fps:g} fps, {old.fps:g} in {base.shown}. {ANEW.capitalize()}"
        )
    for name in ("tolerance_s", "video"):
        now, before = (each.conversion.options.get(name) for each in (provenance, old))
        if now != before:
            raise OptionError(
                f"{base.shown}: was converted with {_in_words(name, before)}, which --append must "
                f"have too, not {_in_words(name, now)}"
            )
    keys = dict.fromkeys([*old.features, *provenance.features])
    other = [
        key
        for key in keys
        if jsonio.canonical(provenance.features.get(key)) != jsonio.canonical(old.features.get(key))
    ]
    if other or list(old.features) != list(provenance.features):
        raise OptionError(
            f"{where}: features are not those that {base.shown} has: "
            f"{some(other, SHOWN) or 'their order'}. {ANEW.capitalize()}"
        )


def is_unchanged(meta: SourceMeta, base: Base) -> bool:
    """Return whether a source is as it was when the dataset was made of it, or last grew."""
    source = base.manifest.source
    return (meta.fingerprint, meta.files.revision) == (source.fingerprint, source.revision)


def _in_words(name: str, value: jsonio.Json) -> str:
    if name != "video":
        return f"{name} {value}"
    if not isinstance(value, dict):
        return "video copied"
    flags = [
        f"--{key} {' '.join(map(str, each)) if isinstance(each, list) else each}"
        for key, each in value.items()
        if key not in ("mode", "cameras") and each is not None
    ]
    return " ".join(
        ["--video reencode", *flags, f"(cameras {', '.join(value.get('cameras', ()))})"]
    )
