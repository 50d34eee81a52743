"""`roboshard env` tells what is there, and what is not, on any machine."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version

import pytest

from roboshard.cli.main import dispatch
from roboshard.common.cores import usable_cores
from roboshard.tools.env import describe, run


def test_it_tells_versions_decoders_and_cores() -> None:
    found = describe()
    assert found.packages["av"] == version("av")
    assert found.packages["roboshard"] == version("roboshard")
    assert found.decoders["av1"] in ("libdav1d", "libaom-av1", "av1")
    assert found.cores["used"] == usable_cores()
    assert found.cores["machine"] == os.cpu_count()
    assert found.memory["machine"] > 2**20


def test_what_is_missing_is_part_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.DECODERS, "h264", "no_such_decoder")
    monkeypatch.setattr(run, "PACKAGES", ("av", "no-such-package"))
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # as where it cannot be imported
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    found = describe()
    assert found.decoders["h264"] is None
    assert list(found.packages) == ["av"]
    assert found.ffmpeg["torchcodec"].startswith("cannot be loaded: ")
    assert "WORLD_SIZE is 4" in str(found.ranks["unknown"])


def test_ranks_are_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert describe().ranks == {"rank": 3, "world_size": 4} | {
        "decode_threads": describe().ranks["decode_threads"]
    }


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["python"].endswith(sys.version.split()[0])
    assert dispatch(["env"]) == 0
    said = capsys.readouterr().out
    for word in ("packages", "torchcodec", "decoders", "cores", "ranks", "GPUs"):
        assert word in said
