"""Named datasets that have broken readers of LeRobot data before, each small and quick to build."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .spec import Camera, Color, Source

TOP = "observation.images.top"
WRIST = "observation.images.wrist"

_ONE = Source(cameras=(Camera(key=TOP),))


def _filmed(camera: Camera) -> Source:
    return Source(cameras=(camera,))


HARD_CASES: dict[str, Source] = {
    "several_files_with_gaps": Source(
        cameras=(Camera(key=TOP, episodes_per_file=2, file_numbers=(0, 2, 5)),),
        data_file_numbers=(1, 2, 6),
        episodes_per_meta_file=2,
    ),
    "mid_gop_starts": _filmed(Camera(key=TOP, stream="continuous")),
    "bframes_negative_dts": _filmed(Camera(key=TOP, bframes=2)),
    "edit_list": _filmed(Camera(key=TOP, edit_list=True, bframes=2)),
    "open_gop_hevc": _filmed(
        Camera(key=TOP, codec="hevc", gop=8, bframes=3, open_gop=True, stream="continuous")
    ),
    "open_gop_h264": _filmed(Camera(key=TOP, gop=8, bframes=3, open_gop=True, stream="continuous")),
    "hevc": _filmed(Camera(key=TOP, codec="hevc")),
    "av1": _filmed(Camera(key=TOP, codec="av1", gop=2)),
    "moov_tail": _filmed(Camera(key=TOP, moov="tail")),
    "timestamp_drift": _filmed(Camera(key=TOP, episodes_per_file=5, timestamp_drift_s=3e-4)),
    "image_features": Source(image_keys=(TOP, WRIST)),
    "all_dtypes": replace(_ONE, extra_features=True),
    "undeclared_columns": replace(_ONE, undeclared_columns=True),
    "tasks_in_any_script": replace(
        _ONE,
        tasks=(
            "拿起方块",
            "التقط المكعب",
            "pick 🧊 → 📦 👩🏽‍🔧",
            "cafe\u0301 vs caf\u00e9",
            'a "quoted"\\ path',
        ),
        tasks_per_episode=2,
    ),
    "case_colliding_cameras": Source(
        cameras=(Camera(key="observation.images.Top"), Camera(key="observation.images.top"))
    ),
    "two_cameras_mixed_codecs": Source(
        cameras=(
            Camera(key=TOP),
            Camera(
                key=WRIST,
                codec="av1",
                stream="continuous",
                episodes_per_file=5,
                size=(80, 64),
                moov="tail",
            ),
        )
    ),
    "whole_file_row_groups": replace(_ONE, row_groups="whole_file", episodes_per_data_file=5),
    "one_frame_episodes": Source(
        lengths=(1, 6, 1, 1, 8, 1),
        cameras=(Camera(key=TOP), Camera(key=WRIST, stream="continuous", bframes=2)),
    ),
}


def _depth(key: str, scale: dict[str, float | bool], **others: Any) -> Camera:
    return Camera(key=key, codec="hevc", pix_fmt="gray12le", depth=scale, **others)


EVERY_KIND = Source(
    lengths=(5, 4, 6),
    cameras=(
        Camera(key=TOP),
        _depth("observation.depth.log", {}, gop=2, size=(64, 70)),
        _depth(
            "observation.depth.linear",
            {"depth_min": 0.2, "depth_max": 70, "shift": 0.0, "use_log": False},
            gop=4,
            bframes=2,
            open_gop=True,
            stream="continuous",
        ),
    ),
    image_keys=("observation.images.still",),
    depth_images={
        "observation.depth.m": "m",
        "observation.depth.mm": "mm",
        "observation.depth.png": None,
    },
    language=True,
    extra_features=True,
)
"""A dataset with a feature of every kind."""

FURTHER_CASES: dict[str, Source] = {
    "dropped_frames": _filmed(Camera(key=TOP, drop_frames={0: 2, 3: 1})),
    "start_offset": _filmed(Camera(key=TOP, start_offset_s=1.5)),
    "start_offset_bframes": _filmed(Camera(key=TOP, start_offset_s=1.5, bframes=2)),
    "color_tags": _filmed(Camera(key=TOP, color=Color())),
    "color_full_range": _filmed(Camera(key=TOP, color=Color(range="pc"))),
    "yuv444p": _filmed(Camera(key=TOP, pix_fmt="yuv444p")),
    "ten_bit_hevc": _filmed(Camera(key=TOP, codec="hevc", pix_fmt="yuv420p10le")),
    "edit_list_without_bframes": _filmed(Camera(key=TOP, edit_list=True)),
    "edit_list_open_gop_hevc": _filmed(
        Camera(
            key=TOP,
            codec="hevc",
            gop=8,
            bframes=3,
            open_gop=True,
            stream="continuous",
            edit_list=True,
        )
    ),
    "edit_list_av1": _filmed(Camera(key=TOP, codec="av1", edit_list=True, stream="continuous")),
    "thirty_fps": Source(
        fps=30, cameras=(Camera(key=TOP, bframes=2), Camera(key=WRIST, codec="av1", gop=2))
    ),
    "scalar_state": Source(state_dim=1, cameras=(Camera(key=TOP),)),
    "no_cameras": Source(),
}
"""Cases that a reader may rightly refuse, or that are milder cousins of the hard ones."""

SOME_QUICKLY = {
    "several_files_with_gaps",
    "edit_list",
    "open_gop_hevc",
    "av1",
    "image_features",
    "all_dtypes",
    "case_colliding_cameras",
    "two_cameras_mixed_codecs",
    "start_offset_bframes",
}
"""A case of each kind, for where all take too long."""
