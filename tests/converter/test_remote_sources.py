"""Sources on the Hub, in buckets and in object storage: the same shards as from a folder, in
bounded disk.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from support.broken_source import BrokenSource
from support.interrupting import processes
from support.lerobot_source import Camera, Source, build
from support.servers.hub import LocalHub
from support.servers.s3 import S3Server
from support.waiting import wait_until

from roboshard.converter import ConversionReport, ConvertConfig, ReencodeConfig, make_plan
from roboshard.converter.source.scratch import PREFIX, Scratch, remove_leftovers
from roboshard.shards import MissingError, OptionError, StorageError

pytest_plugins = ["support.servers.fixtures"]

Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]

TOP, SIDE = "observation.images.top", "observation.images.side"
EPISODES = 12
SLOW = pytest.mark.slow

CONVERT = """
import sys
from roboshard.converter import ConvertConfig, convert
names = ("source", "destination", "scratch", "workers")
options = dict(zip(names, sys.argv[1:4] + [int(sys.argv[4])]))
convert(ConvertConfig(shard_size="70KB", **options))
"""


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve episodes in 6 data files of 23 to 28 KB, 6 and 4 videos of 7 and 10 KB, 87 to 103 KB
    of metadata, as pyarrow writes them; 6 shards.
    """
    root = tmp_path_factory.mktemp("remote") / "robot"
    cameras = tuple(
        Camera(key=key, size=(96, 128), gop=1, episodes_per_file=per_file)
        for key, per_file in ((TOP, 2), (SIDE, 3))
    )
    build(
        root,
        Source(
            lengths=(4,) * EPISODES, image_keys=("wrist",), image_size=(64, 64), cameras=cameras
        ),
    )
    return root


@pytest.fixture(scope="session")
def run(run: Run) -> Run:
    """Two episodes fill a shard, with every release of pyarrow."""
    return partial(run, shard_size="70KB")


@pytest.fixture(scope="module")
def whole(
    robot: Path, tmp_path_factory: pytest.TempPathFactory, run: Run, tree: ReadTree
) -> dict[str, str]:
    """What becomes of it as a local folder."""
    root = tmp_path_factory.mktemp("remote") / "shards"
    assert run(robot, root).shards == 6
    return tree(root)


@pytest.fixture
def hub(this_hub: LocalHub, robot: Path) -> LocalHub:
    """Holds the dataset me/robot, and the same in a bucket."""
    this_hub.add_dataset("me/robot", robot)
    this_hub.add_bucket_folder("me/things", robot, "recorded/robot")
    this_hub.reset()
    return this_hub


BUCKET = "hf://buckets/me/things/recorded/robot"


def metadata_bytes(robot: Path) -> int:
    return sum((robot / path).stat().st_size for path in files_of(robot, "meta/**/*"))


def episode_bytes(robot: Path) -> int:
    """Of the largest files that an episode lies in."""
    patterns = ("data/**/*", f"videos/{TOP}/**/*", f"videos/{SIDE}/**/*")
    return sum(
        max((robot / path).stat().st_size for path in files_of(robot, pattern))
        for pattern in patterns
    )


def fetched(hub: LocalHub) -> Counter[str]:
    """How often each source file's bytes were sent, as a whole or in part."""
    places = re.compile(
        r"/cdn/[0-9a-f]{64}/(.+)|/api/resolve-cache/datasets/[^/]+/[^/]+/[0-9a-f]{40}/(.+)"
    )
    found = (places.fullmatch(unquote(request.path.partition("?")[0])) for request in hub.requests)
    names = (match[1] or match[2] for match in found if match)
    return Counter(name.removeprefix("recorded/robot/") for name in names)


def files_of(robot: Path, pattern: str = "**/*") -> list[str]:
    return sorted(
        path.relative_to(robot).as_posix() for path in robot.glob(pattern) if path.is_file()
    )


def members(root: Path) -> list[dict[str, bytes]]:
    """Of each shard its members, without the first parquet file, which says where the dataset comes
    from.
    """
    shards = []
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            shard = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        del shard[next(name for name in shard if name.endswith(".parquet"))]
        shards.append(shard)
    return shards


def bytes_in(folder: Path) -> int:
    """Of data, videos and metadata in the run's scratch folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if Path(place).name in ("files", "meta"):
                with suppress(FileNotFoundError):
                    total += Path(place, name).stat().st_size
    return total


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The sizes of the scratch folder that were seen meanwhile."""
    seen, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.0005):
            seen.append(bytes_in(folder))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


