"""Slices whose packets carry parameter sets of their own: encodes with other settings under one
description.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from roboshard.shards.mp4 import read_sample_tables
from roboshard.shards.schema import CameraRecord

from .encoder_thread import in_encoder_thread

HEIGHT, WIDTH = 48, 64
_NO_EDIT_LIST = {"use_editlist": "0"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Frames that are encoded with one setting, and how their sets are carried."""

    offset: int = 0
    """How much coarser colors are than brightness: a number of the parameter sets."""
    frames: int = 4
    gop: int = 2
    bframes: int = 0
    sets: Literal["each", "first", "last", "none"] = "each"
    """Keyframes that carry their parameter sets; "none" is right only for the setting that is
    described.
    """


Coded = tuple[int, int, bool, bytes]
"""(pts, dts, is a keyframe, payload)"""


@in_encoder_thread
def encode_run(codec: str, run: Run, seed: int) -> bytes:
    """An MP4 file of a run of noise."""
    noise = np.random.default_rng(seed)
    structure = f"keyint={run.gop}:min-keyint={run.gop}:scenecut=0:bframes={run.bframes}:b-adapt=0:open-gop=0"
    if codec == "h264":
        chroma = f"chroma-qp-offset={run.offset}:threads=1"
        options = {"preset": "veryfast", "x264-params": f"{structure}:{chroma}"}
    elif codec == "hevc":
        chroma = f"cbqpoffs={run.offset}:crqpoffs={run.offset}"
        quiet = "log-level=none:pools=none:frame-threads=1"
        options = {"preset": "ultrafast", "x265-params": f"{structure}:{chroma}:{quiet}"}
    else:
        options = {"g": str(run.gop), "preset": "10", "svtav1-params": f"lp=1:{_av1(run)}"}
    encoder = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options=_NO_EDIT_LIST) as output:
        stream: Any = output.add_stream(encoder, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(run.frames):
            pixels = noise.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def _av1(run: Run) -> str:
    return f"enable-restoration={int(run.offset > 0)}:enable-cdef={int(run.offset < 4)}"


def join(codec: str, runs: Sequence[Run], described: Run, seed: int) -> tuple[bytes, CameraRecord]:
    """Return one slice of all runs, with the description of one more, and its record."""
    delay = max(run.bframes for run in runs) and 2
    coded: list[Coded] = []
    for number, run in enumerate(runs):
        base = len(coded)
        data = encode_run(codec, run, seed + number)
        tables = read_sample_tables(data)
        sets = _sets(codec, tables.extradata)
        starts = np.flatnonzero(tables.is_sync).tolist()
        carriers = {"each": starts, "first": starts[:1], "last": starts[-1:], "none": []}[run.sets]
        rank = np.argsort(tables.as_shown).tolist()
        for i, (begin, end) in enumerate(zip(tables.offsets, tables.ends, strict=True)):
            payload = (sets if i in carriers else b"") + data[begin:end]
            pts, dts = base + rank[i] + delay, base + i
            coded.append((pts, dts, bool(tables.is_sync[i]), payload))
    return _mux(coded, encode_run(codec, described, seed)), _record(codec, coded, delay)


def _mux(coded: Sequence[Coded], template: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(template)) as source,
        av.open(buffer, "w", format="mp4", options=_NO_EDIT_LIST) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.time_base = Fraction(1, 10)
        for pts, dts, is_keyframe, payload in coded:
            packet: Any = av.Packet(payload)
            packet.time_base, packet.stream = Fraction(1, 10), stream
            packet.pts, packet.dts, packet.duration, packet.is_keyframe = pts, dts, 1, is_keyframe
            output.mux(packet)
    return buffer.getvalue()


def _record(codec: str, coded: Sequence[Coded], delay: int) -> CameraRecord:
    count = len(coded)
    tick = 10240 // 10
    return CameraRecord(
        key="top",
        member="top.mp4",
        codec=codec,
        width=WIDTH,
        height=HEIGHT,
        pix_fmt="yuv420p",
        num_frames=count,
        skip_frames=0,
        keyframes=sorted(pts - delay for pts, _, is_keyframe, _ in coded if is_keyframe),
        time_base=(1, 10240),
        pts=[(delay * tick, tick, count)],
        rows=[(0, 0, count)],
    )


def in_order(data: bytes) -> list[NDArray[np.uint8]]:
    """The brightness and color of all frames as plain PyAV decodes them from the first packet
    on.
    """
    with av.open(io.BytesIO(data), format="mp4") as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def _sets(codec: str, extradata: bytes) -> bytes:
    """The parameter sets of a description, as packets carry them."""
    if codec == "av1":
        return b""
    units: list[bytes] = []
    position, counts = (5, (0x1F, 0xFF)) if codec == "h264" else (23, (None,) * extradata[22])
    for mask in counts:
        if mask is None:
            position += 1
            count, position = (
                int.from_bytes(extradata[position : position + 2], "big"),
                position + 2,
            )
        else:
            count, position = extradata[position] & mask, position + 1
        for _ in range(count):
            size = int.from_bytes(extradata[position : position + 2], "big")
            units.append(extradata[position + 2 : position + 2 + size])
            position += 2 + size
    kinds = {7, 8} if codec == "h264" else {32, 33, 34}
    header = [unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63 for unit in units]
    kept = [unit for unit, kind in zip(units, header, strict=True) if kind in kinds]
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in kept)
