"""LeRobot 0.4.4 trains from shards: its policies are what they would be from its own dataset, and so are samples."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.lerobot_source import EVERY_KIND, Source, build

from roboshard.converter import ConvertConfig, convert

if TYPE_CHECKING:
    from support.lerobot import LeRobot

pytest_plugins = ["support.lerobot"]
pytestmark = pytest.mark.lerobot

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples"
BLOCK = re.compile(r"^```python lerobot\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL_ACT = {
    "type": "act",
    "push_to_hub": "false",
    "device": "cpu",
    "pretrained_backbone_weights": "null",
    "chunk_size": 8,
    "n_action_steps": 8,
    "dim_model": 32,
    "n_heads": 2,
    "dim_feedforward": 64,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "optimizer_lr": 1e-3,
}
STATISTICS = """
import sys
from types import SimpleNamespace
import torch
from lerobot.policies.act.configuration_act import ACTConfig
sys.path.insert(0, sys.argv[1])
from lerobot_trainer import make_dataset

chosen = SimpleNamespace(
    root=sys.argv[2], episodes=None, use_imagenet_stats=True, image_transforms=SimpleNamespace(enable=False)
)
meta = make_dataset(SimpleNamespace(dataset=chosen, policy=ACTConfig(device="cpu"), tolerance_s=1e-4)).meta
print([key for key in meta.camera_keys if torch.is_tensor(meta.stats[key]["mean"])])  # ImageNet's are
"""


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


def test_lerobots_trainer_runs_on_shards_and_resumes_with_the_next_batch(
    lerobot_training: LeRobot, pusht_shards: Path, tmp_path: Path
) -> None:
    trainer, output = EXAMPLES / "lerobot_trainer.py", tmp_path / "act"
    training = {
        "steps": 6,
        "batch_size": 8,
        "log_freq": 1,
        "save_freq": 3,
        "num_workers": 0,
        "output_dir": output,
    }
    dataset = {"dataset.repo_id": "my_dataset", "dataset.root": pusht_shards}
    options = dataset | training | {f"policy.{name}": value for name, value in SMALL_ACT.items()}
    whole = losses(
        lerobot_training(trainer, *(f"--{name}={value}" for name, value in options.items())).stderr
    )
    assert list(whole) == list(range(1, 7))
    assert whole[6] < whole[1]
    config = output / "checkpoints/000003/pretrained_model/train_config.json"
    again = losses(lerobot_training(trainer, f"--config_path={config}", "--resume=true").stderr)
    assert again == {step: whole[step] for step in (4, 5, 6)}


def test_statistics_of_colours_are_not_put_on_depth(
    lerobot_training: LeRobot, tmp_path: Path
) -> None:
    colour, depth = EVERY_KIND.cameras[:2]
    source = Source(
        lengths=(3,), cameras=(colour, depth), depth_images={"observation.depth.m": "m"}
    )
    built = build(tmp_path / "source", source)
    convert(ConvertConfig(source=str(built.root), destination=str(tmp_path / "shards"), workers=1))
    (tmp_path / "program.py").write_text(STATISTICS)
    found = lerobot_training(tmp_path / "program.py", EXAMPLES, tmp_path / "shards").stdout
    assert found.splitlines()[-1] == str([colour.key])
