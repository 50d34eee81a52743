"""Cores that a process may use: control groups of both versions, nested and absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from roboshard.common.cores import bound_cores, cpu_quota, usable_cores

V2, V1 = "0::{}\n", "4:cpu,cpuacct:{}\n3:memory:{}\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, V2.format("/"), 2.0),
        ({"cpu.max": "max 100000\n"}, V2.format("/"), None),
        ({"cpu.max": "50000 100000\n"}, V2.format("/"), 0.5),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "350000 100000\n"}, V2.format("/a/b"), 3.5),
        ({"a/cpu.max": "800000 100000\n", "cpu.max": "400000 100000\n"}, V2.format("/a"), 4.0),
        ({}, V2.format("/not/mounted"), None),
        (
            {"cpu/job/cpu.cfs_quota_us": "600000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            V1.format("/job", "/job"),
            6.0,
        ),
        (
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            V1.format("/", "/"),
            None,
        ),
        ({"cpu.max": "0 0\n"}, V2.format("/"), None),
        ({"cpu.max": ""}, V2.format("/"), None),
    ],
)
def test_control_groups_limit_it(
    tmp_path: Path, files: dict[str, str], own: str, expected: float | None
) -> None:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    write(tmp_path / "own", own)
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == expected


def test_without_control_groups_nothing_does(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 6), (2.7, 2), (0.5, 1), (64.0, 6)])
def test_the_smaller_of_both_counts(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr("roboshard.common.cores.cpu_quota", lambda: quota)
    monkeypatch.setattr("roboshard.common.cores.bound_cores", lambda: 6)
    assert usable_cores() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="processes are bound to cores on Linux")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from roboshard.common.cores import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"1"]
    assert bound_cores() >= 1
