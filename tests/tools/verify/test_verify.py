"""`verify` finds every planted fault and names where it is; a sound dataset has none."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.converting import shards_of
from support.damage import Damage, Forgery, damaged
from support.lerobot_source import Camera, Source
from support.servers import RangeServer

from roboshard.cli.main import dispatch
from roboshard.common.errors import OptionError
from roboshard.common.jsonio import dump
from roboshard.shards.index import index_bytes
from roboshard.shards.schema import ShardManifest
from roboshard.tools.verify import Problem, VerifyConfig, VerifyReport, verify
from roboshard.tools.verify.tables import compare_tables

pytest_plugins = ["support.servers.fixtures"]

TOP, WRIST = "observation.images.top", "observation.images.wrist"
SHARDS = "shards/shard-{:06d}.tar"
PAYLOAD = b"mdat"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several shards of several episodes; two cameras that differ, four tasks.

    Its source lies beside it.
    """
    cameras = (Camera(key=TOP, gop=4, bframes=1), Camera(key=WRIST, gop=2, size=(48, 64)))
    tasks = ("push", "pull", "lift", "place")
    source = Source(lengths=(8, 9, 7, 8, 10, 6), cameras=cameras, tasks=tasks)
    return Path(shards_of(source, tmp_path_factory.mktemp("honest")))


@pytest.fixture
def forgery(honest: Path, tmp_path: Path) -> Forgery:
    return Forgery(honest, tmp_path / "forged")


def found(root: Path | str, **options: Any) -> VerifyReport:
    return verify(VerifyConfig(url=str(root), **options))


def only(root: Path | str, file: str, what: str, **options: Any) -> list[Problem]:
    """The problems, all of which are of one file, and one of which says what was done."""
    problems = list(found(root, **options).problems)
    assert {problem.file for problem in problems} == {file}, problems
    assert any(what in problem.what for problem in problems), problems
    assert all(problem.remedy for problem in problems)
    return problems


def manifest_of(root: Path, number: int = 0) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        (root / SHARDS.format(number)).with_suffix(".json").read_bytes()
    )
    return value


# -- Nothing wrong ---------------------------------------------------------------------------------


def test_a_sound_dataset_has_no_problem(honest: Path) -> None:
    report = found(honest, against=str(honest.parent / "source"), frames=3)
    assert report.ok
    assert report.problems == report.notes == ()
    assert report.episodes == report.total_episodes == 6
    assert report.num_bytes == sum(path.stat().st_size for path in honest.glob("shards/*.tar"))
    assert report.shards > 1


def test_nor_does_it_over_http(honest: Path, range_server: RangeServer) -> None:
    range_server.serve(honest)
    report = found(range_server.url)
    assert report.ok
    assert report.episodes == 6
    assert "could not be looked for" in report.notes[0]


def test_nor_does_a_hard_source(tmp_path: Path) -> None:
    """Edit lists, leading pictures, episodes that start off keyframes, one-frame episodes, every
    dtype.
    """
    cameras = (
        Camera(key=TOP, edit_list=True, bframes=2),
        Camera(key=WRIST, codec="hevc", gop=8, bframes=3, open_gop=True, stream="continuous"),
    )
    source = Source(lengths=(1, 9, 5), cameras=cameras, extra_features=True, tasks_per_episode=1)
    shards = Path(shards_of(source, tmp_path))
    assert found(shards, against=str(tmp_path / "source"), frames=1).problems == ()


