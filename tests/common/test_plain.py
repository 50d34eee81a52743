"""What is printed is plain: nothing that a dataset says is obeyed by a terminal, by rich or by a
page.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from support.damage import Forgery
from support.lerobot_source import Camera, Source, build

from roboshard.cli import run
from roboshard.cli.main import dispatch
from roboshard.common.plain import MAX_PRINTED, as_markup, plain
from roboshard.tools.upload.card import make_card

CLIPBOARD = "\x1b]52;c;aGFja2Vk\x07"
HOSTILE = (
    f"{CLIPBOARD}\x1b[31m[/x][bold]\x9b1m\u202egnp.exe\u2066 $\\frac{{ \r\nend | <script> `x` \\ "
    "[click](javascript:alert) ![p](https://evil.example/p.png) https://evil.example @all\x00\x7f"
)
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


WITH_CONSOLES = (
    *("run", "convert", "upload", "verify", "inspect"),
    *("preview", "export", "rebuild", "doctor", "findings", "main"),
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What both streams of a command show on a terminal without colours: then rich itself sends no
    escape.
    """
    shown = io.StringIO()
    # Imported before any is patched: they import the consoles by name, and would keep patched ones.
    modules = [import_module(f"roboshard.cli.{module}") for module in WITH_CONSOLES]
    for name in ("out", "err"):
        console = Console(file=shown, highlight=False, width=200, color_system=None)
        for module in modules:
            monkeypatch.setattr(module, name, console, raising=False)
    assert run.out.file is shown
    return shown


@pytest.fixture
def hostile(pusht_shards: Path, tmp_path: Path) -> Path:
    """A dataset whose names and texts are meant for whoever looks at it; every hash fits."""
    forgery = Forgery(pusht_shards, tmp_path / "hostile")

    def lie(members: dict[str, bytes]) -> None:
        record = json.loads(members["json"])
        record["cameras"][0] |= {"codec": "[/x]" + HOSTILE, "pix_fmt": HOSTILE}
        record["tasks"] = [HOSTILE]
        members["json"] = json.dumps(record).encode()

    for number, shard in enumerate(forgery.shards):
        for at, sample in enumerate(shard["samples"]):
            sample["tasks"] = [HOSTILE]
            forgery.put_members(number, at, lie)

    def change(dataset: dict[str, Any]) -> None:
        dataset["source"] |= {"name": f"me/{HOSTILE}", "revision": HOSTILE}
        dataset["source"]["codebase_version"] = HOSTILE
        dataset["tasks"] = [HOSTILE] * len(dataset["tasks"])
        dataset["conversion"]["versions"][HOSTILE] = HOSTILE
        dataset["conversion"]["options"][HOSTILE] = HOSTILE
        dataset["info"]["robot_type"] = HOSTILE
        dataset["features"][HOSTILE] = {"dtype": HOSTILE, "shape": [1], "names": [HOSTILE]}
        dataset["features"]["action"]["names"] = [f"0{HOSTILE}", f"1{HOSTILE}"]

    forgery.seal(change)
    return forgery.root


def is_harmless(shown: str) -> bool:
    return UNSAFE.search(shown) is None


# -- The function ----------------------------------------------------------------------------------


@given(st.text(st.characters()), st.booleans())
@example("one\n\n", True)
def test_plain_text_has_nothing_to_obey(text: str, lines: bool) -> None:
    found = plain(text, lines=lines)
    assert is_harmless(found)
    assert lines or "\n" not in found
    assert plain(found, lines=lines) == found or len(found) > MAX_PRINTED
    found.encode()


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_readable_text_of_any_script_stays(text: str) -> None:
    assert plain(f"{text} {text}") == f"{text} {text}"[:MAX_PRINTED]


@given(st.text(st.characters(exclude_categories=["C"])))
@example("\\")
@example("[red]\\\\")
@example("\\[/]")
@example("\\[")
@example("\\\\[A] \\[b [c]")
def test_rich_shows_the_text_itself(text: str) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=10**6, color_system=None, highlight=False, emoji=False)
    console.print(as_markup(text), end="", soft_wrap=True)
    assert shown.getvalue() == plain(text)
    console.print(f"[bold]{as_markup(text)}[/bold]", end="", soft_wrap=True)
    assert shown.getvalue() == 2 * plain(text)


