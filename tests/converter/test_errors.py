"""What cannot be converted is refused with the file, the episode and the reason, and nothing
half-done is left.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from support.broken_source import BrokenSource, drop, put, put_at, take, twice
from support.lerobot_source import HARD_CASES, Camera, Source, build
from support.slowly import slowly

from roboshard.converter import ConversionReport, ConvertConfig, convert, make_plan
from roboshard.shards import (
    FormatError,
    MissingError,
    OptionError,
    RoboshardError,
    SourceError,
    StorageError,
)

TOP = "observation.images.top"
TO = f"videos/{TOP}/to_timestamp"
Run = Callable[..., ConversionReport]
Break = Callable[[BrokenSource], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five episodes; episodes 0 and 1, 2 and 3, and 4 share a data file; 0 to 2, 3 and 4 a video
    file.
    """
    root = tmp_path_factory.mktemp("errors") / "robot"
    build(
        root, Source(lengths=(6, 5, 7, 4, 6), cameras=(Camera(key=TOP),), tasks=("pick", "place"))
    )
    return root


@pytest.fixture
def source(sound: Path, tmp_path: Path) -> BrokenSource:
    return BrokenSource.copy_of(sound, tmp_path / "robot")


def change_info(**values: Any) -> Break:
    return lambda source: source.set_info(**values)


def change_episodes(change: Any) -> Break:
    return lambda source: source.change(source.episodes(), change)


def change_rows(change: Any) -> Break:
    return lambda source: source.change(source.rows(), change)


def change_video(change: Callable[[bytes], bytes]) -> Break:
    return lambda source: source.video().write_bytes(change(source.video().read_bytes()))


# -- Refused before anything is written ------------------------------------------------------------

