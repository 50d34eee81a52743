"""torchcodec, where it can be loaded."""

import warnings
from functools import cache
from typing import Any


@cache
def torchcodec() -> Any:
    """Return torchcodec.decoders, or None with a warning where it cannot be loaded."""
    try:
        from torchcodec import decoders  # noqa: PLC0415 - its absence is an answer, not an error
    except (ImportError, RuntimeError, OSError) as error:
        warnings.warn(
            "torchcodec cannot be loaded, so the colors of this video may differ by some levels "
            "from those that LeRobot gives with it, and no GPU decodes. It needs FFmpeg's shared "
            "libraries (Debian and Ubuntu: apt-get install ffmpeg) and to be the release for the "
            "installed torch (as 0.4 for torch 2.7, 0.10 for torch 2.10). The reason was: "
            f"{str(error).splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return decoders


def turns_pictures() -> bool:
    """Return whether torchcodec turns pictures as their file asks: releases before 0.11 do not."""
    return "rotation" in torchcodec().VideoStreamMetadata.__dataclass_fields__
