"""Forges datasets and sources from a seed, reads them, and says what came of it.

Run by `make fuzz`.

A case is a family and a seed, nothing else, so every finding can be made again:

    PYTHONPATH=tests python -m support.fuzz --family forged --seed 1234 --cases 1

Outcomes: `right` (what was read is what the model expects), `refused` (a RoboshardError), `silent`
(something else was read without an error), `raw` (another exception came out). The model: damaged
shards give the original's samples; forged ones give, for each sample, what its rows hold, read
without the loader, in the declared types, and pictures like the honest ones.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset
from roboshard.shards import RoboshardError
from support.damage import Forgery, files_of
from support.lerobot_source import Camera, Source, build

ODD: list[Any] = [
    None, True, -1, 0, 1, 2, 255, 1 << 31, 1 << 40, 1 << 63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x",
    "\x00", "../../x", "\x1b]52;c;x\x07", "0" * 64, "deadbeef", [], {}, [[]], [0], [1, 1, 1], {"a": []}, "video",
    "image", "string", "float32", "int64", "[/x]", "é" * 300,
]  # fmt: skip

NUMBERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that hold one number a row."""

Json = Any
Make = Callable[[random.Random, "Bases", Path], tuple[Path, bool]]


@dataclass(frozen=True)
class Bases:
    """Honest datasets that cases start from."""

    source: Path
    shards: Path
    image_shards: Path
    expected: list[dict[str, Any]]

    @classmethod
    def make(cls, folder: Path) -> Bases:
        """Build the sources and convert them."""
        camera = Camera(key="observation.images.top")
        source = build(folder / "source", Source(lengths=(4, 5), cameras=(camera,))).root
        image = folder / "image_source"
        _with_images(Path(shutil.copytree(source, image)))
        for name in (source, image):
            _convert(name, name.with_name(f"{name.name}_shards"))
        shards = source.with_name("source_shards")
        return cls(source, shards, image.with_name("image_source_shards"), samples(shards))


def _convert(source: Path, root: Path) -> None:
    convert(ConvertConfig(source=str(source), destination=str(root), workers=1))


def _with_images(root: Path) -> None:
    """Give a source a feature of images beside its video."""
    import io  # noqa: PLC0415 - here alone

    from PIL import Image  # noqa: PLC0415

    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["observation.images.still"] = {
        "dtype": "image", "shape": [8, 6, 3], "names": ["height", "width", "channels"],
    }  # fmt: skip
    path.write_text(json.dumps(info))
    for file in (root / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        images = []
        for row in range(len(table)):
            with io.BytesIO() as sink:
                Image.new("RGB", (6, 8), (row, 2, 3)).save(sink, "PNG")
                images.append({"bytes": sink.getvalue(), "path": None})
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(
            table.append_column("observation.images.still", pa.array(images, kind)), file
        )


def samples(root: Path) -> list[dict[str, Any]]:
    """Read everything as a user would."""
    dataset = open_dataset(str(root), decode_threads=1)
    try:
        return [
            {name: _as_plain(value) for name, value in dataset[i].items()}
            for i in range(len(dataset))
        ]
    finally:
        dataset.close()


def _as_plain(value: Any) -> Any:
    return value.numpy() if hasattr(value, "numpy") else value


def equal(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    """Whether two datasets gave the same samples."""
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[key], y[key]) for key in x)
        for x, y in zip(a, b, strict=True)
    )


def alike(found: list[dict[str, Any]], expected: list[dict[str, Any]], root: Path) -> bool:
    """Whether samples hold what the rows of a dataset's shards do, and pictures like the honest
    ones.

    Shapes of the robot's own features are hints, as LeRobot up to 0.3 takes them: what is stored is
    right.
    """
    features = json.loads((root / "dataset.json").read_text())["features"]
    rows = stored_rows(root)
    return len(found) == len(expected) == len(rows) and all(
        key in sample
        and (
            _is_stored(sample[key], row.get(key), features[key]["dtype"], key)
            if key in features and features[key]["dtype"] not in ("image", "video")
            else _is_like(sample[key], honest[key])
        )
        for sample, honest, row in zip(found, expected, rows, strict=True)
        for key in honest
    )


def stored_rows(root: Path) -> list[dict[str, Any]]:
    """Read the rows of all shards, in their order, without the loader."""
    rows: list[dict[str, Any]] = []
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".parquet") and (file := tar.extractfile(member)):
                    rows += pq.read_table(pa.BufferReader(file.read())).to_pylist()
    return rows


def _is_like(value: Any, honest: Any) -> bool:
    if value is None:
        return True
    # A track's matrix may turn its pictures, as it does for LeRobot.
    shapes = (np.shape(honest), (*np.shape(honest)[:-2], *np.shape(honest)[:-3:-1]))
    return (
        np.shape(value) in shapes and np.asarray(value).dtype.kind == np.asarray(honest).dtype.kind
    )


