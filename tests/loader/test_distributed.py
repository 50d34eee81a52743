"""Real torchrun runs of the example: killed in the middle, and resumed with other numbers of
processes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path

import pytest
from support.process_of_torchrun import PREFIX
from support.torchrun import kill, kill_after

PROJECT = Path(__file__).parents[2]
STEPS = 30  # more than an epoch of 21
EVERY = 5
BATCH = 32
DEADLINE_S = 150.0

Batches = dict[int, list[int]]


def start(
    output: Path, shards: Path, processes: int, num_workers: int = 0
) -> subprocess.Popen[bytes]:
    """The example under torchrun."""
    arguments = [
        "--shards",
        str(shards),
        "--output",
        str(output),
        "--steps",
        str(STEPS),
        "--log-batches",
    ]
    arguments += [
        "--batch-size",
        str(BATCH),
        "--checkpoint-every",
        str(EVERY),
        "--max-world-size",
        "8",
        "--num-workers",
        str(num_workers),
    ]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        *PREFIX,
    ]
    output.mkdir(parents=True, exist_ok=True)
    with (output / "stderr.txt").open("wb") as errors:
        return subprocess.Popen(
            [*torchrun, str(PROJECT / "examples" / "train_ddp.py"), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        )


def finish(run: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for its end."""
    try:
        status = run.wait(DEADLINE_S)
    finally:
        kill([run])
    assert status == 0, (output / "stderr.txt").read_text()


def batches(output: Path) -> Batches:
    """Step -> the global batch's frames, sorted; the last record of a step counts.

    Checks that losses are finite.
    """
    per_rank: dict[int, dict[int, list[int]]] = defaultdict(dict)
    for path in output.glob("batches-*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            assert math.isfinite(record["loss"])
            per_rank[record["step"]][int(path.stem.removeprefix("batches-"))] = record["index"]
    return {step: sorted(chain(*ranks.values())) for step, ranks in per_rank.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, pusht_shards: Path) -> Batches:
    """The global batches of a run with four processes."""
    output = tmp_path_factory.mktemp("ddp") / "whole"
    finish(start(output, pusht_shards, 4), output)
    return batches(output)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, pusht_shards: Path) -> Path:
    """The output of a run with four processes that was killed after its second checkpoint at the
    earliest.
    """
    output = tmp_path_factory.mktemp("ddp") / "killed"
    run = start(output, pusht_shards, 4)
    kill_after([run], output / "batches-0.jsonl", 2 * EVERY + 2, DEADLINE_S)
    assert max(batches(output)) < STEPS, "it ended before it was killed"
    return output


@pytest.mark.slow
def test_every_frame_comes_once_per_epoch_over_all_ranks(uninterrupted: Batches) -> None:
    per_epoch = -(-644 // BATCH)
    epoch = list(chain(*(uninterrupted[step] for step in range(1, per_epoch + 1))))
    assert set(epoch) == set(range(644))
    assert len(epoch) - 644 < 8  # the last step is padded for up to eight rank slots
    assert sorted(uninterrupted) == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "num_workers"), [(2, 0), (8, 0), (1, 3), (2, 2)])
def test_a_killed_run_goes_on_with_other_numbers_of_processes_and_workers(
    processes: int,
    num_workers: int,
    killed: Path,
    uninterrupted: Batches,
    pusht_shards: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "resumed"
    output.mkdir()
    shutil.copy(killed / "checkpoint.pt", output)
    finish(start(output, pusht_shards, processes, num_workers), output)
    resumed = batches(output)
    assert min(resumed) in range(2 * EVERY + 1, STEPS, EVERY)  # the step after a checkpoint
    assert resumed == {step: uninterrupted[step] for step in range(min(resumed), STEPS + 1)}


GROUP = """
import json, multiprocessing, os, sys
import torch.distributed as dist
from roboshard.loader import make_loader

def member(rank, root, store):
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}  # of another launcher: the group counts
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=4)
    alone = make_loader(root, cameras=[], batch_size=8)
    paired = make_loader(root, cameras=[], batch_size=16, rank=rank // 2, world_size=2)  # tensor parallel pairs
    found = [None] * 4
    dist.all_gather_object(found, [[batch["index"].tolist() for batch in loader] for loader in (alone, paired)])
    if rank == 0:
        print(json.dumps(found))

fork = multiprocessing.get_context("fork")  # imports once
members = [fork.Process(target=member, args=(rank, *sys.argv[1:])) for rank in range(4)]
for process in members:
    process.start()
for process in members:
    process.join()
    assert process.exitcode == 0
"""


def test_ranks_come_from_the_group_and_data_parallel_ranks_can_be_passed(
    pusht_shards: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", GROUP, str(pusht_shards), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    alone, paired = zip(*json.loads(done.stdout), strict=True)
    for ranks in (alone, paired[::2]):
        drawn = [index for batches in ranks for batch in batches for index in batch]
        assert sorted(drawn) == list(range(644))
    assert paired[0] == paired[1] != paired[2] == paired[3]
