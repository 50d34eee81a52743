"""Images that a source keeps beside its rows, or as bare bytes, or that no loader would open."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.cases import CASES, Case, check_sample, read_case
from support.converting import converted
from support.missing_values import DATA, rewrite_rows

from roboshard.common.errors import FormatError, MissingError, SourceError
from roboshard.loader import make_loader, open_dataset
from roboshard.shards import ShardedDataset
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

CASE = read_case("image_some_missing")
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CASES / "image_some_missing/src", tmp_path / "source"))


def check_all(root: str, case: Case) -> None:
    dataset = open_dataset(root)
    for number, expected in enumerate(case.samples):
        check_sample(dataset[number], expected)


def set_images(source: Path, rows: list[Any], kind: pa.DataType) -> None:
    values = pa.array(rows, kind)
    rewrite_rows(
        source,
        lambda table: table.set_column(table.schema.get_field_index("image"), "image", values),
    )


def files_of(source: Path) -> list[bytes | None]:
    rows = pq.read_table(source / DATA).column("image").to_pylist()
    return [row and row["bytes"] for row in rows]


def places() -> list[tuple[int, int]]:
    """(episode, frame) of each row."""
    return [(int(s["episode_index"]), int(s["frame_index"])) for s in CASE.samples]


NAMES = {
    "relative": ("images/image/episode_{:06d}/frame_{:06d}.png", "{}"),
    "a name alone": ("images/image/episode_{:06d}/frame_{:06d}.png", "{name}"),
    "a name alone, as v3 records": ("images/image/episode-{:06d}/frame-{:06d}.png", "{name}"),
    "of another machine": ("images/image/episode_{:06d}/frame_{:06d}.png", "/home/someone/set/{}"),
    "elsewhere in the dataset": ("pictures/{:d}-{:d}.png", "{}"),
}


def put_beside(source: Path, where: str, written: str) -> list[str | None]:
    """Write the images as files of their own; what rows say of them."""
    paths: list[str | None] = []
    for file, (episode, frame) in zip(files_of(source), places(), strict=True):
        path = where.format(episode, frame)
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        if file is not None:
            (source / path).write_bytes(file)
        paths.append(None if file is None else written.format(path, name=Path(path).name))
    return paths


@pytest.mark.parametrize("kind", ["struct", "struct of paths", "text"])
@pytest.mark.parametrize("name", NAMES)
def test_images_beside_the_rows_come_into_the_shards(source: Path, name: str, kind: str) -> None:
    paths = put_beside(source, *NAMES[name])
    if kind == "text":
        set_images(source, paths, pa.string())
    else:
        fields = STRUCT if kind == "struct" else pa.struct({"path": pa.string()})
        set_images(source, [path and {"path": path} for path in paths], fields)
    root = converted(source, source.with_name("shards"))
    check_all(root, CASE)
    findings = ShardedDataset.open(root).read_episode(0).record.findings
    assert "image-by-path" in {finding.code for finding in findings}
    report = verify(VerifyConfig(url=root, against=str(source), frames=2))
    assert report.ok, report.as_json()
    exported = source.with_name("exported")
    export(ExportConfig(source=root, destination=str(exported)))
    assert files_of(exported) == files_of(CASES / "image_some_missing/src")


def test_some_rows_may_hold_their_image_and_others_point_to_one(source: Path) -> None:
    paths = put_beside(source, *NAMES["relative"])
    rows: list[Any] = [
        file and {"bytes": file if row % 2 else None, "path": paths[row]}
        for row, file in enumerate(files_of(source))
    ]
    set_images(source, rows, STRUCT)
    check_all(converted(source, source.with_name("shards")), CASE)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_bare_bytes_are_images(source: Path, kind: pa.DataType) -> None:
    files = files_of(source)
    set_images(source, files, kind)
    root = converted(source, source.with_name("shards"))
    check_all(root, CASE)
    assert verify(VerifyConfig(url=root, against=str(source))).ok
    exported = source.with_name("exported")
    export(ExportConfig(source=root, destination=str(exported)))
    assert pq.read_table(exported / DATA).column("image").to_pylist() == files


@pytest.mark.parametrize("path", ["gone.png", "../outside.png", "/etc/hostname", "..", ""])
def test_an_image_that_is_not_in_the_dataset_is_refused(source: Path, path: str) -> None:
    (source.parent / "outside.png").write_bytes(b"x")
    set_images(source, [{"bytes": None, "path": path}] * 18, STRUCT)
    with pytest.raises(
        SourceError, match=r"episode 0, feature 'image', row 0: its image .* is not in"
    ):
        converted(source, source.with_name("shards"))


def gif() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(file, "GIF")
    return file.getvalue()


@pytest.mark.parametrize("file", [b"", b"no image", gif()], ids=["empty", "no image", "GIF"])
def test_what_no_loader_would_open_is_refused_or_left_out(source: Path, file: bytes) -> None:
    rows = [{"bytes": data, "path": None} for data in files_of(source)]
    rows[8] = {"bytes": file, "path": None}
    set_images(source, rows, STRUCT)
    with pytest.raises(
        SourceError, match="episode 1, feature 'image', row 2: not a readable image"
    ):
        converted(source, source.with_name("shards"))
    root = converted(source, source.with_name("shards"), on_error="skip")
    assert open_dataset(root).num_episodes == 2


def test_images_of_no_file_at_all_are_refused(source: Path) -> None:
    set_images(source, [[[1, 2], [3, 4]]] * 18, pa.list_(pa.list_(pa.uint8())))
    with pytest.raises(SourceError, match=r"images are stored as list.* not as files"):
        converted(source, source.with_name("shards"))


# -- A source where shards are expected ------------------------------------------------------------


@pytest.mark.parametrize("how", ["folder", "file URL"])
def test_a_lerobot_dataset_is_not_loaded_as_it_is(source: Path, how: str) -> None:
    place = str(source) if how == "folder" else f"file://{source}"
    for open_ in (make_loader, open_dataset):
        with pytest.raises(MissingError, match=r"LeRobot dataset.*convert-to-shards .*source DST"):
            open_(place)
    (problem,) = verify(VerifyConfig(url=place)).problems
    assert "convert-to-shards" in problem.remedy
    shutil.rmtree(source / "meta")
    with pytest.raises(MissingError, match="Not a roboshard dataset"):
        make_loader(place)


def test_an_image_that_is_cut_off_is_an_error_with_its_place(source: Path) -> None:
    """An image by its header alone: its episode is read, and the picture is an error with its
    place.
    """
    whole = next(file for file in files_of(source) if file is not None)
    rows = [{"bytes": data, "path": None} for data in files_of(source)]
    rows[0] = {"bytes": whole[:60], "path": None}
    set_images(source, rows, STRUCT)
    root = converted(source, source.with_name("shards"))
    with pytest.raises(
        FormatError, match="episode 0, feature 'image', row 0: not a readable image"
    ):
        open_dataset(root)[0]
    report = verify(VerifyConfig(url=root, frames=1))
    assert any("1 images cannot be read" in problem.what for problem in report.problems)
