"""Decoding some frames of a slice, as a loader would."""

import random

from roboshard.inspector.problems import CONVERT_AGAIN, Place
from roboshard.inspector.slices import frames_of
from roboshard.shards.errors import FormatError
from roboshard.shards.features import Spec, depth_scale
from roboshard.shards.schema import CameraRecord


def choose_rows(num_rows: int, count: int, seed: str) -> list[int]:
    """First row, last row, and random ones between; ascending, at most `count`."""
    ends = [0, num_rows - 1][: min(count, num_rows)]
    inner = range(1, max(1, num_rows - 1))
    chosen = random.Random(seed).sample(inner, min(len(inner), max(0, count - len(ends))))  # noqa: S311 - no secret
    return sorted({*ends, *chosen})


def check_frames(camera: CameraRecord, spec: Spec, data: memoryview, rows: list[int], place: Place) -> None:
    """Decode the frames of some rows of a camera; their shape and time must be those of the record."""
    from roboshard.loader.episodes.decode import PictureSettings, decode_frames, open_decoder  # noqa: PLC0415 - brings torch

    settings = PictureSettings()
    shown = frames_of(camera)
    frames = sorted({int(shown[row]) for row in rows})
    try:
        decoder = open_decoder(data, camera, settings, "frames", depth_scale(spec))
        for frame in frames:  # one by one: pictures of a whole episode need not fit into memory
            decode_frames(decoder, camera, [frame], settings, f"frame {frame}")
    except FormatError as error:
        place.report_error(error, CONVERT_AGAIN)