# -- The same shards, wherever the source lies -----------------------------------------------------


def test_video_that_is_encoded_again(hub: LocalHub, robot: Path, tmp_path: Path, run: Run) -> None:
    options: dict[str, Any] = {
        "video": "reencode",
        "reencode": ReencodeConfig(codec="libx264", size=(48, 64), cameras=SIDE),
        "episodes": "1:3",
    }
    run(robot, tmp_path / "local", **options)
    run(BUCKET, tmp_path / "remote", scratch=str(tmp_path / "scratch"), **options)
    assert members(tmp_path / "remote") == members(tmp_path / "local")
    assert max(fetched(hub).values()) == 1
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_hub_dataset_at_a_revision(
    this_hub: LocalHub, robot: Path, tmp_path: Path, run: Run
) -> None:
    old = this_hub.add_dataset("me/robot", robot)
    newer = BrokenSource.copy_of(robot, tmp_path / "newer")
    newer.set_info(robot_type="another")
    this_hub.add_dataset("me/robot", newer.root)
    run(robot, tmp_path / "local")
    for number, source in enumerate((f"me/robot@{old}", f"hf://datasets/me/robot@{old}")):
        root = tmp_path / f"shards{number}"
        run(source, root, scratch=str(tmp_path / "scratch"))
        assert members(root) == members(tmp_path / "local")
        local, remote = (
            json.loads((path / "dataset.json").read_bytes()) for path in (tmp_path / "local", root)
        )
        assert remote["source"] == local["source"] | {"name": "me/robot", "revision": old}
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not this_hub.token_leaks


def test_a_branch_is_the_commit_that_it_names_as_the_run_begins(
    hub: LocalHub, robot: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = BrokenSource.copy_of(robot, tmp_path / "newer")
    for path in [*newer.root.glob("videos/**/*.mp4"), *newer.root.glob("data/**/*.parquet")]:
        path.write_bytes(b"other bytes")
    plan = make_plan(
        ConvertConfig(source="me/robot@main", destination="/nowhere", shard_size="70KB")
    )
    hub.add_dataset("me/robot", newer.root)
    run(robot, tmp_path / "local")
    monkeypatch.setattr("roboshard.converter.run.make_plan", lambda config: plan)
    run("me/robot@main", tmp_path / "shards")
    assert members(tmp_path / "shards") == members(tmp_path / "local")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=SLOW)])
def test_a_bucket_of_which_each_file_is_downloaded_once(
    hub: LocalHub,
    robot: Path,
    whole: dict[str, str],
    tmp_path: Path,
    run: Run,
    tree: ReadTree,
    workers: int,
) -> None:
    run(BUCKET, tmp_path / "shards", workers=workers, scratch=str(tmp_path / "scratch"))
    assert tree(tmp_path / "shards") == whole
    assert fetched(hub) == Counter(files_of(robot))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_object_storage(
    s3_server: S3Server,
    robot: Path,
    whole: dict[str, str],
    tmp_path: Path,
    run: Run,
    tree: ReadTree,
) -> None:
    run(s3_server.add_folder(robot, "recorded/robot") + "/", tmp_path / "shards")
    assert tree(tmp_path / "shards") == whole


