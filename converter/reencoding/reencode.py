"""Cutting one episode out of a video file by encoding the frames of its rows again.

They are the frames that a copy would show, and are shown when those are: rows keep their times, and
each frame that a row shows is there once. Nothing else is.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from roboshard.common.errors import OptionError, RoboshardError, SourceError, StorageError
from roboshard.converter.reencoding.encoder import Clip, check_encoder, encode, frames_at
from roboshard.converter.reencoding.settings import CODEC_NAMES, PIX_FMT, Encoding, ReencodeConfig
from roboshard.converter.source.api import Episode, Source, SourceMeta
from roboshard.converter.video.alignment import RowTimes, pts_runs, row_runs
from roboshard.converter.video.packets import IntArray
from roboshard.converter.video.slice_file import VideoSlice
from roboshard.converter.video.video_file import VideoFile
from roboshard.shards.cameras import EPISODES_LOOKED_AT
from roboshard.shards.features import is_depth
from roboshard.shards.mp4 import read_sample_tables
from roboshard.shards.schema import CameraRecord


def reencode(
    video: VideoFile, rows: RowTimes, encoding: Encoding, *, key: str, member: str
) -> VideoSlice:
    """The slice that shows these rows, as member `member` of the camera `key`.

    Raises:
        SourceError: a row without a frame within tolerance, or a frame that cannot be decoded or
            encoded.
    """
    try:
        packets, shown = video.select(rows)
        stream = video.decodable_stream(packets, of_one_size=encoding.size is None)
        size = encoding.size or video.shown_size(stream)
        times, frames = np.unique(shown, return_inverse=True)
        clip = Clip(
            ticks=times - times[0],
            time_base=video.time_base,
            fps=rows.fps,
            like=stream.codec_context,
            turns=video.turns,
        )
        frames_shown = frames_at(stream, packets, times)
        data = encode(_checked(frames_shown, size, video.turns), clip, encoding)
        ticks, keyframes, time_base = _read_back(data, clip, encoding)
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, RoboshardError):
            raise
        why = error.strerror if isinstance(error, av.FFmpegError) else error
        raise SourceError(f"cannot be decoded or encoded again: {why}") from error
    camera = CameraRecord(
        key=key,
        member=member,
        codec=CODEC_NAMES[encoding.codec],
        width=size[1],
        height=size[0],
        pix_fmt=PIX_FMT,
        num_frames=len(ticks),
        skip_frames=int(frames[0]),
        keyframes=keyframes.tolist(),
        time_base=(time_base.numerator, time_base.denominator),
        pts=pts_runs(ticks.tolist()),
        rows=row_runs(frames.tolist()),
    )
    return VideoSlice(data=data, camera=camera)


def _checked(
    frames: Iterator[av.VideoFrame], size: tuple[int, int], turns: int
) -> Iterator[av.VideoFrame]:
    """Pass on frames that can be encoded at this size. Raises SourceError at one that cannot."""
    for frame in frames:
        reason = why_copied({}, frame.format.name)
        if reason is not None:
            raise SourceError(
                f"{reason}, unlike in other files of this camera: leave the camera out of --cameras"
            )
        height, width = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        if size[0] > height or size[1] > width:
            raise SourceError(
                "its pictures are smaller than in other files or episodes of this camera, "
                f"{height} {width} (height, width), and not enlarged to {size[0]} {size[1]}: "
                "choose a smaller --size"
            )
        yield frame


def _read_back(data: bytes, clip: Clip, encoding: Encoding) -> tuple[IntArray, IntArray, Fraction]:
    """(times of the frames, keyframes, time base) of a slice.

    Raises SourceError unless they are those asked for.
    """
    tables = read_sample_tables(data)
    time_base = Fraction(1, tables.timescale)
    scale = clip.time_base / time_base
    if scale.denominator != 1:
        raise SourceError(f"an MP4 slice cannot hold its time base of {clip.time_base} s")
    ticks = clip.ticks * scale.numerator
    if not np.array_equal(tables.pts, ticks):
        raise SourceError(
            f"{len(ticks)} frames were encoded, {len(tables.pts)} are in the slice, or they are "
            "shown at other times"
        )
    keyframes = np.flatnonzero(tables.is_sync)
    if not np.isin(np.arange(0, len(ticks), encoding.gop), keyframes).all():
        raise SourceError(f"the encoder did not make every frame number {encoding.gop} a keyframe")
    return ticks, keyframes, time_base


def why_copied(feature: dict[str, Any], pix_fmt: str | None) -> str | None:
    """Return why a camera is not encoded again; None: it can be."""
    if is_depth(feature):
        return "it holds depth"
    components = av.VideoFormat(pix_fmt).components if pix_fmt else ()
    if (
        len(components) != 3
        or any(each.bits != 8 for each in components)
        or av.VideoFormat(str(pix_fmt)).is_rgb
    ):
        return f"its pixels are {pix_fmt}, not YUV of 8 bits"
    return None


def plan_encoding(source: Source, indices: IntArray, config: ReencodeConfig) -> Encoding:
    """Decide which cameras are encoded again, by a look into a video of each: the first of these
    episodes that opens.

    Raises:
        OptionError: a camera that there is not, or that is only copied; or the encoder does not
            take the options.
        MissingError, SourceError: no video of a camera can be opened.
    """
    meta, named = source.meta, config.camera_keys
    unknown = [key for key in named or () if key not in meta.camera_keys]
    if unknown:
        raise OptionError(
            f"cameras: {unknown} not among the dataset's videos {list(meta.camera_keys)}"
        )
    episodes = source.episodes(indices[:EPISODES_LOOKED_AT].tolist())
    chosen: list[str] = []
    sizes = dict[tuple[int, int], str]()
    for key in meta.camera_keys if named is None else dict.fromkeys(named):
        pix_fmt, size = _look_at(meta, episodes, key)
        reason = why_copied(meta.features[key], pix_fmt)
        if reason is None:
            chosen.append(key)
            sizes.setdefault(size, key)
        elif named is not None:
            raise OptionError(
                f"cameras: {key!r} is only copied, never encoded again: {reason}; leave it out"
            )
    if not chosen:
        raise OptionError("video reencode: the dataset has no camera that can be encoded again")
    encoding = Encoding(
        codec=config.codec,
        gop=config.gop,
        crf=config.crf,
        size=config.size,
        cameras=tuple(sorted(chosen)),
    )
    for size, key in sizes.items():
        if config.size is not None and (config.size[0] > size[0] or config.size[1] > size[1]):
            raise OptionError(
                f"size: {config.size[0]} {config.size[1]} (height, width) is larger than camera "
                f"{key!r}, {size[0]} {size[1]}; pictures are not enlarged: choose others by "
                "--cameras"
            )
        check_encoder(encoding, size)
    return encoding


def _look_at(
    meta: SourceMeta, episodes: Sequence[Episode], key: str
) -> tuple[str | None, tuple[int, int]]:
    """(pixel format, (height, width)) of a camera."""
    held = meta.files.held(lambda _: None)
    try:
        for number, episode in enumerate(episodes, start=1):
            path = episode.videos[key].path
            try:
                held.hold({path})
                video = VideoFile(held.path(path))
            except StorageError:  # says nothing of the video
                raise
            except RoboshardError as error:
                if number == len(episodes):
                    raise type(error)(
                        f"camera {key!r}, {meta.files.where(path)}: {error}"
                    ) from error
                continue
            context = video.stream.codec_context
            found = context.pix_fmt, video.shown_size()
            video.close()
            return found
        raise OptionError("no episode is chosen")
    finally:
        held.close()
