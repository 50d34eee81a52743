"""How cameras are encoded again, and what that changes in a dataset's features; needs no video
library.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, Self, get_args

from tyro.conf import arg

from roboshard.common import jsonio
from roboshard.common.errors import OptionError

Encoder = Literal["libsvtav1", "libx264", "libx265"]
CODEC_NAMES: dict[Encoder, str] = {"libsvtav1": "av1", "libx264": "h264", "libx265": "hevc"}
"""Encoder -> what it makes, as FFmpeg and LeRobot name it."""
PRESETS: dict[Encoder, int | str] = {"libsvtav1": 8, "libx264": "medium", "libx265": "veryfast"}
"""Encoder -> its preset. SVT-AV1's faster ones, LeRobot's 12 among them, take pictures with little
motion whole from their neighbours.
"""
PIX_FMT = "yuv420p"
"""What all three encoders write and all decoders read."""


@dataclass(frozen=True, kw_only=True)
class ReencodeConfig:
    """How video is encoded again, with --video reencode.

    Flags and keys of a config file have these names alone, as in --gop 2.
    """

    codec: Encoder = "libsvtav1"
    """Encoder. The default is LeRobot's own, AV1; libx264 makes H.264, libx265 H.265."""
    gop: int = 2
    """Frames from keyframe to keyframe; a random frame costs about half of them to decode."""
    crf: int = 30
    """Quality: lower is better, and larger."""
    size: Annotated[tuple[int, int] | None, arg(metavar="HEIGHT WIDTH")] = None
    """Height and width in pixels, no larger than the source's; default: the source's."""
    cameras: str | None = None
    """Which cameras to encode again, as in "observation.images.top,observation.images.wrist"; the
    others are copied. Default: all that is YUV of 8 bits and not depth.
    """

    def __post_init__(self) -> None:
        if self.gop < 1:
            raise OptionError(f"gop is a number of frames and must be at least 1, not {self.gop}")
        if self.crf < 0:
            raise OptionError(f"crf must not be negative: {self.crf}")
        if self.size is not None and (
            len(self.size) != 2 or min(self.size) < 2 or any(n % 2 for n in self.size)
        ):
            raise OptionError(f"size is HEIGHT WIDTH in pixels, both even, not {self.size}")

    @property
    def camera_keys(self) -> tuple[str, ...] | None:
        """Keys of the cameras that are named; None: all that can be encoded again."""
        return (
            None if self.cameras is None else tuple(key.strip() for key in self.cameras.split(","))
        )


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the cameras that are not copied are encoded again."""

    codec: Encoder
    gop: int
    """Frames from keyframe to keyframe."""
    crf: int
    size: tuple[int, int] | None
    """Height and width in pixels; None: the source's."""
    cameras: tuple[str, ...]
    """Feature keys of the cameras that are encoded again; all others are copied."""

    def as_json(self) -> dict[str, jsonio.Json]:
        """Return the encoding as dataset.json records it."""
        return {
            "mode": "reencode",
            **asdict(self),
            "size": self.size and list(self.size),
            "cameras": [*self.cameras],
        }

    def description(self, cameras: Iterable[str]) -> str:
        """Say which of these cameras are encoded again, and how, and which are copied."""
        size = [] if self.size is None else [f"size {self.size[0]} {self.size[1]}"]
        how = ", ".join([self.codec, f"gop {self.gop}", f"crf {self.crf}", *size])
        copied = ", ".join(key for key in cameras if key not in self.cameras)
        return f"encoded again: {', '.join(self.cameras)} ({how})" + (
            f"; copied: {copied}" if copied else ""
        )

    @classmethod
    def of_json(cls, value: jsonio.Json) -> Self | None:
        """Return the encoding that `as_json` wrote; None: everything was copied.

        Raises ValueError for anything else.
        """
        if value is None:
            return None
        try:
            codec, size = value["codec"], value["size"]
            if value["mode"] != "reencode" or codec not in get_args(Encoder):
                raise ValueError(f"unknown mode or codec: {value}")
            return cls(
                codec=codec,
                gop=int(value["gop"]),
                crf=int(value["crf"]),
                size=None if size is None else (int(size[0]), int(size[1])),
                cameras=tuple(map(str, value["cameras"])),
            )
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"not a video encoding: {value}") from error


def encoded_features(
    features: Mapping[str, dict[str, jsonio.Json]], encoding: Encoding
) -> dict[str, dict[str, jsonio.Json]]:
    """The source's features as they are after encoding: shape, and LeRobot's notes on the video."""
    result = deepcopy(dict(features))
    for key in encoding.cameras:
        spec = result[key]
        if encoding.size is not None:
            spec["shape"] = _resized(spec, encoding.size)
        notes = [spec[name] for name in ("info", "video_info") if isinstance(spec.get(name), dict)]
        if not notes:
            spec["info"] = {}  # null, or absent
            notes = [spec["info"]]
        for note in notes:
            _describe(note, encoding)
    return result


def _describe(note: dict[str, jsonio.Json], encoding: Encoding) -> None:
    for name in ("video.fast_decode", "video.extra_options"):  # of the encoder before
        note.pop(name, None)
    if encoding.size is not None:
        note["video.height"], note["video.width"] = encoding.size
    note |= {
        "video.codec": CODEC_NAMES[encoding.codec],
        "video.pix_fmt": PIX_FMT,
        "video.g": encoding.gop,
        "video.crf": encoding.crf,
        "video.preset": PRESETS[encoding.codec],
    }


def _resized(spec: dict[str, jsonio.Json], size: tuple[int, int]) -> list[int]:
    """The feature's shape with another height and width, which stand where `names` says, or before
    the channels.
    """
    shape, names = list(spec.get("shape") or ()), spec.get("names")
    if len(shape) != 3:
        return [*size, 3]
    if isinstance(names, list) and {"height", "width"} <= set(names):
        axes = (names.index("height"), names.index("width"))
    else:
        axes = (0, 1) if shape[2] in (1, 3) else (1, 2)
    for axis, pixels in zip(axes, size, strict=True):
        shape[axis] = pixels
    return shape
