"""Slices with parameter sets in their packets: each frame is what decoding its slice in order
gives, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.decoders import decode_with
from support.joined import Run, in_order, join

from roboshard.loader.decoding.by_packets import PacketDecoder
from roboshard.loader.decoding.decode import open_decoder
from roboshard.loader.decoding.pictures import Picture, copy_picture
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import InMemory

Planes = NDArray[np.uint8]


class Slot:
    """A slice, and its frames decoded in order by PyAV."""

    def __init__(self, codec: str, runs: Sequence[Run], described: Run, seed: int) -> None:
        data, self.camera = join(codec, runs, described, seed)
        self.data = memoryview(data)
        self.expected = in_order(data)
        assert len(self.expected) == self.camera.num_frames


A, B, C = Run(), Run(offset=6), Run(offset=12)
PLAIN = Run(sets="none")
MIXES: dict[str, tuple[Run, ...]] = {
    "as described": (PLAIN,),
    "repeated": (A, A),
    "another": (B,),
    "another at first": (Run(offset=6, sets="first", frames=6),),
    "then another": (PLAIN, B),
    "then another and never again": (PLAIN, Run(offset=6, sets="first", frames=8)),
    "there and back": (A, B, A),
    "there and back, seldom": tuple(Run(offset=o, sets="first") for o in (0, 6, 0, 12)),
    "three": (C, B, A),
    "reordered": (Run(bframes=2, gop=6, frames=9), Run(offset=6, bframes=2, gop=6, frames=9)),
    "late": (Run(frames=4, sets="last"), Run(offset=6, frames=6, gop=3, sets="first")),
    "all keyframes": (Run(gop=1, frames=3), Run(offset=6, gop=1, frames=5, sets="first")),
    "far apart": (Run(gop=20, frames=9, sets="first"), Run(offset=6, gop=20, frames=9)),
}


@pytest.fixture(scope="module")
def slots() -> dict[str, list[Slot]]:
    """Codec -> slices, of which all have the description of the same encoder."""
    return {
        codec: [Slot(codec, runs, PLAIN, 100 * i) for i, runs in enumerate(MIXES.values())]
        for codec in ("h264", "hevc", "av1")
    }


def frames_of(slot: Slot, wanted: PictureSettings) -> PacketDecoder:
    decoder: Any = open_decoder(InMemory(slot.data), slot.camera, wanted, "here")
    assert isinstance(decoder, PacketDecoder)
    decoder._make = lambda frame: frame.to_ndarray()
    return decoder


def check(decoder: PacketDecoder, slot: Slot, frames: Sequence[int]) -> None:
    found = list(decoder.frames(frames))
    assert len(found) == len(frames)
    for frame, picture in zip(frames, found, strict=True):
        assert np.array_equal(picture, slot.expected[frame]), frame


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("mix", ["then another and never again", "there and back, seldom"])
def test_without_the_sets_in_force_frames_would_be_others(
    slots: dict[str, list[Slot]], codec: str, mix: str
) -> None:
    """Or the tests below say nothing."""
    slot = slots[codec][list(MIXES).index(mix)]
    decoder = frames_of(slot, PictureSettings())
    decoder._gops._starts = None
    found = [next(decoder.frames([frame])) for frame in reversed(range(slot.camera.num_frames))]
    same = [np.array_equal(one, two) for one, two in zip(found[::-1], slot.expected, strict=True)]
    assert not all(same)


visits = st.lists(
    st.tuples(
        st.integers(0, len(MIXES) - 1),
        st.lists(st.integers(0, 17), max_size=6, unique=True).map(sorted),
    ),
    max_size=20,
)


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(visits=visits)
def test_frames_are_those_of_decoding_each_slice_alone_in_order(
    slots: dict[str, list[Slot]], codec: str, visits: list[tuple[int, list[int]]]
) -> None:
    shared = PictureSettings()
    decoders = [frames_of(slot, shared) for slot in slots[codec]]
    for number, wanted in visits:
        slot = slots[codec][number]
        frames = [frame for frame in wanted if frame < slot.camera.num_frames]
        check(decoders[number], slot, frames)


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
@pytest.mark.parametrize("mix", MIXES)
def test_backwards_after_forwards(slots: dict[str, list[Slot]], codec: str, mix: str) -> None:
    slot = slots[codec][list(MIXES).index(mix)]
    decoder = frames_of(slot, PictureSettings())
    every = range(slot.camera.num_frames)
    check(decoder, slot, every)
    for frame in reversed(every):
        check(decoder, slot, [frame])
    check(decoder, slot, every)


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
@pytest.mark.parametrize("mix", MIXES)
def test_torchcodec_serves_only_slices_in_which_it_needs_no_sets_from_before(
    slots: dict[str, list[Slot]], codec: str, mix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = slots[codec][list(MIXES).index(mix)]
    wanted, frames = PictureSettings(), range(slot.camera.num_frames)
    by_packets = open_decoder(InMemory(slot.data), slot.camera, wanted, "here")
    expected = [rgb(picture) for picture in by_packets.frames(frames)]
    decode_with("torchcodec", monkeypatch)
    decoder = open_decoder(InMemory(slot.data), slot.camera, wanted, "here")
    for frame in [*frames[::-1], *frames]:
        (found,) = (rgb(picture) for picture in decoder.frames([frame]))
        assert np.array_equal(found, expected[frame]), frame
    assert isinstance(decoder, PacketDecoder) == (codec != "av1" and mix in NOT_ALL_LED)


NOT_ALL_LED = {
    "another at first",
    "then another",
    "then another and never again",
    "there and back, seldom",
    "late",
    "all keyframes",
}


def rgb(picture: Picture) -> Planes:
    target = np.empty(picture.shape, dtype=np.uint8)
    copy_picture(picture, target)
    return target
