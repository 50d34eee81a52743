"""`device` and `decode_device` on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.batches import assert_same
from support.three_pictures import TWO_WORKERS_SLOWLY, load

from roboshard.shards import OptionError

pytestmark = pytest.mark.usefixtures("no_threads_before")


without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"decode_device": "cuda"}, "decode_device='cuda': torch finds no CUDA device"),
        ({"decode_device": "cuda:1"}, "decode_device='cuda:1': torch finds no CUDA device"),
        ({"device": "cuda"}, "device='cuda': torch finds no CUDA device"),
        ({"device": torch.device("cuda", 0)}, "torch finds no CUDA device"),
        ({"pin_memory": True}, "pin_memory=True needs a CUDA device"),
        ({"decode_device": "cuda", "num_workers": 2}, "decode_device='cuda'"),
    ],
    ids=str,
)
def test_a_gpu_that_is_not_there_is_refused(
    shards: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        load(shards, **options)


@pytest.mark.parametrize("name", ["device", "decode_device"])
@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("nonsense", "is no device"),
        ("cuda:", "is no device"),
        ("", "is no device"),
        ("meta", "'cpu' or 'cuda'"),
    ],
)
def test_what_is_no_device_is_refused(shards: Path, name: str, device: str, reason: str) -> None:
    with pytest.raises(OptionError, match=rf"{name}.*{reason}"):
        load(shards, **{name: device})


def test_workers_do_not_decode_on_a_gpu(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        OptionError, match="decodes in this process: use it with num_workers=0, not 2"
    ):
        load(shards, decode_device="cuda", num_workers=2)
    with pytest.raises(OptionError, match="device='cuda:3': torch finds 1 CUDA devices"):
        load(shards, device="cuda:3")


@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_the_cpu_is_a_device(shards: Path, num_workers: int) -> None:
    options: dict[str, Any] = {"batch_size": 16}
    loader = load(
        shards,
        device="cpu",
        decode_device="cpu",
        pin_memory=False,
        num_workers=num_workers,
        **options,
    )
    assert_same(list(loader), load(shards, **options))
    loader.close()
