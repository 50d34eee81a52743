"""One camera of an episode in memory: its slice, and how to come by its pictures at the least
cost.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.decoding.decode import FrameDecoder, decode_frames, open_decoder
from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import SliceBytes
from roboshard.loader.episodes.look_back import LookBackFrames
from roboshard.shards.features import DepthScale
from roboshard.shards.gop import frames_passed, mean_random_cost
from roboshard.shards.schema import CameraRecord

CHEAP_TO_GO_BACK = 4.0
"""Frames decoded for one picked at random, up to which pictures that are needed again are decoded
again.
"""


SLICE_BYTES = 6 << 10
"""About the bytes of the objects of a slice that has been visited, however short, and of its
decoder's.
"""
BYTES_A_FRAME = 64
"""Bytes of the tables for each frame: where its packet lies, which row shows it, its GOP."""


class Video:
    """A slice that is decoded when pictures of it are asked for. `pictures` is for one thread at a
    time.
    """

    def __init__(
        self,
        data: SliceBytes,
        camera: CameraRecord,
        settings: PictureSettings,
        where: str,
        depth: DepthScale | None,
    ) -> None:
        """Take a slice; `where` names it in errors, and `depth` is the scale of depth video."""
        self._data, self._camera, self._settings, self._where, self._depth = (
            data,
            camera,
            settings,
            where,
            depth,
        )
        self._frame_of_row = camera.frames()
        self.first_frame = camera.skip_frames if len(camera.rows) == 1 else None
        """The frame that the first row shows, where each further row shows the next frame; None:
        they do not.
        """
        self._decoder: FrameDecoder | None = None
        self._recent = self._memory()

    @property
    def held_bytes(self) -> int:
        """About how many bytes the slice takes in memory in all, an open decoder apart."""
        return SLICE_BYTES + self._data.num_bytes + BYTES_A_FRAME * self._camera.num_frames

    @property
    def num_decoded(self) -> int:
        """Frames decoded so far."""
        return 0 if self._decoder is None else self._decoder.num_decoded

    def frames_of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which frames of the slice these rows show."""
        return self._frame_of_row[rows]

    def rows_of_frame(self, frame: int) -> NDArray[np.int64]:
        """Return the rows that show a frame."""
        return np.flatnonzero(self._frame_of_row == frame)

    def passed(self, frames: Sequence[int]) -> list[int]:
        """Return ascending frames with those between them and where a decoder begins for them."""
        return frames_passed(frames, self._camera.keyframes, self._last_frame())

    def gops(self, frames: Iterable[int]) -> list[int]:
        """Return which GOP of the slice each frame is in."""
        keyframes = self._camera.keyframes
        return [bisect_right(keyframes, frame) for frame in frames]

    def decode_runs(self, frames: Sequence[int]) -> tuple[Sequence[int], ...]:
        """Return ascending frames in the order that costs least, as ascending parts, none of them
        empty.

        First those that are kept, which decoding further would displace; then forward from where
        the decoder stands.
        """
        last = self._last_frame()
        if self._recent is None and frames and last < frames[0]:
            return (frames,)
        kept = set() if self._recent is None else self._recent.kept(frames)
        others = [frame for frame in frames if frame not in kept]
        after = bisect_right(others, last)
        return tuple(run for run in (sorted(kept), others[after:], others[:after]) if run)

    def pictures(self, frames: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Yield ascending frames with their pictures (H, W, C), in the order in which they are to
        be had.

        Each is to be used before the next one. Raises FormatError naming the slice.
        """
        return (
            self._decoded(frames)
            if self._recent is None
            else self._seen_or_decoded(frames, self._recent)
        )

    def _seen_or_decoded(
        self, frames: Sequence[int], recent: LookBackFrames
    ) -> Iterator[tuple[int, Picture]]:
        kept = recent.kept(frames)
        for frame in kept:
            yield frame, recent.picture(frame)
        wanted = [frame for frame in frames if frame not in kept]
        if not wanted:
            return
        passed = recent.with_gaps(wanted)
        last_ones = set(passed[-recent.capacity :])
        for frame, decoded in self._decoded(passed):
            if frame in last_ones:
                recent.keep(frame, decoded)
            if frame in wanted:
                yield frame, recent.picture(frame) if frame in last_ones else decoded

    def _decoded(self, frames: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        if self._decoder is None:
            self._decoder = open_decoder(
                self._data, self._camera, self._settings, self._where, self._depth
            )
        pictures = decode_frames(self._decoder, self._camera, frames, self._settings, self._where)
        return zip(frames, pictures, strict=True)

    def _last_frame(self) -> int:
        """Return the frame that the decoder goes on from; -1: none."""
        last_frame = None if self._decoder is None else self._decoder.last_frame
        return -1 if last_frame is None else last_frame

    def _memory(self) -> LookBackFrames | None:
        """Return memory for pictures to look back at; None where going back is cheap: with near
        keyframes, memory is worth more than a few frames.
        """
        camera, settings = self._camera, self._settings
        look_back = settings.look_back.get(camera.key, 0)
        is_dear = mean_random_cost(camera.keyframes, camera.num_frames) > CHEAP_TO_GO_BACK
        return (
            LookBackFrames(look_back)
            if look_back and is_dear and settings.device == "cpu"
            else None
        )
