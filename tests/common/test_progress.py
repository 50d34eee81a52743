"""What is reported of long work, and that nothing shows it unless somebody asks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from roboshard.common.progress import progress_of, shown_on
from roboshard.converter import ConvertConfig, convert
from roboshard.shards import ShardedDataset
from roboshard.tools.upload import UploadConfig, upload
from roboshard.tools.verify import VerifyConfig, verify


class Seen:
    def __init__(self) -> None:
        self.begun: list[tuple[str, int, str, int]] = []
        self.num_bytes = self.items = self.ended = 0

    @contextmanager
    def show(self, doing: str, items: int, what: str, num_bytes: int) -> Iterator[Seen]:
        self.begun.append((doing, items, what, num_bytes))
        yield self
        self.ended += 1

    def add(self, num_bytes: int = 0, items: int = 0) -> None:
        self.num_bytes += num_bytes
        self.items += items


def test_conversion_upload_and_verification_report_what_they_have_done(
    pusht_source: Path, tmp_path: Path
) -> None:
    shards, copy = tmp_path / "shards", tmp_path / "copy"
    seen = Seen()
    with shown_on(seen.show):
        report = convert(ConvertConfig(source=str(pusht_source), destination=str(shards)))
    assert [begun[:3] for begun in seen.begun] == [("converting", report.episodes, "episodes")]
    assert (seen.items, seen.ended) == (report.episodes, 1)
    assert 0 < seen.num_bytes < report.bytes_written
    seen = Seen()
    with shown_on(seen.show):
        sent = upload(UploadConfig(source=str(shards), destination=str(copy)))
    assert seen.begun == [("sending", sent.files_sent, "files", sent.bytes_sent)]
    assert (seen.items, seen.num_bytes, seen.ended) == (sent.files_sent, sent.bytes_sent, 1)
    seen = Seen()
    with shown_on(seen.show):
        assert verify(VerifyConfig(url=str(copy))).ok
    size = sum(shard.size for shard in ShardedDataset.open(str(copy)).manifest.shards)
    assert seen.begun == [("verifying", report.shards, "shards", size)]
    assert (seen.items, seen.num_bytes, seen.ended) == (report.shards, size, 1)


def test_nothing_is_shown_to_whom_did_not_ask(
    pusht_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    convert(ConvertConfig(source=str(pusht_source), destination=str(tmp_path / "out")))
    assert capfd.readouterr() == ("", "")


def test_it_is_shown_inside_alone_and_as_the_innermost_says() -> None:
    outer, inner = Seen(), Seen()
    with shown_on(outer.show):
        with shown_on(inner.show), progress_of("a", items=1, what="b", num_bytes=2) as progress:
            progress.add(2, items=1)
        with progress_of("c", items=0, what="d", num_bytes=0):
            pass
    with progress_of("e", items=1, what="f", num_bytes=1) as progress:
        progress.add(1, items=1)
    assert (inner.begun, inner.items, inner.num_bytes) == ([("a", 1, "b", 2)], 1, 2)
    assert (outer.begun, outer.items) == ([("c", 0, "d", 0)], 0)
