"""What a conversion needs of the place that it writes to, whether that is a folder or object
storage.

prepared   held against other conversions; refused where another one wrote; dataset.json withdrawn
place      where one shard goes: what an earlier run finished of it, and how a new one is delivered
publish    what was left out; then the index, and dataset.json last of all
"""

from collections.abc import Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self

from roboshard import storage
from roboshard.common import jsonio
from roboshard.common.errors import FormatError
from roboshard.shards.names import SKIPPED_REPORT, shard_manifest_name
from roboshard.shards.schema import MAX_MANIFEST_BYTES, Provenance, ShardManifest

GROW = "--append adds to a dataset what is new in its source"
"""What an error advises where another conversion's dataset is."""
SeenShard = tuple[bytes, int, str]
"""A shard as it is there: its manifest's bytes, its size, its SHA-256."""


class ShardPlace(Protocol):
    """Where one shard goes. Small enough to be sent to a worker."""

    @property
    def folder(self) -> Path:
        """The folder in which the shard is written, under its name."""

    @property
    def shard(self) -> str:
        """Name of the shard, as `shard_name` makes it."""

    def exists(self) -> bool:
        """Whether there is anything of the shard."""

    def finished(self) -> SeenShard | None:
        """Return what an earlier run left of the shard; None where the shard or its manifest is
        missing or cannot be read.

        Raises:
            OptionError: what is there is another conversion's.
        """

    def deliver(self, manifest: ShardManifest | None) -> None:
        """Bring a shard that was written to `folder` to where it belongs, and see that it is there.

        None: every episode was skipped, and nothing was written; what an earlier run left is
        removed.
        """

    def on_node(self) -> AbstractContextManager[Self]:
        """Open this place for a task on another machine of a cluster, which may not have this one's
        folders.

        Raises OptionError where it needs a folder that the machine does not see.
        """

    def check_seen(self, manifest: ShardManifest) -> None:
        """See that a shard which another machine delivered is there. Raises OptionError."""


class Destination(Protocol):
    """Where all shards of a conversion go: a folder, or object storage."""

    @property
    def root(self) -> str:
        """Folder or URL to read the dataset from."""

    @property
    def shown(self) -> Path | str:
        """The destination's folder or URL for reports and messages, without credentials."""

    @property
    def first_shard(self) -> int:
        """Number of the first shard; known once the destination is prepared."""

    def prepared(self, part: range | None) -> AbstractContextManager[None]:
        """Hold the place until the end; withdraw dataset.json.

        Args:
            part: numbers of the shards that this run is about, beside which other runs write
                theirs; None: all.

        Raises:
            OptionError: another conversion's shards or dataset are there, or it is writing now.
        """

    def place(self, number: int) -> ShardPlace:
        """Return where a shard goes, by its number in the plan."""

    def publish_skipped(self, skipped: Sequence[tuple[int, str]], tried: Set[int]) -> None:
        """Write skipped.json, with indices and reasons; remove an old one where nothing was
        skipped.

        `tried` are the episodes that this run was about: of others, what an earlier run of a
        dataset that grows left out stays there.
        """

    def publish(self, provenance: Provenance, manifests: Sequence[ShardManifest]) -> None:
        """Write the index, then dataset.json."""


def files_of(shard: str) -> tuple[str, str]:
    """Return the names of a shard and of its manifest."""
    return shard, shard_manifest_name(shard)


def write_skipped(folder: Path, skipped: Sequence[tuple[int, str]]) -> None:
    """Write skipped.json: what was left out and why; remove an old one where nothing was."""
    path = folder / SKIPPED_REPORT
    if not skipped:
        path.unlink(missing_ok=True)
        return
    episodes = [{"episode_index": index, "reason": reason} for index, reason in sorted(skipped)]
    storage.write_bytes(path, jsonio.dump({"skipped": episodes}))


def kept_skipped(data: bytes | None, tried: Set[int]) -> list[tuple[int, str]]:
    """Return what an old skipped.json says of episodes that were not tried now; nothing where it
    cannot be read.
    """
    if data is None:
        return []
    try:
        listed = jsonio.load(data, SKIPPED_REPORT, MAX_MANIFEST_BYTES).get("skipped")
    except FormatError:
        return []
    entries = (
        [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    )
    found = [(each.get("episode_index"), each.get("reason")) for each in entries]
    return [
        (index, reason)
        for index, reason in found
        if isinstance(index, int) and isinstance(reason, str) and index not in tried
    ]
