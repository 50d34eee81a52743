"""Every source that converts is loaded as a slow, separate reading of it says, with both
decoders.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.decoders import DECODERS, decode_with
from support.hard_cases import SOME_QUICKLY
from support.lerobot_source import (
    FURTHER_CASES,
    HARD_CASES,
    Built,
    Camera,
    Source,
    build,
    camera_code,
    read_camera,
    read_stamp,
)
from support.slowly import some_quickly

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader

TOP = "observation.images.top"
REFUSED = {"dropped_frames"}  # rows without a frame; the converter says so
MORE_CASES = {
    # Keyframes closer together than the decoder's delay: a seek by decoding time ends up one of
    # them too late.
    "short_gops_hevc": Source(cameras=(Camera(key=TOP, codec="hevc", gop=2, bframes=3),)),
    "short_open_gops_hevc": Source(
        cameras=(Camera(key=TOP, codec="hevc", gop=3, bframes=3, open_gop=True),)
    ),
    "short_open_gops_h264": Source(cameras=(Camera(key=TOP, gop=2, bframes=1, open_gop=True),)),
    "every_frame_a_keyframe": Source(
        cameras=(Camera(key=TOP, gop=1), Camera(key=f"{TOP}.av1", codec="av1", gop=1))
    ),
}
HARD_TO_SEEK = [
    "mid_gop_starts",
    "bframes_negative_dts",
    "edit_list",
    "open_gop_hevc",
    "open_gop_h264",
    "two_cameras_mixed_codecs",
    "ten_bit_hevc",
    *MORE_CASES,
]
MEAN_ROUNDING = 2  # of ten bits, which PyAV's FFmpeg turns into RGB with other chroma sampling
CASES = {
    name: source for name, source in (HARD_CASES | FURTHER_CASES).items() if name not in REFUSED
} | MORE_CASES
WINDOWS = ((-4, -1, 0, 3), (-1, 0), (0, 20), (-30, -3, -3, 1))
Sample = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A source, the shards made of it, and what loading those must give."""

    built: Built
    shards: Path

    def load(self, **options: Any) -> list[Sample]:
        return list(make_loader(str(self.shards), batch_size=None, shuffle=False, **options))

    @property
    def video_keys(self) -> list[str]:
        return [camera.key for camera in self.built.source.cameras]

    @cached_property
    def values(self) -> dict[str, list[list[Any]]]:
        """Feature -> episode -> row -> its value by LeRobot's rules; `torch.tensor` of the Python
        value is one.
        """
        source, episodes = self.built.source, range(len(self.built.source.lengths))
        values: dict[str, list[list[Any]]] = {}
        tables = [self.built.rows(episode) for episode in episodes]
        for key in tables[0].column_names:
            if key not in source.image_keys and not key.startswith("_"):
                columns = [table[key].to_pylist() for table in tables]
                values[key] = [
                    [v if isinstance(v, str) else torch.tensor(v) for v in column]
                    for column in columns
                ]
        for key in source.image_keys:
            images = [torch.from_numpy(self.built.images(key, episode)) for episode in episodes]
            values[key] = [list(image.permute(0, 3, 1, 2).float() / 255) for image in images]
        for key in self.video_keys:
            frames = [torch.tensor(self.built.frames(key, episode)) for episode in episodes]
            values[key] = [list(frame.permute(0, 3, 1, 2)) for frame in frames]
        return values

    def expected(self, windows: Mapping[str, Sequence[int]]) -> Iterator[Sample]:
        """All samples in dataset order; `windows` in frames."""
        for episode, length in enumerate(self.built.source.lengths):
            for row in range(length):
                sample = {key: rows[episode][row] for key, rows in self.values.items()}
                sample["task"] = self.built.source.tasks[int(sample["task_index"])]
                for key, offsets in windows.items():
                    inside = [0 <= row + offset < length for offset in offsets]
                    rows = [min(max(row + offset, 0), length - 1) for offset in offsets]
                    window = torch.stack([self.values[key][episode][place] for place in rows])
                    sample[key] = window[0] if key in self.video_keys and len(rows) == 1 else window
                    sample[f"{key}_is_pad"] = torch.tensor([not flag for flag in inside])
                yield sample

    def check(
        self, found: Sequence[Sample], windows: Mapping[str, Sequence[int]], *, exact: bool = True
    ) -> None:
        for sample, expected in zip(found, self.expected(windows), strict=True):
            assert set(sample) == set(expected)
            for key, value in expected.items():
                where = (
                    key,
                    int(expected["episode_index"].max()),
                    int(expected["frame_index"].max()),
                )
                if isinstance(value, str):
                    assert sample[key] == value, where
                    continue
                assert (sample[key].dtype, sample[key].shape) == (value.dtype, value.shape), where
                if exact or key not in self.video_keys:
                    assert torch.equal(sample[key], value), where
                else:
                    assert (sample[key].float() - value.float()).abs().mean() < MEAN_ROUNDING, where

    def windows(self, choices: Sequence[Sequence[int]]) -> dict[str, Sequence[int]]:
        """A window for every feature that can have one, dealt from `choices`."""
        keys = [key for key in self.values if key != "note"]
        return {key: choices[i % len(choices)] for i, key in enumerate(keys)}

    def seconds(self, windows: Mapping[str, Sequence[int]]) -> dict[str, list[float]]:
        fps = self.built.source.fps
        return {key: [offset / fps for offset in offsets] for key, offsets in windows.items()}


