"""The loader in other people's training loops: accelerate, and hooks as Lightning calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.process_of_torchrun import PREFIX
from support.slowly import slowly

from roboshard.loader import Loader, make_loader

BATCH = 16

ACCELERATE = """
import json, sys
from itertools import islice
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader
from roboshard.loader import make_loader

shards, folder = sys.argv[1:]
config = DataLoaderConfiguration(split_batches=True, dispatch_batches=True, even_batches=True)
accelerator = Accelerator(cpu=True, dataloader_config=config)
loader = make_loader(shards, batch_size=16, cameras=[], max_world_size=2)
prepared = accelerator.prepare(loader)
assert prepared is loader
seen = [batch["index"].tolist() for batch in prepared]
print(json.dumps({"rank": accelerator.process_index, "world": accelerator.num_processes, "seen": seen}))
state = loader.state_at(5, world_size=accelerator.num_processes, batch_size=16)
loader.load_state_dict(state)
assert [batch["index"].tolist() for batch in accelerator.prepare(loader)] == seen[5:]

# accelerate's own checkpoints
accelerator.register_for_checkpointing(loader)
second = [batch["index"].tolist() for batch in islice(loader, 7)]
accelerator.save_state(folder)
accelerator.wait_for_everyone()  # one process writes what all read
loader.set_epoch(0)
loader.load_state_dict(state)
accelerator.load_state(folder)
assert (loader.epoch, loader.state_dict()["step"]) == (1, 7)
rest = [batch["index"].tolist() for batch in loader]
loader.set_epoch(1)
assert [batch["index"].tolist() for batch in loader] == second + rest

# what would split, skip or batch a second time does not go unnoticed
for wrap in (accelerator.prepare_data_loader, accelerator.skip_first_batches, lambda it: next(iter(DataLoader(it)))):
    try:
        wrap(loader)
    except (AttributeError, TypeError):
        continue
    raise AssertionError(wrap)
accelerator.end_training()
"""


def run_under_accelerate(shards: Path, processes: int, tmp_path: Path) -> list[dict[str, Any]]:
    script = tmp_path / "script.py"
    script.write_text(ACCELERATE)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    prefix = [sys.executable, *torchrun, *PREFIX] if processes > 1 else [sys.executable]
    done = subprocess.run(
        [*prefix, str(script), str(shards), str(tmp_path / "state")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rank"')]


@pytest.mark.parametrize("processes", [slowly(1), 2])
def test_accelerate_does_not_split_the_loader_again(
    processes: int, pusht_shards: Path, tmp_path: Path
) -> None:
    ranks = run_under_accelerate(pusht_shards, processes, tmp_path)
    assert sorted(rank["rank"] for rank in ranks) == list(range(processes))
    assert {rank["world"] for rank in ranks} == {processes}
    drawn = [index for rank in ranks for batch in rank["seen"] for index in batch]
    assert set(drawn) == set(range(644))
    assert len(drawn) - 644 < 2  # padded for two rank slots


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_draws_nothing_from_torchs_generator(num_workers: int, pusht_shards: Path) -> None:
    """Dropout and noise draw from it: losses would depend on workers, and on where a run was
    resumed.
    """
    loader = make_loader(str(pusht_shards), batch_size=64, cameras=[], num_workers=num_workers)
    before = torch.get_rng_state()
    assert len(list(loader)) == 11
    loader.close()
    assert torch.equal(torch.get_rng_state(), before)


class Hooks:
    """What Lightning's loops do with a loader that has a state: ask, save as JSON, restore,
    iterate.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        assert hasattr(loader, "state_dict")
        assert hasattr(loader, "load_state_dict")

    def checkpoint(self) -> str:
        return json.dumps({"combined_loader": [self.loader.state_dict()]})

    def restore(self, checkpoint: str) -> None:
        (state,) = json.loads(checkpoint)["combined_loader"]
        self.loader.load_state_dict(state)

    def fit(self, epochs: int) -> Iterator[tuple[int, list[int]]]:
        while self.loader.epoch < epochs:
            epoch = self.loader.epoch
            self.loader.set_epoch(epoch)  # as trainers do for samplers
            for batch in self.loader:
                yield epoch, batch["index"].tolist()


@pytest.mark.parametrize("steps", [1, 20, 40, 41, 42, 60])
def test_hooks_as_lightning_calls_them_continue_where_they_were(
    steps: int, pusht_shards: Path
) -> None:
    def hooks() -> Hooks:
        return Hooks(make_loader(str(pusht_shards), batch_size=BATCH, cameras=[]))

    whole = list(hooks().fit(2))
    assert len(whole) == 2 * len(hooks().loader) == 82
    first = hooks()
    run = first.fit(2)
    begun = [next(run) for _ in range(steps)]
    second = hooks()
    second.restore(first.checkpoint())
    assert begun + list(second.fit(2)) == whole
