"""Every frame, row and packet of every hard case comes out of the shards as it was in the
source.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from support.hard_cases import SOME_QUICKLY
from support.lerobot_source import (
    FURTHER_CASES,
    HARD_CASES,
    Built,
    Camera,
    Source,
    build,
    read_stamp,
    render,
)
from support.slowly import some_quickly
from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]

from roboshard.converter import ConversionReport
from roboshard.shards import EpisodeData, ShardedDataset, SourceError
from roboshard.shards.rows import read_episode_row
from roboshard.shards.schema import CameraRecord

TOP = "observation.images.top"
CASES = {
    name: case for name, case in (HARD_CASES | FURTHER_CASES).items() if name != "dropped_frames"
}
PARAMETERS = [
    "name",
    "codec_tag",
    "width",
    "height",
    "pix_fmt",
    "profile",
    "extradata",
    "sample_aspect_ratio",
]
COLORS = ["color_range", "color_primaries", "color_trc", "colorspace"]
Run = Callable[..., ConversionReport]


@dataclass(frozen=True)
class Coded:
    """A packet as the demuxer gives it; time in ticks."""

    pts: int
    key: bool
    data: bytes


class Track:
    """The video stream of a file, its packets in decode order."""

    def __init__(self, file: Any) -> None:
        with av.open(file) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            assert stream.time_base is not None
            self.time_base = stream.time_base
            self.parameters = {name: getattr(context, name) for name in PARAMETERS + COLORS}
            found = [packet for packet in container.demux(stream) if packet.size]
            self.packets = [
                Coded(p.pts, p.is_keyframe, bytes(p)) for p in found if p.pts is not None
            ]
            self.hidden = {p.pts for p in found if p.is_discard}

    @cached_property
    def shown(self) -> list[int]:
        """Times of the frames that are shown."""
        return sorted(packet.pts for packet in self.packets if packet.pts not in self.hidden)

    def decode(self, first: int = 0) -> dict[int, NDArray[Any]]:
        """Feed a fresh PyAV decoder the packets from `first` on, seeking nowhere: time -> samples,
        unconverted.
        """
        context = av.CodecContext.create(self.parameters["name"], "r")
        assert isinstance(context, av.VideoCodecContext)
        context.extradata = self.parameters["extradata"]
        frames = []
        for coded in self.packets[first:]:
            packet = av.Packet(coded.data)
            packet.pts, packet.time_base = coded.pts, self.time_base
            frames += context.decode(packet)
        frames += context.decode(None)
        return {frame.pts: frame.to_ndarray() for frame in frames if frame.pts is not None}


@dataclass(frozen=True)
class Cut:
    """One camera of one episode: what the shard holds, and the truth about it."""

    episode: int
    record: CameraRecord
    data: bytes
    expected: NDArray[np.uint8]
    """(rows, H, W, 3) by a sequential decode of the source."""
    source: Track
    first_shown: int
    """Time of the episode's first frame in the source, in ticks."""

    @cached_property
    def track(self) -> Track:
        return Track(io.BytesIO(self.data))

    @property
    def row_frames(self) -> NDArray[np.int64]:
        return np.concatenate(
            [np.arange(first, first + count) for _, first, count in self.record.rows]
        )

    @property
    def shift(self) -> int:
        """Ticks from a time in the slice to the same frame's in the source."""
        return self.first_shown - self.track.shown[self.record.skip_frames]

    def open(self) -> VideoDecoder:
        return VideoDecoder(self.data, seek_mode="exact", dimension_order="NHWC")

    def rows(self, decoder: VideoDecoder, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        frames: NDArray[np.uint8] = decoder.get_frames_at(
            self.row_frames[rows].tolist()
        ).data.numpy()
        return frames


@dataclass(frozen=True)
class Converted:
    """A case and its shards."""

    built: Built
    shards: ShardedDataset

    @cached_property
    def episodes(self) -> list[EpisodeData]:
        return [self.shards.read_episode(position) for position in range(len(self.shards.index))]

    @cached_property
    def cuts(self) -> list[Cut]:
        tracks = {clip.path: Track(str(clip.path)) for clip in self.built.clips.values()}
        return list(self._cuts(tracks))

    def _cuts(self, tracks: dict[Path, Track]) -> Iterator[Cut]:
        for episode in self.episodes:
            index = episode.record.episode_index
            for record in episode.record.cameras:
                clip = self.built.clips[record.key, index]
                track = tracks[clip.path]
                yield Cut(
                    episode=index,
                    record=record,
                    data=bytes(episode.videos[record.key]),
                    expected=self.built.frames(record.key, index),
                    source=track,
                    first_shown=track.shown[clip.first_frame],
                )

    def metadata_rows(self) -> list[dict[str, Any]]:
        paths = sorted((self.built.root / "meta/episodes").glob("*/*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


@pytest.fixture(scope="module", params=some_quickly(CASES, SOME_QUICKLY))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run: Run
) -> Iterator[Converted]:
    root = tmp_path_factory.mktemp("case")
    built = build(root / "source", CASES[request.param])
    report = run(root / "source", root / "shards")
    assert (report.episodes, report.frames) == (
        len(built.source.lengths),
        sum(built.source.lengths),
    )
    yield Converted(built, ShardedDataset.open(str(root / "shards")))
    shutil.rmtree(root)


# -- Frames ----------------------------------------------------------------------------------------


def test_every_row_shows_its_frame_in_order_and_in_any_order(case: Converted) -> None:
    assert len(case.cuts) == len(case.built.clips)
    for cut in case.cuts:
        decoder = cut.open()
        assert len(decoder) == cut.record.num_frames
        rows = np.arange(len(cut.expected))
        assert np.array_equal(cut.rows(decoder, rows), cut.expected)
        mixed = np.random.default_rng(cut.episode).permutation(rows)
        assert np.array_equal(cut.rows(decoder, mixed), cut.expected[mixed])
        for row in mixed:  # one at a time: the decoder seeks back and forth
            assert np.array_equal(cut.rows(decoder, row[None]), cut.expected[row][None])


def test_any_row_can_be_the_first_one_asked_for(case: Converted) -> None:
    for cut in case.cuts:
        length = len(cut.expected)
        for row in {0, length // 3, length // 2, length - 1}:
            assert np.array_equal(cut.rows(cut.open(), np.array([row]))[0], cut.expected[row])


def test_rows_show_the_frames_that_were_recorded_for_them(case: Converted) -> None:
    for cut in case.cuts:
        shown = cut.rows(cut.open(), np.arange(len(cut.expected)))
        assert [read_stamp(frame) for frame in shown] == [
            (cut.episode, row) for row in range(len(shown))
        ]


def test_decoding_can_start_at_each_recorded_keyframe(case: Converted) -> None:
    for cut in case.cuts:
        reference, track = cut.source.decode(), cut.track
        starts = [packet.pts for packet in track.packets]
        assert cut.record.keyframes[0] == 0
        for keyframe in cut.record.keyframes:
            start = track.shown[keyframe]
            first = starts.index(start)
            assert min(starts[first:]) == start  # nothing that is decoded later is shown earlier
            decoded = track.decode(first)
            for pts in track.shown[keyframe:]:
                assert np.array_equal(decoded[pts], reference[pts + cut.shift])


# -- Packets and records ---------------------------------------------------------------------------


def test_packets_are_those_of_the_source(case: Converted) -> None:
    for cut in case.cuts:
        times = [packet.pts for packet in cut.source.packets]
        copied = [packet.pts + cut.shift for packet in cut.track.packets]
        first, last = times.index(copied[0]), times.index(copied[-1])
        # From a keyframe on without a gap; only pictures that lead the keyframe may be missing.
        wanted = [
            packet for packet in cut.source.packets[first : last + 1] if packet.pts >= copied[0]
        ]
        assert [(p.pts, p.key, p.data) for p in wanted] == [
            (pts, p.key, p.data) for pts, p in zip(copied, cut.track.packets, strict=True)
        ]
        assert cut.track.time_base == cut.source.time_base
        assert not cut.track.hidden


def test_slices_carry_the_codec_parameters_of_the_source(case: Converted) -> None:
    for cut in case.cuts:
        assert cut.track.parameters == cut.source.parameters


def test_records_say_what_the_slices_hold(case: Converted) -> None:
    for cut in case.cuts:
        record, track = cut.record, cut.track
        ticks = [first + step * i for first, step, count in record.pts for i in range(count)]
        assert ticks == track.shown
        assert Fraction(*record.time_base) == track.time_base
        assert record.num_frames == len(track.shown)
        assert set(record.keyframes) <= {
            track.shown.index(packet.pts) for packet in track.packets if packet.key
        }
        assert record.rows == [(0, record.skip_frames, len(cut.expected))]
        assert record.codec == cut.source.parameters["name"].replace("libdav1d", "av1")
        assert record.pix_fmt == cut.source.parameters["pix_fmt"]
        assert (record.height, record.width) == cut.expected.shape[1:3]


# -- Rows and metadata -----------------------------------------------------------------------------


def test_rows_equal_those_of_the_source_with_their_types(case: Converted) -> None:
    for episode in case.episodes:
        table = pq.ParquetFile(pa.BufferReader(episode.rows)).read()
        expected = case.built.rows(episode.record.episode_index)
        kept = {
            name: value
            for name, value in (table.schema.metadata or {}).items()
            if b"roboshard" not in name
        }
        assert table.schema.equals(
            expected.schema.with_metadata(table.schema.metadata), check_metadata=True
        )
        assert kept == (expected.schema.metadata or {})
        assert repr(table.to_pylist()) == repr(
            expected.to_pylist()
        )  # repr: NaN, -0.0, and PNG bytes


def test_metadata_is_kept_verbatim(case: Converted) -> None:
    manifest, root = case.shards.manifest, case.built.root
    rows = case.metadata_rows()
    assert [episode.record.episode_index for episode in case.episodes] == [
        row["episode_index"] for row in rows
    ]
    for episode, row in zip(case.episodes, rows, strict=True):
        assert repr(read_episode_row(episode.rows, "")) == repr(row)
        assert (episode.record.tasks, episode.record.length) == (row["tasks"], row["length"])
        assert episode.record.fps == case.built.source.fps
    assert manifest.info == json.loads((root / "meta/info.json").read_text(encoding="utf-8"))
    assert manifest.stats == json.loads((root / "meta/stats.json").read_text(encoding="utf-8"))
    assert manifest.tasks == list(case.built.source.tasks)


def test_numbers_without_an_equal_come_through(tmp_path: Path, run: Run) -> None:
    built = build(tmp_path / "source", Source(lengths=(4, 3), extra_features=True))
    for path in set(built.data_files.values()):
        table = pq.read_table(path)
        odd = pa.array(
            [float("nan"), -0.0, float("inf"), None, 5e-324, None, -float("inf")], pa.float64()
        )
        text = pa.array(["", None, "\0", "a\nb", "é", "e\u0301", "x" * 70_000])
        for name, values in (("score64", odd), ("note", text)):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(name), values)
        pq.write_table(table, path)
    run(built.root, tmp_path / "shards")
    shards = ShardedDataset.open(str(tmp_path / "shards"))
    for position in range(2):
        table = pq.ParquetFile(pa.BufferReader(shards.read_episode(position).rows)).read()
        assert repr(table.to_pylist()) == repr(built.rows(position).to_pylist())


# -- Sources that need a decision ------------------------------------------------------------------


def test_rows_without_a_frame_are_an_error_that_says_which(tmp_path: Path, run: Run) -> None:
    build(tmp_path / "source", FURTHER_CASES["dropped_frames"])
    expected = rf"episode 0, camera '{TOP}', .*file-000.mp4: row 10 is at 1.000000 s .* at 0.900000 s: .*2 of 12 rows"
    with pytest.raises(SourceError, match=expected):
        run(tmp_path / "source", tmp_path / "shards")


def test_rows_without_a_frame_repeat_the_last_own_one_when_that_is_tolerated(
    tmp_path: Path, run: Run
) -> None:
    built = build(tmp_path / "source", FURTHER_CASES["dropped_frames"])
    run(tmp_path / "source", tmp_path / "shards", tolerance_s=0.21)
    case = Converted(built, ShardedDataset.open(str(tmp_path / "shards")))
    assert [cut.record.rows[1:] for cut in case.cuts] == [
        [(10, 9, 1), (11, 9, 1)],
        [],
        [],
        [(6, 5, 1)],
        [],
    ]
    for cut, length in zip(case.cuts, built.source.lengths, strict=True):
        shown = cut.rows(cut.open(), np.arange(length))
        last = len(cut.expected) - 1
        assert [read_stamp(frame) for frame in shown] == [
            (cut.episode, min(row, last)) for row in range(length)
        ]


def test_the_start_of_a_gradual_refresh_is_no_keyframe(tmp_path: Path, run: Run) -> None:
    built = build(
        tmp_path / "source",
        Source(lengths=(20, 20), cameras=(Camera(key=TOP, stream="continuous"),)),
    )
    path = built.clips[TOP, 0].path
    with av.open(str(path), "w") as container:
        structure = "keyint=10:intra-refresh=1:scenecut=0:bframes=0:threads=1"
        stream = container.add_stream("libx264", rate=10, options={"x264-params": structure})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i in range(40):
            pixels = render(key=TOP, episode=i // 20, frame=i % 20, size=(64, 96))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert [packet.key for packet in Track(str(path)).packets].count(
        True
    ) == 4  # of which one is a fresh start
    run(tmp_path / "source", tmp_path / "shards")
    case = Converted(built, ShardedDataset.open(str(tmp_path / "shards")))
    assert [(cut.record.skip_frames, cut.record.keyframes) for cut in case.cuts] == [
        (0, [0]),
        (20, [0]),
    ]
    for cut in case.cuts:
        for row in range(20):
            assert np.array_equal(cut.rows(cut.open(), np.array([row]))[0], cut.expected[row])
