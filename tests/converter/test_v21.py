"""LeRobot v2.1 and v2.0 sources: the same samples as from the same dataset in v3, and the same care
with bad ones.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.broken_source import BrokenSource, drop, put_at
from support.lerobot_source import Camera, Source, build
from support.lerobot_v21_source import read_lines, write_lines, write_v21
from support.servers.hub import LocalHub

from roboshard.converter import ConversionReport, ConvertConfig, make_plan
from roboshard.loader import make_loader
from roboshard.shards import (
    FormatError,
    MissingError,
    OptionError,
    RoboshardError,
    ShardedDataset,
    SourceError,
)
from roboshard.shards.rows import read_episode_row

pytest_plugins = ["support.servers.fixtures"]

TOP, SIDE = "observation.images.top", "observation.images.side"
LENGTHS = (6, 5, 7, 4, 6, 5)
GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data/pusht_sim.golden.json").read_text()
)
Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]
Break = Callable[[BrokenSource], object]


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of two cameras, one of them with B-frames; several in each file; two tasks in an
    episode.
    """
    root = tmp_path_factory.mktemp("v3") / "robot"
    cameras = (Camera(key=TOP, gop=3, bframes=2), Camera(key=SIDE, gop=1, episodes_per_file=2))
    source = Source(
        lengths=LENGTHS,
        cameras=cameras,
        image_keys=("wrist",),
        extra_features=True,
        undeclared_columns=True,
        tasks=("pick", "place", "wait"),
        tasks_per_episode=2,
    )
    build(root, source)
    return root


