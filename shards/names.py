"""Names in the shard format: samples, members, shards, and the files beside them.

Pure functions. A sample key holds no dot, because WebDataset takes a member's key to be its name up
to the first dot; and no two suffixes of a sample differ by case alone, because WebDataset
lower-cases suffixes.
"""

import re
from collections.abc import Sequence

from roboshard.common.errors import FormatError, OptionError

DATASET_MANIFEST = "dataset.json"
EPISODE_INDEX = "episodes.parquet"
SKIPPED_REPORT = "skipped.json"
SHARD_FOLDER = "shards"
SNAPSHOT_FOLDER = "snapshots"
LEROBOT_FOLDER = "meta"
"""What LeRobot's own datasets read of a folder of shards; derived, and no part of the format."""
RECORD_SUFFIX = "json"
ROWS_SUFFIX = "parquet"
MP4_SUFFIX = ".mp4"
MATROSKA_SUFFIX = ".mkv"
MAX_EPISODES = 10**9
MAX_SHARDS = 10**6
MAX_NAME_BYTES = 255  # of one path component, on the file systems in use

_KEY = re.compile(r"ep-([0-9]{9})")
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]")
_SHARD = re.compile(r"shards/shard-([0-9]{6})\.tar")


def sample_key(episode_index: int) -> str:
    """The WebDataset key of an episode: `ep-000000012`."""
    if not 0 <= episode_index < MAX_EPISODES:
        raise OptionError(f"episode index {episode_index} is outside 0..{MAX_EPISODES - 1}")
    return f"ep-{episode_index:09d}"


def episode_of_key(key: str) -> int:
    """The episode index that a sample key stands for."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise FormatError(f"sample key {key!r} is not of the form ep-000000012")
    return int(match[1])


def member_name(key: str, suffix: str) -> str:
    """The tar member that holds `suffix` of the sample `key`."""
    return f"{key}.{suffix}"


def split_member_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member name, as WebDataset splits it.

    Raises FormatError for names that are not safe.
    """
    key, dot, suffix = name.partition(".")
    unsafe = "/" in name or "\\" in name or any(ord(c) < 32 or ord(c) == 127 for c in name)
    if unsafe or not key or not dot or not suffix:
        raise FormatError(f"member name {name!r} is not a plain KEY.SUFFIX file name")
    return key, suffix


def shard_name(number: int) -> str:
    """The path of a shard under the dataset's root: `shards/shard-000000.tar`."""
    if not 0 <= number < MAX_SHARDS:
        raise OptionError(
            f"shard number {number} is outside 0..{MAX_SHARDS - 1}; choose a larger shard size"
        )
    return f"{SHARD_FOLDER}/shard-{number:06d}.tar"


def is_shard_name(name: str) -> bool:
    """Whether a path under the root is that of a shard."""
    return _SHARD.fullmatch(name) is not None


def shard_number(name: str) -> int:
    """The number of a shard, by its path under the root."""
    return int(name.removesuffix(".tar").rpartition("-")[2])


def shard_manifest_name(shard: str) -> str:
    """The path of the manifest of the shard `shards/shard-000000.tar`."""
    return shard.removesuffix(".tar") + ".json"


def snapshot_name(fingerprint: str) -> str:
    """The path of the dataset.json of a dataset that has grown since, by its fingerprint."""
    return f"{SNAPSHOT_FOLDER}/{fingerprint}.json"


def grown_index_name(sha256: str) -> str:
    """The path of the index of a dataset that has grown, by the SHA-256 of its content."""
    return f"{SNAPSHOT_FOLDER}/episodes-{sha256[:16]}.parquet"


def camera_suffixes(camera_keys: Sequence[str]) -> dict[str, str]:
    """Camera feature key -> member suffix, `<key>.mp4`, made unique where keys differ by case
    alone.

    What cannot stand in a file's name, `/` above all, becomes `_`; the episode's record says whose
    a member is. Keys that need no such change come first. Of keys that collide, the first in sorted
    order keeps its name; the others get `-2`, `-3`, … appended. A slice that an MP4 file cannot
    hold is a member of the same name with `.mkv` in place of `.mp4`.
    """
    suffixes: dict[str, str] = {}
    taken: set[str] = set()
    lowered = [key.lower() for key in camera_keys]
    for key in sorted(camera_keys, key=lambda key: (_plain(key) != key, key)):
        plain = _plain(key)
        _check_camera_key(key, plain)
        name, n = plain, 1
        while name.lower() in taken or (n > 1 and name.lower() in lowered):
            n += 1
            name = f"{plain}-{n}"
        taken.add(name.lower())
        suffixes[key] = name + MP4_SUFFIX
    return {key: suffixes[key] for key in camera_keys}


def matroska_suffix(suffix: str) -> str:
    """Return a camera's suffix where its slice is a Matroska file: `<key>.mkv` for `<key>.mp4`."""
    return suffix.removesuffix(MP4_SUFFIX) + MATROSKA_SUFFIX


def is_matroska(member: str) -> bool:
    """Return whether a member, by its name or suffix, is a Matroska file."""
    return member.endswith(MATROSKA_SUFFIX)


def _plain(key: str) -> str:
    return _UNSAFE.sub("_", key)


def _check_camera_key(key: str, plain: str) -> None:
    name = member_name(sample_key(0), plain + MP4_SUFFIX)
    try:
        split_member_name(name)
    except FormatError as error:
        raise OptionError(f"camera key {key!r} cannot name a tar member: {error}") from None
    if len(name.encode()) > MAX_NAME_BYTES - 8:
        raise OptionError(f"camera key {key!r} is too long to name a tar member")
