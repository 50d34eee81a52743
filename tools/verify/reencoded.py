"""The pictures of a slice that was encoded again beside those of its source, decoded."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import av
import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.converter.reencoding.encoder import fitted, frames_at
from roboshard.converter.reencoding.settings import Encoding
from roboshard.converter.video.alignment import RowTimes
from roboshard.converter.video.video_file import VideoFile
from roboshard.shards.gop import distances
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import open_slice
from roboshard.tools.verify.problems import CONVERT_AGAIN, Place

Luma = NDArray[np.float32]

AGAIN = "in encoding it again"
MIN_PSNR = 20.0
"""Least PSNR of luma in decibels. What encoders make of pictures with little noise is above,
however low the quality.
"""
BLANK = 0.95
"""Share of the variance of the source frame, which is the squared error of a picture that is gray
all over: what encoders leave of noisy pictures is nearer, what has nothing to do with the frame is
not.
"""
NEARER = 1.25
"""A picture whose mean squared error to a neighbour of its own frame is so many times smaller is
that neighbour's.
"""
RUN = 6
"""How many rows one after the other must show a neighbour's frame. Fewer may be pictures that the
encoder found not worth their bits and took from the one before. A keyframe is made of its own frame
alone, with SVT-AV1 because its temporal filter is off: one is enough.
"""
_WORST_MSE = 255**2 / 10 ** (MIN_PSNR / 10)


class PictureDifferences:
    """What the pictures of rows show beside the source, found out in order of rows."""

    def __init__(self) -> None:
        """Begin with nothing found."""
        self._wrong: dict[int, list[int]] = {1: [], -1: []}
        self._unlike: list[int] = []
        self._run: list[int] = []
        self._side = self._keyframes = 0

    def judge(
        self, row: int, here: Luma, beside: tuple[Luma | None, ...], *, is_keyframe: bool
    ) -> None:
        """Hold a row's picture against (the frame before, its own frame, the frame after) of the
        source.
        """
        before, error, after = (np.inf if other is None else _mse(here, other) for other in beside)
        side = 0
        if error > NEARER * min(before, after):
            side = 1 if after < before else -1
        if side != self._side:
            self._end_run()
        self._side = side
        if side:
            self._run.append(row)
            self._keyframes += is_keyframe
        elif (
            error > _WORST_MSE
            and beside[1] is not None
            and error > BLANK * float(np.var(beside[1]))
        ):
            self._unlike.append(row)

    def report(self, place: Place) -> None:
        """Report what was found, at this place."""
        self._end_run()
        kinds = {
            f"show the frame after their own: a frame was dropped {AGAIN}": self._wrong[1],
            f"show the frame before their own: a frame was added or repeated {AGAIN}": (
                self._wrong[-1]
            ),
            f"show no frame like their own in the source (below {MIN_PSNR:g} dB)": self._unlike,
        }
        for what, rows in kinds.items():
            if rows:
                place.report(f"{len(rows)} rows, first row {rows[0]}, {what}", CONVERT_AGAIN)

    def _end_run(self) -> None:
        if self._side and (self._keyframes or len(self._run) >= RUN):
            self._wrong[self._side] += self._run
        self._run, self._keyframes = [], 0


@dataclass(frozen=True, kw_only=True)
class Original:
    """One camera of an episode in the source."""

    video: VideoFile
    rows: RowTimes
    encoding: Encoding


def compare_pictures(camera: CameraRecord, data: bytes, original: Original, place: Place) -> None:
    """Check that every row's picture is its frame of the source, resized as the conversion did, but
    for coding noise.

    Raises:
        SourceError: the source cannot be decoded.
    """
    video, encoding = original.video, original.encoding
    packets, shown = video.select(original.rows)
    times, first_rows = np.unique(shown, return_index=True)
    stream = video.decodable_stream(packets, of_one_size=encoding.size is None)
    if distances(camera.keyframes, camera.num_frames).max() > encoding.gop:
        place.report(
            f"keyframes are more than {encoding.gop} frames apart, the conversion's gop",
            CONVERT_AGAIN,
        )
    theirs = (_luma(fitted(frame, encoding.size)) for frame in frames_at(stream, packets, times))
    ours = _Slice(data, camera)
    frames, keyframes, differences = camera.frames(), set(camera.keyframes), PictureDifferences()
    before: Luma | None = None
    own: Luma | None = next(theirs)
    for row, after in zip(first_rows.tolist(), chain(theirs, [None]), strict=True):
        try:
            here = ours.frame(int(frames[row]))
        except (av.FFmpegError, FormatError) as error:
            place.report(f"the picture of row {row} cannot be decoded: {error}", CONVERT_AGAIN)
            break
        if own is None or here.shape != own.shape:
            size = None if own is None else own.shape
            place.report(
                f"its pictures are {here.shape} (height, width), not {size}", CONVERT_AGAIN
            )
            break
        differences.judge(row, here, (before, own, after), is_keyframe=frames[row] in keyframes)
        before, own = own, after
    differences.report(place)


class _Slice:
    """The pictures of a slice, asked for in ascending order."""

    def __init__(self, data: bytes, camera: CameraRecord) -> None:
        self._frames = enumerate(_decoded(data, camera))
        self._last: tuple[int, av.VideoFrame] | None = None

    def frame(self, number: int) -> Luma:
        """Return the picture of a frame. Raises FormatError where the slice ends before it."""
        while self._last is None or self._last[0] < number:
            self._last = next(self._frames, None)
            if self._last is None:
                raise FormatError(f"the slice has no frame {number}")
        return _luma(self._last[1])


def _decoded(data: bytes, camera: CameraRecord) -> Iterator[av.VideoFrame]:
    with open_slice(memoryview(data), camera) as container:
        container.streams.video[0].codec_context.thread_count = 1
        yield from container.decode(video=0)


def _luma(frame: av.VideoFrame) -> Luma:
    plane = frame.planes[0]
    pixels = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    return np.asarray(pixels[:, : plane.width], dtype=np.float32)


def _mse(one: Luma, other: Luma) -> float:
    difference = one - other
    return float(np.mean(difference * difference))