@pytest.fixture(scope="module")
def v21(v3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as v2.1, four episodes in a chunk."""
    return write_v21(v3, tmp_path_factory.mktemp("v21") / "robot")


@pytest.fixture(scope="module")
def shards(v21: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """That converted."""
    root = tmp_path_factory.mktemp("v21") / "shards"
    run(v21, root, shard_size="70KB")  # two episodes each, with every release of pyarrow
    return root


@pytest.fixture
def source(v21: Path, tmp_path: Path) -> BrokenSource:
    return BrokenSource.copy_of(v21, tmp_path / "robot")


def samples(root: Path, **options: Any) -> list[dict[str, Any]]:
    return list(make_loader(str(root), batch_size=None, shuffle=False, **options))


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == other[key].dtype, key
                assert torch.equal(value, other[key]), (key, int(one["index"]))
            else:
                assert value == other[key], key


# -- The same as v3 --------------------------------------------------------------------------------


def test_samples_are_those_of_the_same_dataset_in_v3(
    v3: Path, shards: Path, tmp_path: Path, run: Run
) -> None:
    run(v3, tmp_path / "v3")
    windows = {TOP: [-0.2, 0.0, 0.1], SIDE: [0.0], "action": [0.0, 0.1, 0.2]}
    for options in ({}, {"delta_timestamps": windows}):
        assert_same(samples(shards, **options), samples(tmp_path / "v3", **options))
    assert {sample["task"] for sample in samples(shards)} == {"pick", "place", "wait"}


def test_the_bundled_dataset_as_v21_gives_the_golden_samples(
    pusht_source: Path, pusht_shards: Path, tmp_path: Path, run: Run
) -> None:
    run(write_v21(pusht_source, tmp_path / "robot"), tmp_path / "shards")
    found = samples(tmp_path / "shards")
    assert_same(found, samples(pusht_shards))
    assert len(found) == GOLDEN["num_frames"]
    for golden in GOLDEN["samples"]:
        sample = found[golden["index"]]
        assert int(sample["index"]) == golden["index"]
        assert set(sample) == set(golden["plain"])
        for key, entry in golden["plain"].items():
            if "str" in entry:
                assert sample[key] == entry["str"]
            elif "grid16" in entry:
                grid = sample[key][..., ::16, ::16].to(torch.int16)
                assert (grid - torch.tensor(entry["grid16"], dtype=torch.int16)).abs().max() <= 2
            else:
                assert np.allclose(
                    sample[key].numpy(), np.asarray(entry["values"]), rtol=1e-7, atol=0
                )


def test_what_a_dataset_says_of_itself(v3: Path, v21: Path, shards: Path) -> None:
    document = json.loads((shards / "dataset.json").read_text())
    info = json.loads((v21 / "meta/info.json").read_text())
    assert document["info"] == info
    assert document["source"]["codebase_version"] == info["codebase_version"] == "v2.1"
    assert document["tasks"] == ["pick", "place", "wait"]
    meta = make_loader(str(shards)).meta
    assert (meta.total_episodes, meta.total_frames, list(meta.tasks)) == (
        6,
        sum(LENGTHS),
        ["pick", "place", "wait"],
    )
    dataset = ShardedDataset.open(str(shards))
    lines = {line["episode_index"]: line for line in read_lines(v21 / "meta/episodes.jsonl")}
    stats = {
        line["episode_index"]: line["stats"]
        for line in read_lines(v21 / "meta/episodes_stats.jsonl")
    }
    of_v3 = {
        row["episode_index"]: row
        for row in pq.read_table(next((v3 / "meta/episodes").glob("*/*"))).to_pylist()
    }
    for position, index in enumerate(range(6)):
        episode = dataset.read_episode(position, cameras=[])
        row = read_episode_row(episode.rows, episode.where)
        assert {
            name: value for name, value in row.items() if not name.startswith("stats/")
        } == lines[index]
        assert (
            row["stats/action/mean"]
            == stats[index]["action"]["mean"]
            == of_v3[index]["stats/action/mean"]
        )
        assert {name for name in row if name.startswith("stats/")} <= of_v3[index].keys()


def test_statistics_are_those_of_all_rows(v3: Path, shards: Path) -> None:
    """The builder computed v3's from the values themselves."""
    found = json.loads((shards / "dataset.json").read_text())["stats"]
    expected = json.loads((v3 / "meta/stats.json").read_text())
    assert found.keys() == expected.keys()
    for key, names in found.items():
        assert set(names) == {"min", "max", "mean", "std", "count"}
        for name, values in names.items():
            assert np.shape(values) == np.shape(expected[key][name]), (key, name)
            assert np.allclose(
                np.float64(values), np.float64(expected[key][name]), rtol=1e-9, atol=1e-9
            ), (key, name)
    assert found["index"]["max"] == [sum(LENGTHS) - 1]
    assert found["action"]["count"] == [sum(LENGTHS)]


def test_episodes_that_count_more_weigh_more(v21: Path, tmp_path: Path) -> None:
    root = BrokenSource.copy_of(v21, tmp_path / "robot").root
    lines = read_lines(root / "meta/episodes_stats.jsonl")
    for line in lines:
        few = line["episode_index"] < 5
        line["stats"] = {"x": {"min": [0 if few else -2], "max": [1], "mean": [1.0 if few else 4.0],
                               "std": [0.0 if few else 3.0], "count": [1 if few else 5]}}  # fmt: skip
    write_lines(root / "meta/episodes_stats.jsonl", lines)
    plan = make_plan(ConvertConfig(source=str(root), destination="/nowhere"))
    stats = plan.source.meta.stats
    expected = {"min": [-2], "max": [1], "mean": [2.5], "count": [10]}
    assert stats is not None
    assert stats["x"] == expected | {
        "std": [pytest.approx((0.5 * (0 + 1.5**2) + 0.5 * (9 + 1.5**2)) ** 0.5)]
    }
    assert {name: type(stats["x"][name][0]) for name in ("min", "count")} == {
        "min": int,
        "count": int,
    }


def test_v20_differs_by_its_statistics_alone(
    v3: Path, shards: Path, tmp_path: Path, run: Run
) -> None:
    run(write_v21(v3, tmp_path / "robot", version="v2.0"), tmp_path / "shards")
    document = json.loads((tmp_path / "shards/dataset.json").read_text())
    assert document["stats"] == json.loads((v3 / "meta/stats.json").read_text())
    assert document["source"]["codebase_version"] == "v2.0"
    assert_same(samples(tmp_path / "shards"), samples(shards))


def test_without_videos_statistics_or_tasks(tmp_path: Path, run: Run) -> None:
    build(tmp_path / "v3", Source(lengths=(4, 3), image_keys=("wrist",)))
    root = write_v21(tmp_path / "v3", tmp_path / "robot")
    (root / "meta/episodes_stats.jsonl").unlink()
    with (root / "meta/episodes.jsonl").open("a") as file:
        file.write("\n\n")
    run(root, tmp_path / "shards")
    run(tmp_path / "v3", tmp_path / "others")
    assert_same(samples(tmp_path / "shards"), samples(tmp_path / "others"))
    assert json.loads((tmp_path / "shards/dataset.json").read_text())["stats"] is None


# -- Everything a conversion can do ----------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_bytes_each_time(
    v21: Path, shards: Path, tmp_path: Path, run: Run, tree: ReadTree, workers: int
) -> None:
    assert run(v21, tmp_path / "shards", shard_size="70KB", workers=workers).shards > 1
    assert tree(tmp_path / "shards") == tree(shards)


