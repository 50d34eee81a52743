"""Recordings for the Rerun viewer, read back with rerun-sdk."""

from __future__ import annotations

import importlib
import io
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roboshard.cli.main import dispatch
from roboshard.loader import open_dataset
from roboshard.shards import DamageError, StorageError
from roboshard.tools.preview import PreviewConfig, preview
from roboshard.tools.preview.content import Content, Curves
from roboshard.tools.preview.thumbnails import Picture

pytestmark = pytest.mark.rerun
Columns = dict[str, list[Any]]


def content(length: int) -> Content:
    values = np.arange(2.0 * length).reshape(length, 2)
    return Content(
        dataset="org/arm",
        episode_index=7,
        fps=10,
        seconds=np.arange(length) / 10,
        tasks=((0, "reach"), (length // 2, "拿起方块")),
        curves=(Curves(key="action", names=("x y", "z/w"), named=True, values=values),),
        not_drawn={},
    )


def read_back(path: Path) -> dict[str, Columns]:
    """Entity -> column -> values, in order of `frame_index`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for chunk in importlib.import_module("rerun.chunk").RrdReader(path).stream():
        if not chunk.is_static and "frame_index" in chunk.timeline_names:
            assert sorted(chunk.timeline_names) == ["frame_index", "timestamp"]
            found.setdefault(chunk.entity_path, []).extend(chunk.to_record_batch().to_pylist())
    rows = {
        entity: sorted(rows, key=lambda row: row["frame_index"]) for entity, rows in found.items()
    }
    return {
        entity: {key: [row[key] for row in several] for key in several[0]}
        for entity, several in rows.items()
    }


def test_all_of_an_episode_is_on_both_timelines(
    pusht_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dispatch(["preview", str(pusht_shards), "--episode", "3", "--rerun", "three.rrd"]) == 0
    assert "pusht_sim, episode 3, 45 frames → three.rrd" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [
        "three.rrd"
    ]  # no sheet, unless it is asked for
    entities = read_back(tmp_path / "three.rrd")
    samples = list(open_dataset(str(pusht_shards)).episode(3))
    assert set(entities) == {
        "/observation.image",
        "/task",
        *(f"/{key}/{name}" for key in ("observation.state", "action") for name in "xy"),
        "/next.reward/0",
        "/next.done/0",
        "/next.success/0",
    }
    assert entities["/task"]["TextDocument:text"] == [[samples[0]["task"]]]
    for place, name in enumerate("xy"):
        curve = entities[f"/action/{name}"]
        assert curve["frame_index"] == list(range(45))
        assert [time.total_seconds() for time in curve["timestamp"]] == pytest.approx(
            np.arange(45) / 10, abs=1e-6
        )
        assert curve["Scalars:scalars"] == [[float(sample["action"][place])] for sample in samples]
    pictures = entities["/observation.image"]
    assert pictures["frame_index"] == list(range(45))
    assert pictures["EncodedImage:media_type"] == [["image/jpeg"]] * 45
    for row in (0, 17, 44):
        with Image.open(io.BytesIO(bytes(pictures["EncodedImage:blob"][row][0]))) as image:
            shown = np.asarray(image, dtype=np.float64)
        kept = samples[row]["observation.image"].numpy().transpose(1, 2, 0)
        assert shown.shape == (96, 96, 3)
        assert np.abs(shown - kept).mean() < 5


def test_depth_names_in_any_script_and_tasks_that_change(tmp_path: Path) -> None:
    depth = np.array([[0, 800.4, np.nan], [1200, 70000, np.inf]], np.float32)
    made, path = content(20), tmp_path / "x.rrd"
    seen: list[tuple[int, int]] = []
    importlib.import_module("roboshard.tools.preview.recording").record(
        made,
        iter([{"depth": depth + row} for row in range(20)]),
        path,
        lambda *progress: seen.append(progress),
    )
    assert seen == [(16, 20), (20, 20)]
    entities = read_back(path)
    assert set(entities) == {"/depth", "/task", r"/action/x\ y", r"/action/z\/w"}
    assert (entities["/task"]["frame_index"], entities["/task"]["TextDocument:text"]) == (
        [0, 10],
        [["reach"], ["拿起方块"]],
    )
    values = np.frombuffer(
        bytes(entities["/depth"]["DepthImage:buffer"][19][0]), np.uint16
    ).reshape(2, 3)
    assert values.tolist() == [[19, 819, 0], [1219, 65535, 0]]
    assert entities["/depth"]["DepthImage:meter"] == [[1000.0]] * 20


def test_nothing_half_written_is_left(pusht_shards: Path, tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Picture]]:
        yield from [{"camera": np.zeros((8, 8, 3), np.uint8)}] * 18
        raise DamageError("shard 3")

    record = importlib.import_module("roboshard.tools.preview.recording").record
    with pytest.raises(DamageError, match="shard 3"):
        record(content(20), broken(), tmp_path / "x.rrd")
    assert not list(tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (50_000, hard)
    )  # as a full disk is met: in the midst of the file
    try:
        noise = np.random.default_rng(0).integers(0, 256, (20, 96, 96, 3), dtype=np.uint8)
        with pytest.raises(StorageError, match=r"x.rrd: cannot be written: File too large"):
            record(content(20), [{"camera": frame} for frame in noise], tmp_path / "x.rrd")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        preview(PreviewConfig(url=str(pusht_shards), rerun=tmp_path / "file" / "x.rrd"))


def test_both_at_once(pusht_shards: Path, tmp_path: Path) -> None:
    report = preview(
        PreviewConfig(url=str(pusht_shards), output=tmp_path / "x.png", rerun=tmp_path / "x.rrd")
    )
    assert (report.output, report.rerun) == (tmp_path / "x.png", tmp_path / "x.rrd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "x.rrd"]
