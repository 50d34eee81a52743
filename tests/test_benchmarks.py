"""The benchmarks that `make bench` runs: each is there, takes the options that it is given, and is
published.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def run_all() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("run_all")
    sys.path.remove(str(BENCHMARKS))


def options_of(program: Path) -> set[str]:
    """The fields of its `Options`, as options on the command line."""
    (options,) = (
        node
        for node in ast.parse(program.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Options"
    )
    names = {node.target.id for node in options.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    return {f"--{name.replace('_', '-')}" for name in names}


@pytest.mark.parametrize("quick", [False, True])
def test_every_benchmark_is_there_and_takes_its_options(run_all: ModuleType, quick: bool) -> None:
    for name in run_all.BENCHMARKS:
        program, *words = run_all.command(name, Path("bench_data"), quick=quick)
        given = {word for word in words if word.startswith("--")} | {"--output"}
        assert given <= options_of(BENCHMARKS.parent / program), name


def test_every_result_that_is_published_has_a_benchmark(run_all: ModuleType) -> None:
    """publish.py names its results itself; it draws, so it is not imported here."""
    blocks = re.findall(r'^ {8}"(\w+)": \w+_table,$', (BENCHMARKS / "publish.py").read_text(), re.M)
    assert len(blocks) > 10
    assert set(blocks) <= set(run_all.BENCHMARKS)


def test_a_name_that_fits_no_benchmark_is_refused(run_all: ModuleType) -> None:
    assert run_all.chosen(("loading*",)) == [
        "loading",
        "loading_256x256",
        "loading_96x96",
        "loading_many",
    ]
    with pytest.raises(SystemExit, match="no benchmark is called lodaing"):
        run_all.chosen(("lodaing",))


def test_a_loader_that_fails_is_a_line_with_its_last_words_and_its_memory(
    run_all: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run_all` puts the benchmarks' folder on the path."""
    contenders = importlib.import_module("contenders")
    fails = contenders.Program([sys.executable, "-c", "import no_such_loader"])
    with pytest.raises(
        contenders.CaseError,
        match=r"^ended with 1, having had \d+\.\d GB of memory: "
        r"ModuleNotFoundError: .*no_such_loader'$",
    ):
        contenders.run(fails, timeout_s=60)
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(contenders.CaseError, match=r"^killed after 0\.5 s, having had [^:]*$"):
        contenders.run(
            contenders.Program([sys.executable, "-c", "import time; time.sleep(60)"]), timeout_s=0.5
        )


def test_a_window_of_whole_epochs_begins_with_one_and_ends_with_one(run_all: ModuleType) -> None:
    """`run_all` puts the benchmarks' folder on the path; contenders find their own."""
    timing = importlib.import_module("peers.window").Timing
    anywhere = timing(warmup_s=0, warmup_batches=4, window_s=6, min_batches=8, per_epoch=5)
    whole = replace(anywhere, min_epochs=2)
    assert [n for n in range(16) if whole.is_warm(n)] == [5, 10, 15]
    assert [n for n in range(21) if whole.is_over(n, 6.0)] == [10, 15, 20]
    assert not whole.is_over(10, 5.9)
    for other in (anywhere, replace(whole, per_epoch=0)):
        assert [n for n in range(6) if other.is_warm(n)] == [4, 5]
        assert [n for n in range(10) if other.is_over(n, 6.0)] == [8, 9]


TICKING = """
import sys, threading, time
sys.path.insert(0, sys.argv[2])
from window import measure_batches, read_case

class Pictures:
    shape, dtype = (4, 3, 8, 8), "uint8"

def tick():
    with open(sys.argv[3], "w") as file:
        while True:
            print(time.monotonic(), file=file, flush=True)
            time.sleep(0.002)

def batches():
    while True:
        time.sleep(0.01)
        yield {"camera": Pictures()}

threading.Thread(target=tick, daemon=True).start()
measure_batches(batches(), ["camera"], read_case()[1], time.perf_counter())
"""


def ticking(contenders: ModuleType, file: Path, window_s: float) -> Any:
    """A contender that gives four frames every 10 ms, and notes in a file when it runs."""
    timing = {
        **{"warmup_s": 0.1, "warmup_batches": 1, "min_batches": 1},
        **{"window_s": window_s, "turn_s": 0.2},
    }
    case = json.dumps({"timing": timing})
    return contenders.Program(
        [sys.executable, "-c", TICKING, case, str(BENCHMARKS / "peers"), str(file)]
    )


def test_a_contender_and_its_limit_run_in_turns(run_all: ModuleType, tmp_path: Path) -> None:
    """Neither counts the other's seconds, and what is not at its turn stands still."""
    contenders = importlib.import_module("contenders")
    files = [tmp_path / "limit", tmp_path / "own"]
    began = time.monotonic()
    with contenders.started(ticking(contenders, files[0], math.inf)) as limit:
        limit.warm_up()
        found = contenders.run(ticking(contenders, files[1], 1.0), 60, limit)
        seconds = time.monotonic() - began
        both = found["elapsed_s"] + limit.used.elapsed_s
    assert both < seconds
    assert limit.used.frames == pytest.approx(
        found["limit_frames_per_s"] * limit.used.elapsed_s, rel=0.01
    )
    assert found["frames"] == 4 * found["batches"]
    assert found["elapsed_s"] >= 1.0
    stamps = sorted(
        (float(line), number)
        for number, file in enumerate(files)
        for line in file.read_text().splitlines()
    )
    turns = [number for number, _ in itertools.groupby(number for _, number in stamps)]
    assert turns[:3] == [0, 1, 0], "the limit stands still while the other one starts"
    if turns[-1] == 1:
        turns.pop()  # let go after its last turn, it may tick once more before it ends
    assert 2 <= len(turns) // 2 <= 5, "turns of at least 0.2 s"