def test_workers_are_sent_what_they_need(v21: Path) -> None:
    source = make_plan(ConvertConfig(source=str(v21), destination="/nowhere")).source
    episodes = source.episodes([4, 0, 2])
    assert [(episode.index, episode.length, episode.first_row) for episode in episodes] == [
        (4, 6, 22),
        (0, 6, 0),
        (2, 7, 11),
    ]
    assert pickle.loads(pickle.dumps((source.meta, episodes))) == (source.meta, episodes)


def test_chosen_episodes(v21: Path, shards: Path, tmp_path: Path, run: Run) -> None:
    (v21_copy := BrokenSource.copy_of(v21, tmp_path / "robot")).rows(
        0
    ).unlink()  # not needed for what is chosen
    run(v21_copy.root, tmp_path / "shards", episodes="1,3:5")
    found = samples(tmp_path / "shards")
    assert_same(
        found, [sample for sample in samples(shards) if int(sample["episode_index"]) in (1, 3, 4)]
    )


def test_a_plan_knows_the_sizes(v21: Path, shards: Path) -> None:
    plan = make_plan(ConvertConfig(source=str(v21), destination="/nowhere", shard_size="70KB"))
    sizes = ShardedDataset.open(str(shards)).index.size
    assert plan.shards == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]  # the first of each shard also says what all are of
    assert np.all(np.abs(plan.sizes / sizes - 1)[1::2] < 0.15)
    needed, episode = plan.source.most_needed_at_once(np.arange(6))
    files = [sorted(v21.glob(f"*/*/**/*{index:06d}.*")) for index in range(6)]
    in_bytes = [sum(path.stat().st_size for path in paths) for paths in files]
    assert (needed, episode) == (max(in_bytes), int(np.argmax(in_bytes)))


def test_a_fingerprint_covers_metadata_and_sizes(v21: Path, source: BrokenSource) -> None:
    def fingerprint(root: Path) -> str:
        return make_plan(
            ConvertConfig(source=str(root), destination="/nowhere")
        ).source.meta.fingerprint

    seen = [fingerprint(source.root)]
    assert seen[0] == fingerprint(v21)
    with source.video(3).open("ab") as file:
        file.write(b"\0")
    seen.append(fingerprint(source.root))
    tasks = source.root / "meta/tasks.jsonl"
    write_lines(tasks, reversed(read_lines(tasks)))
    seen.append(fingerprint(source.root))
    assert len(set(seen)) == 3


def test_from_the_hub_only_what_is_needed_is_downloaded(
    this_hub: LocalHub, v21: Path, shards: Path, tmp_path: Path, run: Run
) -> None:
    this_hub.add_dataset("me/robot", v21)
    this_hub.reset()
    run(Path("me/robot"), tmp_path / "shards", episodes="5", scratch=str(tmp_path))
    assert_same(
        samples(tmp_path / "shards"), [s for s in samples(shards) if int(s["episode_index"]) == 5]
    )
    asked = " ".join(request.path for request in this_hub.requests)
    assert "episode_000005.mp4" in asked
    assert "episode_000004" not in asked
    assert (
        json.loads((tmp_path / "shards/dataset.json").read_text())["source"]["name"] == "me/robot"
    )


# -- Bad input -------------------------------------------------------------------------------------


def change_info(**values: Any) -> Break:
    return lambda source: source.set_info(**values)


def change_lines(name: str, change: Callable[[list[Any]], object]) -> Break:
    """Change the lines of a file of meta/, which are there in the order of their indices."""

    def go(source: BrokenSource) -> None:
        path = source.root / f"meta/{name}.jsonl"
        lines = sorted(
            read_lines(path),
            key=lambda line: int(line.get("episode_index", line.get("task_index"))),
        )
        changed = change(lines)
        write_lines(path, changed if isinstance(changed, list) else lines)

    return go


def change_episodes(**values: Any) -> Break:
    return change_lines("episodes", lambda lines: lines[2].update(values))


def change_stats(name: str, value: Any, **others: Any) -> Break:
    return change_lines(
        "episodes_stats", lambda lines: lines[2]["stats"]["action"].update({name: value} | others)
    )


def put_text(name: str, text: str) -> Break:
    return lambda source: (source.root / f"meta/{name}.jsonl").write_text(text, encoding="utf-8")


def remove(name: str) -> Break:
    return lambda source: (source.root / name).unlink()


