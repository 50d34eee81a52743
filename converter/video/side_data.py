"""What packets come with beside their payload: codec parameters that are new from there on,
opacity, a palette.

PyAV 16 and newer show it. With PyAV 15, which LeRobot 0.6 still asks for, the file is looked at.
"""

from pathlib import Path
from typing import Any

import av

from roboshard.converter.video.sample_descriptions import read_sample_descriptions

_IS_SHOWN = hasattr(av.Packet, "get_sidedata")
_NEW_PARAMETERS = "new_extradata"
_BESIDE = {
    "matroska_block_additional": "opacity",
    "palette": "a palette",
    _NEW_PARAMETERS: "new codec parameters",
    "param_change": "new codec parameters",
}
"""What decoders may be given beside a packet, as FFmpeg names it."""


class NewParameters:
    """Tells which packets come with new codec parameters, as they are demuxed one after another."""

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        """Look at a stream of a file. Raises SourceError where new parameters cannot be told."""
        self._descriptions, self._last = None, 0
        if _IS_SHOWN:
            return
        if container.format.name.startswith("mov"):
            self._descriptions = read_sample_descriptions(path, stream.id)

    def of(self, packet: Any) -> bytes | None:
        """Return the parameters that a packet comes with; None: it has those of the one before
        it.
        """
        if _IS_SHOWN:
            has_new = packet.has_sidedata(_NEW_PARAMETERS)
            return bytes(packet.get_sidedata(_NEW_PARAMETERS)) if has_new else None
        if self._descriptions is None:
            return None
        number = self._descriptions.number_at(packet.pos)
        if number == self._last:
            return None
        self._last = number
        return self._descriptions.headers[number]


def side_data_of(packets: list[Any], stream: Any) -> str | None:
    """Return what packets of a stream come with, other than their payload; None: nothing."""
    if _IS_SHOWN:
        found = (kind for kind in _BESIDE for each in packets if each.has_sidedata(kind))
        return _BESIDE.get(next(found, ""))
    if stream.metadata.get("alpha_mode") == "1":
        return _BESIDE["matroska_block_additional"]
    return _BESIDE["palette"] if stream.codec_context.pix_fmt == "pal8" else None
