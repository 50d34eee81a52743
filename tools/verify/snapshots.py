"""Check what a dataset was before it grew, which can still be loaded."""

from bisect import bisect_right

from roboshard.common.errors import DamageError, MissingError, RoboshardError, StorageError
from roboshard.shards.index import MAX_INDEX_BYTES, read_index
from roboshard.shards.manifest import load_index
from roboshard.shards.schema import DatasetManifest, Snapshot
from roboshard.shards.snapshots import load_snapshot
from roboshard.tools.verify.config import VerifyConfig
from roboshard.tools.verify.episode import Expected
from roboshard.tools.verify.problems import COPY_AGAIN, READ_AGAIN, REBUILD, Place, Problems
from roboshard.tools.verify.rows import provenance_fields


def expected_of(
    root: str, manifest: DatasetManifest, config: VerifyConfig, problems: Problems
) -> list[Expected]:
    """Return what is said of each generation of shards; all but the last are a snapshot's."""
    found = [*check_snapshots(root, manifest, problems), manifest]
    conversions = [*(each.conversion for each in manifest.snapshots), manifest.conversion.id]
    return [
        Expected(
            manifest=manifest if own is None else own,
            conversion=conversion,
            provenance=None if own is None else provenance_fields(own),
            frames=config.frames,
            seed=config.seed,
        )
        for own, conversion in zip(found, conversions, strict=True)
    ]


def check_snapshots(
    root: str, manifest: DatasetManifest, problems: Problems
) -> list[DatasetManifest | None]:
    """Read each snapshot's dataset.json and index, oldest first.

    Args:
        root: the dataset.
        manifest: its dataset.json.
        problems: told what is wrong.

    Returns:
        The manifests; None where one cannot be read.
    """
    return [_check(root, manifest, number, problems) for number in range(len(manifest.snapshots))]


def generation_of(manifest: DatasetManifest, shard: int) -> int:
    """Return with which snapshot a shard came, by its place in dataset.json; the last number: since
    the newest.
    """
    return bisect_right(manifest.snapshots, shard, key=lambda snapshot: snapshot.shards)


def _check(
    root: str, manifest: DatasetManifest, number: int, problems: Problems
) -> DatasetManifest | None:
    snapshot: Snapshot = manifest.snapshots[number]
    try:
        found = load_snapshot(root, manifest, number)
    except RoboshardError as error:
        place = Place(problems=problems, file=snapshot.manifest.name)
        place.report_error(error, _remedy(error))
        return None
    try:
        read_index(load_index(root, found, MAX_INDEX_BYTES), found, snapshot.index.name)
    except RoboshardError as error:
        place = Place(problems=problems, file=snapshot.index.name)
        place.report_error(error, _remedy(error))
    return found


def _remedy(error: RoboshardError) -> str:
    if isinstance(error, StorageError):
        return READ_AGAIN
    return COPY_AGAIN if isinstance(error, MissingError | DamageError) else REBUILD
