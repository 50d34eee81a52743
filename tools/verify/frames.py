"""Decoding some frames of a slice, as a loader would."""

import random

from roboshard.common.errors import FormatError
from roboshard.shards.features import Spec, depth_scale
from roboshard.shards.schema import CameraRecord
from roboshard.tools.verify.problems import CONVERT_AGAIN, Place


def choose_rows(num_rows: int, count: int, seed: str) -> list[int]:
    """Return the first row, the last one, and random ones between; ascending, at most `count`."""
    ends = [0, num_rows - 1][: min(count, num_rows)]
    inner = range(1, max(1, num_rows - 1))
    chosen = random.Random(seed).sample(inner, min(len(inner), max(0, count - len(ends))))  # noqa: S311 - no secret
    return sorted({*ends, *chosen})


def check_frames(
    camera: CameraRecord, spec: Spec, data: memoryview, rows: list[int], place: Place
) -> None:
    """Decode the frames of some rows of a camera; their shape and time must be those of the
    record.
    """
    from roboshard.loader.decoding.decode import decode_frames, open_decoder  # noqa: PLC0415 - brings torch
    from roboshard.loader.decoding.settings import PictureSettings  # noqa: PLC0415
    from roboshard.loader.decoding.slice_bytes import InMemory  # noqa: PLC0415

    settings = PictureSettings()
    shown = camera.frames()
    frames = sorted({int(shown[row]) for row in rows})
    try:
        decoder = open_decoder(InMemory(data), camera, settings, "frames", depth_scale(spec))
        for frame in frames:  # one by one, so that an error says which
            for _ in decode_frames(decoder, camera, [frame], settings, f"frame {frame}"):
                pass
    except FormatError as error:
        place.report_error(error, CONVERT_AGAIN)
