"""LeRobot's trainer on shards: the losses of its own dataset, whole and resumed, in one process and
in several.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.lerobot import VERSIONS, lerobot_of
from support.lerobot_source import EVERY_KIND, Source, build
from support.process_of_torchrun import PREFIX

from roboshard.converter import ConvertConfig, convert

if TYPE_CHECKING:
    from support.lerobot import LeRobot

pytestmark = pytest.mark.lerobot

PROGRAMS = Path(__file__).parents[2] / "programs"
STEPS = 10
OPTIONS = {
    "dataset.repo_id": "my_dataset",
    "policy.type": "act",
    "policy.push_to_hub": "false",
    "policy.device": "cpu",
    "policy.pretrained_backbone_weights": "null",
    "policy.chunk_size": 8,
    "policy.n_action_steps": 8,
    "policy.dim_model": 32,
    "policy.n_heads": 2,
    "policy.dim_feedforward": 64,
    "policy.n_encoder_layers": 1,
    "policy.n_vae_encoder_layers": 1,
    "policy.optimizer_lr": 1e-3,
    "steps": STEPS,
    "batch_size": 8,
    "save_freq": 3,
    "num_workers": 0,
    "seed": 7,
}
TWO_SLOTS = "--loader.max_world_size=2"


class Training:
    """Runs LeRobot's trainer and tells what each step had."""

    def __init__(self, lerobot: LeRobot, folder: Path) -> None:
        self.lerobot = lerobot
        self.folder = folder

    def run(
        self, name: str, what: str, *arguments: str, processes: int = 1, ends_with: int = 0
    ) -> list[list[dict[str, Any]]]:
        """Train, and return the steps of each rank: loss, indices of the samples."""
        record = self.folder / name
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        prefix = [*launcher, str(processes), *PREFIX] if processes > 1 else []
        program = str(PROGRAMS / "lerobot_training.py")
        command = [str(self.lerobot.python), *prefix, program, str(record), what, *arguments]
        self.done = subprocess.run(
            command,
            env=self.lerobot.variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert self.done.returncode == ends_with, self.done.stderr[-3000:]
        files = sorted(self.folder.glob(f"{name}-*.jsonl"))
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]

    def resume(
        self, output: Path, step: int, name: str, *arguments: str, **options: Any
    ) -> list[list[dict[str, Any]]]:
        """Go on from a checkpoint."""
        config = output / f"checkpoints/{step:06d}/pretrained_model/train_config.json"
        resumed = [f"--config_path={config}", "--resume=true"]
        return self.run(name, "shards", *resumed, *arguments, **options)


def options(root: Path, output: Path, **more: Any) -> list[str]:
    given = OPTIONS | {"dataset.root": root, "output_dir": output} | more
    return [f"--{name}={value}" for name, value in given.items()]


def samples(ranks: Sequence[Sequence[dict[str, Any]]]) -> list[list[int]]:
    """Which samples each step had, over all ranks."""
    return [
        sorted(index for step in steps for index in step["index"])
        for steps in zip(*ranks, strict=True)
    ]