def _is_stored(value: Any, stored: Any, dtype: str, key: str) -> bool:
    """Whether a value is the stored one, with the declared type; None where it lacks something."""
    if value is None:
        return None in np.ravel(np.asarray(stored, dtype=object))
    kind = {"b": np.bool_, "f": np.float32}.get(np.dtype(dtype).kind, np.int64)
    right = np.asarray(stored).astype(kind)
    if key in NUMBERS and right.size != 1:
        return False
    return value.dtype == kind and np.array_equal(value, right, equal_nan=kind is np.float32)


# -- Families --------------------------------------------------------------------------------------


def _change(value: Json, dice: random.Random) -> None:
    """Put something odd at a random place of a JSON document."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return
        key = dice.choice(list(keys))
        inner = value[key]
        if isinstance(inner, dict | list) and inner and dice.random() < 0.8:
            value = inner
            continue
        act = dice.random()
        if act < 0.15:
            del value[key]
        elif act < 0.3 and isinstance(value, list):
            value.append(inner)
        elif act < 0.4 and isinstance(inner, int):
            value[key] = inner + dice.choice([-1, 1, 1 << 20])
        else:
            value[key] = dice.choice(ODD)
        return


def damaged(dice: random.Random, bases: Bases, folder: Path) -> tuple[Path, bool]:
    """Bytes change, nothing is repaired."""
    root = Path(shutil.copytree(bases.shards, folder / "case"))
    path = dice.choice(files_of(root))
    data = bytearray(path.read_bytes())
    at = dice.randrange(len(data))
    act = dice.randrange(4)
    if act == 0:
        data[at] ^= 1 << dice.randrange(8)
    elif act == 1:
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif act == 2:
        del data[at:]
    else:
        data[at:at] = dice.randbytes(dice.randrange(1, 600))
    path.write_bytes(data)
    return root, True


def _forgery(bases: Bases, folder: Path, *, images: bool = False) -> Forgery:
    return Forgery(bases.image_shards if images else bases.shards, folder / "case")


def forged(dice: random.Random, bases: Bases, folder: Path) -> tuple[Path, bool]:
    """Records and rows are edited, checksums repaired."""
    forgery = _forgery(bases, folder)

    def lie(members: dict[str, bytes]) -> None:
        if dice.random() < 0.5:
            record = json.loads(members["json"])
            for _ in range(dice.randrange(1, 3)):
                _change(record, dice)
            members["json"] = json.dumps(record).encode()
        elif dice.random() < 0.5:
            members["parquet"] = _edited_rows(members["parquet"], dice)
        else:
            members["parquet"] = _edited_bytes(members["parquet"], dice)

    forgery.put_members(0, dice.randrange(2), lie)
    return Path(forgery.seal()), False


def _edited_bytes(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def _edited_rows(data: bytes, dice: random.Random) -> bytes:
    table = pq.read_table(pa.BufferReader(data))
    number = dice.randrange(table.num_columns)
    name, column = table.column_names[number], table.column(number)
    act = dice.randrange(6)
    if act == 0:
        table = table.drop_columns([name])
    elif act == 1:
        table = table.set_column(number, name, pa.nulls(len(table), column.type))
    elif act == 2:
        table = table.set_column(number, name, pa.array([dice.choice(["", "x", "é"])] * len(table)))
    elif act == 3:
        table = table.append_column(name, column)
    elif act == 4:
        table = table.slice(0, dice.randrange(len(table)))
    else:
        table = table.set_column(number, name, pa.array([[1.0] * dice.randrange(4)] * len(table)))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def images(dice: random.Random, bases: Bases, folder: Path) -> tuple[Path, bool]:
    """The bytes of images in the rows are edited."""
    forgery = _forgery(bases, folder, images=True)

    def lie(members: dict[str, bytes]) -> None:
        table = pq.read_table(pa.BufferReader(members["parquet"]))
        name = "observation.images.still"
        rows = table.column(name).to_pylist()
        row = dice.randrange(len(rows))
        content = rows[row]["bytes"]
        rows[row]["bytes"] = dice.choice(
            [
                None,
                b"",
                b"%!PS-Adobe-3.0 EPSF-3.0\n",
                dice.randbytes(50),
                content[: len(content) // 2],
            ]
            + [_edited_bytes(content, dice)] * 10
        )
        kind = table.schema.field(name).type
        at = table.column_names.index(name)
        sink = pa.BufferOutputStream()
        pq.write_table(table.set_column(at, name, pa.array(rows, kind)), sink)
        members["parquet"] = bytes(sink.getvalue())

    forgery.put_members(0, dice.randrange(2), lie)
    return Path(forgery.seal()), False


def manifests(dice: random.Random, bases: Bases, folder: Path) -> tuple[Path, bool]:
    """dataset.json, a shard's manifest or the index are edited, hashes repaired."""
    forgery = _forgery(bases, folder)
    act = dice.randrange(3)
    if act == 0:
        return Path(forgery.seal(lambda dataset: _change(dataset, dice))), False
    if act == 1:
        _change(forgery.shards[0], dice)
    else:
        data = (forgery.root / "episodes.parquet").read_bytes()
        edit = _edited_rows if dice.random() < 0.5 else _edited_bytes
        forgery.put_index(edit(data, dice))
    return Path(forgery.seal()), False