PLANNING: dict[str, tuple[Break, type[RoboshardError], str]] = {
    "version": (change_info(codebase_version="v2.2"), SourceError, "'v2.2'; this release reads v2.0, v2.1 and v3.x"),
    "declared as v3": (change_info(codebase_version="v3.0"), MissingError, "meta/episodes: no parquet file"),
    "fps": (change_info(fps=True), SourceError, "fps must be a positive number"),
    "chunks": (change_info(chunks_size=0), SourceError, "info.json: chunks_size must be a positive integer, not 0"),
    "chunks as text": (change_info(chunks_size="4"), SourceError, "chunks_size must be a positive integer, not '4'"),
    "no video path": (change_info(video_path=None), SourceError, "video_path is missing"),
    "parent path": (change_info(data_path="../{episode_index}"), SourceError, r"data_path leads outside .*'\.\./\d'"),
    "absolute path": (change_info(video_path="/{video_key}{episode_index}"), SourceError, "video_path leads outside"),
    "v3 field": (change_info(data_path="{chunk_index}"), SourceError, "data_path .* cannot be filled: KeyError"),
    "wide field": (change_info(data_path="{episode_index:999999999d}"), SourceError, "data_path .* cannot be filled"),
    "one file for all": (change_info(video_path="{video_key}.mp4"), SourceError, "'.*top.mp4' to several episodes"),
    "no episodes": (remove("meta/episodes.jsonl"), MissingError, "meta/episodes.jsonl: no such file"),
    "none left": (put_text("episodes", ""), SourceError, "meta/episodes.jsonl: it lists no episode that has rows"),
    "no JSON": (put_text("episodes", '{"episode_index": 0,\n'), FormatError, "episodes.jsonl, line 1: not valid"),
    "no object": (put_text("episodes", "[1]\n"), FormatError, "episodes.jsonl, line 1: expected a JSON object"),
    "no UTF-8": (lambda s: (s.root / "meta/tasks.jsonl").write_bytes(b"\xff\n"), FormatError, "tasks.jsonl, line 1"),
    "deep": (put_text("episodes", '{"a":' + "[" * 90 + "]" * 90 + "}"), FormatError, "line 1: nested deeper than 64"),
    "very deep": (put_text("episodes", "[" * 200_000), FormatError, "line 1: n"),
    "endless line": (put_text("episodes", " " * (8 << 20) + "{"), FormatError, "line 1: .* bytes of JSON, more than"),
    "key twice": (put_text("tasks", '{"task": "a", "task": "b"}'), FormatError, "key 'task' occurs twice"),
    "negative": (change_episodes(episode_index=-1), SourceError, r"episode_index must be an integer in 0\..* not -1"),
    "huge task": (put_text("tasks", '{"task_index": 9999999, "task": ""}'), SourceError, "line 1: task_index must"),
    "no video": (lambda s: s.video(4).unlink(), MissingError, r"mp4: missing, though meta/episodes.jsonl lists epis"),
    "no rows": (lambda s: s.rows(3).unlink(), MissingError, "episode_000003.parquet: missing, .* lists episode 3"),
    "long path": (change_info(video_path="{video_key}{episode_index}" * 99), SourceError, "too long; .* episode 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANNING)
def test_a_source_that_contradicts_itself_is_refused_untouched(
    source: BrokenSource, tmp_path: Path, run: Run, case: str
) -> None:
    damage, error, message = PLANNING[case]
    damage(source)
    with pytest.raises(error, match=message):
        run(source.root, tmp_path / "shards", on_error="skip")
    assert not (tmp_path / "shards").exists()


def change_rows(change: Any) -> Break:
    return lambda source: source.change(source.rows(1), change)


ROWS = r"data/chunk-000/episode_000001.parquet, episode 1: "
CONVERTING: dict[str, tuple[Break, str]] = {
    "cut video": (lambda s: s.truncate(s.video(1), 0.5), r"episode 1, camera '.*', .*episode_000001.mp4: "),
    "another's video": (lambda s: s.video(1).write_bytes(s.video(3).read_bytes()), "row 4 is at 0.4"),
    "another's rows": (lambda s: s.rows(1).write_bytes(s.rows(2).read_bytes()), ROWS + "no data file holds a row"),
    "no timestamp": (change_rows(drop("timestamp")), "episode_000001.parquet, episode 1: no column 'timestamp'"),
    "unknown task": (change_rows(put_at("task_index", 2, 3)), ROWS + "task_index 3 is outside meta/tasks.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVERTING)
def test_an_episode_that_cannot_be_copied_exactly_stops_the_run(
    source: BrokenSource, tmp_path: Path, run: Run, case: str
) -> None:
    damage, message = CONVERTING[case]
    damage(source)
    with pytest.raises(SourceError, match=message):
        run(source.root, tmp_path / "shards", episodes="1")
    assert sorted(path.name for path in (tmp_path / "shards").rglob("*")) == ["shards"]


def test_an_episode_that_does_not_exist_is_refused(v21: Path, tmp_path: Path, run: Run) -> None:
    with pytest.raises(
        OptionError, match="episode 6 was chosen and does not exist; the dataset has 6, from 0 to 5"
    ):
        run(v21, tmp_path / "shards", episodes="6")
