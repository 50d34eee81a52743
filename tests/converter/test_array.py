"""A conversion in parts, as a job array runs it: each a process of its own, then
`roboshard finalize`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.broken_source import BrokenSource
from support.lerobot_source import Camera, Source, build

from roboshard.converter import ConversionReport, ConvertConfig, finalize
from roboshard.shards import MissingError, OptionError

Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]
EPISODES = 14
PARTS = 3
SBATCH = Path(__file__).parents[2] / "configs/slurm/convert.sbatch"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("array") / "robot"
    camera = Camera(key="observation.images.top", episodes_per_file=4)
    # 64 KB an episode, most of it statistics: a shard each.
    build(root, Source(lengths=(5,) * EPISODES, cameras=(camera,), state_dim=160))
    return root


@pytest.fixture(scope="module")
def whole(
    source: Path, tmp_path_factory: pytest.TempPathFactory, run: Run, tree: ReadTree
) -> dict[str, str]:
    """The files of a conversion in one run."""
    root = tmp_path_factory.mktemp("array") / "shards"
    assert run(source, root).shards > EPISODES // 2
    return tree(root)


def start(command: str, source: Path, destination: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            Path(sys.executable).with_name("roboshard"),
            command,
            source,
            destination,
            "--shard-size",
            "64KB",
            *flags,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_part(source: Path, destination: Path, part: int) -> subprocess.Popen[str]:
    return start("convert", source, destination, "--shards", f"{part}/{PARTS}", "--workers", "1")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.communicate(timeout=60)[0]
    return process.returncode, " ".join(said.split())


def finalize_here(source: Path, destination: Path) -> ConversionReport:
    config = ConvertConfig(
        source=str(source), destination=str(destination), shard_size="64KB", workers=1
    )
    return finalize(config)


def shards(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("shards/*.tar"))


def test_parts_in_any_order_one_killed_one_late(
    source: Path, whole: dict[str, str], tmp_path: Path, tree: ReadTree
) -> None:
    root = tmp_path / "shards"
    # Part 1 is killed in the middle, while part 2 is being written.
    killed, beside = start_part(source, root, 1), start_part(source, root, 2)
    end = time.monotonic() + 30
    while (
        time.monotonic() < end
        and not list(root.glob(f"shards/.*.{killed.pid}-*"))
        and killed.poll() is None
    ):
        time.sleep(0.0005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    code, said = ended(beside)
    assert code == 0, said
    assert "part 2/3" in said
    assert not (root / "dataset.json").exists()
    before = shards(root)

    # Nothing of part 0, and not all of part 1: both are named.
    with pytest.raises(MissingError, match="shards are missing or not right") as error:
        finalize_here(source, root)
    said = str(error.value)
    assert "shards/shard-000000.tar" in said
    assert set(re.findall(r"shard-\d{6}\.tar", said)).isdisjoint(before)
    assert not (root / "dataset.json").exists()

    # Part 1 again, and part 0 for the first time, at once.
    for process in (start_part(source, root, 1), start_part(source, root, 0)):
        code, said = ended(process)
        assert code == 0, said
    assert not (root / "dataset.json").exists()
    code, said = ended(start("finalize", source, root))
    assert code == 0, said
    assert f"{EPISODES} episodes" in said
    assert tree(root) == whole


def test_a_damaged_shard_is_named_and_its_part_makes_it_again(
    source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    root = tmp_path / "shards"
    for part in range(PARTS):
        run(source, root, shards=f"{part}/{PARTS}")
    path = root / "shards" / shards(root)[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        MissingError, match=rf"1 of \d+ shards are missing or not right: shards/{path.name}\. Run"
    ):
        finalize_here(source, root)
    report = run(source, root, shards=f"{PARTS - 1}/{PARTS}")
    assert report.reused_shards == report.shards - 1
    assert finalize_here(source, root).episodes == EPISODES
    assert tree(root) == whole


def test_every_shard_is_in_one_part(
    source: Path, whole: dict[str, str], tmp_path: Path, run: Run
) -> None:
    for parts in (3, 20):  # more than there are shards, too
        reports = [
            run(source, tmp_path / str(parts), shards=f"{part}/{parts}") for part in range(parts)
        ]
        assert sum(report.reused_shards for report in reports) == 0
        assert sum(report.episodes for report in reports) == EPISODES


def test_a_run_without_parts_completes_what_parts_began(
    source: Path, whole: dict[str, str], tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    root = tmp_path / "shards"
    part = run(source, root, shards="1/2")
    assert run(source, root).reused_shards == part.shards
    assert tree(root) == whole


def test_parts_of_two_conversions_do_not_mix(source: Path, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "shards"
    run(source, root, shards="0/2")
    with pytest.raises(OptionError, match="another conversion"):
        run(source, root, shards="0/2", tolerance_s=1e-3)
    run(source, root, shards="1/2", tolerance_s=1e-3)  # looks at its own shards alone
    with pytest.raises(OptionError, match="another conversion"):
        finalize_here(source, root)


def test_skipped_episodes_are_reported_by_finalize(
    source: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    broken = tmp_path / "robot"
    subprocess.run(["cp", "-r", source, broken], check=True)
    BrokenSource.truncate(sorted((broken / "videos").rglob("*.mp4"))[1])
    one, parts = tmp_path / "one", tmp_path / "parts"
    run(broken, one, on_error="skip")
    for part in range(2):
        assert not (parts / "skipped.json").exists()
        run(broken, parts, on_error="skip", shards=f"{part}/2")
    config = ConvertConfig(
        source=str(broken), destination=str(parts), shard_size="64KB", workers=1, on_error="skip"
    )
    assert finalize(config).skipped
    assert tree(parts) == tree(one)


@pytest.mark.parametrize("text", ["3", "3/3", "-1/3", "0/0", "a/b", "1/2/3", ""])
def test_what_is_no_part_is_refused(source: Path, tmp_path: Path, run: Run, text: str) -> None:
    with pytest.raises(OptionError, match="shards"):
        run(source, tmp_path / "shards", shards=text)


def test_finalize_is_for_all_parts(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="without --shards"):
        finalize(
            ConvertConfig(source=str(source), destination=str(tmp_path / "shards"), shards="0/2")
        )


@pytest.mark.slow
def test_the_recipe_runs(
    source: Path, whole: dict[str, str], tmp_path: Path, tree: ReadTree
) -> None:
    root = tmp_path / "shards"
    environment = os.environ | {
        "VENV": str(Path(sys.executable).parents[1]),
        "SOURCE": str(source),
        "DESTINATION": str(root),
        "OPTIONS": "--shard-size 64KB",
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_MAX": "1",
        "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    for task in ("1", "0"):
        subprocess.run(
            ["bash", SBATCH], env=environment | {"SLURM_ARRAY_TASK_ID": task}, check=True
        )
    assert "dataset.json" not in tree(root)
    subprocess.run(["bash", SBATCH, "finalize"], env=environment, check=True)
    assert tree(root) == whole
