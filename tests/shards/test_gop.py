"""What frames cost to decode: against slow counting, and against a real decoder that is watched."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lerobot_source import Camera, Source, build

from roboshard.shards.gop import decode_cost, frames_passed, mean_random_cost

TOP = "observation.images.top"
GOP = 5
LENGTH = 23


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[int], int]:
    """(keyframes, number of frames); the first frame is a keyframe."""
    num_frames = draw(st.integers(1, 60))
    later = draw(st.sets(st.integers(1, num_frames - 1))) if num_frames > 1 else set()
    return [0, *sorted(later)], num_frames


def counted(frames: Sequence[int], keyframes: Sequence[int], last: int | None) -> int:
    """Every frame that a decoder touches, one at a time: it stands behind `last`, and may jump to a
    keyframe.
    """
    touched, at = 0, 0 if last is None else last + 1
    for frame in frames:
        starts = [keyframe for keyframe in keyframes if keyframe <= frame]
        if at > frame or any(at < start for start in starts):
            at = starts[-1]
        while at <= frame:
            touched, at = touched + 1, at + 1
    return touched


# -- By counting -----------------------------------------------------------------------------------


@given(streams())
def test_the_mean_is_that_of_every_frame_read_by_itself(stream: tuple[list[int], int]) -> None:
    keyframes, num_frames = stream
    costs = [counted([frame], keyframes, None) for frame in range(num_frames)]
    assert mean_random_cost(keyframes, num_frames) == pytest.approx(sum(costs) / num_frames)


@given(streams(), st.data())
def test_the_cost_is_what_counting_finds(
    stream: tuple[list[int], int], data: st.DataObject
) -> None:
    keyframes, num_frames = stream
    frame = st.integers(0, num_frames - 1)
    frames = sorted(data.draw(st.sets(frame, min_size=1)))
    last = data.draw(st.none() | frame)
    assert decode_cost(frames, keyframes, last) == counted(frames, keyframes, last)
    passed = frames_passed(frames, keyframes, last)
    assert set(frames) <= set(passed)
    assert passed == sorted(set(passed))
    assert len(passed) == counted(frames, keyframes, last)


@given(streams(), st.data())
def test_reading_in_parts_costs_what_reading_at_once_does(
    stream: tuple[list[int], int], data: st.DataObject
) -> None:
    keyframes, num_frames = stream
    frames = sorted(data.draw(st.sets(st.integers(0, num_frames - 1), min_size=1)))
    cut = data.draw(st.integers(1, len(frames)))
    parts = decode_cost(frames[:cut], keyframes, None) + decode_cost(
        frames[cut:], keyframes, frames[cut - 1]
    )
    assert parts == decode_cost(frames, keyframes, None)


@given(streams())
def test_a_whole_stream_costs_each_frame_once(stream: tuple[list[int], int]) -> None:
    keyframes, num_frames = stream
    assert decode_cost(range(num_frames), keyframes, None) == num_frames


# -- Cases at the edge -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "keyframes", "last", "cost"),
    [
        ([0], [0], None, 1),
        ([7], [0], None, 8),
        ([7], [0], 6, 1),
        ([7], [0], 7, 8),  # shown before: from the keyframe again
        ([7], [0], 8, 8),
        ([7], [0, 7], 6, 1),
        ([7], [0, 7], 7, 1),
        ([7], [0, 5], 2, 3),  # a keyframe is nearer than where it stands
        ([7], [0, 5], 5, 2),
        ([9, 9], [0, 8], None, 4),  # the same frame twice
        ([0, 1, 2], [0, 1, 2], None, 3),
        ([2, 9], range(10), None, 2),
        ([], [0], 3, 0),
    ],
)
def test_the_cost_at_the_edges(
    frames: list[int], keyframes: Sequence[int], last: int | None, cost: int
) -> None:
    assert decode_cost(frames, keyframes, last) == cost


@pytest.mark.parametrize(
    ("keyframes", "num_frames", "cost"),
    [
        ([0], 1, 1.0),
        ([0], 9, 5.0),
        (range(9), 9, 1.0),
        (range(0, 10, 2), 10, 1.5),
        ([0, 8], 9, 37 / 9),
    ],
)
def test_the_mean_at_the_edges(keyframes: Sequence[int], num_frames: int, cost: float) -> None:
    assert mean_random_cost(keyframes, num_frames) == pytest.approx(cost)


# -- A real decoder --------------------------------------------------------------------------------


class WatchedDecoder:
    """PyAV's decoder; counts the pictures that come out of it, and jumps only where that saves
    some.
    """

    def __init__(self, path: Path, keyframes: Sequence[int]) -> None:
        self._container = av.open(str(path))
        self._stream = self._container.streams.video[0]
        self._pts = sorted(
            packet.pts for packet in self._container.demux(self._stream) if packet.pts is not None
        )
        self._keyframes = keyframes
        self._coming: Iterator[av.VideoFrame] = iter(())
        self._shown: int | None = None
        self.num_decoded = 0

    def show(self, frame: int) -> None:
        """Decode until this one comes out."""
        start = max(keyframe for keyframe in self._keyframes if keyframe <= frame)
        if self._shown is None or not start - 1 <= self._shown < frame:
            self._container.seek(self._pts[start], stream=self._stream)
            self._coming = self._container.decode(self._stream)
        self._shown = None
        while self._shown != frame:
            self._shown = self._pts.index(next(self._coming).pts)
            self.num_decoded += 1

    def close(self) -> None:
        """Of its file."""
        self._container.close()


@pytest.fixture(scope="module", params=[1, 2, GOP, LENGTH], ids=lambda gop: f"gop{gop}")
def film(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int]]:
    """(one episode's file, its keyframes by the encoder's orders)."""
    gop: int = request.param
    built = build(
        tmp_path_factory.mktemp("film"),
        Source(lengths=(LENGTH,), cameras=(Camera(key=TOP, gop=gop),)),
    )
    return built.clips[TOP, 0].path, list(range(0, LENGTH, gop))


def test_a_real_decoder_decodes_as_many(film: tuple[Path, list[int]]) -> None:
    path, keyframes = film
    dice = random.Random(3)
    decoder, last, expected = WatchedDecoder(path, keyframes), None, 0
    for _ in range(40):
        frames = sorted(dice.sample(range(LENGTH), dice.randint(1, 5)))
        expected += decode_cost(frames, keyframes, last)
        last = frames[-1]
        for frame in frames:
            decoder.show(frame)
        assert decoder.num_decoded == expected
    decoder.close()


def test_frames_at_random_cost_a_real_decoder_the_mean(film: tuple[Path, list[int]]) -> None:
    path, keyframes = film
    num_decoded = []
    for frame in range(LENGTH):
        decoder = WatchedDecoder(path, keyframes)
        decoder.show(frame)
        num_decoded.append(decoder.num_decoded)
        decoder.close()
    assert sum(num_decoded) / LENGTH == pytest.approx(mean_random_cost(keyframes, LENGTH))
