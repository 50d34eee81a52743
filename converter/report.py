"""What a conversion did, for whoever ran it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roboshard.common.errors import StorageError
from roboshard.common.selection import spread
from roboshard.converter.shard import ShardResult, SkippedEpisode
from roboshard.converter.source.findings import FindingGroup, grouped
from roboshard.shards.cameras import EPISODES_LOOKED_AT, summarize_cameras
from roboshard.shards.documents import Finding
from roboshard.shards.reader import ShardedDataset


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion did."""

    destination: Path | str
    """A folder, or the URL that the shards were sent to."""
    episodes: int
    frames: int
    shards: int
    bytes_written: int
    """Bytes of all shards together."""
    reused_shards: int
    """Shards that an earlier run had finished."""
    kept_episodes: int
    """Episodes of a dataset that has grown which it had before; the numbers above do not count
    them.
    """
    skipped: tuple[SkippedEpisode, ...]
    video: str | None
    """Which cameras were encoded again and how, and which were copied; None: all were copied."""
    random_frame_costs: dict[str, float]
    """Camera -> frames decoded for one frame picked at random, over a few episodes; about half its
    GOP.
    """
    findings: tuple[FindingGroup, ...]
    """What is odd in the source and how it was read, kind by kind."""


def make_report(
    results: Sequence[ShardResult],
    where: Path | str,
    video: str | None,
    findings: Sequence[Finding],
) -> ConversionReport:
    """Sum up what was made of shards; `findings` are those of the metadata.

    Still without `random_frame_costs` and `kept_episodes`.
    """
    manifests = [result.manifest for result in results if result.manifest is not None]
    samples = [sample for manifest in manifests for sample in manifest.samples]
    return ConversionReport(
        destination=where,
        episodes=len(samples),
        frames=sum(sample.length for sample in samples),
        shards=len(manifests),
        bytes_written=sum(manifest.size for manifest in manifests),
        reused_shards=sum(result.reused for result in results),
        kept_episodes=0,
        skipped=tuple(episode for result in results for episode in result.skipped),
        video=video,
        random_frame_costs={},
        findings=grouped([*findings, *(odd for sample in samples for odd in sample.findings)]),
    )


def random_frame_costs(destination: str) -> dict[str, float]:
    """Return `ConversionReport.random_frame_costs` of a dataset; empty where it cannot be read."""
    try:
        return _measured_costs(destination)
    except StorageError:  # the dataset is there and right; what is read here only serves a hint
        return {}


def _measured_costs(destination: str) -> dict[str, float]:
    dataset = ShardedDataset.open(destination)
    positions = spread(len(dataset.index), EPISODES_LOOKED_AT)
    records = (dataset.read_episode(position, cameras=[]).record for position in positions)
    cameras = summarize_cameras((camera, 0) for record in records for camera in record.cameras)
    return {camera.key: camera.random_cost for camera in cameras}
