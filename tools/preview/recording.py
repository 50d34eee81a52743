"""An episode as a recording for the Rerun viewer. Needs rerun-sdk.

Entities are named as features are: pictures at a camera's key, a curve for each dimension at
KEY/NAME, the text of the task at `task`; all on the timelines `frame_index` and `timestamp`.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from roboshard import storage
from roboshard.common.plain import plain
from roboshard.tools.preview.content import Content, Curves
from roboshard.tools.preview.pipe import copied_from
from roboshard.tools.preview.thumbnails import Picture, depth_steps, encode_jpeg

rr: Any = import_module("rerun")
"""The module rerun, not by an import statement: types must not depend on whether it is
installed.
"""

ROWS_AT_ONCE = 16
"""Rows whose pictures are held together."""
Pictures = Iterable[Mapping[str, Picture]]
OnProgress = Callable[[int, int], None]


def record(
    content: Content, pictures: Pictures, path: Path, on_progress: OnProgress | None = None
) -> None:
    """Write a recording; it appears whole or not at all.

    Args:
        content: The episode.
        pictures: Per row, camera -> picture. Taken as they are written, so that episodes of any
            length will do.
        path: An .rrd file.
        on_progress: Called with how many rows are written, and how many there are.

    Raises:
        StorageError: it cannot be written.
    """
    storage.write_atomic(path, lambda file: _record(file, content, pictures, on_progress))


def _record(
    file: IO[bytes], content: Content, pictures: Pictures, on_progress: OnProgress | None
) -> None:
    name = f"{plain(content.dataset)}, episode {content.episode_index}"
    stream = rr.RecordingStream("roboshard", recording_id=name)
    with copied_from(stream.save, file) as check:
        try:
            stream.send_recording_name(name)
            for curves in content.curves:
                _send_curves(stream, content, curves)
            if content.tasks:
                rows, texts = zip(*content.tasks, strict=True)
                stream.send_columns(
                    "task",
                    _times(content, rows),
                    rr.TextDocument.columns(text=list(map(plain, texts))),
                    strict=True,
                )
            cameras = _send_pictures(stream, content, pictures, check, on_progress)
            stream.send_blueprint(_arrangement(content, cameras))
        finally:
            stream.disconnect()


def _send_curves(stream: Any, content: Content, curves: Curves) -> None:
    times = _times(content, range(content.length))
    for name, values in zip(curves.names, curves.values.T, strict=True):
        columns = rr.Scalars.columns(scalars=np.ascontiguousarray(values))
        stream.send_columns(rr.new_entity_path([curves.key, name]), times, columns, strict=True)


def _send_pictures(
    stream: Any,
    content: Content,
    pictures: Pictures,
    check: Callable[[], None],
    on_progress: OnProgress | None,
) -> list[str]:
    """Send all pictures, some rows at a time, `check` whether they arrive, and return
    the cameras.
    """
    cameras: list[str] = []
    remaining = iter(pictures)
    sent = 0
    while several := list(itertools.islice(remaining, ROWS_AT_ONCE)):
        times = _times(content, range(sent, sent + len(several)))
        cameras = list(several[0])
        for camera in cameras:
            columns = _encoded([row[camera] for row in several])
            stream.send_columns(rr.new_entity_path([camera]), times, columns, strict=True)
        sent += len(several)
        check()
        if on_progress is not None:
            on_progress(sent, content.length)
    return cameras


def _encoded(pictures: Sequence[Picture]) -> Any:
    """Return pictures of one camera as columns: colors as JPEG files, depth as whole
    millimetres.
    """
    if pictures[0].ndim == 3:
        files = [encode_jpeg(picture) for picture in pictures]
        return rr.EncodedImage.columns(blob=files, media_type=["image/jpeg"] * len(files))
    height, width = pictures[0].shape
    form = rr.components.ImageFormat(
        width=width, height=height, color_model="L", channel_datatype="U16"
    )
    return rr.DepthImage.columns(
        buffer=[depth_steps(picture).tobytes() for picture in pictures],
        format=[form] * len(pictures),
        meter=[1000.0] * len(pictures),
    )


def _times(content: Content, rows: Sequence[int]) -> list[Any]:
    return [
        rr.TimeColumn("frame_index", sequence=np.asarray(rows, dtype=np.int64)),
        rr.TimeColumn("timestamp", duration=content.seconds[list(rows)]),
    ]


def _arrangement(content: Content, cameras: Sequence[str]) -> Any:
    """Return the viewer's arrangement: cameras above, curves below, the task at the bottom."""
    views: Any = import_module("rerun.blueprint")
    shown = [
        views.Spatial2DView(origin=rr.new_entity_path([camera]), name=plain(camera))
        for camera in cameras
    ]
    plots = [
        views.TimeSeriesView(origin=rr.new_entity_path([curves.key]), name=plain(curves.key))
        for curves in content.curves
    ]
    task = [views.TextDocumentView(origin="task", name="task")] if content.tasks else []
    bands = [views.Horizontal(*band) for band in (shown, plots) if band]
    shares = [3] * len(bands) + [1] * len(task)
    return views.Blueprint(views.Vertical(*bands, *task, row_shares=shares), collapse_panels=True)
