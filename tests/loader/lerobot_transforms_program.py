"""Runs in LeRobot's environment, which has torchvision: its random transforms resume, with any
number of workers.
"""

import sys
from typing import Any

import torch
from torchvision.transforms import v2


def main() -> None:
    """Print how many batches were equal."""
    from roboshard.loader import make_loader  # noqa: PLC0415

    transforms = v2.Compose(
        [
            v2.RandomCrop((80, 80)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            v2.RandomErasing(),
        ]
    )
    options: dict[str, Any] = {"batch_size": 40, "seed": 3, "image_transforms": transforms}
    whole = [batch["observation.image"] for batch in make_loader(sys.argv[1], **options)]
    assert whole[0].shape == (40, 3, 80, 80)
    first = make_loader(sys.argv[1], **options)
    for _, _batch in zip(range(4), first, strict=False):
        torch.rand(7)  # the program draws too
    state = first.state_dict()
    equal = 0
    for num_workers in (0, 2):
        second = make_loader(sys.argv[1], **options, num_workers=num_workers)
        second.load_state_dict(state)
        for expected, batch in zip(whole[4:], second, strict=True):
            equal += torch.equal(expected, batch["observation.image"])
        second.close()
    sys.stdout.write(f"{equal}\n")


if __name__ == "__main__":
    main()
