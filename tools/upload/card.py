"""The dataset card: README.md with what the dataset holds and the line that loads it, and a sample
picture.

A pure function of the dataset and its URL. Names and tasks come from the source and are escaped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import yaml

from roboshard import storage
from roboshard.common.jsonio import Json
from roboshard.common.plain import plain
from roboshard.common.selection import spread
from roboshard.shards.cameras import EPISODES_LOOKED_AT, summarize_cameras
from roboshard.shards.reader import ShardedDataset
from roboshard.tools.upload.preview import Preview, make_preview

CARD = "README.md"
PREVIEW = "roboshard-preview.png"
MARK = (
    "<!-- This card was made by roboshard upload-shards. Remove this line to keep your changes. -->"
)
TAGS = ("LeRobot", "robotics", "webdataset", "roboshard")
SHOWN_TASKS = 20
SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
LARGER_SIZES = (
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**12, "10B<n<100B"),
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """README.md and the picture beside it."""

    text: str
    picture: bytes | None
    notes: tuple[str, ...]
    """Why there is no picture, in words for people; empty where there is one."""


def is_ours(readme: bytes) -> bool:
    """Whether a README may be written anew: roboshard wrote it, and nobody took it over."""
    return MARK.encode() in readme


def make_card(root: str, url: str) -> Card:
    """Return the card of the local dataset `root` that will be at `url`."""
    dataset = ShardedDataset.open(root)
    preview = make_preview(root, dataset)
    parts = [
        _front_matter(dataset, url),
        MARK,
        f"# {_plain(dataset.manifest.source.name)}",
        _introduction(dataset),
        *([f"![first frames of some episodes]({PREVIEW})"] if preview.png else []),
        _loading(url),
        _counts(dataset),
        _cameras(dataset),
        _features(dataset.manifest.features),
        _tasks(dataset.manifest.tasks),
    ]
    return Card(
        text="\n\n".join(part for part in parts if part) + "\n",
        picture=preview.png,
        notes=_notes(preview),
    )


def _notes(preview: Preview) -> tuple[str, ...]:
    return () if preview.png else (f"the card has no sample picture: {preview.why_not}",)


def _front_matter(dataset: ShardedDataset, url: str) -> str:
    frames = dataset.manifest.total_frames
    size = next((name for most, name in (*SIZES, *LARGER_SIZES) if frames < most), "n>1T")
    values: dict[str, object] = {
        "pretty_name": plain(dataset.manifest.source.name, lines=True),
        "task_categories": ["robotics"],
        "tags": list(TAGS),
        "size_categories": [size],
    }
    if (
        url.startswith("hf://datasets/") and url.count("/") == 4
    ):  # at its root: what the dataset viewer shows
        values["configs"] = [{"config_name": "default", "data_files": "shards/*.tar"}]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _introduction(dataset: ShardedDataset) -> str:
    source = dataset.manifest.source
    revision = f" at revision {_code(source.revision)}" if source.revision else ""
    options = dataset.manifest.conversion.options.get("video")
    how = "converted" if options else "converted losslessly"
    video = (
        _encoded_again(options, dataset.camera_keys)
        if options
        else "Video is copied packet by packet"
    )
    return (
        "A [LeRobot](https://github.com/huggingface/lerobot) dataset "
        f"({_code(source.codebase_version)}) as "
        f"[WebDataset](https://github.com/webdataset/webdataset) shards, {how} by roboshard from "
        f"{_code(source.name)}{revision}. {video}; every row keeps its frame."
    )


def _encoded_again(options: Json, cameras: Sequence[str]) -> str:
    named = options.get("cameras") if isinstance(options, dict) else None
    known = [key for key in cameras if isinstance(named, list) and key in named]
    which = f" of {', '.join(map(_code, known))}" if known else ""
    rest = ", the rest is copied packet by packet" if 0 < len(known) < len(cameras) else ""
    return f"Video{which} is encoded again (see `conversion.options.video` in dataset.json){rest}"


def _loading(url: str) -> str:
    return (
        "## Load\n\n```python\nfrom roboshard.loader import make_loader\n\n"
        f"loader = make_loader({storage.redacted(url)!r}, batch_size=64)\n```"
    ).replace("'", '"')


def _counts(dataset: ShardedDataset) -> str:
    manifest = dataset.manifest
    size = sum(shard.size for shard in manifest.shards)
    robot = manifest.info.get("robot_type")
    hours = manifest.total_frames / manifest.fps / 3600
    return _table(
        ["", ""],
        [
            ["episodes", f"{manifest.total_episodes:,}"],
            ["frames", f"{manifest.total_frames:,}"],
            ["fps", f"{manifest.fps:g}"],
            ["duration", f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"],
            ["shards", f"{len(manifest.shards):,}"],
            ["size", _bytes(size)],
            *([["robot", _plain(robot)]] if isinstance(robot, str) else []),
            ["fingerprint", _code(manifest.fingerprint)],
        ],
        "## Contents",
    )


def _cameras(dataset: ShardedDataset) -> str:
    """Return the table of cameras, from a few episodes, evenly spread."""
    positions = spread(len(dataset.index), EPISODES_LOOKED_AT)
    records = (dataset.read_episode(position, cameras=[]).record for position in positions)
    cameras = summarize_cameras((camera, 0) for record in records for camera in record.cameras)
    rows = [
        [
            _code(each.key),
            *map(_plain, (each.codec, each.size.replace("x", "×"), each.pix_fmt)),
            f"{each.gop:.1f}",
        ]
        for each in sorted(cameras, key=attrgetter("key"))
    ]
    headings = ["camera", "codec", "size", "pixel format", "frames per keyframe"]
    return _table(headings, rows, "## Cameras") if rows else ""


def _features(features: Mapping[str, Mapping[str, Json]]) -> str:
    rows = []
    for name, feature in features.items():
        names = feature.get("names")
        shape = feature.get("shape")
        shown = "×".join(map(str, shape)) if isinstance(shape, list) else ""
        rows.append(
            [
                _code(name),
                _plain(str(feature.get("dtype", ""))),
                _plain(shown),
                _plain(_flat(names)),
            ]
        )
    return _table(["feature", "type", "shape", "names"], rows, "## Features")


def _tasks(tasks: Sequence[str]) -> str:
    lines = [f"- {_plain(task)}" for task in tasks[:SHOWN_TASKS]]
    more = [f"- … and {len(tasks) - SHOWN_TASKS} more"] if len(tasks) > SHOWN_TASKS else []
    return "\n".join(["## Tasks", "", *lines, *more]) if tasks else ""


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    lines = [
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join([title, "", *lines])


def _flat(names: Json) -> str:
    if isinstance(names, dict):
        return ", ".join(filter(None, (_flat(value) for value in names.values())))
    if isinstance(names, list):
        return ", ".join(map(str, names))
    return ""


def _plain(text: str) -> str:
    """Escape a text so that nothing in it is markup, a link, a line break or a table's border."""
    escaped = re.sub(r"([\\`*_{}\[\]<>()!|~$&:@])", r"\\\1", " ".join(plain(text).split()))
    escaped = re.sub(r"\b(www)\.", r"\1\\.", escaped, flags=re.IGNORECASE)
    return (
        re.sub(r"^([#+-]|\d+(?=[.)]))", r"\\\1", escaped)
        if not escaped[:1].isdigit()
        else escaped.replace(".", r"\.", 1)
    )


def _code(text: str) -> str:
    line = " ".join(plain(text).split()) or " "
    return f"`{line.replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if unit != "bytes" else f"{size} bytes"
        value /= 1000
    return f"{value:.1f} TB"
