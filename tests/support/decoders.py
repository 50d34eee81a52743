"""Which decoder decodes."""

import pytest

from roboshard.loader.decoding import decode

DECODERS = ("packets", "torchcodec", "pyav")


def decode_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it serve every slice from now on that it can: without the packet decoder, and without torchcodec."""
    if name != "packets":
        monkeypatch.setattr(decode, "packet_decoder", lambda *_: None)
    if name == "pyav":
        monkeypatch.setattr(decode, "torchcodec", lambda: None)
