"""Documents are read strictly, with every fault named, and keep what a later minor version adds."""

from __future__ import annotations

import json
import pickle
import time
from typing import Any

import pytest

from roboshard.common import errors
from roboshard.common.errors import FormatError, RoboshardError, VersionError
from roboshard.shards.schema import (
    FORMAT_VERSION,
    MAX_TICK,
    DatasetManifest,
    EpisodeRecord,
    MemberEntry,
    ShardManifest,
    document_bytes,
    parse,
)

LIMIT = 1 << 28
CAMERA: dict[str, Any] = {
    "key": "top", "member": "top.mp4", "codec": "h264", "width": 96, "height": 64, "pix_fmt": "yuv420p",
    "num_frames": 12, "skip_frames": 2, "keyframes": [0, 10], "time_base": [1, 10240],
    "pts": [[-2048, 1024, 4], [5000, 0, 8]], "rows": [[0, 2, 6], [6, 7, 4]],
}  # fmt: skip
RECORD: dict[str, Any] = {
    "version": FORMAT_VERSION, "episode_index": 3, "length": 10, "fps": 10.0, "tasks": ["拿起 🧊"],
    "cameras": [CAMERA],
}  # fmt: skip
SHARD: dict[str, Any] = {
    "version": FORMAT_VERSION, "shard": "shards/shard-000000.tar", "size": 4096, "sha256": "a" * 64,
    "conversion": "b" * 64, "samples": [],
}  # fmt: skip


def record(**changes: object) -> EpisodeRecord:
    return parse(EpisodeRecord, json.dumps(RECORD | changes).encode(), "the record", LIMIT)


def camera(**changes: object) -> EpisodeRecord:
    return record(cameras=[CAMERA | changes])


def test_a_record_is_read_and_written_without_a_change() -> None:
    data = document_bytes(record())
    assert json.loads(data) == RECORD
    assert document_bytes(parse(EpisodeRecord, data, "x", LIMIT)) == data
    assert record().cameras[0].num_rows == record().length


# -- Versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.0", "10.0", "0.9", "999999999.0"])
def test_another_major_version_is_refused_by_name(version: str) -> None:
    for cls, document in ((EpisodeRecord, RECORD), (ShardManifest, SHARD)):
        with pytest.raises(
            VersionError, match=rf"the file: format version {version}; this release reads 1\.x"
        ):
            parse(cls, json.dumps(document | {"version": version}).encode(), "the file", LIMIT)


def test_the_version_is_judged_before_anything_else_of_the_document() -> None:
    with pytest.raises(VersionError, match=r"format version 2\.0"):
        parse(DatasetManifest, b'{"version":"2.0","shards":"elsewhere"}', "dataset.json", LIMIT)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.999"])
def test_a_newer_minor_version_is_read(version: str) -> None:
    assert record(version=version).version == version


@pytest.mark.parametrize(
    "version",
    [
        "",
        "1",
        "1.",
        ".1",
        "1.0.0",
        "v1.0",
        "1.0 ",
        "-1.0",
        "١.٠",
        "1" * 5000 + ".0",
        1,
        1.0,
        None,
        [],
        {},
    ],
)
def test_what_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(VersionError, match=r"is not of the form MAJOR\.MINOR") as error:
        record(version=version)
    assert len(str(error.value)) < 200


def test_a_document_without_a_version_is_refused() -> None:
    with pytest.raises(VersionError):
        parse(EpisodeRecord, b"{}", "x", LIMIT)


# -- Unknown fields --------------------------------------------------------------------------------


def test_unknown_fields_are_kept_in_their_order_at_every_level() -> None:
    added = {"zeta": [1, {"b": None, "a": 2.5}], "alpha": "é", "mu": float("inf")}
    document = RECORD | {"cameras": [CAMERA | added], "version": "1.1"} | added
    data = document_bytes(parse(EpisodeRecord, json.dumps(document).encode(), "x", LIMIT))
    assert json.dumps(json.loads(data)) == json.dumps(document)


def test_very_many_unknown_fields_are_read_in_seconds() -> None:
    start = time.process_time()
    record(**{f"field-{i}": i for i in range(200_000)})
    assert time.process_time() - start < 20


# -- Faults ----------------------------------------------------------------------------------------


def test_every_fault_is_reported_with_its_place() -> None:
    broken = CAMERA | {"width": 0, "codec": 7, "rows": [[0, 2]], "pts": "none"}
    with pytest.raises(FormatError) as error:
        record(length="10", tasks=[1], cameras=[CAMERA, broken], fps=-1)
    assert str(error.value).startswith("the record: not a valid EpisodeRecord:\n  - ")
    assert {problem.split(":")[0] for problem in error.value.problems} == {
        "length", "tasks.0", "fps", "cameras.1.width", "cameras.1.codec", "cameras.1.rows.0.2", "cameras.1.pts"
    }  # fmt: skip


