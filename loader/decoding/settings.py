"""What is asked of decoders."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from roboshard.loader.decoding.codec import Codecs


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What pictures are wanted, and what their decoders share."""

    image_size: tuple[int, int] | None = None
    """(H, W) of pictures that leave the decoders; None: as stored."""
    device: str = "cpu"
    """Where video is decoded."""
    look_back: Mapping[str, int] = field(default_factory=dict)
    """Camera -> how many frames before its last one a slice will be asked for again, where that is known."""
    codecs: Codecs = field(default_factory=Codecs)
    """Shared by the slices of a process."""
