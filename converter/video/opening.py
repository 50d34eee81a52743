"""Opening a source's video file: as one of a few formats, no other file, and the stream that
LeRobot shows.
"""

from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from roboshard.common.errors import SourceError

_BOXES = (
    *(b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx"),
    *(b"free", b"skip", b"wide", b"pnot", b"uuid"),
)
"""What MP4 and MOV files may begin with, after four bytes."""
_MAGIC = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"FLV": "flv",
    b"OggS": "ogg",
    b"\0\0\1\xba": "mpeg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
}
_KINDS = "MP4, MOV, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, FLV, Ogg or ASF"
_TS_PACKET, _TS_SYNC = 188, b"\x47"
_AV = int(av.__version__.split(".")[0])
OPENS_FLV = _AV >= 16
"""Whether FLV files are opened: PyAV 15 ends the process where it is given options for one."""
_ALONE = {"protocol_whitelist": "file", "enable_drefs": "0", "use_absolute_path": "0"}
"""Options of FFmpeg: no demuxer opens what its file names."""
_ANY_TITLE: dict[str, Any] = {} if _AV >= 19 else {"metadata_errors": "replace"}
"""Options of PyAV: a title in Latin-1 is no reason to fail. PyAV 19 has none of these and reads any
text.
"""


def open_video(path: Path) -> tuple[Any, Any]:
    """Open a video file for demuxing.

    FFmpeg would find out the format by itself, by name and content, and open whatever a playlist
    names. So the file is opened as one of the few formats here, each of which is one file.

    Args:
        path: A local file.

    Returns:
        (container, to be closed; its video stream).

    Raises:
        SourceError: No video file of these formats, or no video stream in it.
    """
    demuxer = _demuxer_of(path)
    if demuxer is None:
        raise SourceError(f"no readable video stream: it is no {_KINDS} file")
    if demuxer == "flv" and not OPENS_FLV:
        raise SourceError("an FLV file needs av 16 or newer: install it, or bring an MP4 file")
    try:
        container = av.open(
            f"file:{path.absolute()}", format=demuxer, options=dict(_ALONE), **_ANY_TITLE
        )
    except (av.FFmpegError, ValueError) as error:
        raise SourceError(f"no readable video stream: {_why(error)}") from error
    try:
        return container, best_stream(container)
    except SourceError:
        container.close()
        raise


def _demuxer_of(path: Path) -> str | None:
    """FFmpeg's name of a file's format, by how it begins."""
    with path.open("rb") as file:
        start = file.read(2 * _TS_PACKET)
    if start[4:8] in _BOXES:
        return "mov"
    if start[:4] == b"RIFF" and start[8:11] == b"AVI":
        return "avi"
    if start[:1] == start[_TS_PACKET : _TS_PACKET + 1] == _TS_SYNC:
        return "mpegts"
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def best_stream(container: Any) -> Any:
    """Return the video stream that FFmpeg, and so torchcodec, takes where nothing is said.

    Of several it is the one that is marked as the default, not simply the first. A cover picture is
    none.

    Raises:
        SourceError: There is no video stream.
    """
    stream = container.streams.best("video")
    if stream is not None and _is_picture(stream):
        stream = next((each for each in container.streams.video if not _is_picture(each)), None)
    if stream is None:
        raise SourceError("no readable video stream: it holds none")
    return stream


def rotation_of(path: Path) -> int:
    """Return by how many quarter turns, counterclockwise, a file's pictures are turned before they
    are shown.

    It is 0 to 3, as torchcodec turns them: to the nearest one.

    Raises:
        SourceError: The file cannot be opened, or its first picture cannot be decoded.
    """
    container, stream = open_video(path)
    try:
        stream.codec_context.thread_count = 1
        frame = next(container.decode(stream), None)
    except (av.FFmpegError, ValueError) as error:
        raise SourceError(f"its first picture cannot be decoded: {_why(error)}") from error
    finally:
        container.close()
    return 0 if frame is None else quarter_turns(frame)


def quarter_turns(frame: av.VideoFrame) -> int:
    """Return by how many quarter turns, counterclockwise, a frame is turned before it is shown: 0
    to 3.
    """
    return round(frame.rotation / 90) % 4


def _is_picture(stream: Any) -> bool:
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _why(error: Exception) -> str:
    """What FFmpeg says, without the file's name, which may be a temporary one."""
    return str(error.strerror if isinstance(error, av.FFmpegError) else error)
