"""Cameras in the tables that commands print."""

from rich.markup import escape

from roboshard.shards.cameras import CameraSummary


def camera_cells(camera: CameraSummary) -> tuple[str, ...]:
    """What every table says of a camera: key, codec, size, pixel format, GOP."""
    return escape(camera.key), camera.codec, camera.size, camera.pix_fmt, f"{camera.gop:.1f}"
