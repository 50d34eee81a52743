"""Whether a GPU decodes what it was given: torchcodec goes over to the CPU without a word."""

import warnings
from functools import cache
from typing import Any

import torch

from roboshard.shards.schema import CameraRecord


def fallback_reason(decoder: Any) -> str | None:
    """Return why a decoder of torchcodec decodes on the CPU; None where the GPU decodes.

    Args:
        decoder: A `torchcodec.decoders.VideoDecoder` for a GPU that has decoded a frame.
    """
    status = getattr(decoder, "cpu_fallback", None)  # torchcodec from 0.10 on
    return str(status).rpartition(": ")[2] if status else None


def notice_fallback(decoder: Any, camera: CameraRecord, device: str) -> None:
    """Warn, once for each kind of video, where a GPU was asked for and the CPU decodes."""
    if torch.device(device).type != "cuda":
        return
    reason = fallback_reason(decoder)
    if reason is not None:
        size = f"{camera.height} x {camera.width} pixels"
        _warn(f"{camera.codec} video ({camera.pix_fmt}, {size})", device, reason)


@cache
def _warn(video: str, device: str, reason: str) -> None:
    chip = torch.cuda.get_device_name(device)
    warnings.warn(
        f"{chip} does not decode {video}: {reason}. It is decoded on the CPU and copied, frame by "
        f"frame. decode_device='cpu' with device={device!r} does the same on all cores and copies "
        "whole batches; or give the dataset a codec that this chip decodes (convert-to-shards "
        "--video reencode)",
        RuntimeWarning,
        stacklevel=2,
    )
