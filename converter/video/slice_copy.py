"""What a file of copied packets is, and what it must keep of their stream, whichever its
container.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from roboshard.common.errors import SourceError
from roboshard.shards.slices import CODEC_PARAMETERS


class CannotHoldError(SourceError):
    """A container cannot hold what is to be copied. Another one may."""


@dataclass(frozen=True, kw_only=True)
class SliceCopy:
    """A file that holds a slice's packets, and how its record counts time."""

    data: bytes
    time_base: Fraction
    """Seconds per tick of the record."""
    start: int
    """The tick of the source that is 0 in the record."""
    factor: int
    """Ticks of the record per tick of the source."""


def check_parameters(
    source: Any, copy: Any, container: str, expected: dict[str, object] | None = None
) -> None:
    """Raise CannotHoldError unless the stream `copy` has the parameters of `source`, or those that
    are expected.
    """
    for name in ("name", *CODEC_PARAMETERS):
        ours = getattr(copy.codec_context, name)
        theirs = (expected or {}).get(name, getattr(source.codec_context, name))
        if theirs != ours:
            raise CannotHoldError(
                f"its {name} {theirs!r} would become {ours!r} in {container} slice"
            )
