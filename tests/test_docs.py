"""The code in README and docs/ runs as it stands there."""

import ast
import doctest
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest
from support.interrupting import own_handlers
from support.servers import LocalHub

PROJECT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    *sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PUBLIC = (
    *("converter", "loader", "shards"),
    *(
        f"tools.{name}"
        for name in (
            "bench",
            "doctor",
            "env",
            "export",
            "idle",
            "inspect",
            "preview",
            "stats",
            "upload",
            "verify",
        )
    ),
)
COMMANDS = ("convert-to-shards", "roboshard", "upload-shards")
LINK = re.compile(r"\]\(([^)#]+)\)")


pytest_plugins = ["support.servers.fixtures"]


@pytest.fixture
def folder_of_a_reader(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pusht_source: Path,
    arms_source: Path,
    request: pytest.FixtureRequest,
) -> Path:
    """Where a reader would stand: the datasets that docs name, here and on the Hub, and the
    commands on the PATH."""
    hub: LocalHub = request.getfixturevalue("this_hub")
    hub.add_dataset("my-org/my_dataset", pusht_source)
    (tmp_path / "my_dataset").symlink_to(pusht_source, target_is_directory=True)
    (tmp_path / "my_arms").symlink_to(arms_source, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def run_shell(code: str) -> None:
    """The lines of a block.

    Our own commands in this process: to start one each would take most of the time.
    """
    lines = [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines()]
    if all(not words or words[0] in COMMANDS for words in lines):
        for words in filter(None, lines):
            run_here(words)
    else:
        subprocess.run(["bash", "-euc", code], check=True)


def run_here(words: Sequence[str]) -> None:
    """A command as its entry point runs it."""
    (command,) = entry_points(group="console_scripts", name=words[0])
    with pytest.MonkeyPatch.context() as patch, own_handlers():
        patch.setattr(sys, "argv", [*words])
        try:
            failed = command.load()()
        except SystemExit as end:
            failed = end.code
    assert not failed, (words, failed)


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run_in_order(page: str, folder_of_a_reader: Path) -> None:
    blocks = BLOCK.findall((PROJECT / page).read_text())
    if not any(language == "sh" for language, _ in blocks):
        blocks.insert(0, ("sh", "convert-to-shards my_dataset my_dataset_shards"))
    namespace: dict[str, object] = {"__name__": "docs"}
    for language, code in blocks:
        if language == "sh":
            run_shell(code)
        else:
            exec(compile(code, page, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_exist(page: str) -> None:
    targets = [link for link in LINK.findall((PROJECT / page).read_text()) if "://" not in link]
    missing = [link for link in targets if not (PROJECT / page).parent.joinpath(link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_run_examples_are_those_that_the_examples_name(page: str) -> None:
    text = (PROJECT / page).read_text()
    for command in re.findall(r"^\$ (python examples/\S+(?:.*\\\n)*.*)$", text, re.MULTILINE):
        example = ast.get_docstring(ast.parse((PROJECT / command.split()[1]).read_text()))
        assert " ".join(command.split()) in " ".join((example or "").split())


def test_readme_names_the_two_commands_that_do_all_set_up() -> None:
    readme = (PROJECT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def test_pages_quote_what_the_benchmarks_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    publish = importlib.import_module("publish")
    blocks = publish.render_blocks()
    for page in PAGES:
        text = (PROJECT / page).read_text()
        assert publish.fill(text, blocks) == text


# -- Docstrings ------------------------------------------------------------------------------------


def public_functions() -> list[tuple[ModuleType, str]]:
    modules = [importlib.import_module(f"roboshard.{name}") for name in PUBLIC]
    return [
        (module, name)
        for module in modules
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
    ]


@pytest.mark.usefixtures("folder_of_a_reader")
@pytest.mark.parametrize(
    ("module", "name"), public_functions(), ids=lambda value: getattr(value, "__name__", value)
)
def test_public_functions_have_arguments_and_an_example_that_runs(
    module: ModuleType, name: str
) -> None:
    function = getattr(module, name)
    docstring = inspect.getdoc(function) or ""
    of_arguments = ("Args:", "Raises:") if inspect.signature(function).parameters else ()
    for heading in (*of_arguments, "Returns:", "Example:"):
        assert f"\n{heading}\n" in docstring, heading
    if "my_dataset_shards" in docstring:
        run_here(["convert-to-shards", "my_dataset", "my_dataset_shards"])
    public = {each: getattr(module, each) for each in module.__all__}
    example = doctest.DocTestParser().get_doctest(docstring, public, name, None, None)
    assert example.examples
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not said, "".join(said)
