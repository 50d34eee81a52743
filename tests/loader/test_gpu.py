"""What only a GPU can show: NVDEC's pictures, copies beside the step, page-locked memory."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lerobot_source import Camera, Source, build
from torch.nn.functional import interpolate

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import Loader, make_loader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason=f"no NVIDIA GPU: torch {torch.__version__} finds no CUDA device",
    ),
]

CODECS = ("h264", "hevc", "av1")
SIZE = (192, 256)
MAX_LEVELS = 3
"""NVDEC's decoding is exact; colours are converted by other code, which may round otherwise."""


@pytest.fixture(scope="module", params=CODECS)
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose only camera has this codec, in pictures that all of NVDEC's codecs can
    have.
    """
    folder = tmp_path_factory.mktemp("gpu")
    camera = Camera(key="observation.images.top", codec=request.param, size=SIZE)
    source = build(folder / "source", Source(lengths=(40, 30), cameras=(camera,)))
    convert(ConvertConfig(source=str(source.root), destination=str(folder / "shards")))
    return folder / "shards"


def load(shards: Path, **options: Any) -> Loader:
    return make_loader(str(shards), batch_size=8, seed=3, **options)


def pictures(loader: Loader) -> torch.Tensor:
    found = [batch["observation.images.top"].cpu() for batch in loader]
    loader.close()
    return torch.cat(found)


def decoded_there(shards: Path, **options: Any) -> torch.Tensor:
    """Pictures that a GPU decoded; skips the test, naming codec and chip, where this one cannot."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = pictures(load(shards, decode_device="cuda", **options))
    if refused := [str(each.message) for each in caught if "does not decode" in str(each.message)]:
        pytest.skip(refused[0])
    return found


def test_pictures_of_nvdec_are_those_of_the_cpu(shards: Path) -> None:
    expected, found = pictures(load(shards)), decoded_there(shards)
    assert found.shape == expected.shape
    assert (found.int() - expected.int()).abs().max() <= MAX_LEVELS


def test_pictures_are_resized_on_the_gpu(shards: Path) -> None:
    whole = decoded_there(shards).float()
    expected = interpolate(whole, (96, 128), mode="bilinear", antialias=True)
    found = decoded_there(shards, image_size=(96, 128)).float()
    assert (found - expected).abs().max() <= 1.5


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"pin_memory": False}], ids=str)
def test_copied_batches_are_those_of_the_cpu(shards: Path, options: dict[str, Any]) -> None:
    expected, loader = list(load(shards)), load(shards, device="cuda", **options)
    for batch, there in zip(expected, loader, strict=True):
        for key, value in batch.items():
            if isinstance(value, torch.Tensor):
                assert there[key].is_cuda
                assert torch.equal(there[key].cpu(), value), key
    loader.close()


def test_pictures_are_in_page_locked_memory(shards: Path) -> None:
    loader = load(shards, pin_memory=True)
    assert all(batch["observation.images.top"].is_pinned() for batch in loader)
    loader.close()


def test_a_copy_is_whole_when_the_step_reads_it(shards: Path) -> None:
    """The stream of the step is busy, and batches before are dropped: their memory must not be used
    again.
    """
    expected = [batch["observation.images.top"].sum().item() for batch in load(shards)]
    loader, sums = load(shards, device="cuda"), []
    matrix = torch.randn(2048, 2048, device="cuda")
    for batch in loader:
        for _ in range(20):
            matrix = (matrix @ matrix).clamp(-1, 1)
        sums.append(batch["observation.images.top"].sum())
        del batch
    assert [each.item() for each in sums] == expected
    loader.close()


def test_the_example_trains_with_nccl(shards: Path, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "train_ddp.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--shards", str(shards), "--output", str(tmp_path), "--steps", "10"]
    command = [*torchrun, "--nproc-per-node", "1", str(example), *options, "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step    10  loss" in done.stdout
