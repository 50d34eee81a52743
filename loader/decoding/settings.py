"""What is asked of decoders."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from roboshard.loader.decoding.codec import Codecs
from roboshard.loader.decoding.open_decoders import KeptDecoders

MAX_KEPT_BYTES = 1 << 30
"""Bytes that open decoders may take where nobody says how many."""


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What pictures are wanted, and what their decoders share."""

    image_size: tuple[int, int] | None = None
    """(H, W) of pictures that leave the decoders; None: as stored."""
    device: str = "cpu"
    """Where video is decoded."""
    look_back: Mapping[str, int] = field(default_factory=dict)
    """Camera -> how many frames before its last one a slice will be asked for again, where that is
    known.
    """
    kept: KeptDecoders = field(default_factory=partial(KeptDecoders, MAX_KEPT_BYTES))
    """Decoders that stay open, where they are in their slices, between two visits."""
    codecs: Codecs = field(default_factory=Codecs)
    """Decoders that nobody uses now, shared by the slices of a process."""