@pytest.fixture(scope="module", params=VERSIONS)
def training(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Training:
    home = tmp_path_factory.mktemp("home")
    lerobot = lerobot_of(request.param, home, training=True)
    return Training(lerobot, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def whole(training: Training, pusht_shards: Path) -> list[dict[str, Any]]:
    """Ten steps without an interruption, with a checkpoint after every third one."""
    output = training.folder / "whole_output"
    (steps,) = training.run("whole", "shards", *options(pusht_shards, output), TWO_SLOTS)
    assert len(steps) == STEPS
    assert steps[-1]["loss"] < steps[0]["loss"]
    return steps


def test_losses_equal_those_of_lerobots_own_dataset(
    training: Training, whole: list[dict[str, Any]], pusht_source: Path, pusht_shards: Path
) -> None:
    if training.lerobot.version == "0.4.4":
        pytest.skip("LeRobot 0.4.4 draws at random, by no sampler that could be given our order")
    output = training.folder / "theirs_output"
    theirs = training.run("theirs", str(pusht_shards), *options(pusht_source, output))
    assert theirs == [whole]


def test_a_killed_run_goes_on_with_the_losses_of_the_uninterrupted_one(
    training: Training, whole: list[dict[str, Any]], pusht_shards: Path
) -> None:
    output = training.folder / "killed_output"
    arguments = ["--kill-at", "7", *options(pusht_shards, output), TWO_SLOTS]
    (steps,) = training.run("killed", "shards", *arguments, ends_with=-signal.SIGKILL)
    assert steps == whole[:7]
    (output / "checkpoints/last").resolve(strict=True)
    (rest,) = training.resume(output, 6, "resumed", "--num_workers=1")
    assert rest == whole[6:]


def test_two_processes_have_the_global_batches_of_one_and_go_on_from_its_checkpoint(
    training: Training, whole: list[dict[str, Any]], pusht_shards: Path
) -> None:
    output = training.folder / "two_output"
    arguments = [*options(pusht_shards, output, batch_size=4, steps=3), TWO_SLOTS]
    begun = training.run("two", "shards", *arguments, processes=2)
    assert samples(begun) == samples([whole[:3]])
    (rest,) = training.resume(output, 3, "two_then_one", "--batch_size=8", "--steps=5")
    assert samples([rest]) == samples([whole[3:5]])
    gone_on = training.resume(
        training.folder / "whole_output", 6, "one_then_two", "--batch_size=4", processes=2
    )
    assert samples(gone_on) == samples([whole[6:]])


@pytest.mark.usefixtures("whole")
def test_other_sizes_and_foreign_checkpoints_are_refused(training: Training) -> None:
    output = training.folder / "whole_output"
    for arguments, message in (
        (["--batch_size=4"], "may be 1 x 8 or 2 x 4"),
        (["--seed=8"], "seed is 8 now and 7 in the state"),
        (["--loader.frame_order=sweep"], "frame_order is 'sweep' now and 'uniform' in the state"),
        (["--dataset.episodes=[1,2,3]"], "selection is"),
    ):
        assert training.resume(output, 3, "refused", *arguments, ends_with=2) == []
        assert message in " ".join(training.done.stderr.split())
    (output / "checkpoints/000009/training_state/roboshard_loader.json").unlink()
    assert training.resume(output, 9, "refused", ends_with=1) == []
    assert "the checkpoint is not of `roboshard lerobot-train`" in training.done.stderr


def test_held_out_episodes_are_lerobots(
    training: Training, pusht_source: Path, pusht_shards: Path
) -> None:
    if training.lerobot.version == "0.4.4":
        pytest.skip("LeRobot 0.4.4 holds no episodes out")
    program = PROGRAMS / "lerobot_split.py"
    assert training.lerobot(program, pusht_source, pusht_shards).stdout.split() == ["3", "equal"]
    held_out = {"dataset.eval_split": 0.2, "eval_steps": 1, "max_eval_samples": 16, "steps": 2}
    output = training.folder / "split_output"
    (steps,) = training.run("split", "shards", *options(pusht_shards, output, **held_out))
    assert len(steps) == 2
    losses = re.findall(r"step (\d): eval_loss=([\d.]+)", training.done.stderr)
    assert [int(step) for step, _ in losses] == [1, 2]


def test_statistics_of_colours_are_not_put_on_depth(training: Training, tmp_path: Path) -> None:
    colour, depth = EVERY_KIND.cameras[:2]
    source = Source(
        lengths=(3,), cameras=(colour, depth), depth_images={"observation.depth.m": "m"}
    )
    built = build(tmp_path / "source", source)
    convert(ConvertConfig(source=str(built.root), destination=str(tmp_path / "shards"), workers=1))
    found = training.lerobot(PROGRAMS / "lerobot_statistics.py", tmp_path / "shards").stdout
    assert found.splitlines()[-1] == str([colour.key])