def test_a_sample_reads_less_and_the_same_seed_reads_the_same(honest: Path) -> None:
    reports = [found(honest, sample=2, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert all(report.ok and report.episodes == 2 for report in reports)
    assert (
        reports[0].num_bytes
        == reports[1].num_bytes
        < sum(p.stat().st_size for p in honest.glob("shards/*.tar"))
    )
    assert found(honest, sample=100).episodes == 6


def test_some_shards_alone(honest: Path) -> None:
    report = found(f"{honest}/{SHARDS.format(1)}")
    assert report.ok
    assert report.shards == 1
    with pytest.raises(OptionError, match="does not list"):
        found(f"{honest}/{SHARDS.format(77)}")


# -- By accident -----------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_in_every_kind_of_member(honest: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(honest, tmp_path / "copy"))
    name, choice = SHARDS.format(1), random.Random(0)
    for sample in manifest_of(root, 1)["samples"]:
        for member in sample["members"]:
            position = member["offset"] + choice.randrange(member["size"])
            with damaged(root / name, Damage("flip", position, choice.randrange(8))):
                problems = only(root, name, "damaged")
            assert (sample["episode_index"], member["name"]) in [
                (p.episode, p.member) for p in problems
            ]


def test_a_flipped_bit_is_found_in_headers_padding_and_end_mark(
    honest: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(honest, tmp_path / "copy"))
    name, sample = SHARDS.format(0), manifest_of(root)["samples"][-1]
    member = next(m for m in sample["members"] if m["size"] % 512)
    for position, what in (
        (member["offset"] - 512 + 3, "tar"),
        (member["offset"] + member["size"], "padding"),
        (sample["offset"] + sample["size"] - 700, "tar"),
    ):
        with damaged(root / name, Damage("flip", position)):
            problems = only(root, name, what)
        assert sample["episode_index"] in [problem.episode for problem in problems]


@pytest.mark.parametrize("file", ["dataset.json", "episodes.parquet", "shards/shard-000001.json"])
def test_a_flipped_bit_is_found_in_every_document(file: str, honest: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(honest, tmp_path / "copy"))
    for position in (10, (root / file).stat().st_size // 2):
        with damaged(root / file, Damage("flip", position)):
            assert file in [problem.file for problem in found(root).problems]


def test_a_cut_shard_names_its_lost_episodes(forgery: Forgery) -> None:
    name, samples = SHARDS.format(0), forgery.shards[0]["samples"]
    with forgery.shard_path(0).open("r+b") as file:
        file.truncate(samples[-1]["offset"] + 700)
    problems = only(forgery.root, name, "cut off")
    assert [p.episode for p in problems if p.episode is not None] == [samples[-1]["episode_index"]]


def test_an_extended_shard(forgery: Forgery) -> None:
    with forgery.shard_path(0).open("ab") as file:
        file.write(b"more")
    only(forgery.root, SHARDS.format(0), "longer than it was")


def test_swapped_members(forgery: Forgery) -> None:
    """The two videos of a sample, with their headers, change places; nothing else is touched."""
    sample = forgery.shards[0]["samples"][0]
    first, second = sample["members"][2:4]
    start, middle = first["offset"] - 512, second["offset"] - 512
    end = second["offset"] + -(-second["size"] // 512) * 512
    data = bytearray(forgery.shard_path(0).read_bytes())
    data[start:end] = data[middle:end] + data[start:middle]
    forgery.shard_path(0).write_bytes(data)
    problems = only(forgery.root, SHARDS.format(0), "members are swapped")
    assert {first["name"], second["name"]} <= {problem.member for problem in problems}


def test_missing_files(forgery: Forgery) -> None:
    forgery.shard_path(1).unlink()
    only(forgery.root, SHARDS.format(1), "missing, though dataset.json lists it")
    (forgery.root / "shards/shard-000000.json").unlink()
    (forgery.root / "episodes.parquet").unlink()
    problems = found(forgery.root).problems
    assert {p.file for p in problems} == {
        "episodes.parquet",
        "shards/shard-000000.json",
        SHARDS.format(1),
    }


def test_a_stale_manifest(forgery: Forgery) -> None:
    """An older state of a shard's manifest: it tells of other bytes."""
    stale = forgery.shards[0] | {"sha256": "0" * 64}
    (forgery.root / "shards/shard-000000.json").write_bytes(dump(stale))
    only(forgery.root, "shards/shard-000000.json", "stale")


def test_shards_that_changed_places(forgery: Forgery) -> None:
    paths = [forgery.shard_path(i) for i in (0, 1)]
    contents = [path.read_bytes() for path in paths]
    for path, data in zip(paths, reversed(contents), strict=True):
        path.write_bytes(data)
    problems = found(forgery.root).problems
    assert {problem.file for problem in problems} == {SHARDS.format(0), SHARDS.format(1)}


def test_files_that_nothing_lists(forgery: Forgery) -> None:
    shutil.copy(forgery.shard_path(0), forgery.root / SHARDS.format(99))
    (forgery.root / "notes.txt").write_text("mine")
    only(forgery.root, SHARDS.format(99), "not listed")
    assert "notes.txt" in found(forgery.root).notes[0]


def test_no_dataset(tmp_path: Path) -> None:
    (problem,) = only(tmp_path, "dataset.json", "no such file")
    assert "its conversion has not finished: run convert-to-shards again" in problem.remedy


def test_a_source_is_told_to_be_converted_and_not_to_be_finished(pusht_source: Path) -> None:
    (problem,) = only(pusht_source, "dataset.json", "no such file")
    assert "This is a LeRobot dataset" in problem.remedy
    assert f"`convert-to-shards {pusht_source} DST`" in problem.remedy


def test_all_faults_are_reported_together(forgery: Forgery) -> None:
    for number, at in ((0, 600), (1, 1500)):
        data = bytearray(forgery.shard_path(number).read_bytes())
        data[at] ^= 1
        forgery.shard_path(number).write_bytes(data)
    (forgery.root / "episodes.parquet").write_bytes(b"PAR1")
    problems = found(forgery.root, jobs=3).problems
    assert {p.file for p in problems} == {"episodes.parquet", SHARDS.format(0), SHARDS.format(1)}


# -- On purpose: with hashes that fit --------------------------------------------------------------


def of_suffix(members: dict[str, bytes], key: str) -> str:
    return next(suffix for suffix in members if suffix.startswith(key))


def change_rows(change: Callable[[pa.Table], pa.Table]) -> Callable[[dict[str, bytes]], None]:
    def changes(members: dict[str, bytes]) -> None:
        table = pq.read_table(io.BytesIO(members["parquet"]))
        sink = io.BytesIO()
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), sink)
        members["parquet"] = sink.getvalue()

    return changes


def change_record(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def changes(members: dict[str, bytes]) -> None:
        record = json.loads(members["json"])
        change(record)
        members["json"] = dump(record)

    return changes


def reindexed(forgery: Forgery) -> str:
    """Totals and index made to fit as well."""
    for entry, shard in zip(forgery.dataset["shards"], forgery.shards, strict=True):
        entry |= {
            "episodes": len(shard["samples"]),
            "frames": sum(sample["length"] for sample in shard["samples"]),
        }
    forgery.dataset["total_episodes"] = sum(
        entry["episodes"] for entry in forgery.dataset["shards"]
    )
    forgery.dataset["total_frames"] = sum(entry["frames"] for entry in forgery.dataset["shards"])
    forgery.put_index(
        index_bytes([ShardManifest.model_validate_json(dump(shard)) for shard in forgery.shards])
    )
    return forgery.seal()


def test_a_wrong_count_in_the_manifest(forgery: Forgery) -> None:
    forgery.shards[0]["samples"][0]["length"] += 1
    problems = only(reindexed(forgery), SHARDS.format(0), "length is")
    assert problems[0].member == f"{forgery.shards[0]['samples'][0]['key']}.json"


def test_a_manifest_that_the_index_contradicts(forgery: Forgery) -> None:
    forgery.shards[0]["samples"][0]["tasks"] = ["dance"]
    problems = found(forgery.seal()).problems
    assert any("tasks differ from episodes.parquet" in p.what for p in problems)
    assert any("tasks is" in p.what and p.file == SHARDS.format(0) for p in problems)


def test_a_shard_of_another_dataset(forgery: Forgery, pusht_shards: Path) -> None:
    shutil.copy(pusht_shards / SHARDS.format(0), forgery.shard_path(0))
    only(forgery.root, SHARDS.format(0), "another shard")


def test_a_shard_of_another_dataset_with_hashes_that_fit(
    forgery: Forgery, pusht_shards: Path
) -> None:
    """All that the manifests say is of the other shard, but for the conversion's id."""
    name = SHARDS.format(0)
    forgery.shards[0] = manifest_of(pusht_shards) | {"conversion": forgery.shards[0]["conversion"]}
    forgery.put_shard(0, (pusht_shards / name).read_bytes())
    forgery.shards, forgery.dataset["shards"] = forgery.shards[:1], forgery.dataset["shards"][:1]
    problems = found(reindexed(forgery)).problems
    assert any("of another dataset or conversion" in p.what and p.file == name for p in problems)
    assert any("cameras are" in p.what for p in problems)


def without_packet(data: bytes, dropped: int) -> bytes:
    sink = io.BytesIO()
    with av.open(io.BytesIO(data)) as source:
        stream = source.streams.video[0]
        with av.open(
            sink, "w", format="mp4", options={"fflags": "+bitexact", "use_editlist": "0"}
        ) as output:
            copy = output.add_stream_from_template(stream, opaque=True)
            copy.time_base = stream.time_base
            packets = [packet for packet in source.demux(stream) if packet.size]
            for i, packet in enumerate(packets):
                if i != dropped:
                    packet.stream = copy
                    output.mux(packet)
    return sink.getvalue()


def drop_frame(members: dict[str, bytes]) -> None:
    members[of_suffix(members, WRIST)] = without_packet(members[of_suffix(members, WRIST)], 3)


def test_a_dropped_frame(forgery: Forgery) -> None:
    forgery.put_members(0, 0, drop_frame)
    problems = only(forgery.seal(), SHARDS.format(0), "a frame was dropped")
    assert problems[0].member == f"{forgery.shards[0]['samples'][0]['key']}.{WRIST}.mp4"


def test_a_dropped_frame_that_the_record_hides(forgery: Forgery) -> None:
    """The record counts what is left, and shows the frame before it twice."""

    def hide(record: dict[str, Any]) -> None:
        camera = record["cameras"][1]
        first, step, count = camera["pts"][0]
        assert (camera["rows"], len(camera["pts"])) == ([[0, 0, count]], 1)
        camera["num_frames"] = count - 1
        camera["pts"] = [[first, step, 3], [first + 4 * step, step, count - 4]]
        camera["rows"] = [[0, 0, 3], [3, 2, count - 3]]
        camera["keyframes"] = [k for k in camera["keyframes"] if k < 3] + [
            k - 1 for k in camera["keyframes"] if k > 3
        ]

    def both(members: dict[str, bytes]) -> None:
        drop_frame(members)
        change_record(hide)(members)

    forgery.put_members(0, 0, both)
    only(forgery.seal(), SHARDS.format(0), "show a frame of another time")


def test_a_record_that_lies_about_its_video(forgery: Forgery) -> None:
    def lie(record: dict[str, Any]) -> None:
        record["cameras"][0] |= {"pix_fmt": "yuv444p", "keyframes": [0, 1]}

    forgery.put_members(0, 0, change_record(lie))
    problems = only(forgery.seal(), SHARDS.format(0), "its pix_fmt is yuv420p")
    assert any("decoding cannot start at frame 1" in problem.what for problem in problems)


def test_videos_in_each_others_place(forgery: Forgery) -> None:
    def swap(members: dict[str, bytes]) -> None:
        top, wrist = of_suffix(members, TOP), of_suffix(members, WRIST)
        members[top], members[wrist] = members[wrist], members[top]

    forgery.put_members(0, 0, swap)
    assert len(only(forgery.seal(), SHARDS.format(0), "its width is")) >= 2


def test_members_in_another_order(forgery: Forgery) -> None:
    def turn(members: dict[str, bytes]) -> None:
        turned = dict(reversed(list(members.items())))
        members.clear()
        members.update(turned)

    forgery.put_members(0, 0, turn)
    only(forgery.seal(), SHARDS.format(0), "where its record asks for")


def test_reordered_rows(forgery: Forgery) -> None:
    forgery.put_members(
        0, 0, change_rows(lambda table: table.take(pa.array(range(len(table) - 1, -1, -1))))
    )
    problems = only(forgery.seal(), SHARDS.format(0), "rows are not in order")
    assert problems[0].member == f"{forgery.shards[0]['samples'][0]['key']}.parquet"


def test_altered_tasks(forgery: Forgery) -> None:
    forgery.dataset["tasks"][0] = "dance"
    problems = found(forgery.seal()).problems
    assert {p.file for p in problems} == {entry["name"] for entry in forgery.dataset["shards"]}
    assert all("tasks of dataset.json differ" in p.what for p in problems)


def test_altered_tasks_of_an_episode(forgery: Forgery) -> None:
    forgery.put_members(0, 0, change_record(lambda record: record.update(tasks=["dance"])))
    forgery.shards[0]["samples"][0]["tasks"] = ["dance"]
    only(
        reindexed(forgery),
        SHARDS.format(0),
        "tasks is ['push'] in the source's metadata, ['dance'] in the record",
    )


# -- Only the source knows -------------------------------------------------------------------------


def test_an_altered_value_is_found_against_the_source(forgery: Forgery, honest: Path) -> None:
    def nudge(table: pa.Table) -> pa.Table:
        values = table.column("action").to_pylist()
        values[3][0] = float(np.nextafter(np.float32(values[3][0]), np.float32(9)))
        field = table.schema.field("action")
        return table.set_column(
            table.column_names.index("action"), field, pa.array(values, field.type)
        )

    forgery.put_members(0, 1, change_rows(nudge))
    root = forgery.seal()
    assert found(root).ok
    (problem,) = only(
        root,
        SHARDS.format(0),
        "column 'action' differs in 1 rows",
        against=str(honest.parent / "source"),
    )
    assert problem.episode == forgery.shards[0]["samples"][1]["episode_index"]


def test_an_altered_dtype_is_found_against_the_source(forgery: Forgery, honest: Path) -> None:
    def widen(table: pa.Table) -> pa.Table:
        i = table.column_names.index("timestamp")
        return table.set_column(i, "timestamp", table.column("timestamp").cast(pa.float64()))

    forgery.put_members(0, 0, change_rows(widen))
    only(
        forgery.seal(),
        SHARDS.format(0),
        "is double, float in the source",
        against=str(honest.parent / "source"),
    )


def test_an_altered_packet_is_found_against_the_source(forgery: Forgery, honest: Path) -> None:
    def flip(members: dict[str, bytes]) -> None:
        name = of_suffix(members, WRIST)
        video = bytearray(members[name])
        video[video.index(PAYLOAD) + 400] ^= 1
        members[name] = bytes(video)

    forgery.put_members(0, 0, flip)
    root = forgery.seal()
    problems = only(
        root,
        SHARDS.format(0),
        "another payload in the source",
        against=str(honest.parent / "source"),
    )
    assert problems[-1].member == f"{forgery.shards[0]['samples'][0]['key']}.{WRIST}.mp4"


def test_frames_that_cannot_be_decoded(forgery: Forgery) -> None:
    def ruin(members: dict[str, bytes]) -> None:
        name = of_suffix(members, WRIST)
        video = bytearray(members[name])
        start = video.index(PAYLOAD) + 4
        video[start : start + 1500] = bytes(1500)
        members[name] = bytes(video)

    forgery.put_members(0, 0, ruin)
    problems = found(forgery.seal(), frames=3).problems
    assert problems
    assert {(p.file, p.member) for p in problems} == {
        (SHARDS.format(0), f"{forgery.shards[0]['samples'][0]['key']}.{WRIST}.mp4")
    }


def test_altered_stats_and_lost_episodes_are_found_against_the_source(
    forgery: Forgery, honest: Path
) -> None:
    forgery.dataset["stats"]["action"]["mean"][0] += 1
    lost = [sample["episode_index"] for sample in forgery.shards.pop()["samples"]]
    entry = forgery.dataset["shards"].pop()
    for name in (entry["name"], entry["manifest"]["name"]):
        (forgery.root / name).unlink()
    problems = found(reindexed(forgery), against=str(honest.parent / "source")).problems
    told = [problem.what for problem in problems if problem.file == "dataset.json"]
    assert "stats differ from the source's" in told
    assert any(
        what.startswith(f"{len(lost)} episodes of the source are not here: {lost[0]}")
        for what in told
    )


# -- The command -----------------------------------------------------------------------------------


def test_the_command(forgery: Forgery, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert dispatch(["verify", str(forgery.root), "--report", str(report)]) == 0
    assert "6 of 6 episodes" in capsys.readouterr().out
    assert json.loads(report.read_bytes())["ok"] is True
    forgery.shard_path(1).unlink()
    assert dispatch(["verify", str(forgery.root), "--jobs", "2", "--report", str(report)]) == 1
    told = capsys.readouterr()
    assert "missing, though" in told.out
    assert "1 problem" in told.err
    (problem,) = json.loads(report.read_bytes())["problems"]
    assert (problem["file"], problem["episode"]) == (SHARDS.format(1), None)
    try:
        code: object = dispatch(["verify", str(forgery.root), "--sample", "0"])
    except SystemExit as error:  # by tyro 1, which says it in its own way
        code = error.code
    assert code == 2


@pytest.mark.parametrize(
    "other", [[[{"t": -0.0}]], [[{"t": 0.0}, {"t": 0.0}]], [[]], [None]], ids=str
)
def test_messages_that_differ_in_anything_are_told(other: Any) -> None:
    kind = pa.list_(pa.struct({"t": pa.float32()}))
    here, there = (pa.table({"said": pa.array(rows, kind)}) for rows in ([[{"t": 0.0}]], other))
    assert not list(compare_tables(here, here))
    told = [difference.split(":")[0] for difference in compare_tables(here, there)]
    assert told == ["column 'said' differs in 1 rows"]
