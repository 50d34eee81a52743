"""What writes or deletes follows the links that its user names, and none that lies in a folder of
ours.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from roboshard import storage
from roboshard.converter import ConvertConfig, convert
from roboshard.converter.source import scratch
from roboshard.converter.work_folder import WORK_PREFIX, work_folder
from roboshard.shards import OptionError, StorageError, rebuild
from roboshard.storage.content import Upload
from roboshard.storage.files import TEMPORARY_SUFFIX
from roboshard.storage.local import LocalStore
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.upload import UploadConfig, upload
from roboshard.tools.verify import VerifyConfig, verify

THESIS = "do not lose me"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody who is not asked."""
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    (folder / "thesis.tex").write_text(THESIS)
    (folder / "deep/thesis.tex").write_text(THESIS)
    return folder


def untouched(outside: Path) -> bool:
    found = {path.relative_to(outside).as_posix() for path in outside.rglob("*")}
    texts = [(outside / name).read_text() for name in ("thesis.tex", "deep/thesis.tex")]
    return found == {"thesis.tex", "deep", "deep/thesis.tex"} and texts == [THESIS, THESIS]


def linked(path: Path, to: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)
    return path


def run_conversion(source: Path, root: Path, **options: object) -> None:
    config = {"shard_size": "64KB", "workers": 1} | options
    convert(ConvertConfig(source=str(source), destination=str(root), **config))  # type: ignore[arg-type]


# -- Export ----------------------------------------------------------------------------------------


def test_export_does_not_empty_the_folder_behind_a_link(
    pusht_shards: Path, tmp_path: Path, outside: Path
) -> None:
    planted = linked(tmp_path / ".out.roboshard-export", outside)
    with pytest.raises(OptionError, match="what has that name is a link"):
        export(ExportConfig(source=str(pusht_shards), destination=str(tmp_path / "out")))
    assert untouched(outside)
    assert planted.is_symlink()


def test_export_removes_links_that_a_killed_run_left_and_not_what_they_lead_to(
    pusht_shards: Path, tmp_path: Path, outside: Path
) -> None:
    staging = tmp_path / ".out.roboshard-export"
    linked(staging / "data", outside)
    linked(staging / "meta/info.json", outside / "thesis.tex")
    export(ExportConfig(source=str(pusht_shards), destination=str(tmp_path / "out"), episodes="0"))
    assert untouched(outside)
    assert not (tmp_path / "out/data").is_symlink()
    assert not (tmp_path / "out/meta/info.json").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_export_does_not_write_into_a_folder_that_another_user_prepared(
    pusht_shards: Path, tmp_path: Path
) -> None:
    staging = tmp_path / ".out.roboshard-export"
    staging.mkdir()
    os.chown(staging, 65534, 65534)
    with pytest.raises(OptionError, match="another user's"):
        export(ExportConfig(source=str(pusht_shards), destination=str(tmp_path / "out")))
    assert os.listdir(staging) == []


def test_a_destination_that_is_a_link_is_its_users_choice(
    pusht_source: Path, pusht_shards: Path, tmp_path: Path
) -> None:
    for name in ("exported", "converted", "published"):
        (tmp_path / "disk" / name).mkdir(parents=True)
        linked(tmp_path / name, tmp_path / "disk" / name)
    export(
        ExportConfig(source=str(pusht_shards), destination=str(tmp_path / "exported"), episodes="0")
    )
    run_conversion(pusht_source, tmp_path / "converted", episodes="0:2")
    upload(UploadConfig(source=str(pusht_shards), destination=str(tmp_path / "published")))
    rebuild(tmp_path / "converted")
    assert (tmp_path / "disk/exported/meta/info.json").is_file()
    assert (tmp_path / "disk/converted/dataset.json").is_file()
    assert (tmp_path / "disk/published/dataset.json").is_file()
    for name in ("exported", "converted", "published"):
        assert (tmp_path / name).is_symlink()


# -- Conversion, rebuild, upload -------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"shards": "0/2"}], ids=["whole", "a part"])
def test_a_conversion_does_not_write_through_a_planted_folder_of_shards(
    pusht_source: Path, tmp_path: Path, outside: Path, options: dict[str, str]
) -> None:
    linked(tmp_path / "out/shards", outside)
    (outside / f".thesis{TEMPORARY_SUFFIX}").write_text(THESIS)
    with pytest.raises(StorageError, match="'shards' is a link, or no folder"):
        run_conversion(pusht_source, tmp_path / "out", **options)
    (outside / f".thesis{TEMPORARY_SUFFIX}").unlink()
    assert untouched(outside)