def test_what_is_removed_can_still_be_seen() -> None:
    assert plain(CLIPBOARD) == "\\x1b]52;c;aGFja2Vk\\x07"
    assert plain("one\r\n two\tthree") == "one two three"
    assert plain("one\r\ntwo", lines=True) == "one\ntwo"
    assert plain("\u202eabc") == "\\u202eabc"
    assert len(plain("x" * 10**6)) == MAX_PRINTED + 1


# -- Every command ---------------------------------------------------------------------------------

COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "inspect": lambda root, _: ["inspect", str(root)],
    "inspect --json": lambda root, _: ["inspect", str(root), "--json"],
    "verify": lambda root, _: ["verify", str(root)],
    "verify with a report": lambda root, to: ["verify", str(root), "--report", str(to / "r.json")],
    "preview": lambda root, to: ["preview", str(root), "--output", str(to / "sheet.png")],
    "export": lambda root, to: ["export", str(root), str(to / "out")],
    "upload": lambda root, to: ["upload", str(root), str(to / "out")],
    "upload --dry-run": lambda root, to: ["upload", str(root), str(to / "out"), "--dry-run"],
    "rebuild": lambda root, _: ["rebuild", str(root)],
    "a wrong place": lambda root, to: ["inspect", str(to / HOSTILE.replace("\x00", ""))],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_what_a_terminal_obeys(
    command: str, hostile: Path, tmp_path: Path, terminal: io.StringIO
) -> None:
    code = dispatch(COMMANDS[command](hostile, tmp_path))
    shown = terminal.getvalue()
    assert is_harmless(shown), shown
    assert code in (0, 1, 2)
    if command == "inspect":
        assert code == 0
        assert "\\x1b]52;c;aGFja2Vk\\x07\\x1b[31m[/x][bold]" in shown
    if command == "inspect --json":
        assert json.loads(shown)["tasks"][0][0] == HOSTILE


def test_converting_prints_plain_text(tmp_path: Path, terminal: io.StringIO) -> None:
    key = "observation.images.\x1b[31m[/x]"
    source = build(tmp_path / "source", Source(lengths=(4,), cameras=(Camera(key=key),)))
    for more in (["--video-report"], ["--dry-run"], []):
        dispatch(["convert", str(source.root), str(tmp_path / "shards"), *more])
    assert is_harmless(terminal.getvalue()), terminal.getvalue()


# -- Pages and pictures ----------------------------------------------------------------------------


def test_the_card_holds_no_markup_of_the_datasets(hostile: Path) -> None:
    text = make_card(str(hostile), "hf://buckets/me/it").text
    assert is_harmless(text)
    body = text.split("---\n", 2)[2]
    outside_code = re.sub(r"`[^`\n]*`", "", body)
    assert "<script>" not in outside_code
    assert "](javascript" not in outside_code
    assert "](https://evil" not in outside_code
    assert re.search(r"(?<!\\):(?=//evil)", outside_code) is None
    for line in body.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) - 2 in (2, 4, 5), line


@pytest.mark.parametrize(
    "text",
    [HOSTILE, "$", "$$", "$\\frac{$", "a$b$c", "\\", "{", "\n", "\x00", "مرحبا", "x" * 10**5],
)
def test_a_sheet_is_drawn_whatever_the_texts_are(text: str) -> None:
    sheet = pytest.importorskip("roboshard.tools.preview.sheet")
    content = pytest.importorskip("roboshard.tools.preview.content")
    rows = {
        "frame_index": range(3),
        "timestamp": [0.0, 0.1, 0.2],
        "task": [text, "b", text],
        "x": [[1.0, 2.0]] * 3,
    }
    made = content.make_content(
        rows,
        {"x": {"dtype": "float32", "shape": [2], "names": [text, "b"]}},
        dataset=text,
        episode_index=0,
        fps=10,
    )
    with Image.open(io.BytesIO(sheet.draw(made, [0, 2], {}))) as picture:
        picture.load()
