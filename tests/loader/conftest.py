"""What the loader's tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Pictures of 96 x 64 gain nothing from torch's own threads, which would spin beside the decoding ones."""
    torch.set_num_threads(1)