def mp4(dice: random.Random, bases: Bases, folder: Path) -> tuple[Path, bool]:
    """The boxes of a slice are edited, checksums repaired; payload is left alone."""
    forgery = _forgery(bases, folder)

    def lie(members: dict[str, bytes]) -> None:
        (name,) = [name for name in members if name.endswith(".mp4")]
        data = bytearray(members[name])
        moov = data.find(b"moov") - 4
        size = int.from_bytes(data[moov : moov + 4], "big")
        for _ in range(dice.randrange(1, 4)):
            at = moov + dice.randrange(size)
            if dice.random() < 0.5:
                data[at] = dice.randrange(256)
            else:
                found = list(
                    re.finditer(rb"stsz|stts|stco|stsc|stss|ctts|elst|mdhd|tkhd|stsd", data)
                )
                at = dice.choice(found).end() + 4 * dice.randrange(6)
                data[at : at + 4] = dice.choice(
                    [0, 1, 2, 1 << 27, 0x7FFFFFFF, 0xFFFFFFFF]
                ).to_bytes(4, "big")
        members[name] = bytes(data)

    forgery.put_members(0, dice.randrange(2), lie)
    return Path(forgery.seal()), False


def sources(dice: random.Random, bases: Bases, folder: Path) -> tuple[Path, bool]:
    """Metadata or rows of a source are edited; what converts is loaded."""
    source = Path(shutil.copytree(bases.source, folder / "source"))
    documents = sorted(source.rglob("*.json"))
    tables = sorted(source.rglob("*.parquet"))
    if dice.random() < 0.5:
        path = dice.choice(documents)
        value = json.loads(path.read_text())
        _change(value, dice)
        path.write_text(json.dumps(value))
    else:
        path = dice.choice(tables)
        edit = _edited_rows if dice.random() < 0.7 else _edited_bytes
        path.write_bytes(edit(path.read_bytes(), dice))
    _convert(source, folder / "case")
    return folder / "case", False


FAMILIES: dict[str, Make] = {
    "damaged": damaged,
    "forged": forged,
    "sources": sources,
    "images": images,
    "manifests": manifests,
    "mp4": mp4,
}


# -- Running ---------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of the cases of a family."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    findings: list[str] = field(default_factory=list)
    """Seeds with what was silent or raw."""


def run_case(family: str, seed: int, bases: Bases) -> tuple[str, str]:
    """(outcome, name of the error or where it came from) of one case."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            root, is_same = FAMILIES[family](random.Random(f"{family} {seed}"), bases, Path(folder))
            found = samples(root)
        except RoboshardError as error:
            return "refused", type(error).__name__
        except Exception as error:  # noqa: BLE001 - whatever comes out is what is looked for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            ours = [
                f for f in traceback.extract_tb(error.__traceback__) if "/tests/" not in f.filename
            ]
            place = next((f for f in reversed(ours) if "site-packages" not in f.filename), frame)
            return (
                "raw",
                (
                    f"{type(error).__name__} at {Path(place.filename).name}:{place.name}: "
                    f"{error!s:.80}"
                ),
            )
        if is_same and not equal(found, bases.expected):
            return "silent", "other samples"
        if family in ("forged", "mp4", "images") and not alike(found, bases.expected, root):
            return "silent", "other keys, values, shapes or dtypes than stored and declared"
        return "right", ""


def run_family(family: str, seeds: range, bases: Bases) -> Tally:
    """Run the cases of a family, and count what came of them."""
    tally = Tally()
    for seed in seeds:
        started = time.monotonic()
        outcome, what = run_case(family, seed, bases)
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - started)
        tally.outcomes[outcome] += 1
        if what:
            tally.errors[what if outcome == "refused" else re.sub(r"[\d.]+", "N", what)] += 1
        if outcome in ("silent", "raw"):
            tally.findings.append(f"{family} {seed}: {outcome}: {what}")
    return tally


def peak_mb() -> int:
    """The largest memory that this process has had."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) // 1024 if found else 0


def main() -> int:
    """Run families and print their numbers; 1 where something was silent or raw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=[*FAMILIES, "all"], default="all")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--findings", type=int, default=20, help="how many to print")
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        bases = Bases.make(Path(folder))
        for family in FAMILIES if options.family == "all" else [options.family]:
            tally = run_family(family, range(options.seed, options.seed + options.cases), bases)
            outcomes = ", ".join(f"{name} {count}" for name, count in tally.outcomes.most_common())
            sys.stdout.write(
                f"{family}: {options.cases} cases: {outcomes}; slowest {tally.slowest_s:.1f} s, "
                f"peak {peak_mb()} MB\n"
            )
            for what, count in tally.errors.most_common(20):
                sys.stdout.write(f"    {count:6} {what}\n")
            for finding in tally.findings[: options.findings]:
                sys.stdout.write(f"  ! {finding}\n")
            sys.stdout.flush()
            bad += len(tally.findings)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