def test_files_that_are_links_are_replaced_and_what_they_lead_to_is_left(
    pusht_source: Path, tmp_path: Path, outside: Path
) -> None:
    root, thesis = tmp_path / "out", outside / "thesis.tex"
    names = ("dataset.json", "episodes.parquet", "skipped.json", "shards/shard-000000.json")
    for name in names:
        linked(root / name, thesis)
    linked(root / f"shards/.x{TEMPORARY_SUFFIX}", thesis)
    run_conversion(pusht_source, root)
    assert untouched(outside)
    assert not any(path.is_symlink() for path in root.rglob("*"))
    for name in names:
        (root / name).unlink(missing_ok=True)
        linked(root / name, thesis)
    rebuild(root)
    assert untouched(outside)


def test_rebuild_does_not_write_through_a_link(pusht_source: Path, tmp_path: Path) -> None:
    run_conversion(pusht_source, tmp_path / "out")
    (tmp_path / "out/shards").rename(tmp_path / "others")
    linked(tmp_path / "out/shards", tmp_path / "others")
    before = {path.name: path.read_bytes() for path in (tmp_path / "others").iterdir()}
    with pytest.raises(StorageError, match="is a link"):
        rebuild(tmp_path / "out")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "others").iterdir()}


@pytest.mark.parametrize("use", ["put", "remove"])
def test_publishing_to_a_folder_follows_no_link_in_it(
    tmp_path: Path, outside: Path, use: str
) -> None:
    target = LocalStore(str(tmp_path / "out"))
    linked(tmp_path / "out/shards", outside)
    name = "shards/thesis.tex"
    acts: dict[str, Callable[[], object]] = {
        "put": lambda: target.put([Upload(path=name, content=b"x")]),
        "remove": lambda: target.remove([name]),
    }
    with pytest.raises(StorageError, match="is a link"):
        acts[use]()
    assert untouched(outside)


@pytest.mark.parametrize("name", ["../outside/thesis.tex", "a/../../outside/thesis.tex"])
def test_no_name_leads_out_of_a_folder_that_is_published_to(
    tmp_path: Path, outside: Path, name: str
) -> None:
    target = LocalStore(str(tmp_path / "out"))
    target.create(private=False)
    with pytest.raises(StorageError):
        target.put([Upload(path=name, content=b"x")])
    assert untouched(outside)


# -- Single files ----------------------------------------------------------------------------------


def test_a_temporary_file_is_new_and_is_its_writers_alone(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were its name known beforehand, a link could wait there."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "known")
    planted = linked(
        tmp_path / f".file.{os.getpid()}-known{TEMPORARY_SUFFIX}", outside / "thesis.tex"
    )
    with pytest.raises(StorageError, match="cannot be written"):
        storage.write_bytes(tmp_path / "file", b"new")
    assert untouched(outside)
    assert planted.is_symlink()


def test_files_get_the_permissions_that_the_user_set(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        storage.write_bytes(tmp_path / "deep/file", b"new")
        storage.write_bytes(tmp_path / "deep/er/file", b"new", below=tmp_path)
    finally:
        os.umask(old)
    for name in ("deep/file", "deep/er/file"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
        assert stat.S_IMODE((tmp_path / name).parent.stat().st_mode) == 0o750


def test_a_report_replaces_a_link_and_leaves_what_it_leads_to(
    pusht_shards: Path, tmp_path: Path, outside: Path
) -> None:
    report = linked(tmp_path / "report.json", outside / "thesis.tex")
    verify(VerifyConfig(url=str(pusht_shards), report=report))
    assert untouched(outside)
    assert not report.is_symlink()


# -- Folders for what is on its way ----------------------------------------------------------------


def test_what_killed_runs_left_is_removed_without_following_links(
    tmp_path: Path, outside: Path
) -> None:
    base = tmp_path / "tmp"
    linked(base / f"{scratch.PREFIX}planted", outside)
    linked(base / f"{WORK_PREFIX}planted", outside)
    left = base / f"{scratch.PREFIX}left"
    left.mkdir()
    (left / "in-use").touch()
    linked(left / "files", outside)
    linked(base / f"{WORK_PREFIX}left/shards", outside)
    scratch.Scratch.make(base, 1 << 20).remove()
    with work_folder(str(base)):
        pass
    assert untouched(outside)
    assert not (base / f"{WORK_PREFIX}left").exists()


@pytest.mark.parametrize("name", ["account", "files/planted"])
def test_a_folder_of_downloads_follows_no_link(tmp_path: Path, outside: Path, name: str) -> None:
    folder = scratch.Scratch.make(tmp_path / "tmp", 1 << 20)
    path = "videos/episode.mp4"
    place = folder.file_path(path) if name != "account" else folder.folder / name
    place.unlink(missing_ok=True)
    linked(place, outside / "thesis.tex")
    with pytest.raises(StorageError):
        folder.take({path: 10})
    assert untouched(outside)
    folder.remove()
