"""Cameras in the tables that commands print."""

from roboshard.common.plain import as_markup
from roboshard.shards.cameras import CameraSummary


def camera_cells(camera: CameraSummary) -> tuple[str, ...]:
    """Return what every table says of a camera: key, codec, size, pixel format, GOP."""
    texts = (camera.key, camera.codec, camera.size, camera.pix_fmt, f"{camera.gop:.1f}")
    return tuple(map(as_markup, texts))
