"""What commands print to terminals that are not UTF-8, to closed and broken outputs, and to
logs.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support.slowly import slowly, some_quickly

BIN = Path(sys.executable).parent


def shell(
    line: str, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which "$1", "$2", … are the arguments."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "200"} | environment,
    )


LINES = (
    'roboshard inspect "$2"',
    "convert-to-shards --help",
    'convert-to-shards "$1" "$3" --workers 1',
    'convert-to-shards "$1" "$3-again" --dry-run',
    'convert-to-shards "$1" "$3-again" --video-report',
    'roboshard verify "$2"',
    'roboshard export "$2" "$3-back"',
    "roboshard --help",
)
LOGGED = (
    'convert-to-shards "$1" "$3" --workers 1',
    "convert-to-shards --nonsense",
    'roboshard verify "$2"',
    'roboshard export "$2" "$3-back"',
    'roboshard inspect "$2"; roboshard inspect "$3-none"',
    "convert-to-shards --help",
)


@pytest.mark.parametrize(
    ("environment", "lines"),
    [
        ({"PYTHONIOENCODING": "ascii"}, LINES[:2]),
        slowly({"PYTHONIOENCODING": "ascii"}, LINES[2:]),
        slowly({"PYTHONIOENCODING": "latin-1"}, LINES),
    ],
    ids=["ascii", "ascii, the others", "latin-1"],
)
def test_every_command_prints_what_the_terminal_can_show(
    pusht_source: Path,
    pusht_shards: Path,
    tmp_path: Path,
    environment: dict[str, str],
    lines: tuple[str, ...],
) -> None:
    root = tmp_path / "é→"
    for line in lines:
        done = shell(line, pusht_source, pusht_shards, root, **environment)
        assert (done.returncode, done.stderr) == (0, ""), line
    done = shell('roboshard inspect "$1"', tmp_path / "é", **environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_json_stays_json_on_any_terminal(pusht_shards: Path, tmp_path: Path) -> None:
    root = tmp_path / "é😀"
    root.symlink_to(pusht_shards)
    plain, ascii_ = (
        shell('roboshard inspect "$1" --json', root, PYTHONIOENCODING=encoding).stdout
        for encoding in ("utf-8", "ascii")
    )
    assert json.loads(plain) == json.loads(ascii_)


@pytest.mark.parametrize(
    "line",
    [
        "convert-to-shards --help | head -1",
        'roboshard inspect "$1" | head -1',
        'roboshard inspect "$1" | true',
        'roboshard inspect "$1" --json | true',
    ],
)
def test_a_reader_that_has_had_enough_is_no_error(pusht_shards: Path, line: str) -> None:
    done = shell(f"{line}; exit ${{PIPESTATUS[0]}}", pusht_shards)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


@pytest.mark.parametrize(
    "closed", some_quickly([">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"], {">&- 2>&-"})
)
def test_closed_outputs_are_no_error_and_no_file_takes_their_place(
    pusht_source: Path, pusht_shards: Path, tmp_path: Path, closed: str
) -> None:
    line = f'convert-to-shards "$1" "$2" --shard-size 64KB --workers 1 {closed}'
    assert shell(line, pusht_source, tmp_path / "out").returncode == 0
    names = ["dataset.json", "episodes.parquet"]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (pusht_shards / name).read_bytes()
    for command in ("convert-to-shards --help", 'roboshard inspect "$1"'):
        assert shell(f"{command} {closed}", pusht_shards).returncode == 0


def test_a_full_disk_behind_the_output_is_an_error(pusht_shards: Path) -> None:
    done = shell('roboshard inspect "$1" > /dev/full', pusht_shards)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "lines"),
    [
        ({}, LOGGED[:2]),
        slowly({}, LOGGED[2:]),
        slowly({"NO_COLOR": "1"}, LOGGED),
        slowly({"TERM": "dumb"}, LOGGED),
    ],
    ids=["plain", "plain, the others", "NO_COLOR", "dumb"],
)
def test_logs_hold_no_control_sequences(
    pusht_source: Path,
    pusht_shards: Path,
    tmp_path: Path,
    environment: dict[str, str],
    lines: tuple[str, ...],
) -> None:
    for line in lines:
        done = shell(line, pusht_source, pusht_shards, tmp_path / "out", **environment)
        assert "\x1b" not in done.stdout + done.stderr, line
        assert "\r" not in done.stdout + done.stderr, line


def test_a_dumb_terminal_is_sent_no_control_sequences(
    pusht_source: Path, pusht_shards: Path, tmp_path: Path
) -> None:
    for arguments in (
        ("convert-to-shards", pusht_source, tmp_path / "out", "--workers", "1"),
        ("roboshard", "export", pusht_shards, tmp_path / "back"),
        ("roboshard", "verify", pusht_shards),
    ):
        ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "dumb", "COLUMNS": "200"}
        process = subprocess.Popen(
            [BIN / arguments[0], *map(str, arguments[1:])],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        )
        os.close(theirs)
        seen = b""
        try:
            while data := os.read(ours, 1 << 16):
                seen += data
        except OSError:  # the other side has been closed
            pass
        os.close(ours)
        assert process.wait(timeout=60) == 0
        assert b"\x1b" not in seen, arguments