PLANNING: dict[str, tuple[Break, type[RoboshardError], str]] = {
    "no dataset": (lambda s: s.info.unlink(), MissingError, r"info.json: no such file; SOURCE must be a LeRobot"),
    "v1.6": (change_info(codebase_version="v1.6"), SourceError, "this release reads v2.0, v2.1 and v3.x"),
    "no version": (change_info(codebase_version=None), SourceError, "codebase_version None"),
    "no JSON": (lambda s: s.truncate(s.info), FormatError, "info.json: not valid JSON"),
    "fps": (change_info(fps=0), SourceError, "fps must be a positive number, not 0"),
    "features": (change_info(features=[]), SourceError, "features must be an object of objects"),
    "video path": (change_info(video_path=None), SourceError, "video_path is missing, though there are video"),
    "parent path": (change_info(data_path="../{chunk_index}"), SourceError, r"data_path leads outside .*'\.\./0'"),
    "absolute path": (change_info(video_path="/{video_key}"), SourceError, "video_path leads outside the dataset"),
    "NUL path": (change_info(video_path="a\0b"), SourceError, "video_path leads outside the dataset"),
    "unknown field": (change_info(data_path="{episode_chunk:03d}"), SourceError, "cannot be filled: KeyError"),
    "wide field": (change_info(data_path="{file_index:999999999d}"), SourceError, "data_path .* cannot be filled"),
    "attribute": (change_info(data_path="{file_index.__class__}"), SourceError, "data_path .* cannot be filled"),
    "long path": (change_info(video_path="x" * 300), SourceError, "File name too long; .* for episode 0, 1, 2, 3, 4"),
    "no video": (lambda s: s.video(1).unlink(), MissingError, "top/chunk-000/file-001.mp4: missing, .* episode 3"),
    "no rows": (lambda s: s.rows(1).unlink(), MissingError, "chunk-000/file-001.parquet: missing, .* episode 2, 3"),
    "no episodes": (lambda s: s.episodes().unlink(), MissingError, "meta/episodes: no parquet file"),
    "none left": (change_episodes(take()), SourceError, "meta/episodes: it lists no episode that has rows"),
    "cut episodes": (lambda s: s.truncate(s.episodes()), SourceError, "chunk-000/file-000.parquet: unreadable"),
    "negative": (change_episodes(put_at("episode_index", 0, -1)), SourceError, "an episode_index is outside 0"),
    "same index": (change_episodes(put_at("episode_index", 1, 0)), SourceError, "0 occurs twice, with videos in two"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANNING)
def test_a_source_that_contradicts_itself_is_refused_untouched(
    source: BrokenSource, tmp_path: Path, run: Run, case: str
) -> None:
    damage, error, message = PLANNING[case]
    damage(source)
    with pytest.raises(error, match=message):
        run(
            source.root, tmp_path / "shards", on_error="skip"
        )  # there is no episode to be left out alone
    assert not (tmp_path / "shards").exists()


def test_an_episode_that_does_not_exist_is_refused(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    with pytest.raises(
        OptionError, match="episode 5 was chosen and does not exist; the dataset has 5, from 0 to 4"
    ):
        run(source.root, tmp_path / "shards", episodes="1:3,4:9")
    assert not (tmp_path / "shards").exists()


def test_several_faults_of_a_source_are_told_together(source: BrokenSource) -> None:
    source.set_info(fps=0, video_path=None)
    with pytest.raises(SourceError) as caught:
        make_plan(ConvertConfig(source=str(source.root), destination="/nowhere"))
    assert str(caught.value).count("\n  - ") == 2


@pytest.mark.parametrize("url", ["pipe:cat x", "nowhere://bucket/robot"])
def test_places_that_are_not_served_are_refused(
    source: BrokenSource, tmp_path: Path, url: str
) -> None:
    for place, other in ((url, str(tmp_path)), (str(source.root), url)):
        with pytest.raises((OptionError, StorageError), match=url):
            convert(ConvertConfig(source=place, destination=other))


# -- Found while converting ------------------------------------------------------------------------


def vp8_with_opacity(source: BrokenSource) -> None:
    """Its opacity travels beside the packets, where a copy of them would not have it."""
    with av.open(str(source.video()), "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=10, options={"auto-alt-ref": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuva420p"
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(
                np.full((64, 96, 3), 9 * i, np.uint8), format="rgb24"
            )
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


VIDEO = rf"episode [0-2], camera '{TOP}', .*top/chunk-000/file-000.mp4: "
ROWS = r"data/chunk-000/file-000.parquet, episode 0: "


def unix_times(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("timestamp")
    times = table.column(at).to_numpy() + np.float32(1.7e9)
    return table.set_column(at, table.schema.field(at), pa.array(times, pa.float32()))


CONVERTING: dict[str, tuple[Break, str]] = {
    "cut video": (lambda s: s.truncate(s.video(), 0.9), VIDEO),
    "cut early": (lambda s: s.truncate(s.video(), 0.1), VIDEO),
    "garbage video": (change_video(lambda data: b"\x1f" * len(data)), VIDEO + "no readable video stream"),
    "empty video": (change_video(lambda data: b""), VIDEO + "no readable video stream"),
    "unknown codec": (change_video(lambda d: d.replace(b"avc1\0", b"zzzz\0")), VIDEO + "its video codec"),
    "neither MP4 nor Matroska": (
        vp8_with_opacity,
        VIDEO + "an MP4 slice cannot hold its codec: .*vp8.*; a Matroska slice .*: opacity.*--video reencode",
    ),
    "no timestamp": (change_rows(drop("timestamp")), "file-000.parquet, episode 0: no column 'timestamp'"),
    "no episode_index": (change_rows(drop("episode_index")), "file-000.parquet: no column 'episode_index'"),
    "text timestamp": (change_rows(put("timestamp", "0")), "column 'timestamp' holds string, not numbers"),
    "a list of timestamps": (
        change_rows(put("timestamp", [[0.0, 0.1]] * 11)), "column 'timestamp' does not hold one number a row",
    ),
    "no frame indices": (
        change_rows(put("frame_index", [[]] * 11)), "column 'frame_index' does not hold one number a row",
    ),
    "fractions of integers": (
        change_rows(put("index", [0.5] * 11)), ROWS + "feature 'index': 0.5 does not fit int64.*meta/info.json",
    ),
    "two timestamps": (change_rows(twice("timestamp")), "several columns of the name 'timestamp'"),
    "none of its rows": (change_rows(take(*range(6, 11))), ROWS + "no data file holds a row of it"),
    "time is no number": (
        change_rows(put_at("timestamp", 5, float("nan"))),
        ROWS + "row 5 has timestamp nan, which says no frame",
    ),
    "Unix times": (
        change_rows(unix_times),
        VIDEO + r"row 0 has the timestamp 1700000000\.000, and no frame is there: .*not Unix times",
    ),
    "unknown task": (change_rows(put_at("task_index", 2, 2)), ROWS + "task_index 2 is outside meta/tasks.parquet"),
    "cut rows": (lambda s: s.truncate(s.rows()), "file-000.parquet: unreadable parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVERTING)
def test_an_episode_that_cannot_be_copied_exactly_stops_the_run(
    source: BrokenSource, tmp_path: Path, run: Run, case: str
) -> None:
    damage, message = CONVERTING[case]
    damage(source)
    with pytest.raises(SourceError, match=message):
        run(source.root, tmp_path / "shards")
    assert sorted(path.name for path in (tmp_path / "shards").rglob("*")) == ["shards"]


@pytest.mark.parametrize("workers", [slowly(1), 2])
def test_errors_keep_their_type_and_text_on_the_way_from_a_worker(
    tmp_path: Path, run: Run, workers: int
) -> None:
    built = build(
        tmp_path / "robot", Source(lengths=(5,) * 4, cameras=(Camera(key=TOP),), state_dim=160)
    )
    source = BrokenSource(built.root)
    source.video().write_bytes(b"no video")
    with pytest.raises(SourceError, match=VIDEO + "no readable video stream"):
        run(built.root, tmp_path / "shards", workers=workers)
    source.video().unlink()
    source.video(0).parent.joinpath("file-000.mp4").mkdir()
    with pytest.raises(MissingError, match=VIDEO + "no such file"):
        run(built.root, tmp_path / "others", workers=workers)
    for root in (tmp_path / "shards", tmp_path / "others"):
        assert not (root / "dataset.json").exists()
        assert list(root.rglob(".*")) == []


def test_every_error_comes_out_of_a_pickle_as_it_went_in() -> None:
    kinds = (SourceError, MissingError, StorageError, OptionError, RoboshardError)
    for error in [*(kind("what, where") for kind in kinds), FormatError("what:", ["a", "b"])]:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


# -- Streams that begin in the middle --------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "from_s"),
    [
        ("open_gop_h264", 0.9),  # after a keyframe that is a recovery point only
        ("open_gop_hevc", 0.2),  # three pictures that lead the first keyframe, at 0.5 s
    ],
)
def test_frames_that_only_a_lost_part_could_have_decoded_are_refused(
    tmp_path: Path, run: Run, case: str, from_s: float
) -> None:
    source = BrokenSource(build(tmp_path / "robot", HARD_CASES[case]).root)
    part = source.root / "part.mp4"
    with (
        av.open(str(source.video())) as whole,
        av.open(str(part), "w", options={"use_editlist": "0"}) as target,
    ):
        packets = [packet for packet in whole.demux(whole.streams.video[0]) if packet.size]
        first = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
        stream = target.add_stream_from_template(whole.streams.video[0], opaque=True)
        for packet in packets[first:]:
            packet.stream = stream
            target.mux(packet)
    part.rename(source.video())
    for end, time in (("from", from_s), ("to", from_s + 0.9)):
        source.change(source.episodes(), put_at(f"videos/{TOP}/{end}_timestamp", 1, time))
    with pytest.raises(
        SourceError, match=r"episode 1, .* no keyframe before the episode from which its frames"
    ):
        run(source.root, tmp_path / "shards", episodes="1")
