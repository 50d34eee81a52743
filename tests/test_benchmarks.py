"""The benchmarks that `make bench` runs: each is there, takes the options that it is given, and is
published.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

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
    loading = importlib.import_module("loading")
    fails = loading.Program([sys.executable, "-c", "import no_such_loader"])
    with pytest.raises(
        loading.CaseError,
        match=r"^ended with 1, having had \d+\.\d GB of memory: "
        r"ModuleNotFoundError: .*no_such_loader'$",
    ):
        loading.run(fails, timeout_s=60)
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(loading.CaseError, match=r"^killed after 0\.5 s, having had [^:]*$"):
        loading.run(
            loading.Program([sys.executable, "-c", "import time; time.sleep(60)"]), timeout_s=0.5
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