def test_missing_fields_are_each_named() -> None:
    with pytest.raises(FormatError) as error:
        parse(EpisodeRecord, b'{"version":"1.0"}', "x", LIMIT)
    assert {problem.split(":")[0] for problem in error.value.problems} == set(RECORD) - {"version"}


def test_very_many_faults_are_not_all_told() -> None:
    with pytest.raises(FormatError) as error:
        record(tasks=[1] * 10_000)
    assert len(error.value.problems) == 50


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("episode_index", "3"), ("episode_index", True), ("episode_index", 3.5), ("episode_index", -1),
        ("episode_index", 10**9), ("length", 0), ("length", 1 << 41), ("length", None), ("fps", 0), ("fps", "10"),
        ("fps", float("nan")), ("fps", float("inf")), ("fps", True), ("tasks", "pick"), ("tasks", [None]),
        ("cameras", {}),
    ],
)  # fmt: skip
def test_a_field_of_another_type_or_outside_its_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(FormatError, match=f"- {field}"):
        record(**{field: value})


@pytest.mark.parametrize(
    "digest", ["", "A" * 8, "0" * 7, "0" * 9, "0000000g", "00000000\n", "0x000000", 0]
)
def test_a_checksum_has_one_spelling(digest: object) -> None:
    entry = {"name": "a", "offset": 512, "size": 1, "crc32c": digest}
    with pytest.raises(FormatError, match="- crc32c: "):
        parse(MemberEntry, json.dumps(entry).encode(), "x", LIMIT)


@pytest.mark.parametrize(
    ("problem", "changes"),
    [
        ("pts runs do not cover num_frames", {"pts": [[0, 1024, 11]]}),
        ("pts runs do not cover num_frames", {"pts": []}),
        ("a pts run leaves 64 bits", {"pts": [[MAX_TICK, 1, 12]]}),
        ("less than or equal to", {"pts": [[10**100, 1, 12]]}),
        ("keyframes must name at least one frame", {"keyframes": []}),
        ("keyframes must name at least one frame", {"keyframes": [0, 12]}),
        ("keyframes must ascend", {"keyframes": [0, 5, 5]}),
        ("keyframes must ascend", {"keyframes": [5, 0]}),
        ("leaves a gap or passes num_frames", {"rows": [[1, 2, 10]]}),
        ("leaves a gap or passes num_frames", {"rows": [[0, 2, 4], [5, 7, 5]]}),
        ("leaves a gap or passes num_frames", {"rows": [[0, 2, 4], [3, 5, 6]]}),
        ("leaves a gap or passes num_frames", {"rows": [[0, 3, 10]], "skip_frames": 3}),
        ("the first row must show frame skip_frames", {"rows": [[0, 1, 10]]}),
        ("the first row must show frame skip_frames", {"rows": []}),
        ("covers 9 of 10 rows", {"rows": [[0, 2, 9]]}),
        ("share a name", {"member": "JSON"}),
        ("share a name", {"member": "parquet"}),
    ],
)
def test_a_camera_that_contradicts_itself_is_refused(
    problem: str, changes: dict[str, object]
) -> None:
    with pytest.raises(FormatError, match=problem):
        camera(**changes)


def test_a_camera_or_its_member_cannot_be_there_twice() -> None:
    with pytest.raises(FormatError, match="a camera key occurs twice"):
        record(cameras=[CAMERA, CAMERA | {"member": "other.mp4"}])
    with pytest.raises(FormatError, match="share a name"):
        record(cameras=[CAMERA, CAMERA | {"key": "Top", "member": "TOP.mp4"}])


def test_documents_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(record(), "length", 5)  # noqa: B010 - the type checker refuses the plain form


# -- Errors ----------------------------------------------------------------------------------------

ALL_ERRORS = [
    cls
    for name in dir(errors)
    if isinstance(cls := getattr(errors, name), type) and issubclass(cls, Exception)
]


@pytest.mark.parametrize("cls", ALL_ERRORS)
def test_errors_survive_the_way_back_from_a_worker(cls: type[RoboshardError]) -> None:
    assert issubclass(cls, RoboshardError)
    error: RoboshardError = cls("shard-000000.tar: damaged")
    for _ in range(2):
        error = pickle.loads(pickle.dumps(error))
        assert type(error) is cls
        assert str(error) == "shard-000000.tar: damaged"


@pytest.mark.parametrize("cls", [FormatError, VersionError])
def test_a_list_of_faults_survives_it_too(cls: type[FormatError]) -> None:
    error = cls("x: two faults:", ["a: one", "b: two"])
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert (type(again), str(again), again.problems) == (cls, str(error), ("a: one", "b: two"))
    assert str(error) == "x: two faults:\n  - a: one\n  - b: two"
