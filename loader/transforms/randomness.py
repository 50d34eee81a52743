"""The random numbers of a user's transforms: the same for the same place of the order, whoever
makes the batch.

Transforms draw from the global generators of torch, Python and NumPy, torchvision's from torch's
alone. For the time of a call these are seeded from what the numbers are for, and then are given
back as they were, so that the program's own numbers go on as if nothing had been drawn.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from roboshard.common.permute import derive_key

GLOBAL: Any = np.random  # whose stubs do not have all that is there

Reseed = Callable[[str, int], None]
"""Begins the numbers of a purpose ("images", "batch") for the sample at a place of the step's
global batch.
"""


class TransformGenerators:
    """The global generators, seeded by seed, epoch, step and place.

    A global generator is all threads' own, and a thread that drew from one while another has it
    seeded would spoil both. This is safe because transforms are called where nobody else draws:
    in a worker process, in its only thread that runs a user's code; without workers, in the thread
    that iterates over the loader and waits for the batch, which cannot draw meanwhile. The loader's
    own threads draw from none. So it would not be safe to call transforms in the background thread,
    beside a training step that may draw noise or drop out.
    """

    def __init__(self, seed: int, device: str = "cpu") -> None:
        """Seed nothing yet.

        Args:
            seed: of the order.
            device: where pictures are: of a GPU, its generator is seeded too.
        """
        self._seed = seed
        self._device = torch.device(device)

    @contextmanager
    def of_step(self, epoch: int, step: int) -> Iterator[Reseed]:
        """Lend the generators for the transforms of a step, to be reseeded for each sample."""

        def reseed(purpose: str, place: int) -> None:
            key = derive_key(f"transform {purpose}", self._seed, epoch, step, place)
            for generator in generators:
                generator.manual_seed(int.from_bytes(key[:8], "little"))
            random.seed(int.from_bytes(key[8:16], "little"))
            np.random.seed(int.from_bytes(key[16:20], "little"))

        generators = self._of_torch()
        with ExitStack() as held:
            for generator in generators:
                held.callback(generator.set_state, generator.get_state())
            held.callback(random.setstate, random.getstate())
            held.enter_context(_numpy_kept())
            yield reseed

    def _of_torch(self) -> list[torch.Generator]:
        generators = [torch.default_generator]
        if self._device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]
            number = self._device.index
            generators.append(
                torch.cuda.default_generators[
                    torch.cuda.current_device() if number is None else number
                ]
            )
        return generators


@contextmanager
def _numpy_kept() -> Iterator[None]:
    """Keep NumPy's global generator, of whatever kind a program has put there, while another is in
    its place.
    """
    kind = GLOBAL.get_bit_generator()
    if isinstance(kind, np.random.MT19937):
        state = np.random.get_state(legacy=False)
        try:
            yield
        finally:
            np.random.set_state(state)
        return
    GLOBAL.set_bit_generator(np.random.MT19937(0))  # the only kind that can be seeded anew
    try:
        yield
    finally:
        GLOBAL.set_bit_generator(kind)
