"""On a Ray cluster the same shards come out as from processes, though its workers die."""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broken_source import BrokenSource
from support.lerobot_source import Camera, Source, build

import roboshard.converter.engines.ray as engine
from roboshard.converter import ConversionReport
from roboshard.shards import OptionError, RoboshardError, SourceError

pytestmark = pytest.mark.ray
Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]
EPISODES = 24
TOP = "observation.images.top"

CLUSTER = """
import ray, sys
context = ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20,
                   _temp_dir=sys.argv[1])
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""

CONVERT = """
import sys
from roboshard.cli.main import convert_to_shards as main
sys.argv = ["convert-to-shards", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ray") / "robot"
    # 64 KB an episode, most of it statistics: a shard each.
    build(
        root,
        Source(
            lengths=(5,) * EPISODES, cameras=(Camera(key=TOP, episodes_per_file=10),), state_dim=160
        ),
    )
    return root


@pytest.fixture(scope="module")
def whole(
    source: Path, tmp_path_factory: pytest.TempPathFactory, run: Run, tree: ReadTree
) -> dict[str, str]:
    """The files of a conversion in this process."""
    root = tmp_path_factory.mktemp("ray") / "shards"
    assert run(source, root).shards > EPISODES // 2
    return tree(root)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two workers, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv(
            "RAY_AUTH_TOKEN", secrets.token_hex(32)
        )  # this cluster's own, known to nobody else
        yield from start_cluster()


def start_cluster() -> Iterator[str]:
    ray = importlib.import_module("ray")  # reads the environment
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets must have short paths
    holder = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdin
    assert holder.stdout
    address = holder.stdout.readline().strip()
    assert address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray says of its own future
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    yield address
    ray.shutdown()
    holder.stdin.close()
    holder.wait(timeout=60)
    holder.stdout.close()
    shutil.rmtree(folder, ignore_errors=True)


def temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*") if path.name.endswith(".roboshard-tmp")]


def catch_a_writer(root: Path, seconds: float = 30.0) -> int:
    """Stop a worker that is in the middle of a shard; its process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in temporaries(root):
            pid = int(path.name.split(".tar.")[1].partition("-")[0]) if ".tar." in path.name else 0
            if not pid:
                continue
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.01)
            if path.exists():
                return pid
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.001)
    raise TimeoutError("no worker was met in the middle of a shard")


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start it now; the returned function waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()

    def wait() -> Any:
        thread.join(60)
        return results[0]

    return wait


class Driver:
    """`convert-to-shards --engine ray` as a process of its own."""

    def __init__(self, source: Path, destination: Path, address: str) -> None:
        flags = ["--shard-size", "64KB", "--engine", "ray", "--address", address]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CONVERT, str(source), str(destination), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> str:
        said = self.process.communicate(timeout=60)[1]
        assert isinstance(said, str)
        return said


def test_a_worker_killed_in_the_middle_of_a_shard_is_made_up_for(
    cluster: str, source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    root = tmp_path / "shards"

    def kill() -> tuple[int, int]:
        pid = catch_a_writer(root)
        os.kill(pid, signal.SIGKILL)
        return pid, len(list(root.glob("shards/shard-*.json")))

    killed = in_background(kill)
    report = run(source, root, engine="ray", workers=None)
    _, finished = killed()
    assert finished < report.shards
    assert report.reused_shards == 0
    assert tree(root) == whole  # nor is the killed worker's temporary there


def test_a_fault_of_the_source_is_the_error_that_it_is_locally(
    cluster: str, source: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that failed is done, and no other runs: nothing is cancelled."""
    cancelled: list[Any] = []
    monkeypatch.setattr(
        importlib.import_module("ray"), "cancel", lambda task, **_: cancelled.append(task)
    )
    broken = BrokenSource.copy_of(source, tmp_path / "robot")
    videos = sorted((broken.root / "videos").rglob("*.mp4"))
    broken.truncate(videos[1])  # of episodes 10 to 19
    root = tmp_path / "shards"
    with pytest.raises(RoboshardError) as local:
        run(broken.root, tmp_path / "local")
    with pytest.raises(RoboshardError) as found:
        run(broken.root, root, engine="ray", workers=1)
    assert not cancelled
    assert type(found.value) is type(local.value)
    assert str(found.value) == str(local.value)
    assert TOP in str(found.value)
    assert "episode 1" in str(found.value)
    assert isinstance(found.value, SourceError)
    assert len(list(root.glob("shards/shard-*.json"))) >= 5
    assert not (root / "dataset.json").exists()
    assert temporaries(root) == []


@pytest.mark.slow  # each driver takes seconds to start
def test_run_again_after_the_driver_was_killed(
    cluster: str, source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    root = tmp_path / "shards"
    driver = Driver(source, root, cluster)
    worker = catch_a_writer(root)
    driver.process.kill()
    driver.finish()
    os.kill(worker, signal.SIGKILL)
    assert not (root / "dataset.json").exists()
    report = run(source, root, engine="ray", workers=2)
    assert report.shards > report.reused_shards
    assert tree(root) == whole


@pytest.mark.slow  # each driver takes seconds to start
def test_interrupted_it_cancels_what_runs_and_tidies_up(
    cluster: str, source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    root = tmp_path / "shards"
    driver = Driver(source, root, cluster)
    worker = catch_a_writer(root)
    driver.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    os.kill(worker, signal.SIGCONT)
    said = driver.finish()
    assert driver.process.returncode == 130, said
    assert "run the same command again to continue" in said
    assert temporaries(root) == []
    before = tree(root)
    time.sleep(0.5)
    assert tree(root) == before
    assert "dataset.json" not in before
    assert run(source, root).shards
    assert tree(root) == whole


def test_a_node_with_other_versions_is_refused(
    cluster: str, source: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roboshard.converter.plan.version", lambda name: "0.0.1")
    with pytest.raises(OptionError, match=r"a node of the cluster has av .* started with av 0.0.1"):
        run(source, tmp_path / "shards", engine="ray")


def test_no_more_tasks_are_handed_in_than_cores_want(
    cluster: str,
    source: Path,
    whole: dict[str, str],
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = importlib.import_module("ray")
    seen: list[int] = []
    wait = ray.wait

    def count(references: list[Any], **options: Any) -> Any:
        seen.append(len(references))
        return wait(references, **options)

    monkeypatch.setattr(ray, "wait", count)
    run(source, tmp_path / "shards", engine="ray", workers=None)
    assert max(seen) == 2 * engine.QUEUED_PER_CORE


# -- Without a cluster -----------------------------------------------------------------------------


def test_without_ray_the_extra_is_named(
    source: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"pip install 'roboshard\[ray\]'"):
        run(source, tmp_path / "shards", engine="ray")


def test_an_address_is_refused_without_ray(source: Path, tmp_path: Path, run: Run) -> None:
    with pytest.raises(OptionError, match="needs engine ray"):
        run(source, tmp_path / "shards", address="127.0.0.1:6379")


def test_a_dataset_grows_on_a_cluster(
    source: Path, cluster: str, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    """The nodes compare what is there with the source, and write what is new."""
    robot = tmp_path / "robot"
    shutil.copytree(source, robot)
    run(robot, tmp_path / "here", episodes="0:20")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    (robot / "meta/notes.json").write_text("{}")  # so that the source is not what it was
    run(robot, tmp_path / "here", append=True)
    report = run(robot, tmp_path / "there", append=True, engine="ray", address=cluster)
    assert (report.episodes, report.kept_episodes) == (EPISODES - 20, 20)
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
