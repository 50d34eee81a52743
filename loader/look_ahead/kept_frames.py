"""Pictures that were decoded before their step had begun, as a source like the episodes that they
are of.
"""

from collections.abc import Iterable, Iterator, Sequence

from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.look_ahead.request_queue import Pairs, Slice


class KeptFrames:
    """The kept pictures of one step: the frame of a picture is its place in the step.

    Each is given once, and held no longer.
    """

    def __init__(self, pictures: dict[str, dict[int, Picture]]) -> None:
        """Take the pictures of the step: picture key -> place -> picture."""
        self._pictures = pictures

    def gops(
        self,
        key: str,  # noqa: ARG002 - a source of pictures
        frames: Iterable[int],
    ) -> Sequence[int]:
        """Return zeros: all pictures are taken together."""
        return [0 for _ in frames]

    def decode_runs(
        self,
        key: str,  # noqa: ARG002
        frames: Sequence[int],
    ) -> tuple[Sequence[int], ...]:
        """Return the frames as they are: pictures that are there may come in any order."""
        return (frames,)

    def pictures(self, key: str, frames: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Yield places with their pictures (H, W, C)."""
        return ((place, self._pictures[key].pop(place)) for place in frames)

    def is_video(self, key: str) -> bool:  # noqa: ARG002
        """Return False: the pictures were counted as they were decoded."""
        return False

    def num_decoded(self, key: str) -> int:  # noqa: ARG002
        """Return 0: none of the pictures is decoded here."""
        return 0


def requests_of_kept(pictures: dict[str, dict[int, Picture]]) -> dict[Slice, Pairs]:
    """Return the requests of a step for the pictures that were kept for it: picture key -> place
    in the step -> picture.
    """
    source = KeptFrames(pictures)
    return {
        Slice(source, key): [number for place in places for number in (place, place)]
        for key, places in pictures.items()
    }
