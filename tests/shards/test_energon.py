"""Megatron Energon prepares a converted dataset and reads every byte of every episode."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.environments import environment_beside

from roboshard.shards import ShardedDataset
from roboshard.shards.names import sample_key

REQUIREMENTS = Path(__file__).parent / "energon_requirements.txt"
ENVIRONMENT = Path(__file__).parents[2] / ".peers/energon"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def commands() -> Path:
    """The folder with `energon` and its `python`."""
    return environment_beside(ENVIRONMENT, REQUIREMENTS)


def test_energon_reads_every_episode(pusht_shards: Path, tmp_path: Path, commands: Path) -> None:
    root = tmp_path / "prepared"
    shutil.copytree(pusht_shards, root)
    prepare = [
        "prepare",
        str(root),
        "--non-interactive",
        "--split-ratio",
        "1,0,0",
        "--sample-type",
        "CrudeWebdataset",
    ]
    subprocess.run([str(commands / "energon"), *prepare], check=True, stdout=subprocess.DEVNULL)
    program = [
        str(commands / "python"),
        str(Path(__file__).with_name("energon_program.py")),
        str(root),
    ]
    found = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)

    dataset = ShardedDataset.open(str(root))
    assert len(found) == len(dataset.index)
    for position in range(len(dataset.index)):
        episode = dataset.read_episode(position)
        members = found[sample_key(episode.record.episode_index)]
        for camera in episode.record.cameras:
            assert members.pop(camera.member.lower()) == sha256(episode.videos[camera.key])
        assert members.pop("parquet") == sha256(episode.rows)
        assert set(members) == {"json"}


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