def test_a_folder_inside_a_hub_dataset(
    this_hub: LocalHub, robot: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(robot, tmp_path / "repo/left/arm")
    sha = this_hub.add_dataset("me/many", tmp_path / "repo")
    run("hf://datasets/me/many/left/arm", tmp_path / "shards")
    source = json.loads((tmp_path / "shards/dataset.json").read_bytes())["source"]
    assert (source["name"], source["revision"]) == ("me/many/left/arm", sha)


def test_a_local_folder_comes_before_a_hub_dataset_of_that_name(
    hub: LocalHub, robot: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(robot, "me/robot")
    run("me/robot", tmp_path / "shards")
    assert hub.requests == []


# -- What is downloaded ----------------------------------------------------------------------------


def test_large_files_come_in_several_pieces(
    hub: LocalHub, robot: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("roboshard.converter.source.remote_files.READ_BYTES", 3000)
        run(BUCKET, tmp_path / "shards")
    assert tree(tmp_path / "shards") == whole
    sizes = {path: (robot / path).stat().st_size for path in files_of(robot)}
    assert fetched(hub) == Counter({path: -(-size // 3000) for path, size in sizes.items()})


def test_a_plan_needs_the_metadata_alone(hub: LocalHub, robot: Path, tmp_path: Path) -> None:
    config = ConvertConfig(
        source="me/robot", destination="/nowhere", dry_run=True, scratch=str(tmp_path / "scratch")
    )
    plan = make_plan(config)
    assert len(plan.episodes) == EPISODES
    assert fetched(hub) == Counter(files_of(robot, "meta/**/*"))
    del plan
    assert list((tmp_path / "scratch").iterdir()) == []


def test_chosen_episodes_need_their_files_alone(
    hub: LocalHub, robot: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    run(BUCKET, tmp_path / "shards", episodes="0:3")
    first = [f"data/chunk-000/file-00{i}.parquet" for i in (0, 1)]
    first += [f"videos/{TOP}/chunk-000/file-00{i}.mp4" for i in (0, 1)] + [
        f"videos/{SIDE}/chunk-000/file-000.mp4"
    ]
    assert fetched(hub) == Counter([*files_of(robot, "meta/**/*"), *first])
    run(robot, tmp_path / "local", episodes="0:3")
    assert tree(tmp_path / "shards") == tree(tmp_path / "local")


def test_a_finished_conversion_downloads_no_more_than_the_metadata(
    hub: LocalHub, robot: Path, tmp_path: Path, run: Run
) -> None:
    run(BUCKET, tmp_path / "shards")
    hub.reset()
    assert run(BUCKET, tmp_path / "shards").reused_shards == 6
    assert fetched(hub) == Counter(files_of(robot, "meta/**/*"))


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_missing_file_matters_to_the_episodes_that_need_it(
    this_hub: LocalHub, robot: Path, tmp_path: Path, run: Run, place: str
) -> None:
    source = BrokenSource.copy_of(robot, tmp_path / "lacking")
    source.video(-1).unlink()
    url = str(source.root)
    if place == "remote":
        this_hub.add_bucket_folder("me/lacking", source.root)
        url = "hf://buckets/me/lacking"
    assert run(url, tmp_path / "shards", episodes="0:10").episodes == 10
    with pytest.raises(
        MissingError, match=rf"{url}/videos/.*file-005.mp4: missing, .* for episode 10, 11"
    ):
        run(url, tmp_path / "others", episodes="9:11")


# -- How much disk it takes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [1_000, pytest.param(19_000, marks=SLOW), pytest.param(49_000, marks=SLOW)]
)  # than the 41 to 46 KB that an episode needs; all together are 250 KB
def test_the_scratch_folder_stays_below_its_size(
    hub: LocalHub,
    robot: Path,
    whole: dict[str, str],
    tmp_path: Path,
    run: Run,
    tree: ReadTree,
    more: int,
) -> None:
    scratch = tmp_path / "scratch"
    size = metadata_bytes(robot) + episode_bytes(robot) + more
    hub.configure(bytes_per_second=2e6)
    with watched(scratch) as seen:
        run(BUCKET, tmp_path / "shards", workers=2, scratch=str(scratch), scratch_size=str(size))
    assert size - episode_bytes(robot) - 1_000 < max(seen) <= size
    assert tree(tmp_path / "shards") == whole
    assert list(scratch.iterdir()) == []


def test_episodes_in_any_order_find_room(
    hub: LocalHub, robot: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    run(robot, tmp_path / "local", shuffle_episodes=3)
    size = str(metadata_bytes(robot) + episode_bytes(robot) + 500)
    run(BUCKET, tmp_path / "shards", shuffle_episodes=3, scratch_size=size)
    assert tree(tmp_path / "shards") == tree(tmp_path / "local")


def test_too_little_room_is_told_before_anything_is_written(
    hub: LocalHub, robot: Path, tmp_path: Path, run: Run
) -> None:
    for size, message in (
        ("64KB", "its metadata takes .* raise --scratch-size"),
        (str(metadata_bytes(robot) + 13_000), "episode .* lies in take"),
    ):
        with pytest.raises(OptionError, match=f"{BUCKET}: .*{message}"):
            run(BUCKET, tmp_path / "shards", scratch=str(tmp_path / "scratch"), scratch_size=size)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not (tmp_path / "shards").exists()


def test_who_waits_for_room_holds_nothing(tmp_path: Path) -> None:
    ours = Scratch.make(tmp_path, 100)
    first, second = (ours.take({name: 60}) for name in "ab")
    assert first is not None
    assert second is None
    ours.finish("a", first.parts["a"])
    assert ours.take({"a": 60, "b": 60}) is None  # and "a" is not locked by it:
    os.close(first.parts["a"])
    third = ours.take({"b": 60})
    assert third is not None
    assert not ours.file_path("a").exists()
    assert ours.take({"b": 60}) is None  # on its way
    os.close(third.parts["b"])  # its maker was killed
    fourth = ours.take({"b": 60})
    assert fourth is not None
    assert list(fourth.parts) == ["b"]
    ours.abandon("b", fourth.parts["b"])
    assert bytes_in(tmp_path) == 0
    ours.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_was_used_last_is_removed_last(tmp_path: Path) -> None:
    ours = Scratch.make(tmp_path, 100)
    for name in "abc":
        taken = ours.take({name: 30})
        assert taken is not None
        ours.finish(name, taken.parts[name])
        os.close(taken.parts[name])
        time.sleep(0.01)
    again = ours.take({"a": 30})
    assert again is not None
    again.release()
    assert ours.take({"d": 40}) is not None
    assert [ours.file_path(name).exists() for name in "abc"] == [True, False, True]
    ours.remove()


def test_only_folders_of_runs_that_ended_are_left_over(tmp_path: Path) -> None:
    ours = Scratch.make(tmp_path, 100)
    (tmp_path / f"{PREFIX}begun").mkdir()
    killed = tmp_path / f"{PREFIX}killed"
    shutil.copytree(ours.folder, killed)
    (tmp_path / f"{PREFIX}foreign").mkdir()
    (tmp_path / f"{PREFIX}foreign/thing").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(ours.folder)
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        ours.folder.name,
        f"{PREFIX}foreign",
        f"{PREFIX}link",
    }
    ours.remove()


def test_a_source_travels_to_workers_without_its_listing(hub: LocalHub) -> None:
    plan = make_plan(ConvertConfig(source=BUCKET, destination="/nowhere"))
    files = pickle.loads(pickle.dumps(plan.source.meta.files))
    assert len(pickle.dumps(files)) < 1000
    assert files.sizes == plan.source.meta.files.sizes


# -- What goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"code": 503}),
        ("truncate", {"after_bytes": 3000}),
        pytest.param("reset", {"after_bytes": 3000}, marks=SLOW),
    ],
)
def test_faults_on_the_way_do_not_show(
    hub: LocalHub,
    whole: dict[str, str],
    tmp_path: Path,
    run: Run,
    tree: ReadTree,
    kind: str,
    options: dict[str, int],
) -> None:
    for pattern in (
        "^/api/",
        "^/cdn/.*meta/episodes",
        "^/cdn/.*file-001.mp4",
        "^/cdn/.*file-002.parquet",
    ):
        if pattern != "^/api/" or kind == "status":
            hub.fault(kind, pattern, **options)
    run(BUCKET, tmp_path / "shards", on_error="skip")
    assert hub.armed == []
    assert tree(tmp_path / "shards") == whole


def test_a_source_that_cannot_be_read_is_no_reason_to_leave_episodes_out(
    hub: LocalHub, tmp_path: Path, run: Run
) -> None:
    hub.fault("status", "^/cdn/.*file-001.mp4", times=None, code=404)
    with pytest.raises(
        StorageError, match=rf"{BUCKET}/videos/.*file-001.mp4: .* the source is being changed"
    ):
        run(BUCKET, tmp_path / "shards", on_error="skip", scratch=str(tmp_path / "scratch"))
    assert not (tmp_path / "shards/dataset.json").exists()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_file_that_changes_its_size_during_the_run_is_an_error(
    hub: LocalHub, robot: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_bucket_folder("me/moving", robot)
    plan = make_plan(
        ConvertConfig(source="hf://buckets/me/moving", destination="/nowhere", shard_size="70KB")
    )
    changed = BrokenSource.copy_of(robot, tmp_path / "changed")
    changed.video(2).write_bytes(changed.video(2).read_bytes() + b"\0")
    hub.add_bucket_folder("me/moving", changed.root)
    monkeypatch.setattr("roboshard.converter.run.make_plan", lambda config: plan)
    with pytest.raises(StorageError, match=r"file-002.mp4: .* the source is being changed"):
        run("hf://buckets/me/moving", tmp_path / "shards")


def test_damage_is_told_by_the_sources_own_name_for_the_file(
    this_hub: LocalHub, robot: Path, tmp_path: Path, run: Run
) -> None:
    broken = BrokenSource.copy_of(robot, tmp_path / "robot")
    broken.video(1).write_bytes(b"no video")
    broken.rows(3).write_bytes(b"no rows")
    this_hub.add_bucket_folder("me/broken", broken.root)
    report = run(
        "hf://buckets/me/broken",
        tmp_path / "shards",
        on_error="skip",
        scratch=str(tmp_path / "scratch"),
    )
    reasons = " ".join(skipped.reason for skipped in report.skipped)
    assert len(report.skipped) == 5
    assert (
        f"hf://buckets/me/broken/videos/{SIDE}/chunk-000/file-001.mp4: no readable video" in reasons
    )
    assert "hf://buckets/me/broken/data/chunk-000/file-003.parquet: unreadable parquet" in reasons
    assert "scratch" not in reasons


@pytest.mark.parametrize(
    "source", ["me/private", "hf://datasets/me/private", "hf://buckets/me/private"]
)
def test_a_private_source_without_a_token(
    local_hub: LocalHub,
    robot: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    local_hub.use(monkeypatch, token=None)
    local_hub.add_dataset("me/private", robot, private=True)
    local_hub.add_bucket("me/private", private=True)
    with pytest.raises(
        (MissingError, StorageError), match=r"me/private.*`hf auth login`.*HF_TOKEN"
    ):
        run(source, tmp_path / "shards")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "me/nothing",
            "me/nothing: neither a folder nor a dataset on the Hub: hf://datasets/me/nothing",
        ),
        (
            "me/robot@nothing",
            "me/robot@nothing: neither a folder nor a dataset on the Hub: .*me/robot@nothing",
        ),
        ("hf://buckets/me/things/nothing", "hf://buckets/me/things/nothing"),
        (
            "hf://buckets/me/things/recorded",
            "recorded/meta/info.json: no such file; SOURCE must be a LeRobot dataset",
        ),
        ("hf://models/me/robot", "hf://models/me/robot: expected hf://buckets"),
        ("./me/robot", "me/robot/meta/info.json: no such file; SOURCE must be a LeRobot dataset"),
        ("robot", "robot/meta/info.json: no such file; SOURCE must be a LeRobot dataset"),
    ],
)
def test_a_source_that_is_not_there(
    hub: LocalHub, tmp_path: Path, run: Run, source: str, message: str
) -> None:
    with pytest.raises((MissingError, StorageError), match=message):
        run(source, tmp_path / "shards", scratch=str(tmp_path / "scratch"))
    assert not (tmp_path / "shards").exists()
    assert not (tmp_path / "scratch").exists() or list((tmp_path / "scratch").iterdir()) == []


# -- Killed ----------------------------------------------------------------------------------------


@contextmanager
def converting(hub: LocalHub, tmp_path: Path, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    """A conversion as a process of its own, from a slow Hub."""
    hub.configure(bytes_per_second=4e5)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            CONVERT,
            BUCKET,
            str(tmp_path / "shards"),
            str(tmp_path / "scratch"),
            str(workers),
        ],
        env=os.environ | hub.environment,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        hub.configure(bytes_per_second=None)


@pytest.mark.parametrize(
    ("workers", "shards"), [(1, 1), *(pytest.param(2, shards, marks=SLOW) for shards in (0, 1, 3))]
)
def test_killed_while_it_downloads(
    hub: LocalHub,
    whole: dict[str, str],
    tmp_path: Path,
    run: Run,
    tree: ReadTree,
    workers: int,
    shards: int,
) -> None:
    scratch = tmp_path / "scratch"
    with converting(hub, tmp_path, workers) as process:
        wait_until(lambda: len(list(tmp_path.glob("shards/shards/shard-*.json"))) >= shards)
        wait_until(lambda: list(scratch.glob("*/files/*.part")))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # its workers hold their locks until they are gone too
        wait_until(lambda: all(found.session != process.pid for found in processes()))
    assert len(list(scratch.iterdir())) == 1
    assert not (tmp_path / "shards/dataset.json").exists()
    assert run(BUCKET, tmp_path / "shards", scratch=str(scratch)).reused_shards >= shards
    assert tree(tmp_path / "shards") == whole
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=SLOW)])
def test_interrupted_it_removes_what_it_downloaded(
    hub: LocalHub, tmp_path: Path, workers: int
) -> None:
    scratch = tmp_path / "scratch"
    with converting(hub, tmp_path, workers) as process:
        wait_until(lambda: list(scratch.glob("*/files/*.part")))
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) != 0
    assert list(scratch.iterdir()) == []
