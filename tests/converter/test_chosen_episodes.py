"""Episodes that a conversion or an export takes: by index, by exclusion, by task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.lerobot_source import Source, build

from roboshard.cli.convert import parse_config
from roboshard.common.selection import select_episodes
from roboshard.converter import ConvertConfig, convert, make_plan
from roboshard.shards import OptionError, ShardedDataset
from roboshard.shards.episode_tasks import read_episode_tasks
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

TASKS = ("push", "pull, slowly", "lift")
CASES: list[tuple[dict[str, Any], list[int]]] = [
    ({"tasks": ("push",)}, [0, 3, 6]),
    ({"tasks": ("push", "pull, slowly")}, [0, 1, 3, 4, 6]),
    ({"exclude_episodes": "0:2,6"}, [2, 3, 4, 5]),
    ({"episodes": "0:5", "exclude_episodes": "1", "tasks": ("push", "lift")}, [0, 2, 3]),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven episodes of three tasks in turn, without cameras."""
    root = tmp_path_factory.mktemp("chosen") / "source"
    return build(root, Source(lengths=(4, 5, 6, 3, 4, 5, 6), cameras=(), tasks=TASKS)).root


@pytest.fixture(scope="module")
def shards(source: Path) -> Path:
    root = source.parent / "shards"
    convert(ConvertConfig(source=str(source), destination=str(root), workers=1))
    return root


@pytest.mark.parametrize(("options", "expected"), CASES, ids=range(len(CASES)))
def test_a_conversion_takes_the_chosen_episodes(
    source: Path, tmp_path: Path, options: dict[str, Any], expected: list[int]
) -> None:
    root = tmp_path / "shards"
    convert(ConvertConfig(source=str(source), destination=str(root), workers=1, **options))
    dataset = ShardedDataset.open(str(root))
    assert dataset.index.episode_index.tolist() == expected
    tasks = read_episode_tasks(dataset)
    assert [tasks.of(position) for position in range(len(expected))] == [
        (TASKS[index % 3],) for index in expected
    ]
    stated = {k: list(v) if k == "tasks" else v for k, v in options.items()}
    assert stated.items() <= dataset.manifest.conversion.options.items()
    # What was not chosen is no fault.
    assert verify(VerifyConfig(url=str(root), against=str(source))).ok


@pytest.mark.parametrize(("options", "expected"), CASES, ids=range(len(CASES)))
def test_an_export_takes_the_chosen_episodes(
    shards: Path, tmp_path: Path, options: dict[str, Any], expected: list[int]
) -> None:
    report = export(ExportConfig(source=str(shards), destination=str(tmp_path / "out"), **options))
    assert report.episodes == len(expected)
    assert report.frames == sum((4, 5, 6, 3, 4, 5, 6)[index] for index in expected)


def test_a_choice_is_part_of_the_conversion_id_only_where_it_is_made(source: Path) -> None:
    plans = [
        make_plan(ConvertConfig(source=str(source), destination="x", **options))
        for options in ({}, {"tasks": ("push",)}, {"exclude_episodes": "1"}, {"tasks": ()})
    ]
    ids = [plan.provenance.conversion.id for plan in plans]
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]
    assert plans[0].provenance.conversion.options.keys() == {
        "shard_size",
        "episodes",
        "shuffle_episodes",
        "tolerance_s",
    }


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tasks": ("pusj",)}, "no episode has 'pusj'; the dataset has 3 tasks, such as 'push'"),
        ({"tasks": "push"}, "tasks must be a list of task texts, not 'push'"),
        ({"exclude_episodes": "7"}, "episode 7 was excluded and does not exist; the dataset has 7"),
        ({"exclude_episodes": "0:7"}, "no episode is left: all that were chosen are excluded"),
        ({"exclude_episodes": "x"}, "neither an index nor START:STOP"),
    ],
    ids=range(5),
)
@pytest.mark.parametrize("what", ["conversion", "export"])
def test_what_cannot_be_chosen_is_refused(
    source: Path, shards: Path, tmp_path: Path, what: str, options: dict[str, Any], reason: str
) -> None:
    destination = str(tmp_path / "out")

    def choose() -> None:
        if what == "conversion":
            make_plan(ConvertConfig(source=str(source), destination=destination, **options))
        else:
            export(ExportConfig(source=str(shards), destination=destination, **options))

    with pytest.raises(OptionError, match=reason):
        choose()


def test_tasks_of_other_episodes_leave_none(shards: Path, source: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"episodes": "1,2", "destination": str(tmp_path / "out")}
    with pytest.raises(OptionError, match="no episode"):
        make_plan(ConvertConfig(source=str(source), tasks=("push",), **options))
    with pytest.raises(OptionError, match="no episode is left"):
        export(ExportConfig(source=str(shards), tasks=("push",), **options))


def test_tasks_on_the_command_line_and_in_a_config_file(tmp_path: Path) -> None:
    flags = ["in", "out", "--tasks", "push", "--tasks", "pull, slowly", "--exclude-episodes", "3"]
    config = parse_config(flags)
    assert (config.tasks, config.exclude_episodes) == (("push", "pull, slowly"), "3")
    path = tmp_path / "convert.json"
    path.write_text(json.dumps({"tasks": ["push", "pull, slowly"], "exclude_episodes": "3"}))
    assert parse_config(["--config", str(path), "in", "out"]) == config


def test_exclusion_is_of_what_was_chosen() -> None:
    available = np.array([0, 2, 3, 7])
    assert select_episodes(available, [range(4)[2:]], [range(2, 3)]).tolist() == [3]
    assert select_episodes(available, None, [range(2, 4)]).tolist() == [0, 7]
