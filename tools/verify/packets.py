"""The packets of a source's video file beside those of a slice."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from roboshard.common.selection import some
from roboshard.shards.mp4 import SampleTables, read_sample_tables
from roboshard.shards.names import is_matroska
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import CODEC_PARAMETERS, open_container, read_slice
from roboshard.tools.verify.problems import CONVERT_AGAIN, Place

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How the ticks of a slice and those of its source belong together."""

    source_tick: int
    """The tick of some frame in the source."""
    slice_tick: int
    """The tick of that frame in the slice."""
    scale: Fraction
    """Ticks of the source per tick of the slice."""


def parameters_of(stream: Any) -> dict[str, Any]:
    """Return what a decoder is told of a stream before its first packet."""
    return {name: getattr(stream.codec_context, name) for name in CODEC_PARAMETERS}


class SourcePackets:
    """The source's packets around an episode, in decode order."""

    def __init__(
        self, video: tuple[Any, Any], in_file: NDArray[np.float64], lead: float, margin: float
    ) -> None:
        """Read from `lead` seconds before the rows' first time to their last.

        Args:
            video: (container, stream) of the source; the container is closed at the end.
            in_file: (rows,) when rows are shown in the file, in seconds.
            lead: How many seconds before the rows' first time to begin.
            margin: Seconds by which packets may be further away than rows.
        """
        container, stream = video
        with container:
            self.time_base = Fraction(stream.time_base or 1)
            self.parameters = parameters_of(stream)
            first = math.floor((float(in_file.min()) - lead - margin) / self.time_base)
            last = math.ceil((float(in_file.max()) + 2 * margin) / self.time_base)
            seek_to, back, seen = first, 1, None
            while True:
                if container.format.name == "avi":
                    seek_to = max(seek_to, 0)  # its demuxer refuses to go further back
                container.seek(seek_to, stream=stream, backward=True)
                self.coded = list(_until(container.demux(stream), last))
                start = self.coded[0].pts if self.coded else None
                if (
                    self.coded and min(packet.pts for packet in self.coded) <= first
                ) or start == seen:
                    break
                seen, back = start, back * 2
                seek_to -= back * math.ceil(Fraction(1) / self.time_base)
            self.turns = _turns_of(stream, self.coded)
        self.shown: IntArray = np.sort(
            np.array([p.pts for p in self.coded if not p.is_discard], dtype=np.int64)
        )


def _turns_of(stream: Any, packets: Iterable[Any]) -> int | None:
    """Return the quarter turns, counterclockwise, by which pictures are turned before they are
    shown; None: none decodes.
    """
    stream.codec_context.thread_count = 1
    try:
        for packet in [*packets, None]:
            for frame in stream.codec_context.decode(packet):
                return int(round(frame.rotation / 90) % 4)
    except av.FFmpegError:
        return None
    return None


def _until(packets: Iterator[Any], last: int) -> Iterator[Any]:
    for packet in packets:
        if packet.size and packet.pts is not None:
            if packet.dts is not None and packet.dts > last:
                return
            yield packet


def _packets_of(
    camera: CameraRecord, data: bytes
) -> tuple[memoryview, SampleTables, IntArray] | None:
    """Return (where packets lie, tables of them, when the record says that each is shown); None:
    unreadable.
    """
    try:
        if not is_matroska(camera.member):
            tables = read_sample_tables(data)
            return memoryview(data), tables, tables.pts
        packets = read_slice(memoryview(data), camera)
    except ValueError:
        return None
    ticks = np.empty_like(packets.tables.pts)  # the file's own times are rounded
    ticks[packets.tables.as_shown] = camera.ticks()
    return packets.payload, packets.tables, ticks


def compare_parameters(
    camera: CameraRecord,
    data: bytes,
    packets: SourcePackets,
    in_force: Callable[[], dict[str, Any]],
    place: Place,
) -> None:
    """Check that the slice tells decoders what the source tells them there, and is turned as it is.

    `in_force` finds the source's parameters where the slice lies; its file may begin with others.
    """
    with open_container(memoryview(data), camera) as container:
        stream = container.streams.video[0]
        here = parameters_of(stream)
        turns = _turns_of(stream, container.demux(stream))
    if None not in (turns, packets.turns) and turns != packets.turns:
        place.report(
            f"its pictures are turned by {90 * (turns or 0)} degrees, by "
            f"{90 * (packets.turns or 0)} in the source",
            CONVERT_AGAIN,
        )
    changed = _changed(camera, here, packets.parameters)
    if changed:
        changed = _changed(camera, here, in_force())
    if changed:
        place.report(f"its {', '.join(changed)} differ from the source's", CONVERT_AGAIN)


def compare_payloads(
    camera: CameraRecord, data: bytes, packets: SourcePackets, clock: Clock, place: Place
) -> None:
    """Check that every packet of the slice is in the source at that time, and none between its
    first and last is left out.
    """
    found = _packets_of(camera, data)
    if found is None:
        return  # reported where the slice was looked at
    payload, tables, ticks = found
    at_time: dict[int, list[int]] = {}
    for i, packet in enumerate(packets.coded):
        at_time.setdefault(packet.pts, []).append(i)
    used, absent, other, unkeyed = set[int](), list[int](), list[int](), list[int]()
    for i, pts in enumerate(ticks.tolist()):
        tick = clock.source_tick + (pts - clock.slice_tick) * clock.scale
        offset = int(tables.offsets[i])
        coded = payload[offset : offset + int(tables.sizes[i])]
        candidates = at_time.get(int(tick), []) if tick.denominator == 1 else []
        equal = [j for j in candidates if coded == bytes(packets.coded[j])]
        used.update(equal[:1])
        if equal and tables.is_sync[i] and not packets.coded[equal[0]].is_keyframe:
            unkeyed.append(i)
        if not equal:
            (other if candidates else absent).append(i)
    if absent:
        place.report(
            f"packet {some(absent)} of the slice is not in the source at its time", CONVERT_AGAIN
        )
    if other:
        place.report(
            f"packet {some(other)} of the slice has another payload in the source", CONVERT_AGAIN
        )
    if unkeyed:
        place.report(
            f"packet {some(unkeyed)} of the slice is no keyframe in the source", CONVERT_AGAIN
        )
    if used:
        first = min(used)
        between = range(first, max(used) + 1)
        left_out = [
            j for j in between if j not in used and packets.coded[j].pts >= packets.coded[first].pts
        ]
        if left_out:
            place.report(
                f"{len(left_out)} packets of the source were left out of the slice", CONVERT_AGAIN
            )


def _changed(camera: CameraRecord, here: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the names of the parameters that are not the expected ones."""
    beside = set[str]()
    if is_matroska(camera.member):  # which has the pixels' shape, and ProRes profiles, elsewhere
        beside = {"sample_aspect_ratio"} | ({"extradata"} if camera.codec == "prores" else set())
    return [name for name, value in expected.items() if name not in beside and here[name] != value]
