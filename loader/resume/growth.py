"""A dataset that has grown: a loader's state resumes on what it was when the state was saved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roboshard import storage
from roboshard.common.caller import warn_caller
from roboshard.loader.job import LoadJob
from roboshard.loader.running.scratch import ScratchFolder
from roboshard.loader.running.shared_frames import SharedFrames
from roboshard.loader.sources import Source
from roboshard.shards.manifest import load_dataset_manifest
from roboshard.shards.snapshots import SnapshotName

Snapshots = Sequence[SnapshotName | None]
"""The snapshot of each dataset of a loader; None: the newest."""
Made = tuple[LoadJob, ScratchFolder | None, SharedFrames | None]
"""What a loader is made of: its job, and the folders that go with it."""


@dataclass(frozen=True)
class Recipe:
    """How a loader was made, and how it is made of other snapshots."""

    make: Callable[[Snapshots], Made]
    asked: Snapshots
    """What the user asked for; a loader stays with that."""

    def for_state(self, fingerprint: object, sources: Sequence[Source]) -> Made | None:
        """Make what a state was saved on, where its datasets have only grown since; None: they have
        not.

        Args:
            fingerprint: what the state says of its datasets.
            sources: the loader's own.

        Raises:
            OptionError: what the loader was asked for is not in that snapshot.
            MissingError, DamageError, FormatError, StorageError: the snapshot cannot be read.
        """
        wanted = fingerprint.split(",") if isinstance(fingerprint, str) else []
        here = [source.dataset.manifest.fingerprint for source in sources]
        if wanted == here or len(wanted) != len(here):
            return None
        told = []
        for one, other, source, asked in zip(wanted, here, sources, self.asked, strict=True):
            if one != other:
                if asked is not None:
                    return None
                said = _in_words(one, source)
                if said is None:
                    return None
                told.append(said)
        made = self.make(wanted)
        warn_caller(
            f"{'; '.join(told)}: this loader now loads what the state was saved on. A new loader "
            "without a state loads all there is",
        )
        return made


def _in_words(fingerprint: str, source: Source) -> str | None:
    """Say which snapshot of a dataset a state is of; None: it is not of this dataset."""
    dataset = source.dataset
    newest = load_dataset_manifest(dataset.root, policy=dataset.settings.policy)
    known = {
        **{each.fingerprint: each.episodes for each in newest.snapshots},
        newest.fingerprint: newest.total_episodes,
    }
    if fingerprint not in known:
        return None
    return (
        f"{storage.redacted(dataset.root)} had {known[fingerprint]} episodes when the state was "
        f"saved, and has {newest.total_episodes}"
    )
