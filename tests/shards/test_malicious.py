"""Datasets that were made to harm: every hash fits, so that only what the documents say can give
them away.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.damage import Forgery, cheaply, claims, read_everything
from support.tars import pad, raw_header

from roboshard.shards import (
    FormatError,
    MissingError,
    RoboshardError,
    ShardedDataset,
    VersionError,
    rebuild,
)
from roboshard.shards.index import INDEX_SCHEMA
from roboshard.shards.rows import MAX_ROWS_BYTES, decode_rows, read_episode_row
from roboshard.shards.schema import MAX_RECORD_BYTES

Json = dict[str, Any]
Members = dict[str, bytes]


@pytest.fixture
def forgery(pusht_shards: Path, tmp_path: Path) -> Forgery:
    return Forgery(pusht_shards, tmp_path / "forged")


def read_all(root: str) -> None:
    """All that a loader would do, short of decoding video."""
    dataset = ShardedDataset.open(root)
    for position, length in enumerate(dataset.index.length.tolist()):
        for episode in (dataset.read_episode(position, []), dataset.read_episode(position)):
            decode_rows(episode.rows, episode.where, length)


def refused(root: str, problem: str, read: Callable[[str], object] = read_all) -> None:
    with cheaply(), pytest.raises((FormatError, MissingError), match=problem):
        read(root)


def test_a_forgery_without_a_lie_is_read_as_the_original(
    forgery: Forgery, pusht_shards: Path
) -> None:
    forgery.put_members(1, 0, lambda members: None)
    root = forgery.seal()
    read_all(root)
    assert read_everything(root) == read_everything(pusht_shards)


# -- dataset.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../shards/shard-000000.tar", "/etc/passwd", "shards/../shards/shard-000000.tar", "shards/shard-0.tar",
        "shards//shard-000000.tar", "SHARDS/shard-000000.tar", "shards/shard-000000.tar\n", "shards/shard-٠٠٠٠٠٠.tar",
        "shard-000000.tar", "pipe:cat /etc/passwd", "http://host/shards/shard-000000.tar", "shards/\0.tar", "",
    ],
)  # fmt: skip
def test_only_shards_of_the_dataset_can_be_listed(name: str, forgery: Forgery) -> None:
    forgery.dataset["shards"][0]["name"] = name
    forgery.dataset["shards"][0]["manifest"]["name"] = "shards/shard-000000.json"
    refused(forgery.seal(), re.escape(f"shards.0.name: {name!r} is not shards/shard-NNNNNN.tar"))


@pytest.mark.parametrize(
    "name",
    [
        "../../x.json",
        "/etc/passwd",
        "shards/shard-000001.json",
        "dataset.json",
        "shards/shard-000000.tar",
    ],
)
def test_only_a_shards_own_manifest_is_read_for_it(name: str, forgery: Forgery) -> None:
    def lie(dataset: Json) -> None:
        dataset["shards"][0]["manifest"]["name"] = name

    refused(forgery.seal(lie), re.escape(f"shards.0.manifest.name: {name!r} does not belong"))


@pytest.mark.parametrize(
    "name", ["../episodes.parquet", "/etc/passwd", "shards/shard-000000.tar", ""]
)
def test_only_the_index_is_read_for_it(name: str, forgery: Forgery) -> None:
    def lie(dataset: Json) -> None:
        dataset["index"]["name"] = name

    refused(forgery.seal(lie), r"index\.name: must be episodes\.parquet")


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("total_frames", 1 << 40, "total_frames: not the sum over shards"),
        ("total_frames", 10**30, r"total_frames: Input should be less than"),
        ("total_frames", -1, "total_frames: "),
        ("total_frames", 644.0, "total_frames: "),
        ("total_episodes", 10**12, "total_episodes: not the sum over shards"),
        ("shards", [], "not the sum over shards"),
        ("shards", {}, "shards: Input should be"),
        ("shards.0", "shards/shard-000000.tar", r"shards\.0: "),
        ("shards.0.size", 1 << 60, r"shards\.0\.size: "),
        ("shards.0.episodes", 0, r"shards\.0\.episodes: "),
        ("shards.0.frames", 1 << 41, r"shards\.0\.frames: "),
        ("shards.0.sha256", "x" * 64, r"shards\.0\.sha256: "),
        ("shards.0.manifest", None, r"shards\.0\.manifest: "),
        ("fps", float("nan"), "fps: "),
        ("fps", float("inf"), "fps: "),
        ("fps", -10, "fps: "),
        ("features", {"observation.image": "video"}, r"features\.observation\.image: "),
        ("tasks", {"0": "pick"}, "tasks: "),
        ("stats", [], "stats: "),
        ("format", "webdataset", "format: "),
        ("later", json.loads("[" * 70 + "]" * 70), "nested deeper than 64 levels"),
        ("info.a", json.loads('{"a":' * 63 + "1" + "}" * 63), "nested deeper than 64 levels"),
    ],
)
def test_a_dataset_json_that_contradicts_itself_is_refused(
    path: str, value: object, problem: str, forgery: Forgery
) -> None:
    def lie(dataset: Json) -> None:
        *folders, last = path.split(".")
        parent: Any = dataset
        for name in folders:
            parent = parent[int(name) if name.isdigit() else name]
        parent[int(last) if last.isdigit() else last] = value

    refused(forgery.seal(lie), rf"forged/dataset\.json: (.|\n)*{problem}")


def test_shards_listed_twice_or_out_of_order_are_refused(forgery: Forgery) -> None:
    def twice(dataset: Json) -> None:
        dataset["shards"].append(dataset["shards"][-1])

    def reverse(dataset: Json) -> None:
        dataset["shards"].reverse()

    refused(forgery.seal(twice), "shards: not in ascending order of name, or one occurs twice")
    forgery.dataset["shards"].pop()
    refused(forgery.seal(reverse), "shards: not in ascending order of name, or one occurs twice")


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"]
)
def test_deep_json_is_refused(data: bytes, forgery: Forgery) -> None:
    (forgery.root / "dataset.json").write_bytes(data)
    refused(str(forgery.root), "nested deeper than 64 levels")


@pytest.mark.slow
def test_very_many_unknown_fields_are_read(forgery: Forgery) -> None:
    forgery.dataset |= {f"later-{i}": i for i in range(300_000)}
    root, start = forgery.seal(), time.process_time()
    assert len(ShardedDataset.open(root).manifest.model_extra or {}) == 300_000
    assert time.process_time() - start < 20


def test_a_fingerprint_of_something_else_is_refused(forgery: Forgery) -> None:
    forgery.seal()
    path = forgery.root / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b'"fps":10.0', b'"fps":20.0'))
    with pytest.raises(RoboshardError, match="does not have the fingerprint that it states"):
        ShardedDataset.open(str(forgery.root))


# -- Shard manifests -------------------------------------------------------------------------------


def _change(
    sample: int, field: str, value: Any, member: int | None = None
) -> Callable[[Json], None]:
    def lie(shard: Json) -> None:
        entry = (
            shard["samples"][sample]
            if member is None
            else shard["samples"][sample]["members"][member]
        )
        entry[field] = value(entry[field]) if callable(value) else value

    return lie


def _everywhere_else(field: str) -> Callable[[Json], None]:
    def lie(shard: Json) -> None:
        shard["samples"][1][field] = shard["samples"][0][field]

    return lie


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        (
            _change(0, "offset", 512, 1),
            r"samples\.0\.members\.1\.offset: 512 leaves no room for a tar header",
        ),
        (_change(0, "offset", lambda at: at - 512, 1), r"members\.1\.offset: \d+ leaves no room"),
        (_change(0, "offset", lambda at: at + 1, 1), r"members\.1\.offset: \d+ leaves no room"),
        (_change(0, "offset", 0, 0), r"members\.0\.offset: 0 leaves no room"),
        (_change(0, "offset", -512, 0), r"members\.0\.offset: Input should be greater"),
        (_change(0, "offset", 1 << 49, 2), "members: reach past the end of the sample"),
        (_change(0, "offset", 1 << 60, 2), r"members\.2\.offset: "),
        (_change(0, "size", lambda size: size + 512, 0), r"members\.1\.offset: \d+ leaves no room"),
        (
            _change(1, "size", lambda size: size + 4096, 2),
            "members: reach past the end of the sample",
        ),
        (_change(0, "size", 1 << 36, 2), "members: reach past the end of the sample"),
        (_change(0, "size", -1, 2), r"members\.2\.size: "),
        (
            _change(0, "name", "../../etc/passwd", 2),
            r"members\.2\.name: '\.\./\.\./etc/passwd' is not of sample",
        ),
        (_change(1, "name", "ep-000000000.json", 0), r"members\.0\.name: .* is not of sample"),
        (
            _change(0, "name", lambda name: name.replace("observation.image.mp4", "JSON"), 2),
            "a name occurs twice",
        ),
        (
            _change(0, "name", lambda name: name.replace("mp4", "avi"), 2),
            "where its record names",
        ),
        (
            _change(0, "name", lambda name: name.replace("parquet", "txt"), 1),
            "without json or parquet",
        ),
        (
            _change(0, "name", lambda name: name.replace("json", "txt"), 0),
            "without json or parquet",
        ),
        (_change(0, "members", lambda members: members[:2]), "where its record names"),
        (_change(0, "members", []), "without json or parquet"),
        (
            _change(0, "members", lambda members: members + members[2:]),
            "leaves no room|a name occurs twice",
        ),
        (
            _change(0, "size", lambda size: size - 512),
            r"samples\.1\.offset: \d+ where the sample before ends",
        ),
        (_change(1, "offset", 0), r"samples\.1\.offset: 0 where the sample before ends"),
        (_change(1, "size", lambda size: size + 512), r"samples end at \d+, the shard at \d+"),
        (
            _change(0, "length", lambda length: length + 1),
            "not as many episodes or frames as dataset.json says",
        ),
        (_change(0, "length", 1 << 39), "not as many episodes or frames as dataset.json says"),
        (_change(0, "episode_index", 99), r"samples\.0\.key: 'ep-\d+' is not episode 99's"),
        (_change(0, "key", "ep-000000099"), r"samples\.0\.key: "),
        (_change(0, "crc32c", "00000000"), "does not hold episode 1 where the index says"),
        (_everywhere_else("key"), "a key occurs twice"),
        (lambda shard: shard["samples"].pop(), "samples end at"),
        (lambda shard: shard.update(samples=[]), "samples end at 0"),
        (lambda shard: shard["samples"].reverse(), r"samples\.0\.offset: "),
        (lambda shard: shard.update(shard="shards/shard-000000.tar"), "differ from dataset.json"),
        (lambda shard: shard.update(sha256="0" * 64), "differ from dataset.json"),
        (lambda shard: shard.update(version="2.0"), "this release reads 1"),
        (lambda shard: shard["samples"].append(7), r"samples\.2: "),
    ],
)
def test_a_shard_manifest_that_contradicts_itself_is_refused(
    lie: Callable[[Json], object], problem: str, forgery: Forgery
) -> None:
    assert [sample["episode_index"] for sample in forgery.shards[1]["samples"]] == [1, 2]
    lie(forgery.shards[1])
    refused(forgery.seal(), rf"forged/shards/shard-000001\.(json|tar)[:,] (.|\n)*({problem})")


def test_an_index_that_points_elsewhere_is_refused(forgery: Forgery) -> None:
    table = pq.read_table(forgery.root / "episodes.parquet")
    for name, change in (("offset", 512), ("size", -512), ("crc32c", 1)):
        values = table[name].to_pylist()
        values[0] += change
        field = INDEX_SCHEMA.field(name)
        sink = io.BytesIO()
        pq.write_table(
            table.set_column(
                INDEX_SCHEMA.get_field_index(name), field, pa.array(values, field.type)
            ),
            sink,
        )
        forgery.put_index(sink.getvalue())
        refused(
            forgery.seal(),
            r"shard-000000.json: does not hold episode 0 where the index says|leaves its shard",
        )


def test_an_index_of_millions_of_equal_rows_is_refused_before_it_is_read(forgery: Forgery) -> None:
    count = 2_000_000
    names = [name for name in INDEX_SCHEMA.names if name != "tasks"]
    columns = {
        name: pa.repeat(pa.scalar(0, INDEX_SCHEMA.field(name).type), count) for name in names
    }
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=pa.schema([INDEX_SCHEMA.field(name) for name in names])), sink
    )
    assert len(sink.getvalue()) < 50_000
    forgery.put_index(sink.getvalue())

    def lie(dataset: Json) -> None:
        dataset["shards"][0] |= {"episodes": count, "frames": count}
        dataset["total_episodes"] = sum(shard["episodes"] for shard in dataset["shards"])
        dataset["total_frames"] = sum(shard["frames"] for shard in dataset["shards"])

    del columns
    refused(forgery.seal(lie), "cannot hold the checksums of 2000000 episodes")


# -- Shards ----------------------------------------------------------------------------------------


def _record(change: Callable[[Json], object]) -> Callable[[Members], None]:
    def lie(members: Members) -> None:
        record = json.loads(members["json"])
        change(record)
        members["json"] = json.dumps(record).encode()

    return lie


def _rows(change: Callable[[bytes], bytes]) -> Callable[[Members], None]:
    return lambda members: members.update(parquet=change(members["parquet"]))


def _camera(name: str) -> Callable[[Json], None]:
    return lambda record: record["cameras"].append(
        record["cameras"][0] | {"key": name, "member": f"{name}.mp4"}
    )


def _table(count: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"action": pa.repeat(0.5, count)}), sink)
    return sink.getvalue()


def huge(table: bytes) -> bytes:
    size = pq.ParquetFile(io.BytesIO(table)).metadata.row_group(0).total_byte_size
    return claims(table, size, MAX_ROWS_BYTES + 1)


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        (_record(lambda record: record.update(episode_index=5)), "its record is of episode 5"),
        (
            _record(lambda record: record.update(length=1, cameras=[])),
            r"its record is of|members \[",
        ),
        (_record(lambda record: record.update(length=1 << 40)), "covers .* rows"),
        (
            _record(lambda record: record["cameras"].append(record["cameras"][0])),
            "a camera key occurs twice",
        ),
        (_record(lambda record: record["cameras"][0].update(member="json")), "share a name"),
        (
            _record(lambda record: record["cameras"][0].update(member="../x.mp4")),
            "where its record names",
        ),
        (_record(lambda record: record["cameras"].clear()), "where its record names"),
        (_record(_camera("another")), "where its record names"),
        (
            _record(lambda record: record.update(version="2.0")),
            r"format version 2\.0; this release reads 1\.x",
        ),
        (
            _record(lambda record: record["cameras"][0].update(rows=[[0, 0, 1 << 40]])),
            "leaves a gap",
        ),
        (_record(lambda record: record["cameras"][0].update(pts=[[0, 1 << 40, 1 << 40]])), "pts"),
        (lambda members: members.update(json=b"[" * 100_000), "nested deeper than 64 levels"),
        (lambda members: members.update(json=b'{"a":1,"a":2}'), "key 'a' occurs twice"),
        (lambda members: members.update(json=b" " * (MAX_RECORD_BYTES + 1)), "more than"),
        (lambda members: members.update(json=b""), "not valid JSON"),
        (lambda members: members.update(parquet=b""), "not a parquet file"),
        (lambda members: members.update(parquet=b"PAR1" * 100), "not a parquet file"),
        (_rows(lambda data: data[:-1]), "not a parquet file"),
        (_rows(lambda _: _table(3)), "3 rows where the episode has"),
        (_rows(lambda _: _table(5_000_000)), "5000000 rows where the episode has"),
        (
            _rows(lambda _: claims(_table(7_000_000), 7_000_000, 50)),
            "7000000 rows where the episode has 50",
        ),
        (_rows(huge), f"{MAX_ROWS_BYTES + 1} bytes of rows"),
        (lambda members: members.pop("observation.image.mp4"), "where its record names"),
        (lambda members: members.pop("parquet"), "without json or parquet|where its record names"),
        (lambda members: members.pop("json"), "without json or parquet|has 0 members 'json'"),
        (lambda members: members.update(extra=b"x"), "where its record names"),
    ],
)
def test_a_sample_that_contradicts_itself_is_refused(
    lie: Callable[[Members], None], problem: str, forgery: Forgery
) -> None:
    forgery.put_members(1, 0, lie)
    root = forgery.seal()
    refused(root, rf"forged/shards/shard-000001\.tar, episode 1(.|\n)*({problem})")
    refused(
        root,
        rf"forged/shards/shard-000001\.tar[,:] (.|\n)*ep-000000001(.|\n)*({problem})",
        lambda root: rebuild(Path(root)),
    )


def test_a_camera_that_the_dataset_has_and_an_episode_has_not_is_refused(forgery: Forgery) -> None:
    def lie(members: Members) -> None:
        _record(lambda record: record["cameras"].clear())(members)
        del members["observation.image.mp4"]

    forgery.put_members(1, 0, lie)
    refused(
        forgery.seal(),
        r"shard-000001\.tar, episode 1: holds no video of camera 'observation\.image'",
    )


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"x", b'{"a":NaN,"a":1}', b" " * (MAX_RECORD_BYTES + 1)], ids=len
)
def test_a_hostile_episode_row_is_refused(text: bytes) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"roboshard.episode": text}), sink)
    with cheaply(megabytes=128), pytest.raises(FormatError, match="ep-1 episode row: "):
        read_episode_row(sink.getvalue(), "ep-1")


def test_a_shard_of_links_is_not_rebuilt(forgery: Forgery) -> None:
    data = forgery.shard_path(1).read_bytes()
    for kind, target in ((b"2", b"/etc/passwd"), (b"1", b"../../x"), (b"5", b""), (b"3", b"")):
        link = raw_header("ep-000000000.observation.image.mp4", kind=kind, linkname=target)
        forgery.put_shard(1, link + pad(data))
        refused(str(forgery.root), "is not a regular file", lambda root: rebuild(Path(root)))


def test_versions_are_refused_by_name_before_hashes_are(forgery: Forgery) -> None:
    path = forgery.root / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b'"version":"1.0"', b'"version":"2.0"'))
    with pytest.raises(
        VersionError, match=r"dataset\.json: format version 2\.0; this release reads 1\.x"
    ):
        ShardedDataset.open(str(forgery.root))
