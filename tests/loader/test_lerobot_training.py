"""LeRobot 0.4.4 trains from shards: its policies are what they would be from its own dataset, and
so are samples.
"""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from roboshard.converter import ConvertConfig, convert

if TYPE_CHECKING:
    from support.lerobot import LeRobot

pytest_plugins = ["support.lerobot"]
pytestmark = pytest.mark.lerobot

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples"
BLOCK = re.compile(r"^```python lerobot\n(.*?)^```", re.MULTILINE | re.DOTALL)


def losses(output: str) -> dict[int, float]:
    """What a training printed, by step."""
    return {
        int(step): float(loss)
        for step, loss in re.findall(r"step[ :]+(\d+).*?loss[ :]+([\d.naninf]+)", output)
    }


def test_metadata_policies_and_samples_equal_those_of_lerobots_dataset(
    lerobot_training: LeRobot, pusht_source: Path, pusht_shards: Path
) -> None:
    program = Path(__file__).parent / "lerobot_program.py"
    assert int(lerobot_training(program, pusht_source, pusht_shards).stdout) == 18


def test_the_code_of_the_page_runs(
    lerobot_training: LeRobot, pusht_shards: Path, tmp_path: Path
) -> None:
    (code,) = BLOCK.findall((PROJECT / "docs/lerobot.md").read_text())
    (tmp_path / "my_dataset_shards").symlink_to(pusht_shards, target_is_directory=True)
    (tmp_path / "page.py").write_text(code + "print(float(loss))\n")
    assert math.isfinite(
        float(lerobot_training(tmp_path / "page.py", cwd=tmp_path).stdout.splitlines()[-1])
    )


def test_a_policy_of_two_robots_trains(
    lerobot_training: LeRobot, pusht_shards: Path, arms_source: Path, tmp_path: Path
) -> None:
    """As docs/mixtures.md says: state and action padded, cameras that one robot lacks filled."""
    (code,) = BLOCK.findall((PROJECT / "docs/mixtures.md").read_text())
    (tmp_path / "my_dataset_shards").symlink_to(pusht_shards, target_is_directory=True)
    convert(ConvertConfig(source=str(arms_source), destination=str(tmp_path / "my_arms_shards")))
    checks = """
assert policy.config.input_features["observation.state"].shape == (32,)
assert policy.config.output_features["action"].shape == (32,)
assert len(policy.config.image_features) == 3
print(*losses)
"""
    (tmp_path / "page.py").write_text(code + checks)
    printed = lerobot_training(tmp_path / "page.py", cwd=tmp_path).stdout.splitlines()[-1]
    found = [float(loss) for loss in printed.split()]
    assert len(found) == 4
    assert all(map(math.isfinite, found))
    assert found[-1] < found[0]


def test_the_example_learns_and_a_resumed_run_repeats_the_uninterrupted_one(
    lerobot_training: LeRobot, pusht_shards: Path, tmp_path: Path
) -> None:
    def train(output: Path) -> dict[int, float]:
        example = EXAMPLES / "train_lerobot.py"
        options = ["--output", output, "--steps", 12, "--checkpoint-every", 6]
        return losses(lerobot_training(example, pusht_shards, *options).stdout)

    whole = train(tmp_path / "whole")
    assert list(whole) == list(range(1, 13))
    assert all(map(math.isfinite, whole.values()))
    assert max(whole[step] for step in (10, 11, 12)) < 0.5 * min(whole[step] for step in (1, 2, 3))
    shutil.copytree(tmp_path / "whole/step-000006", tmp_path / "again/step-000006")
    assert train(tmp_path / "again") == {step: whole[step] for step in range(7, 13)}
