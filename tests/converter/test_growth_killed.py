"""An append that is killed leaves the dataset as it was or as it will be, and running it again ends
it.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
from support.growing import append, record
from support.publishing import finish, hashes, kill_when, start
from support.slowly import some_quickly

from roboshard.shards import ShardedDataset

MOMENTS = 24
SIZES = (4, 16)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(source, dataset before, dataset after)."""
    folder = tmp_path_factory.mktemp("killed")
    record(folder / "robot", SIZES[0])
    append(folder / "robot", folder / "before")
    shutil.copytree(folder / "before", folder / "after")
    record(folder / "robot", SIZES[1])
    append(folder / "robot", folder / "after")
    return folder / "robot", folder / "before", folder / "after"


def finished_files(root: Path) -> int:
    return sum(path.suffix in (".tar", ".json", ".parquet") for path in root.glob("**/[!.]*"))


@pytest.mark.parametrize("moment", some_quickly(range(MOMENTS + 1), ()))
def test_killed_at_any_moment(nights: tuple[Path, Path, Path], tmp_path: Path, moment: int) -> None:
    source, before, after = nights
    root = tmp_path / "shards"
    shutil.copytree(before, root)
    old, new = hashes(before), hashes(after)
    total = len(new) - len(old)
    seen: set[int] = set()
    wrong: list[BaseException] = []
    ended = threading.Event()

    def read() -> None:
        try:
            while not ended.wait(0.02):
                dataset = ShardedDataset.open(str(root))
                dataset.read_episode(len(dataset.index) - 1)
                seen.add(len(dataset.index))
        except BaseException as error:  # noqa: BLE001 - whatever it is
            wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    command = ("convert-to-shards", source, root, "--append", "--shard-size", "64KB")
    try:
        process = start(*command, "--workers", "2")
        wanted = len(old) + moment / MOMENTS * total
        kill_when(process, lambda: finished_files(root) >= wanted)
        time.sleep(0.1)  # its workers end with it
        there = hashes(root)
        is_new = there["dataset.json"] == new["dataset.json"]
        promised = new if is_new else old
        assert {path: there[path] for path in promised} == promised
        finish(start(*command, "--workers", "2"))
    finally:
        ended.set()
        reader.join()
    assert not wrong
    assert seen <= {*SIZES}
    assert hashes(root) == new
