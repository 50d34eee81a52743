"""docs/sources.md tells of every kind of finding, and names a test for each row."""

from __future__ import annotations

import re
from pathlib import Path

from roboshard.converter.source.findings import READ_AS, bounded, finding

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sources.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "tests/" in line]


def test_every_code_is_told_and_no_other() -> None:
    told = dict(re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert {code: text.strip() for code, text in told.items()} == READ_AS


def test_every_row_names_a_test_that_there_is() -> None:
    assert len(ROWS) > len(READ_AS) + 15
    for row in ROWS:
        (path, name) = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)[-1]
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), row


def test_many_findings_of_one_episode_are_counted() -> None:
    many = [finding("index-differs", f"row {row}", "it is odd") for row in range(1000)]
    kept = bounded(many)
    assert len(kept) == 64
    assert (kept[-1].code, kept[-1].what) == ("more-findings", "937 more findings")
