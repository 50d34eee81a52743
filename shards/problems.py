"""What contradicts itself in a manifest, in words: every problem with its place."""

from itertools import accumulate

from roboshard.shards.features import spec_problems
from roboshard.shards.names import (
    EPISODE_INDEX,
    grown_index_name,
    is_shard_name,
    sample_key,
    shard_manifest_name,
    snapshot_name,
)
from roboshard.shards.schema import DatasetManifest, SampleEntry, ShardManifest
from roboshard.shards.tar import BLOCK, padded


def dataset_problems(manifest: DatasetManifest) -> list[str]:
    """What contradicts itself in dataset.json."""
    problems = name_problems(manifest)
    names = manifest.shards.names
    if sorted(set(names)) != names:
        problems.append("shards: not in ascending order of name, or one occurs twice")
    if sum(manifest.shards.episodes.tolist()) != manifest.total_episodes:
        problems.append("total_episodes: not the sum over shards")
    if sum(manifest.shards.frames.tolist()) != manifest.total_frames:
        problems.append("total_frames: not the sum over shards")
    return [*problems, *_snapshot_problems(manifest), *spec_problems(manifest.features)]


def name_problems(manifest: DatasetManifest) -> list[str]:
    """Names in dataset.json that are not those which the format gives: others could lead
    anywhere.
    """
    problems = []
    for i, shard in sorted(manifest.shards.unlike.items()):  # the others have the right ones
        if not is_shard_name(shard.name):
            problems.append(f"shards.{i}.name: {shard.name!r} is not shards/shard-NNNNNN.tar")
        elif shard.manifest.name != shard_manifest_name(shard.name):
            problems.append(
                f"shards.{i}.manifest.name: {shard.manifest.name!r} does not belong to {shard.name}"
            )
    indexes = [(f"snapshots.{i}.index", each.index) for i, each in enumerate(manifest.snapshots)]
    for i, snapshot in enumerate(manifest.snapshots):
        right = snapshot_name(snapshot.fingerprint)
        if snapshot.manifest.name != right:
            problems.append(
                f"snapshots.{i}.manifest.name: must be {right}, not {snapshot.manifest.name!r}"
            )
    for i, (field, index) in enumerate([*indexes, ("index", manifest.index)]):
        expected = grown_index_name(index.sha256) if i else EPISODE_INDEX
        if index.name != expected:
            problems.append(f"{field}.name: must be {expected}, not {index.name!r}")
    return problems


def _snapshot_problems(manifest: DatasetManifest) -> list[str]:
    """What contradicts the rest in what dataset.json says of its snapshots: each holds more than
    the one before.
    """
    problems, before = [], 0
    episodes, frames = (
        list(accumulate(counts.tolist(), initial=0))
        for counts in (manifest.shards.episodes, manifest.shards.frames)
    )
    for i, snapshot in enumerate(manifest.snapshots):
        count = snapshot.shards
        if not before < count < len(manifest.shards):
            problems.append(
                f"snapshots.{i}.shards: {count} is not more than {before}, and less than all"
            )
        elif (snapshot.episodes, snapshot.frames) != (episodes[count], frames[count]):
            problems.append(f"snapshots.{i}: episodes or frames are not those of its shards")
        before = count
    fingerprints = [
        manifest.fingerprint,
        *(snapshot.fingerprint for snapshot in manifest.snapshots),
    ]
    if len(set(fingerprints)) != len(fingerprints):
        problems.append("snapshots: a fingerprint occurs twice")
    return problems


def shard_problems(manifest: ShardManifest) -> list[str]:
    """What contradicts itself in a shard manifest: samples must tile the shard, members their
    sample.
    """
    problems, position = [], 0
    for i, sample in enumerate(manifest.samples):
        if sample.key != sample_key(sample.episode_index):
            problems.append(
                f"samples.{i}.key: {sample.key!r} is not episode {sample.episode_index}'s"
            )
        if sample.offset != position:
            problems.append(
                f"samples.{i}.offset: {sample.offset} where the sample before ends at {position}"
            )
        position = sample.offset + sample.size
        problems += [f"samples.{i}.{problem}" for problem in member_problems(sample)]
    if position != manifest.size:
        problems.append(f"samples end at {position}, the shard at {manifest.size}")
    if len({sample.key for sample in manifest.samples}) != len(manifest.samples):
        problems.append("samples: a key occurs twice")
    return problems


def member_problems(sample: SampleEntry) -> list[str]:
    """Return what contradicts itself in the members of a sample: they must lie in its range, one
    after the other.
    """
    problems, position = [], sample.offset
    for j, member in enumerate(sample.members):
        if not member.name.startswith(f"{sample.key}."):
            problems.append(f"members.{j}.name: {member.name!r} is not of sample {sample.key}")
        if member.offset < position + BLOCK or member.offset % BLOCK:
            problems.append(f"members.{j}.offset: {member.offset} leaves no room for a tar header")
        position = member.offset + padded(member.size)
    if position > sample.offset + sample.size:
        problems.append("members: reach past the end of the sample")
    if len({member.name.lower() for member in sample.members}) != len(sample.members):
        problems.append("members: a name occurs twice (case does not count)")
    return problems