@pytest.fixture(scope="module", params=some_quickly(CASES, SOME_QUICKLY))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    built = build(folder / "source", CASES[name])
    convert(
        ConvertConfig(
            source=str(built.root), destination=str(folder / "shards"), shard_size="64KB", workers=1
        )
    )
    return Case(built, folder / "shards")


def test_every_row_in_dataset_order_with_the_sources_values(case: Case) -> None:
    case.check(case.load(), {})


def test_windows_on_every_feature(case: Case) -> None:
    windows = case.windows(WINDOWS)
    case.check(case.load(delta_timestamps=case.seconds(windows)), windows)


def test_a_window_of_one_keeps_its_axis_for_rows_and_loses_it_for_video(case: Case) -> None:
    windows = case.windows([[-2], [0], [5]])
    found = case.load(delta_timestamps=case.seconds(windows))
    case.check(found, windows)
    assert {sample[key].ndim for sample in found for key in case.video_keys} <= {3}
    assert {sample["index"].ndim for sample in found} == {1}
    assert {sample["action"].ndim for sample in found} == {
        1 if case.built.source.state_dim == 1 else 2
    }


@pytest.mark.parametrize(
    "case", some_quickly(HARD_TO_SEEK, SOME_QUICKLY & {*HARD_TO_SEEK}), indirect=True
)
def test_windows_are_the_same_with_pyav(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_with("pyav", monkeypatch)
    windows = case.windows(WINDOWS)
    ten_bits = case.built.source.cameras[0].pix_fmt == "yuv420p10le"
    case.check(case.load(delta_timestamps=case.seconds(windows)), windows, exact=not ten_bits)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "case", some_quickly(HARD_TO_SEEK, SOME_QUICKLY & {*HARD_TO_SEEK}), indirect=True
)
def test_frames_bear_the_stamps_of_their_rows_in_any_order(
    case: Case, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_with(decoder, monkeypatch)
    for sample in make_loader(str(case.shards), batch_size=None, pool_episodes=2, seed=3):
        for key in case.video_keys:
            frame = sample[key].permute(1, 2, 0).numpy()
            assert read_stamp(frame) == (int(sample["episode_index"]), int(sample["frame_index"]))
            assert read_camera(frame) == camera_code(key)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("degrees", "cosine", "sine"), [(90, 0, 1), (180, -1, 0), (270, 0, -1)])
def test_a_file_that_asks_to_be_turned_is_turned(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoder: str,
    degrees: int,
    cosine: int,
    sine: int,
) -> None:
    decode_with(decoder, monkeypatch)
    built = build(tmp_path / "source", Source(lengths=(3,), cameras=(Camera(key=TOP),)))
    upright, path = built.frames(TOP, 0), built.clips[TOP, 0].path
    data, one = path.read_bytes(), 1 << 16  # fixed point, as in ISO/IEC 14496-12, 8.3.2
    plain, turned = (
        struct.pack(">9i", a, b, 0, -b, a, 0, 0, 0, 1 << 30)
        for a, b in ((one, 0), (cosine * one, sine * one))
    )
    header = data.index(b"tkhd")
    at = data.index(plain, header)
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    convert(ConvertConfig(source=str(built.root), destination=str(tmp_path / "shards"), workers=1))
    found = next(iter(make_loader(str(tmp_path / "shards"), shuffle=False)))[TOP]
    expected = torch.from_numpy(np.rot90(upright, -degrees // 90, axes=(1, 2)).copy()).permute(
        0, 3, 1, 2
    )
    assert torch.equal(found, expected)
