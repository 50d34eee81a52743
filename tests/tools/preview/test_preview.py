"""`roboshard preview`: what it draws, and what it says where it cannot."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.lerobot_source import HARD_CASES, Camera, Source, build
from support.servers import RangeServer

from roboshard.cli.main import dispatch
from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset
from roboshard.shards import OptionError, StorageError
from roboshard.tools.preview import PreviewConfig, preview
from roboshard.tools.preview.content import Content, Curves
from roboshard.tools.preview.layout import LEFT, STRIP_WIDTH, make_layout, panel_height
from roboshard.tools.preview.sheet import DPI, _legend_size, draw
from roboshard.tools.preview.thumbnails import Picture

pytest_plugins = ["support.servers.fixtures"]
TOP = "observation.images.top"


def pixels(png: bytes | Path) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png) if isinstance(png, bytes) else png) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def content(length: int = 40, task: str = "stack the cubes", dims: int = 3) -> Content:
    values = np.linspace(-1, 1, length * dims).reshape(length, dims)
    names = tuple(f"joint_{i}" for i in range(dims))
    return Content(
        dataset="org/arm",
        episode_index=7,
        fps=10,
        seconds=np.arange(length) / 10,
        tasks=((0, task),),
        curves=(Curves(key="action", names=names, named=True, values=values),),
        not_drawn={},
    )


def test_every_frame_stands_in_its_cell_above_its_moment() -> None:
    rows = [0, 13, 26, 39]
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)]
    frames = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    depth = [np.linspace(500, 900, 48 * 64, dtype=np.float32).reshape(48, 64)] * 4
    sheet = pixels(draw(content(), rows, {"camera": frames, "depth": depth}))
    layout = make_layout(columns=4, shapes=[(48, 64)] * 2, panels=[panel_height(3, 3)])
    assert sheet.shape[0] == pytest.approx(layout.height * DPI, abs=1)
    place, panel = layout.strips[0], layout.panels[0]
    for i, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        x = (LEFT + (i + 0.5) * STRIP_WIDTH / 4) * DPI
        assert sheet[round((place.top + place.height / 2) * DPI), round(x)].tolist() == list(colour)
        # The line that marks the frame's moment among the curves.
        seconds, margin = row / 10, 3.9 / 6
        moment = (LEFT + (seconds + margin) / (3.9 + 2 * margin) * STRIP_WIDTH) * DPI
        assert moment == pytest.approx(x, abs=2)
        around = sheet[round((panel.top + 0.02) * DPI), round(moment) - 2 : round(moment) + 3]
        assert around.min() < 240


@pytest.mark.parametrize(
    "shown",
    [
        content(length=1),
        content(dims=14),
        content(dims=40),
        content(task="拿起方块 → $x_2$ التقط 📦 _ " * 30),
        replace(content(), tasks=(), curves=()),
        replace(content(), curves=(replace(content().curves[0], values=np.full((40, 3), np.nan)),)),
        replace(
            content(),
            curves=(replace(content().curves[0], values=content().curves[0].values * 1.79e308),),
        ),
        replace(content(), curves=(replace(content().curves[0], names=("_a", "$b", "c" * 200)),)),
    ],
    ids=[
        "one row",
        "14 names",
        "40 names",
        "a long task in any script",
        "bare",
        "nothing finite",
        "the largest numbers",
        "odd names",
    ],
)
def test_what_is_hard_to_draw_is_drawn(shown: Content) -> None:
    """Its parts stand where they should, and something is in each; the page is as high as they
    need.
    """
    rows = [shown.length - 1]
    frames = [np.full((300, 40, 3), (200, 0, 0), np.uint8)]
    names = [(len(curves.names), _legend_size(curves)[0]) for curves in shown.curves]
    for cameras in ({"x" * 300: frames}, {}):
        sheet = pixels(draw(shown, rows, cameras))
        layout = make_layout(
            columns=1, shapes=[(300, 40)] * len(cameras), panels=[panel_height(*n) for n in names]
        )
        assert sheet.shape[0] == pytest.approx(layout.height * DPI, abs=1)
        assert (sheet[: round(0.5 * DPI)] < 128).any()  # the title
        for place in layout.strips:
            middle = sheet[
                round((place.top + place.height / 2) * DPI), round((LEFT + STRIP_WIDTH / 2) * DPI)
            ]
            assert middle.tolist() == [200, 0, 0]
        for place in layout.panels:
            top, bottom = (round(inches * DPI) for inches in (place.top, place.top + place.height))
            left, right = (round(inches * DPI) for inches in (LEFT, LEFT + STRIP_WIDTH))
            colour = np.ptp(sheet[top:bottom, left:right].astype(int), axis=-1)
            assert (colour > 60).any() == np.isfinite(
                shown.curves[0].values
            ).any()  # curves are in colour
            assert (sheet[top:bottom, right + 5 :] < 128).any()  # their names


def test_the_bundled_data(
    pusht_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = preview(PreviewConfig(url=str(pusht_shards), episode=3, frames=4))
    assert (report.dataset, report.episode_index, report.output) == (
        "pusht_sim",
        3,
        Path("pusht_sim-episode-3.png"),
    )
    assert (report.length, report.not_drawn) == (45, {})
    assert [path.name for path in tmp_path.iterdir()] == ["pusht_sim-episode-3.png"]
    sheet = pixels(tmp_path / "pusht_sim-episode-3.png")
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 500


def drawn(
    config: PreviewConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], dict[str, list[Picture]]]:
    """The rows and pictures that a preview draws."""
    seen: list[Any] = []

    def watch(content: Content, rows: Any, pictures: Any) -> bytes:
        seen.append((rows, pictures))
        return draw(content, rows, pictures)

    monkeypatch.setattr("roboshard.tools.preview.sheet.draw", watch)
    preview(config)
    ((rows, pictures),) = seen
    return rows, pictures


def test_the_frames_are_those_of_their_rows(
    pusht_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PreviewConfig(
        url=str(pusht_shards), episode=3, frames=4, output=tmp_path / "sheet.png"
    )
    rows, pictures = drawn(config, monkeypatch)
    assert rows == [0, 15, 29, 44]
    episode = open_dataset(str(pusht_shards)).episode(3)
    expected = [episode[row]["observation.image"].numpy() for row in rows]
    assert len({picture.tobytes() for picture in expected}) == 4
    shown = np.stack(pictures["observation.image"])
    assert np.array_equal(shown, np.stack(expected).transpose(0, 2, 3, 1))


def test_depth_is_what_the_dataset_calls_so_and_grey_is_grey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(
        tmp_path / "source",
        Source(lengths=(3,), image_keys=("grey",), depth_images={"depth": "mm"}),
    )
    path = built.data_files[0]
    table = pq.read_table(path)
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 64), 102, np.uint8)).save(buffer, "PNG")
    files = pa.array(
        [{"bytes": buffer.getvalue(), "path": "x.png"}] * 3, table.schema.field("grey").type
    )
    pq.write_table(table.set_column(table.schema.get_field_index("grey"), "grey", files), path)
    convert(ConvertConfig(source=str(built.root), destination=str(tmp_path / "shards"), workers=1))
    config = PreviewConfig(url=str(tmp_path / "shards"), frames=2, output=tmp_path / "sheet.png")
    _, pictures = drawn(config, monkeypatch)
    assert np.array_equal(pictures["grey"][1], np.full((48, 64, 3), 102))
    assert [(picture.shape, picture.dtype) for picture in pictures["depth"]] == [
        ((48, 64), np.float32)
    ] * 2


def test_as_a_command(
    pusht_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "here" / "sheet.png"
    arguments = ["preview", str(pusht_shards), "--frames", "2", "--output", str(sheet)]
    assert dispatch(arguments) == 0
    assert f"pusht_sim, episode 0, 48 frames → {sheet}" in capsys.readouterr().out
    first = sheet.read_bytes()
    assert dispatch(arguments) == 0
    assert sheet.read_bytes() == first
    assert dispatch(["preview", str(pusht_shards), "--episode", "14"]) == 2
    assert "which has 14 episodes from 0 to 13" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in sheet.parent.iterdir()] == ["sheet.png"]


def test_a_remote_dataset_gives_the_same_sheet(
    pusht_shards: Path, range_server: RangeServer, tmp_path: Path
) -> None:
    range_server.serve(pusht_shards)
    here, there = tmp_path / "here.png", tmp_path / "there.png"
    for url, sheet in ((str(pusht_shards), here), (range_server.url, there)):
        preview(PreviewConfig(url=url, episode=5, frames=3, output=sheet))
    assert here.read_bytes() == there.read_bytes()


def test_images_in_rows_and_features_of_every_kind(tmp_path: Path) -> None:
    case = replace(
        HARD_CASES["all_dtypes"],
        image_keys=("observation.images.wrist",),
        lengths=(5, 6),
        tasks_per_episode=2,
    )
    source = build(
        tmp_path / "source", replace(case, cameras=(Camera(key=TOP), Camera(key="side")))
    )
    convert(ConvertConfig(source=str(source.root), destination=str(tmp_path / "shards"), workers=1))
    sheet = tmp_path / "sheet.png"
    report = preview(PreviewConfig(url=str(tmp_path / "shards"), episode=1, output=sheet))
    assert set(report.not_drawn) == {"note", "matrix"}
    fewer = tmp_path / "fewer.png"
    preview(PreviewConfig(url=str(tmp_path / "shards"), cameras=(TOP,), output=fewer))
    assert pixels(fewer).shape[0] < pixels(sheet).shape[0]
    with pytest.raises(OptionError, match="'front'"):
        preview(PreviewConfig(url=str(tmp_path / "shards"), cameras=("front",), output=fewer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": Path("sheet.jpg")}, "must end in .png"),
        ({"rerun": Path("sheet.png")}, "must end in .rrd"),
        ({"frames": 0}, "--frames 0: must be 1 to 24"),
        ({"frames": 25}, "must be 1 to 24"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PreviewConfig(url="shards", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("matplotlib", "roboshard.tools.preview.sheet", "preview"),
        ("rerun", "roboshard.tools.preview.recording", "rerun"),
    ],
)
def test_what_is_not_installed_is_named_before_anything_is_read(
    package: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    config = PreviewConfig(
        url=str(tmp_path / "none"), rerun=tmp_path / "x.rrd" if extra == "rerun" else None
    )
    with pytest.raises(OptionError, match=rf"pip install 'roboshard\[{extra}\]'"):
        preview(config)
    assert not list(tmp_path.iterdir())


def test_a_sheet_that_cannot_be_written(pusht_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        preview(
            PreviewConfig(url=str(pusht_shards), frames=1, output=tmp_path / "file" / "sheet.png")
        )
