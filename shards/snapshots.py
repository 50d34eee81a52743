"""What a dataset was before it grew: which snapshot is meant, and its dataset.json.

Snapshots are numbered as they came: 0 is the dataset as it was first converted, the last number is
what it is now.
"""

from roboshard import storage
from roboshard.common.errors import FormatError, OptionError
from roboshard.shards.manifest import load_checked, parse_dataset_manifest
from roboshard.shards.schema import MAX_MANIFEST_BYTES, DatasetManifest

SnapshotName = int | str
"""Number of a snapshot, or its fingerprint, of which the first eight digits will do."""

MIN_DIGITS = 8
REMEDY = "copy it again, or `roboshard rebuild` derives it from the shards"


def parse_snapshot(text: str | None) -> SnapshotName | None:
    """Return what a user's text names: a number, as short as numbers are, else a fingerprint."""
    is_number = text is not None and len(text) < MIN_DIGITS and text.isdecimal()
    return int(text) if text is not None and is_number else text


def snapshot_number(manifest: DatasetManifest, snapshot: SnapshotName, what: str) -> int:
    """Return the number of the snapshot that is meant; that of the newest is how many there are
    before it.

    Args:
        manifest: the dataset as it is now.
        snapshot: number or fingerprint.
        what: the dataset, for messages.

    Raises:
        OptionError: there is none of that number or fingerprint, or several whose fingerprints
            begin so.
    """
    fingerprints = [*(entry.fingerprint for entry in manifest.snapshots), manifest.fingerprint]
    newest = len(fingerprints) - 1
    if isinstance(snapshot, int) and not isinstance(snapshot, bool):
        if 0 <= snapshot <= newest:
            return snapshot
        raise OptionError(
            f"{what}: snapshot {snapshot} is not one of 0..{newest}, of which {newest} is the "
            "dataset as it is now"
        )
    if not isinstance(snapshot, str) or len(snapshot) < MIN_DIGITS:
        raise OptionError(
            f"snapshot {snapshot!r:.100} must be a number, or a fingerprint of at least "
            f"{MIN_DIGITS} digits"
        )
    found = [i for i, each in enumerate(fingerprints) if each.startswith(snapshot.lower())]
    if len(found) != 1:
        raise OptionError(
            f"{what}: {len(found)} snapshots have a fingerprint that begins with "
            f"{snapshot!r:.100}; `roboshard inspect` lists them"
        )
    return found[0]


def load_snapshot(
    root: str,
    manifest: DatasetManifest,
    snapshot: SnapshotName | None,
    *,
    policy: storage.RetryPolicy = storage.READING,
) -> DatasetManifest:
    """Return the dataset.json of a snapshot, checked against what the dataset's own says of it.

    Args:
        root: the dataset.
        manifest: its dataset.json.
        snapshot: number or fingerprint; None: the newest.
        policy: of retries.

    Raises:
        OptionError: there is no such snapshot.
        MissingError, DamageError, FormatError, StorageError: its dataset.json cannot be read, or is
            not the one that the dataset names.
    """
    what = storage.redacted(root)
    number = (
        len(manifest.snapshots) if snapshot is None else snapshot_number(manifest, snapshot, what)
    )
    if number == len(manifest.snapshots):
        return manifest
    entry = manifest.snapshots[number]
    what = storage.redacted(storage.join(root, entry.manifest.name))
    data = load_checked(root, entry.manifest, MAX_MANIFEST_BYTES, policy, REMEDY)
    found = parse_dataset_manifest(data, what)
    stated = {
        "fingerprint": (found.fingerprint, entry.fingerprint),
        "conversion": (found.conversion.id, entry.conversion),
        "shards": (found.shards, manifest.shards[: entry.shards]),
        "index": (found.index, entry.index),
        "snapshots": (found.snapshots, manifest.snapshots[:number]),
    }
    problems = [
        f"{name}: not as dataset.json says" for name, (one, other) in stated.items() if one != other
    ]
    if problems:
        raise FormatError(f"{what}: contradicts dataset.json:", problems)
    return found
