"""Where a GPU cannot decode, torchcodec goes over to the CPU without a word: that is noticed.

The GPU is a double: torchcodec on the CPU, which says of itself what it would say on a GPU.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchcodec import decoders

from roboshard.loader.decoding import by_torchcodec, gpu_fallback
from roboshard.loader.decoding.by_torchcodec import TorchcodecDecoder
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import InMemory
from roboshard.shards import ShardedDataset

pytestmark = pytest.mark.skipif(
    not hasattr(decoders, "CpuFallbackStatus"), reason="torchcodec tells so from 0.10 on"
)

CHIP = "NVIDIA A100"


def status(*, falls_back: bool) -> Any:
    """What torchcodec says of a GPU that decodes the video, or does not."""
    found = decoders.CpuFallbackStatus(status_known=True)
    found._backend, found._is_fallback = "CUDA", falls_back
    found._video_not_supported = falls_back
    return found


@pytest.fixture
def decoder(pusht_shards: Path) -> Any:
    """Make the decoder of a slice, as on a GPU."""
    episode = ShardedDataset.open(str(pusht_shards)).read_episode(0)
    camera = episode.record.cameras[0]

    def make(device: str) -> TorchcodecDecoder:
        data = InMemory(memoryview(episode.videos[camera.key]))
        return TorchcodecDecoder(data, camera, PictureSettings(device=device))

    return make


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set up torchcodec so that it decodes here, and says the given of itself."""

    def set_up(*, falls_back: bool) -> None:
        class OnGpu(decoders.VideoDecoder):  # type: ignore[misc]
            cpu_fallback = status(falls_back=falls_back)

            def __init__(self, *arguments: Any, device: str, **options: Any) -> None:
                super().__init__(*arguments, **options)

        monkeypatch.setattr(
            by_torchcodec, "torchcodec", lambda: SimpleNamespace(VideoDecoder=OnGpu)
        )
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"{CHIP} {device}")
        gpu_fallback._warn.cache_clear()

    return set_up


def test_codec_and_chip_are_named_once_where_the_gpu_does_not_decode(
    decoder: Any, gpu: Any
) -> None:
    gpu(falls_back=True)
    decoders = [decoder("cuda:1"), decoder("cuda:1")]
    with pytest.warns(RuntimeWarning) as caught:
        found = [list(each.frames([0, 1, 12])) for each in decoders]
    assert [len(each) for each in found] == [3, 3]
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith(f"{CHIP} cuda:1 does not decode av1 video (yuv420p, 96 x 96 pixels): ")
    assert "Video not supported" in text
    assert "decode_device='cpu' with device='cuda:1'" in text


@pytest.mark.parametrize(("device", "falls_back"), [("cuda", False), ("cpu", True)])
def test_nothing_is_said_where_nothing_is_amiss(
    decoder: Any, gpu: Any, device: str, falls_back: bool
) -> None:
    gpu(falls_back=falls_back)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(decoder(device).frames([3]))) == 1


def test_a_torchcodec_that_does_not_tell_is_believed() -> None:
    assert gpu_fallback.fallback_reason(SimpleNamespace()) is None
