"""Pictures at another size than they were stored in: as if they were resized after loading, only
sooner.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.decoding.rgb import DecodedFrame


class ResizedPicture:
    """A picture of brightness at another size: made where it goes to, when it goes there.

    Bilinear with antialiasing, to the byte what
    `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` makes of the whole picture,
    and hence torchvision's `v2.Resize`; but for pictures one pixel wide, which torch 2.13 gets
    wrong in bytes.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, picture: "DecodedFrame | ResizedPicture | NDArray[Any]", size: tuple[int, int]
    ) -> None:
        """Take a picture (H, W, C) that is to be made at `size`, (H, W)."""
        self.shape: tuple[int, int, int] = (*size, picture.shape[2])
        self._picture = picture

    def into(self, target: NDArray[np.uint8]) -> None:
        """Write the resized picture to `target`, (H, W, C). Raises ValueError for another shape."""
        if target.shape != self.shape:
            raise ValueError(f"a picture of shape {self.shape} does not fit {target.shape}")
        whole = torch.from_numpy(
            self._picture if isinstance(self._picture, np.ndarray) else self._picture.pixels()
        )
        size = self.shape[:2]
        if size[1] == 1:
            target[...] = resize_in_floats(whole, size).numpy()
            return
        # The operator behind `interpolate`, which itself would take fresh memory for each picture.
        torch.ops.aten._upsample_bilinear2d_aa.out(
            _batched(whole), size, False, None, None, out=_batched(torch.from_numpy(target))
        )

    def pixels(self) -> NDArray[np.uint8]:
        """Return the resized picture, (H, W, C), in memory of its own."""
        target = np.empty(self.shape, dtype=np.uint8)
        self.into(target)
        return target


def resize_in_floats(picture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return a picture (H, W, C) uint8 at another size (H, W), by the filter of `ResizedPicture`;
    on GPUs torch has it for floats only.
    """
    whole = _batched(picture).to(torch.float32)
    resized = torch.nn.functional.interpolate(whole, size=size, mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)[0].movedim(0, -1)


def nearest(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return pixels (H, W, ...) at another size (H, W), each the nearest one: between two depths
    there may be nothing.
    """
    rows, columns = (
        ((np.arange(wanted) + 0.5) * had / wanted).astype(np.int64)
        for wanted, had in zip(size, pixels.shape[:2], strict=True)
    )
    resized: NDArray[Any] = pixels[rows[:, None], columns]
    return resized


def _batched(picture: torch.Tensor) -> Any:
    """Return a picture (H, W, C) as a batch (1, C, H, W) over the same memory."""
    return picture.movedim(-1, 0)[None]
