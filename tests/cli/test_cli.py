"""The commands as a user runs them: what they print, what they write, and with which exit code they
end.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from support.interrupting import own_handlers
from support.lerobot_source import Camera, Source, build
from support.slowly import slowly

from roboshard.cli.convert import parse_config
from roboshard.cli.main import convert_to_shards, dispatch
from roboshard.cli.main import main as roboshard_main
from roboshard.cli.run import EXIT_FAILED, EXIT_USAGE, run_command
from roboshard.converter import ConvertConfig, ReencodeConfig
from roboshard.shards import DamageError, OptionError, ShardedDataset, SourceError

BIN = Path(sys.executable).parent
TOP = "observation.images.top"


def run(
    command: str, *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "250", "NO_COLOR": "1"}
    return subprocess.run(
        [BIN / command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
        cwd=cwd,
    )


def convert(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run("convert-to-shards", *arguments, cwd=cwd)


def said(stderr: str) -> str:
    """What a command that failed said, on one line, without the frame that tyro draws around it."""
    assert "Traceback" not in stderr
    return " ".join(re.sub("[─│╭╮╰╯]", " ", stderr).split())


Refusal = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Runs an entry point in this process, which must fail with this code; what it said."""
    monkeypatch.setenv("COLUMNS", "250")

    def run_and_fail(command: str, code: int, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended, own_handlers():
            {"convert-to-shards": convert_to_shards, "roboshard": roboshard_main}[command]()
        assert ended.value.code == code
        output, errors = capsys.readouterr()
        assert output == ""
        return said(errors)

    return run_and_fail


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source whose episode 1 has rows without a frame."""
    camera = Camera(key=TOP, drop_frames={1: 3}, episodes_per_file=1)
    return build(
        tmp_path_factory.mktemp("lacking"), Source(lengths=(6, 9, 7), cameras=(camera,))
    ).root


# -- Converting ------------------------------------------------------------------------------------


def test_a_conversion_says_what_it_made_and_where(
    pusht_source: Path, pusht_shards: Path, tmp_path: Path
) -> None:
    target = tmp_path / "[bold]folder with spaces"  # no markup, and no line break in a path
    flags = ("--shard-size", "64KB", "--workers", "1")
    done = convert(pusht_source, target, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    num = len(list((target / "shards").glob("*.tar")))
    size = sum(path.stat().st_size for path in (target / "shards").glob("*.tar"))
    assert (
        done.stdout == f"14 episodes, 644 frames, {size / 1000:.1f} kB in {num} shards → {target}\n"
    )
    assert (target / "dataset.json").read_bytes() == (pusht_shards / "dataset.json").read_bytes()
    again = run("roboshard", "convert", pusht_source, target, *flags)
    assert f"in {num} shards, {num} of them from an earlier run → " in again.stdout


def test_a_dry_run_prints_the_plan_and_writes_nothing(pusht_source: Path, tmp_path: Path) -> None:
    done = convert(
        pusht_source, tmp_path / "out", "--shard-size", "64KB", "--episodes", "3:9,12", "--dry-run"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"pusht_sim → {tmp_path}/out\n")
    assert re.search(
        r"7 episodes in \d shards, about \d+\.\d kB; nothing was written \(--dry-run\)\n",
        done.stdout,
    )
    assert list(tmp_path.iterdir()) == []


def test_it_says_which_cameras_are_encoded_again_and_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roboshard.cli.convert.out", Console(width=160))
    cameras = tuple(Camera(key=key) for key in ("left", "right", "top"))
    source = build(tmp_path / "source", Source(lengths=(4,), cameras=cameras)).root
    flags = ["--workers", "1", "--video", "reencode", "--codec", "libx264", "--size", "48", "64"]
    line = "encoded again: left, top (libx264, gop 2, crf 30, size 48 64); copied: right\n"
    for more in (["--dry-run"], []):
        assert (
            dispatch(
                [
                    "convert",
                    str(source),
                    str(tmp_path / "out"),
                    *flags,
                    "--cameras",
                    "top,left",
                    *more,
                ]
            )
            == 0
        )
        assert line in capsys.readouterr().out
    assert dispatch(["convert", str(source), str(tmp_path / "out"), *flags, "--dry-run"]) == 0
    assert (
        "encoded again: left, right, top (libx264, gop 2, crf 30, size 48 64)\n"
        in capsys.readouterr().out
    )


def test_a_video_report_tells_what_is_costly_and_what_helps(
    pusht_source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("roboshard.cli.convert.out", Console(width=160))
    camera = Camera(key="observation.images.top", gop=60, stream="continuous")
    long = build(tmp_path / "long", Source(lengths=(9, 20), cameras=(camera,))).root
    shown = []
    for source in (pusht_source, long):
        assert dispatch(["convert", str(source), str(tmp_path / "out"), "--video-report"]) == 0
        shown.append(capsys.readouterr().out)
    assert re.search(r"observation.image │ av1 +│ 96x96 │ yuv420p │ 2\.\d │ 2 +│ 1\.5 ", shown[0])
    assert "--video reencode" not in shown[0]
    assert re.search(
        r"observation.images.top │ h264 +│ 96x64 │ yuv420p │ 19.0 │ 29 +│ 10.0, costly ", shown[1]
    )
    assert 'frame_order="sweep"' in shown[1]
    assert "`--video reencode --gop 2`" in shown[1]
    assert all("nothing was written (--video-report)" in text for text in shown)
    assert not (tmp_path / "out").exists()


def test_episodes_left_out_are_counted_and_listed(lacking: Path, tmp_path: Path) -> None:
    done = convert(lacking, tmp_path / "out", "--on-error", "skip", "--workers", "1")
    assert done.returncode == 0
    assert done.stdout.startswith("2 episodes, 13 frames, ")
    assert done.stderr == f"1 episodes were left out; see {tmp_path}/out/skipped.json\n"
    skipped = json.loads((tmp_path / "out/skipped.json").read_text(encoding="utf-8"))["skipped"]
    assert [entry["episode_index"] for entry in skipped] == [1]
    assert f"camera '{TOP}'" in skipped[0]["reason"]
    assert ShardedDataset.open(str(tmp_path / "out")).index.episode_index.tolist() == [0, 2]


@pytest.mark.parametrize("workers", [slowly("1"), "2"])
def test_the_progress_bar_shows_episodes_rate_and_time_left(
    pusht_source: Path, tmp_path: Path, workers: str
) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [
            BIN / "convert-to-shards",
            pusht_source,
            tmp_path / "out",
            "--shard-size",
            "64KB",
            "--workers",
            workers,
        ],
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "COLUMNS": "150", "TERM": "xterm-256color"},
    )
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(parent, 4096):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(parent)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.startswith(b"14 episodes, 644 frames")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n").split("\n")
    bars = [line for line in lines if line.startswith("converting ")]
    last = r"converting 14/14 episodes ━+ (\d+\.\d)/\1 kB (\d+\.\d [kMG]B/s|\?) \d:\d\d:\d\d\s*"
    assert re.fullmatch(last, bars[-1]), bars
    assert any(re.search(r"converting \d+/14 episodes .* -?-?\d?:\S+", bar) for bar in bars)


# -- Configuration files ---------------------------------------------------------------------------


def toml(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    ".yml": yaml.safe_dump,
    ".json": json.dumps,
    ".toml": toml,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_config_file_gives_options_and_flags_beat_it(tmp_path: Path, suffix: str) -> None:
    values: dict[str, Any] = {
        "source": "in",
        "destination": "out",
        "shard-size": "1MiB",
        "workers": 3,
        "episodes": "0:5",
        "tolerance_s": 0.001,
        "on_error": "skip",
        "dry_run": True,
        "shuffle_episodes": 0,
    }
    path = tmp_path / f"convert{suffix}"
    path.write_text(WRITERS[suffix](values), encoding="utf-8")
    expected: dict[str, Any] = {name.replace("-", "_"): value for name, value in values.items()}
    assert parse_config(["--config", str(path)]) == ConvertConfig(**expected)
    flags = ["--workers", "5", f"--config={path}", "--on-error", "fail"]
    assert parse_config(flags) == ConvertConfig(**(expected | {"workers": 5, "on_error": "fail"}))


def test_source_and_destination_can_each_come_from_either_place(tmp_path: Path) -> None:
    path = tmp_path / "convert.yaml"
    for name, rest in (("source", ["out"]), ("destination", ["in"])):
        path.write_text(
            f"{name}: {'in' if name == 'source' else 'out'}\nworkers: null\ndry_run: false\n"
        )
        assert parse_config([*rest, "--config", str(path)]) == ConvertConfig(
            source="in", destination="out"
        )


def test_yaml_values_are_read_as_flags_would_be(tmp_path: Path) -> None:
    path = tmp_path / "convert.yaml"
    path.write_text("episodes: 1:50\nshard_size: 256000\ntolerance_s: 1e-3\n")
    config = parse_config(["in", "out", "--config", str(path)])
    assert (config.episodes, config.shard_size, config.tolerance_s) == ("1:50", "256000", 0.001)


@pytest.mark.parametrize("suffix", WRITERS)
def test_how_to_encode_video_has_the_flags_names(tmp_path: Path, suffix: str) -> None:
    flags = [
        "--video",
        "reencode",
        "--codec",
        "libx264",
        "--gop",
        "5",
        "--size",
        "48",
        "64",
        "--cameras",
        "a,b",
    ]
    path = tmp_path / f"convert{suffix}"
    values = {
        "video": "reencode",
        "codec": "libx264",
        "gop": 5,
        "size": [48, 64],
        "cameras": ["a", "b"],
    }
    path.write_text(WRITERS[suffix](values), encoding="utf-8")
    config = parse_config(["in", "out", *flags])
    assert parse_config(["in", "out", "--config", str(path)]) == parse_config(
        ["--config", str(path), "in", "out"]
    )
    assert parse_config(["in", "out", "--config", str(path)]) == config
    assert config.reencode == ReencodeConfig(codec="libx264", gop=5, size=(48, 64), cameras="a,b")


def test_a_conversion_by_config_file_alone(pusht_source: Path, tmp_path: Path) -> None:
    values = {"source": str(pusht_source), "destination": "out", "episodes": "0:2", "workers": 1}
    (tmp_path / "convert.json").write_text(json.dumps(values), encoding="utf-8")
    done = convert("--config", "convert.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(ShardedDataset.open(str(tmp_path / "out")).index) == 2


NO_SUCH_CHOICE = "--on-error: 'ignore' is an invalid choice"
"""Which releases of tyro word otherwise."""


def is_told(expected: str, message: str) -> bool:
    if expected == NO_SUCH_CHOICE:
        return all(part in message for part in ("--on-error", "'ignore'", "invalid choice"))
    return expected in message


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "c.yaml",
            "wokers: 2\nepisode: 1\n",
            "c.yaml: no such option: episode, wokers; there are address, append, cam",
        ),
        ("c.json", "{", "c.json: not valid json"),
        ("c.toml", "workers = ", "c.toml: not valid toml"),
        ("c.yaml", "a: [", "c.yaml: not valid yaml"),
        ("c.yaml", "- source\n", "c.yaml: must hold options by name"),
        ("c.ini", "workers = 2", "c.ini: the name must end in .yaml, .yml, .json or .toml"),
        ("c.yaml", "shard_size: huge\n", "shard size 'huge' is not a size; write it like 256MB"),
        ("c.json", '{"workers": "many"}', "many"),
        ("c.json", '{"on_error": "ignore"}', NO_SUCH_CHOICE),
    ],
    ids=str,
)
def test_config_files_that_cannot_be_used(
    refusal: Refusal, tmp_path: Path, name: str, text: str, expected: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    message = refusal(
        "convert-to-shards", EXIT_USAGE, tmp_path / "in", tmp_path / "out", "--config", path
    )
    assert is_told(expected, message)
    assert list(tmp_path.iterdir()) == [path]


# -- What goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--shard-size", "3"], "shard size '3' is outside 64KB..1TiB"),
        (["--shard-size", "big"], "shard size 'big' is not a size; write it like 256MB or 1GiB"),
        (["--workers", "0"], "workers must be at least 1, not 0"),
        (["--episodes", "5:3"], "episodes '5:3': '5:3' is an empty range"),
        (
            ["--episodes", "0:99"],
            "episode 14 was chosen and does not exist; the dataset has 14, from 0 to 13",
        ),
        (["--tolerance-s", "-1"], "tolerance_s must be in 0..10 seconds"),
        (["--on-error", "ignore"], NO_SUCH_CHOICE),
        (["--shards", "4"], "write it like 3/16"),
        (["--gop", "2"], "--gop: how to encode again, which needs --video reencode"),
        (["--gop", "3"], "they need video reencode"),
        (
            ["--video", "reencode", "--size", "48", "65"],
            "size is HEIGHT WIDTH in pixels, both even",
        ),
        (
            ["--video", "reencode", "--size", "480", "640"],
            "is larger than camera 'observation.image', 96 96",
        ),
        (["--config"], "--config needs a file"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used(
    refusal: Refusal, pusht_source: Path, tmp_path: Path, flags: list[str], expected: str
) -> None:
    message = refusal("convert-to-shards", EXIT_USAGE, pusht_source, tmp_path / "out", *flags)
    assert is_told(expected, message)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_asked_for(refusal: Refusal, pusht_source: Path) -> None:
    assert "DESTINATION" in refusal("convert-to-shards", EXIT_USAGE, pusht_source)
    assert (
        refusal("convert-to-shards", EXIT_FAILED, "--config", "c.yaml")
        == "error: c.yaml: no such config file"
    )


def test_destinations_that_cannot_be_used(
    refusal: Refusal, pusht_source: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(pusht_source, tmp_path / "source")
    assert refusal("convert-to-shards", EXIT_USAGE, source, source / "shards") == (
        f"error: {source}/shards: must not be the source folder, nor inside it or around it"
    )
    (tmp_path / "file").touch()
    text = refusal(
        "convert-to-shards", EXIT_FAILED, pusht_source, tmp_path / "file", "--workers", "1"
    )
    assert text.startswith(f"error: {tmp_path}/file")


def test_what_is_wrong_with_a_source_is_one_message(
    refusal: Refusal, pusht_source: Path, lacking: Path, tmp_path: Path
) -> None:
    text = refusal("convert-to-shards", EXIT_FAILED, tmp_path / "[red]nowhere", tmp_path / "out")
    assert text.startswith(f"error: {tmp_path}/[red]nowhere/meta/info.json: no such file")
    broken = Path(shutil.copytree(pusht_source, tmp_path / "broken"))
    next(broken.glob("data/*/*.parquet")).write_bytes(b"PAR1")
    text = refusal("convert-to-shards", EXIT_FAILED, broken, tmp_path / "other", "--workers", "1")
    assert text.startswith(f"error: {broken}/data/chunk-000/")
    done = convert(lacking, tmp_path / "out", "--shard-size", "64KB", "--workers", "2")
    assert (done.returncode, done.stdout) == (EXIT_FAILED, "")
    assert said(done.stderr).startswith(f"error: episode 1, camera '{TOP}', {lacking}/videos/")
    assert "--tolerance-s accepts a larger distance" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (OptionError("seed [1] is odd"), EXIT_USAGE, "error: seed [1] is odd\n"),
        (SourceError("no frame"), EXIT_FAILED, "error: no frame\n"),
        (DamageError("a bit flipped"), EXIT_FAILED, "error: a bit flipped\n"),
        (
            OSError(28, "No space left on device", "out"),
            EXIT_FAILED,
            "error: [Errno 28] No space left on device: 'out'\n",
        ),
    ],
    ids=repr,
)
def test_errors_become_one_message_and_an_exit_code(
    error: BaseException, code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(_: object) -> None:
        raise error

    assert run_command(command, []) == code
    assert capsys.readouterr() == ("", expected)


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    def command(_: object) -> None:
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        run_command(command, [])


# -- The other commands ----------------------------------------------------------------------------


def test_rebuild_makes_lost_manifests_again(
    refusal: Refusal, pusht_shards: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(pusht_shards, tmp_path / "copy"))
    names = [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.suffix in (".json", ".parquet")
    ]
    for name in names:
        (root / name).unlink()
    done = run("roboshard", "rebuild", root)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"14 episodes, 644 frames in {len(names) - 2} shards: manifests and index written to "
        f"{root}\n"
    )
    assert all((root / name).read_bytes() == (pusht_shards / name).read_bytes() for name in names)
    (root / "shards/shard-000001.tar").unlink()
    text = refusal("roboshard", EXIT_FAILED, "rebuild", root)
    assert "1 of" in text
    assert "pass --partial to make a dataset of those that are here" in text
    assert "no shards" in refusal("roboshard", EXIT_FAILED, "rebuild", tmp_path)
    assert dispatch(["rebuild", str(root), "--partial"]) == 0
    assert len(ShardedDataset.open(str(root)).manifest.shards) == len(names) - 3


def test_help_lists_commands_options_and_their_defaults(
    refusal: Refusal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in ([], ["--version-of-what"], ["reindex"]):
        assert refusal("roboshard", EXIT_USAGE, *arguments).startswith("usage: roboshard COMMAND")
    assert dispatch(["-h"]) == dispatch(["--help"]) == 0
    assert "rebuild" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        parse_config(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for text in (
        "SOURCE DESTINATION",
        "--shard-size",
        "(default: 256MB)",
        "--on-error {fail,skip}",
        "--config FILE",
    ):
        assert text in shown
