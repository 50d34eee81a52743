"""GPUs: what can be asked of them here, and the copy of a batch to one beside the training step."""

import time
from collections.abc import Callable
from typing import Any

import torch

from roboshard.common.errors import OptionError
from roboshard.loader.config import LoaderConfig
from roboshard.loader.samples.rows import Batch
from roboshard.loader.stats import StatsCounter


def check_devices(config: LoaderConfig) -> None:
    """Raise OptionError for devices that are not there, or combinations that do not work."""
    read, split = config.read, config.split
    for name, device in (("decode_device", read.decode_device), ("device", read.device)):
        if device is not None:
            _check_device(name, device)
    if decodes_on_gpu(config) and split.num_workers:
        raise OptionError(
            f"decode_device={read.decode_device!r} decodes in this process: use it with "
            f"num_workers=0, not {split.num_workers}"
        )
    if read.pin_memory and not torch.cuda.is_available():
        raise OptionError("pin_memory=True needs a CUDA device, and torch finds none; leave it out")


def _check_device(name: str, device: str) -> None:
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"{name}={device!r} is no device: {str(error).splitlines()[0]}") from None
    if kind.type not in ("cpu", "cuda"):
        raise OptionError(f"{name} must be 'cpu' or 'cuda', not {device!r}")
    if kind.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            f"{name}={device!r}: torch finds no CUDA device (torch {torch.__version__}); it needs "
            "an NVIDIA GPU, its driver, and a CUDA build of torch (and of torchcodec, to decode on "
            "it)"
        )
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"{name}={device!r}: torch finds {torch.cuda.device_count()} CUDA devices"
        )


def decodes_on_gpu(config: LoaderConfig) -> bool:
    """Whether video is decoded by a GPU."""
    return torch.device(config.read.decode_device).type == "cuda"


def should_pin(config: LoaderConfig) -> bool:
    """Whether pictures are put into page-locked memory as they are decoded."""
    asked = config.read.pin_memory
    if decodes_on_gpu(config) or config.split.num_workers:
        return False
    return torch.cuda.is_available() if asked is None else asked


def pin_batch(batch: Batch) -> Batch:
    """Return the batch with its tensors in page-locked memory."""
    return _each_tensor(batch, lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())


class Copies:
    """Copies of batches to a device, on a stream of their own: begun in one thread, awaited in
    another.
    """

    def __init__(self, device: str | None, counter: StatsCounter) -> None:
        """Copy batches to `device`; None: they stay where they were made.

        Nothing is made on the device before the first batch.
        """
        self._counter = counter
        self._device = None if device is None else torch.device(device)
        self._stream: Any = None

    def begin(self, batch: Batch) -> tuple[Batch, Any]:
        """Return the batch on the device, and the event that tells when it has arrived."""
        if self._device is None:
            return batch, None
        started = time.perf_counter()
        begun = self._begun(batch, self._device)
        self._counter.spans.add("copy to device", started)
        return begun

    def _begun(self, batch: Batch, device: torch.device) -> tuple[Batch, Any]:
        if device.type != "cuda":
            return _each_tensor(batch, lambda tensor: tensor.to(device)), None
        self._stream = self._stream or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            copied = _each_tensor(batch, lambda tensor: tensor.to(device, non_blocking=True))
            return copied, self._stream.record_event()

    def finish(self, batch: Batch, arrived: Any) -> Batch:
        """Let the current stream wait for the copy; the memory is kept until that stream is done
        with it.
        """
        if arrived is None:
            return batch
        current = torch.cuda.current_stream(self._device)
        current.wait_event(arrived)
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                value.record_stream(current)
        return batch


def _each_tensor(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    return {
        key: change(value) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }
