"""The code of docs/trainers.md with the real trainers: which samples their steps have, in one run
and resumed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.process_of_torchrun import PREFIX

from roboshard.loader import make_loader

pytestmark = pytest.mark.trainers

PAGE = (Path(__file__).parents[1] / "docs/trainers.md").read_text()
BLOCK = re.compile(r"^```python ?(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = {name: code for name, code in BLOCK.findall(PAGE) if name}
COMMON = next(code for _, code in BLOCK.findall(PAGE))
PROGRAM = """
import json, os, warnings
warnings.simplefilter("ignore")
{common}
rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
seen = []

class Policy(Policy):
    def forward(self, batch):
        seen.append(batch["index"].tolist())
        return super().forward(batch)

{code}
{more}
with open(f"seen-{{rank}}.json", "w") as file:
    json.dump(seen, file)
"""
LIGHTNING_DDP = (
    'trainer = trainer_of(max_steps=7, enable_checkpointing=False, devices=2, strategy="ddp")'
)


@pytest.fixture
def page(tmp_path: Path, pusht_shards: Path) -> Any:
    """Runs a block of the page; returns what each rank's policy has seen, step by step."""
    (tmp_path / "my_dataset_shards").symlink_to(pusht_shards, target_is_directory=True)

    def run(code: str, more: str = "", processes: int = 1) -> list[list[list[int]]]:
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.format(common=COMMON, code=code, more=more))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        prefix = [*launcher, str(processes), *PREFIX] if processes > 1 else []
        command = [sys.executable, *prefix, str(program)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(file.read_text()) for file in sorted(tmp_path.glob("seen-*.json"))]

    return run


@pytest.fixture(scope="module")
def steps(pusht_shards: Path) -> list[list[int]]:
    """The loader's own steps of two epochs."""
    loader = make_loader(str(pusht_shards), batch_size=16, max_world_size=2, cameras=[])
    return [batch["index"].tolist() for _ in range(2) for batch in loader]


def test_lightning_resumes_with_the_next_batch(page: Any, steps: list[list[int]]) -> None:
    assert page(BLOCKS["lightning"]) == [steps[:9]]


def test_lightning_under_ddp_has_the_global_batches_of_one_process(
    page: Any, pusht_shards: Path
) -> None:
    code = BLOCKS["lightning"].split("trainer = trainer_of(")[0]
    more = f"{LIGHTNING_DDP}\ntrainer.fit(Module(), datamodule=Data())"
    ranks = page(code, more)
    loader = make_loader(str(pusht_shards), batch_size=32, max_world_size=2, cameras=[])
    expected = [sorted(batch["index"].tolist()) for batch in loader][:7]
    assert [sorted(sum(parts, [])) for parts in zip(*ranks, strict=True)] == expected  # noqa: RUF017


def test_transformers_resumes_with_the_next_batch(page: Any, steps: list[list[int]]) -> None:
    assert page(BLOCKS["transformers"]) == [steps[:9]]


def test_transformers_goes_on_over_the_end_of_an_epoch(page: Any, steps: list[list[int]]) -> None:
    code = (
        BLOCKS["transformers"]
        .split("train(max_steps=7)")[0]
        .replace('"save_steps": 7', '"save_steps": 39')
    )
    more = 'train(max_steps=39)\ntrain(max_steps=44, resume="outputs/checkpoint-39")'
    assert page(code, more) == [steps[:44]]


def test_torchdata_resumes_with_the_next_batch(page: Any, steps: list[list[int]]) -> None:
    more = 'seen.extend(batch["index"].tolist() for batch in resumed)'
    assert page(BLOCKS["torchdata"], more) == [steps[7:41]]


def test_ranks_of_one_model_have_the_same_samples(page: Any) -> None:
    more = "torch.distributed.barrier(); torch.distributed.destroy_process_group()"
    ranks = page(BLOCKS["mesh"], more, processes=4)
    assert ranks[0] == ranks[1]
    assert ranks[2] == ranks[3]
    assert set(ranks[0][0]).isdisjoint(ranks[2][0])
