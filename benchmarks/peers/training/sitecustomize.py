"""Lets torchvision be imported without its compiled operators, as a CUDA build of it beside a CPU
build of torch.

LeRobot policies use its models and transforms, which need none of them; but torchvision describes
two operators on import as if they were there. Here they are declared, without an implementation: a
call of one is an error.
"""

import sys

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{operator}",
            "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        )
