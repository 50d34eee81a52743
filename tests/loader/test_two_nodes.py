"""The recipe of docs/cluster.md as two nodes: killed while it trains, it goes on with one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pytest
from support.network_namespaces import INTERFACE, Node, two_nodes
from support.process_of_torchrun import PREFIX
from support.torchrun import kill, kill_after

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_ddp.py"
STEPS, EVERY, BATCH = 24, 5, 32
DEADLINE_S = 240.0

Steps = dict[int, tuple[list[int], float]]
"""Step -> its global batch's frames, sorted, and its loss over all ranks."""

pytestmark = pytest.mark.slow


def launch(
    shards: Path, output: Path, where: Sequence[str], torchrun: Sequence[str]
) -> subprocess.Popen[bytes]:
    options = ["--shards", str(shards), "--output", str(output), "--log-batches"]
    options += ["--steps", str(STEPS), "--batch-size", str(BATCH), "--log-every", "4"]
    options += ["--checkpoint-every", str(EVERY), "--max-world-size", "8", "--device", "cpu"]
    program = [sys.executable, "-m", "torch.distributed.run", *torchrun, *PREFIX, str(EXAMPLE)]
    variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": INTERFACE if where else "lo"}
    output.mkdir(parents=True, exist_ok=True)
    with (output / f"errors-{len(list(output.iterdir()))}.txt").open("wb") as errors:
        return subprocess.Popen(
            [*where, *program, *options],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | variables,
        )


def on_nodes(nodes: tuple[Node, Node], shards: Path, output: Path) -> list[subprocess.Popen[bytes]]:
    """Start two processes on each of two nodes, which meet at the first one's address."""
    meeting = ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    meeting += ["--rdzv-endpoint", f"{nodes[0].address}:29500", "--rdzv-id", "two-nodes"]
    return [  # both have this machine's name: torchrun has to be told which of them is the first
        launch(
            shards,
            output,
            node.prefix,
            [*meeting, "--local-addr", node.address, "--rdzv-conf", f"is_host={node is nodes[0]}"],
        )
        for node in nodes
    ]


def finish(runs: Sequence[subprocess.Popen[bytes]], output: Path) -> None:
    try:
        codes = [run.wait(DEADLINE_S) for run in runs]
    finally:
        kill(runs)
    texts = [path.read_text()[-2000:] for path in sorted(output.glob("errors-*.txt"))]
    assert codes == [0] * len(runs), "\n".join(texts)


def steps_of(output: Path) -> Steps:
    """What was logged; the last record of a step counts. All ranks have to say the same loss."""
    frames: dict[int, dict[str, list[int]]] = defaultdict(dict)
    losses: dict[int, dict[str, float]] = defaultdict(dict)
    for path in output.glob("batches-*.jsonl"):
        for record in map(json.loads, path.read_text().splitlines()):
            frames[record["step"]][path.stem] = record["index"]
            losses[record["step"]][path.stem] = record["loss"]
    assert all(len(set(each.values())) == 1 for each in losses.values())
    return {
        step: (sorted(chain(*ranks.values())), next(iter(losses[step].values())))
        for step, ranks in frames.items()
    }


def assert_goes_on(resumed: Steps, whole: Mapping[int, tuple[list[int], float]]) -> None:
    """The same frames step by step, and losses that differ by what the order of sums makes."""
    first = min(resumed)
    assert first in range(2 * EVERY + 1, STEPS, EVERY)  # the step after a checkpoint
    assert sorted(resumed) == list(range(first, STEPS + 1))
    for step, (frames, loss) in resumed.items():
        assert frames == whole[step][0]
        assert loss == pytest.approx(whole[step][1], rel=1e-4)


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    with two_nodes() as both:
        yield both


@pytest.fixture(scope="module")
def whole(
    nodes: tuple[Node, Node], pusht_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("two_nodes") / "whole"
    finish(on_nodes(nodes, pusht_shards, output), output)
    return output


@pytest.fixture(scope="module")
def killed(
    nodes: tuple[Node, Node], pusht_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a run whose nodes went away after its second checkpoint at the earliest."""
    output = tmp_path_factory.mktemp("two_nodes") / "killed"
    runs = on_nodes(nodes, pusht_shards, output)
    kill_after(runs, output / "batches-0.jsonl", 2 * EVERY + 2, DEADLINE_S)
    assert max(steps_of(output)) < STEPS, "it ended before it was killed"
    return output


@pytest.mark.parametrize("processes", [4, 1])
def test_two_nodes_that_were_killed_go_on_as_one(
    processes: int, whole: Path, killed: Path, pusht_shards: Path, tmp_path: Path
) -> None:
    output = tmp_path / "resumed"
    output.mkdir()
    shutil.copy(killed / "checkpoint.pt", output)
    one = ["--standalone", "--nproc-per-node", str(processes)]
    finish([launch(pusht_shards, output, [], one)], output)
    assert_goes_on(steps_of(output), steps_of(whole))


def test_every_rank_says_how_fast_it_was_and_how_long_it_waited(whole: Path) -> None:
    logs = {path.name: path.read_text().splitlines() for path in whole.glob("speed-*.jsonl")}
    assert sorted(logs) == [f"speed-{rank}.jsonl" for rank in range(4)]
    for lines in logs.values():
        records = [json.loads(line) for line in lines]
        assert [record["step"] for record in records] == list(range(4, STEPS + 1, 4))
        assert all(record["frames_per_s"] > 0 for record in records)
        assert all(0 < record["wait_share"] < 1 for record in records)
