"""What is odd in a source, and how it is read all the same.

A finding names its kind by a code, which stays the same from release to release. How a kind is read
is said here, once; docs/sources.md has the same as a table. What cannot be read is no finding but
an error, with the remedy.

Findings of the metadata are in `SourceMeta.findings`. Those of an episode go into its record, and
from there into the shard's manifest: so a conversion that was killed and continued lists what an
uninterrupted one does.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from roboshard.shards.documents import Finding

Report = Callable[[Finding], None]
"""A callback that is told what is odd, finding by finding."""
SHOWN_PLACES = 3
MAX_FINDINGS = 64
"""Most findings of one episode; what is more is counted in the last one."""
MAX_CHARS = 300
"""Most characters of each text of a finding."""

READ_AS = {
    "columns-missing": "not needed: no sample has a value of them",
    "dtype-unknown": "kept; a loader that does not know the kind names it",
    "episode-listed-twice": "the first row of meta/episodes counts, the last line "
    "of episodes.jsonl",
    "episode-not-listed": "converted like the others, with what its rows say",
    "episode-not-listed-left-out": "left out: nothing says where its video is",
    "episode-without-rows": "left out: there is nothing of it",
    "feature-not-stored": "kept as a feature without values; see make_loader(on_missing=...)",
    "frame-index-differs": "kept as it is stored; samples are numbered by where rows lie",
    "from-index-differs": "not used: rows are found by their episode_index",
    "image-by-path": "the file is read, and lies in the rows from then on",
    "index-differs": "kept as it is stored; samples are numbered by where rows lie",
    "info-field-missing": "LeRobot's default is used",
    "length-differs": "the rows are counted",
    "metadata-as-text": "kept as text in the episode's row of meta/episodes",
    "metadata-missing": "made from the rows",
    "more-findings": "see the source",
    "null-values": "kept; a sample has None, see make_loader(on_missing=...)",
    "rows-in-another-file": "found there by their episode_index",
    "rows-in-several-files": "put together in the order of the files",
    "rows-not-adjacent": "put together in the order in which they lie",
    "rows-out-of-order": "samples are numbered by episode and row, by LeRobot as rows lie",
    "stats-ignored": "statistics are taken together from what there is",
    "stats-missing": "statistics are taken together from what there is",
    "task-index-negative": "counted from the last task backwards, as LeRobot does",
    "task-listed-twice": "the last line counts",
    "task-not-text": "written as text",
    "task-numbers-differ": "tasks are looked up by position, as LeRobot does",
    "task-null": "a sample has None as its task",
    "tasks-columns": "kept beside the texts",
    "tasks-differ": "the tasks that the rows name are the episode's",
    "tasks-missing": "samples have no task",
    "timestamps-odd": "kept as they are stored; a row shows the frame at its time",
    "to-timestamp-differs": "the episode's frames end where the next ones begin",
    "totals-differ": "counted anew",
}
"""Code of a finding -> how what is odd is read all the same."""


def finding(code: str, where: str, what: str) -> Finding:
    """A finding of a known kind; long texts are cut.

    Args:
        code: a key of `READ_AS`.
        where: file, episode, row or feature, by names that say nothing of where the source lies.
        what: what is odd.
    """
    if code not in READ_AS:
        raise ValueError(f"no kind of finding: {code}")
    return Finding(code=code, where=_cut(where), what=_cut(what))


def bounded(findings: Sequence[Finding]) -> list[Finding]:
    """At most `MAX_FINDINGS`, the last of which counts those that are left out."""
    if len(findings) <= MAX_FINDINGS:
        return list(findings)
    kept = list(findings[: MAX_FINDINGS - 1])
    left = len(findings) - len(kept)
    return [*kept, finding("more-findings", kept[-1].where, f"{left} more findings")]


@dataclass(frozen=True, kw_only=True)
class FindingGroup:
    """All findings of one kind."""

    code: str
    count: int
    read_as: str
    """How what is odd is read all the same, as in `READ_AS`."""
    first: tuple[Finding, ...]
    """The first few findings of this kind."""


def grouped(findings: Iterable[Finding]) -> tuple[FindingGroup, ...]:
    """Findings by kind, in the order in which kinds first come."""
    counts: dict[str, int] = {}
    first: dict[str, list[Finding]] = {}
    for found in findings:
        counts[found.code] = counts.get(found.code, 0) + 1
        places = first.setdefault(found.code, [])
        if len(places) < SHOWN_PLACES:
            places.append(found)
    return tuple(
        FindingGroup(
            code=code, count=count, read_as=READ_AS.get(code, ""), first=tuple(first[code])
        )
        for code, count in counts.items()
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"
