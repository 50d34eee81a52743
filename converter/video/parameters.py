"""The codec parameters that are in force for a slice, where they are not those that its file begins
with.

A file joined from several encodes has packets that need other parameter sets than its header's. A
decoder that comes from the file's start has seen them; a slice's own header must have them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from av.container import Flags

from roboshard.common.errors import SourceError
from roboshard.converter.video.described import DescribedStreams
from roboshard.converter.video.opening import open_video
from roboshard.converter.video.packets import Packets
from roboshard.converter.video.parameter_sets import ParameterSets
from roboshard.converter.video.picture_changes import REMEDY, PictureParameters
from roboshard.converter.video.side_data import NewParameters
from roboshard.shards.nal_units import LENGTH_AT

_SAME_IN_A_SLICE = ("width", "height", "pix_fmt")


class Parameters:
    """Finds the parameters of slices of one file.

    Episodes are cheapest in the order in which they lie there.
    """

    def __init__(self, path: Path, stream: Any, first: Any) -> None:
        """`stream` is the file's video stream, opened elsewhere, which serves slices that need
        nothing else; `first` is its first packet.
        """
        self._path = path
        self._stream = stream
        self._codec = str(stream.codec_context.codec.canonical_name)
        self._header = ParameterSets.of_header(
            self._codec, bytes(stream.codec_context.extradata or b"")
        )
        self._described = DescribedStreams()
        self._pictures = PictureParameters(stream, first, self._described)
        self._coming: Iterator[tuple[Any, bytes | None]] | None = None
        self._container: Any = None
        self._next: Any = None
        self._header_of_next: bytes | None = None
        self._sets = self._header

    def close(self) -> None:
        """Close the file and the streams that were opened."""
        self._stop()
        self._described.close()

    def of(self, packets: Packets, *, to_copy: bool = True) -> Any:
        """Return a stream whose parameters are those of the slice that these packets make.

        Args:
            packets: Those of the slice, in decode order.
            to_copy: They become a file. Otherwise a decoder goes through them, and sees what
                changes.

        Raises:
            SourceError: They change within the slice so that a copy cannot keep them.
            av.FFmpegError: The packets cannot be looked at.
        """
        if self._header is None:
            if to_copy and any(header is not None for header in packets.headers[1:]):
                raise SourceError(f"its decoder configuration changes within the episode: {REMEDY}")
            return self._pictures.of(packets, to_copy=to_copy)
        sets = self._before(int(packets.dts[0])).copy()
        if self._next is not None:
            _describe(sets, self._header_of_next)  # the same packet, read from the file's start on
        sets.see(memoryview(packets.coded[0]))
        at_start = sets.copy()
        changes = to_copy and self._change(sets, packets)
        if not changes and at_start.by_name == self._header.by_name:
            return self._stream
        return self._with_sets(at_start, packets.coded if changes else packets.coded[:1])

    def _change(self, sets: ParameterSets, packets: Packets) -> bool:
        """Whether packets after the first one bring new sets.

        Raises SourceError where a copy cannot have them.
        """
        at_start, changes = sets.copy(), False
        for packet, header in zip(packets.coded[1:], packets.headers[1:], strict=True):
            if _describe(sets, header):
                raise SourceError(
                    "its decoder configuration changes within the episode, in the file's header: "
                    f"{REMEDY}"
                )
            if sets.see(memoryview(packet)):
                changes = True
                self._check_change(at_start, packets.coded[0], sets, packet)
        return changes

    def probed(self, packets: Packets) -> Any:
        """Return a stream with the file's own header, and otherwise what FFmpeg makes of these
        packets alone.
        """
        header = bytes(self._stream.codec_context.extradata or b"")
        return self._described.make(self._stream, packets.coded, header=header)

    def _check_change(
        self, before: ParameterSets, first: Any, after: ParameterSets, packet: Any
    ) -> None:
        one, other = (
            self._with_sets(sets, [each]).codec_context
            for sets, each in ((before, first), (after, packet))
        )
        for name in _SAME_IN_A_SLICE:
            if getattr(one, name) != getattr(other, name):
                raise SourceError(
                    f"its {name} changes within the episode, from {getattr(one, name)} to "
                    f"{getattr(other, name)}: {REMEDY}"
                )

    def _with_sets(self, sets: ParameterSets, coded: list[Any]) -> Any:
        # FFmpeg makes a header of sets and packets that have start codes.
        packet = sets.as_annex_b(memoryview(coded[0]))
        stream = self._described.make(self._stream, [packet], header=sets.annex_b())
        header = bytearray(stream.codec_context.extradata or b"")
        at = LENGTH_AT[self._codec]
        if len(header) <= at:
            raise SourceError("its parameter sets make no header")
        header[at] = header[at] & ~3 | (sets.length_size - 1)
        return self._described.make(stream, coded, header=bytes(header))

    def _before(self, dts: int) -> ParameterSets:
        """The sets that a decoder has seen which comes to the packet at `dts` from the file's
        start.
        """
        if self._coming is None or self._next is None or self._next.dts > dts:
            self._stop()
            self._container, stream = open_video(self._path)
            new_parameters = NewParameters(self._path, self._container, stream)
            no_parse: Any = Flags.no_parse
            self._container.flags |= no_parse.value
            packets = self._container.demux(stream)
            self._coming = (
                (each, new_parameters.of(each))
                for each in packets
                if each.size and each.dts is not None
            )
            self._step()
            self._sets = self._header and self._header.copy()
        sets = self._sets
        if sets is None:
            raise SourceError("its header cannot be read")
        while self._next is not None and self._next.dts < dts:
            _describe(sets, self._header_of_next)
            sets.see(memoryview(self._next))
            self._step()
        return sets

    def _step(self) -> None:
        none = (None, None)
        self._next, self._header_of_next = next(self._coming, none) if self._coming else none

    def _stop(self) -> None:
        self._coming = self._next = None
        if self._container is not None:
            self._container.close()
            self._container = None


def _describe(sets: ParameterSets, header: bytes | None) -> bool:
    """Let a decoder see the header that a packet comes with, if any: whether that changes
    anything.
    """
    if header is None:
        return False
    described = ParameterSets.of_header(sets.codec, header)
    units = described.by_name.values() if described else ()
    new = [sets.apply(unit) for unit in units]
    return any(new)
