"""Decoders to run tests with, and how to choose one."""

import pytest

from roboshard.loader.decoding import decode, rgb
from roboshard.loader.decoding.torchcodec_module import turns_pictures

TURNING = pytest.mark.skipif(
    not turns_pictures(), reason="this release of torchcodec turns no pictures: nothing to compare"
)

DECODERS = ("packets", "torchcodec", "pyav")
"""Packets converted by libswscale; torchcodec where it seeks rightly, as on a GPU; packets
converted by PyAV, as on systems that do not look up libswscale's functions.
"""


def decode_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the decoder of this name serve every slice from now on."""
    if name == "torchcodec":
        monkeypatch.setattr(decode, "decodes_on_gpu", lambda _: True)
    if name == "pyav":
        monkeypatch.setattr(rgb, "swscale", lambda: None)
        monkeypatch.setattr(rgb, "_converters", rgb._Converters())
