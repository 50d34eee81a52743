"""A step whose pictures are on their way, and where in its batch each of them goes."""

from collections import defaultdict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.loader.batches.buffers import Buffers, Where
from roboshard.loader.decoding.pictures import Picture, copy_picture, is_brightness
from roboshard.loader.order.plan import Share
from roboshard.loader.samples.rows import Batch, PictureKey, WindowedStep, check_shapes

_WHOLE = np.dtype(np.int32)
IntArray = NDArray[np.int64]


class PartialBatch(dict[str, Any]):
    """What one worker has made of a batch: its own samples' rows, and all pictures of the batch, of
    which it has made those of its samples.
    """

    def __init__(self, values: Batch, share: Share) -> None:
        super().__init__(values)
        self.share = share


class PendingBatch:
    """A step whose pictures are on their way.

    Before it has begun it takes no memory for its batch.
    """

    def __init__(self, step: WindowedStep, pictures: Sequence[PictureKey], as_float: bool) -> None:
        self.draw = step.draw
        """What the step was drawn as: a step that is held keeps no episode in memory."""
        self.share = None if step.draw is None else step.draw.share
        """Which part of its batch it makes; None: all of it."""
        self.values = step.values
        self.has_begun = False
        self.left = sum(frames.size for frames in step.frames.values())
        self.error: BaseException | None = None
        """What is wrong with the step: the first error that came up; None: nothing."""
        self.spoiled: set[Any] = set()
        """Episodes of the step with frames that cannot be decoded."""
        self._shapes = {
            picture.key: step.frames[picture.key].shape[: 1 + picture.has_time_axis]
            for picture in pictures
        }
        self._per_sample = {key: frames.shape[1] for key, frames in step.frames.items()}
        self._as_float = {picture.key: as_float or not picture.is_video for picture in pictures}
        self._tensors: dict[str, torch.Tensor] = {}
        self._memory: dict[str, Any] = {}  # the same, one picture after the other
        self._lock = Lock()
        self._early: dict[str, dict[int, Picture]] = defaultdict(dict)
        """Picture key -> place -> picture that came before the step had begun."""

    def places(self, key: str, places: IntArray) -> IntArray:
        """Return where pictures of a key go in the batch; `places` are those in the step's frames,
        of which others may have a part.
        """
        if self.share is None:
            return places
        sample, frame = np.divmod(places, self._per_sample[key])
        whole: IntArray = self.share.places[sample] * self._per_sample[key] + frame
        return whole

    @property
    def is_over(self) -> bool:
        """Whether all pictures have come, or something is wrong with the step."""
        return not self.left or self.error is not None

    def keep(self, key: str, place: int, picture: Picture) -> bool:
        """Hold a picture, which must have memory of its own, until the step begins.

        Return False where the step has begun: then the picture is to be put.
        """
        with self._lock:
            if not self.has_begun:
                self._early[key][place] = picture
            return not self.has_begun

    def begin(self) -> dict[str, dict[int, Picture]]:
        """Begin the step: from now on pictures are put into its batch.

        Returns the pictures that were kept, to be put as well: key -> place -> picture.
        """
        with self._lock:
            self.has_begun = True
            early, self._early = self._early, {}
        self.left += sum(map(len, early.values()))  # each is settled twice: decoded, and put
        return early

    def put(self, key: str, place: int, picture: Picture, buffers: Buffers) -> None:
        """Copy a picture to its place in the batch."""
        copy_picture(picture, self.memory(key, picture, buffers)[place])

    def memory(self, key: str, picture: Picture, buffers: Buffers) -> Any:
        """Return the memory of a key's pictures, (n, H, W, C), for one that is to be put there.

        The first one of a key says how large they are, and of which kind. Raises FormatError for
        another one that cannot stand beside it.
        """
        memory = self._memory.get(key)
        if memory is None:
            memory = self._lend(key, picture, buffers)
        if memory.shape[1:] != picture.shape:
            check_shapes(key, {tuple(memory.shape[1:]), tuple(picture.shape)})
        is_same = memory.dtype == picture.dtype  # as is mostly so
        if not is_same and _is_whole(memory) != _is_whole(picture):
            raise FormatError(
                f"{key!r} has images of 32-bit whole numbers and others within one batch, which "
                "cannot be stacked; use batch_size=None"
            )
        return memory

    def _lend(self, key: str, picture: Picture, buffers: Buffers) -> Any:
        with self._lock:
            if key not in self._memory:
                dtype = torch.int32 if _is_whole(picture) else torch.float32
                if is_brightness(picture) and not self._as_float[key]:
                    dtype = torch.uint8
                lender = buffers if self.share is None else buffers.of(Where(self.share, key))
                tensor = lender.lend((*self._shape(key), *picture.shape), dtype)
                memory = tensor.view(-1, *picture.shape)
                self._tensors[key] = tensor
                self._memory[key] = memory if isinstance(picture, torch.Tensor) else memory.numpy()
            return self._memory[key]

    def _shape(self, key: str) -> tuple[int, ...]:
        """Return (n,) or (n, T) of all of the batch."""
        own = self._shapes[key]
        return own if self.share is None else (self.share.size, *own[1:])

    @property
    def num_bytes(self) -> int:
        """Bytes of the batch's pictures so far."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def batch(self) -> Batch:
        """Return rows and pictures (n, C, H, W) or (n, T, C, H, W); in memory the channels stay
        last, as decoded.
        """
        if self.share is not None and not len(self.share.places):
            return PartialBatch({}, self.share)
        pictures = {key: self._tensors[key].movedim(-1, -3) for key in self._shapes}
        values = self.values | pictures
        return values if self.share is None else PartialBatch(values, self.share)


def _is_whole(picture: Any) -> bool:
    """Whether a picture holds whole numbers that are no levels of brightness: an image of mode
    I.
    """
    return bool(picture.dtype == _WHOLE)
