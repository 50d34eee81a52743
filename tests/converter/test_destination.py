"""A destination holds one conversion, written by one process at a time; what is not ours stays as
it is.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.broken_source import BrokenSource
from support.lerobot_source import Camera, Source, build
from support.slowly import slowly

from roboshard.converter import ConversionReport
from roboshard.converter.destination import local as local_destination
from roboshard.converter.destination.local import LocalPlace, locked
from roboshard.converter.destination.remote import RemotePlace
from roboshard.shards import OptionError, ShardedDataset, StorageError
from roboshard.shards.names import shard_name

Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("destination") / "robot"
    build(root, Source(lengths=(6, 5, 7, 4, 6), cameras=(Camera(key="observation.images.top"),)))
    return root


@pytest.fixture
def source(sound: Path, tmp_path: Path) -> BrokenSource:
    return BrokenSource.copy_of(sound, tmp_path / "robot")


@pytest.mark.parametrize("place", [".", "shards", "meta/deep/er", "..", "../.", "../robot"])
def test_a_destination_inside_or_around_the_source_is_refused(
    source: BrokenSource, run: Run, place: str
) -> None:
    before = sorted(source.root.parent.rglob("*"))
    with pytest.raises(
        OptionError, match="must not be the source folder, nor inside it or around it"
    ):
        run(source.root, source.root / place)
    assert sorted(source.root.parent.rglob("*")) == before


def test_another_conversion_is_never_mixed_in(
    source: BrokenSource, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    root = tmp_path / "shards"
    run(source.root, root)
    whole = tree(root)
    for names in (
        "",
        "dataset.json",
        "shards/*.json",
        "shards/shard-000000.tar",
    ):  # as if killed earlier and earlier
        for path in root.glob(names or "nothing"):
            path.unlink()
        before = tree(root)
        with pytest.raises(
            OptionError, match=r"holds .*another .*Choose another folder, or remove this one first"
        ):
            run(source.root, root, tolerance_s=0.01)
        assert tree(root) == before
    run(source.root, root)
    assert tree(root) == whole


def test_shards_of_someone_else_are_never_overwritten(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    shard = tmp_path / "shards/shards/shard-000000.tar"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"a webdataset that took years" * 100)
    with pytest.raises(OptionError, match=r"shards/shard-000000.tar.*Choose another folder"):
        run(source.root, tmp_path / "shards")
    assert shard.read_bytes() == b"a webdataset that took years" * 100


def test_damaged_shards_are_written_again(
    source: BrokenSource, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    root = tmp_path / "shards"
    shards = run(source.root, root).shards
    whole = tree(root)
    for name in (
        "shards/shard-000000.tar",
        "shards/shard-000000.json",
        "episodes.parquet",
        "dataset.json",
    ):
        for damage in (
            b"",
            (root / name).read_bytes()[:-1],
            (root / name).read_bytes()[:-9] + b"\xff" * 9,
        ):
            (root / name).write_bytes(damage)
            assert run(source.root, root).reused_shards == shards - name.startswith("shards/")
            assert tree(root) == whole


WRITING = """
import sys
from pathlib import Path
from roboshard.converter.destination.local import locked
with locked(Path(sys.argv[1])):
    print(flush=True)
    input()
"""


def test_two_conversions_do_not_write_to_one_folder(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    root = tmp_path / "shards"
    arguments = [sys.executable, "-c", WRITING, str(root)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(
            OptionError, match="shards: another conversion is writing here; wait until it ends"
        ):
            run(source.root, root)
        assert list(root.iterdir()) == []
        other.kill()  # the lock goes with the process
    run(source.root, root)
    with locked(root):  # it was given back
        pass


def test_temporaries_of_other_datasets_are_left_alone(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    other = tmp_path / "all/other/shards/.shard-000000.tar.77.roboshard-tmp"
    other.parent.mkdir(parents=True)
    other.touch()
    mine = tmp_path / "all/shards/.shard-000000.tar.77.roboshard-tmp"
    mine.parent.mkdir()
    mine.touch()
    run(source.root, tmp_path / "all")
    assert (mine.exists(), other.exists()) == (False, True)


def test_a_destination_that_cannot_be_made_is_an_error(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in ("file", "file/shards"):
        with pytest.raises(StorageError, match=f"{place}: cannot be made or opened: "):
            run(source.root, tmp_path / place)


FULL = """
import resource, sys
from roboshard.converter import ConvertConfig, convert
from roboshard.shards import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    convert(ConvertConfig(source=sys.argv[1], destination=sys.argv[2], workers=int(sys.argv[3]), shard_size="64KB"))
except StorageError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("workers", [slowly("1"), "2"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, workers: str) -> None:
    built = build(tmp_path / "robot", Source(lengths=(5,) * 4, state_dim=160))
    arguments = [sys.executable, "-c", FULL, str(built.root), str(tmp_path / "shards"), workers]
    ended = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert re.search(r"shards/shard-00000\d.tar: cannot be written: File too large", ended.stderr)
    assert sorted(path.name for path in (tmp_path / "shards").rglob("*")) == ["shards"]


# -- On the machines of a cluster ------------------------------------------------------------------


def test_a_machine_that_does_not_see_the_folder_is_told_before_it_writes(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "elsewhere", shard_name(0))
    with (
        pytest.raises(OptionError, match="not every node of the cluster sees this folder"),
        place.on_node(),
    ):
        pytest.fail("began")
    assert not place.folder.exists()


@pytest.mark.parametrize("there", [None, b"cut"])
def test_a_shard_that_another_machine_wrote_must_be_seen_whole(
    tmp_path: Path, pusht_shards: Path, there: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_destination, "SEEN_WITHIN_S", 0)
    dataset = ShardedDataset.open(str(pusht_shards))
    manifest = dataset.shard_manifest(dataset.manifest.shards[0])
    LocalPlace(pusht_shards, shard_name(0)).check_seen(manifest)
    place = LocalPlace(tmp_path, shard_name(0))
    if there is not None:
        (tmp_path / shard_name(0)).parent.mkdir()
        (tmp_path / shard_name(0)).write_bytes(there)
    with pytest.raises(OptionError, match="not every node of the cluster sees this folder"):
        place.check_seen(manifest)


def test_on_another_machine_shards_wait_in_a_folder_of_its_own(tmp_path: Path) -> None:
    place = RemotePlace(tmp_path / "gone", shard_name(0), "memory://x", "id", {})
    with place.on_node() as here:
        assert here.folder.is_dir()
        assert here.folder.parent == tmp_path
        assert (here.shard, here.url, here.there) == (place.shard, place.url, place.there)
    assert not here.folder.exists()
