"""`roboshard verify URL`: everything that is wrong with a dataset."""

from collections.abc import Sequence

from rich.filesize import decimal
from rich.table import Table

from roboshard.cli.options import parse_options
from roboshard.cli.run import err, out
from roboshard.common.plain import as_markup
from roboshard.shards import RoboshardError
from roboshard.tools.verify import VerifyConfig, VerifyReport, verify

SHOWN_PROBLEMS = 100


def verify_command(arguments: Sequence[str]) -> None:
    """Run `roboshard verify`. Raises RoboshardError for a dataset with problems."""
    config = parse_options(
        VerifyConfig,
        "roboshard verify",
        arguments,
        "Find everything that is wrong with a dataset: hashes, checksums, manifests, tars, rows, "
        "video. Exits with 1 where there is something.",
    )
    report = verify(config)
    _show(report)
    if not report.ok:
        raise RoboshardError(f"{report.url}: {_counted(report.num_problems, 'problem')}")


def _show(report: VerifyReport) -> None:
    if report.problems:
        table = Table("where", "what is wrong", "what to do", show_lines=True)
        for problem in report.problems[:SHOWN_PROBLEMS]:
            episode = "" if problem.episode is None else f"\nepisode {problem.episode}"
            member = "" if problem.member is None else f"\n{as_markup(problem.member)}"
            where = f"{as_markup(problem.file)}{episode}{member}"
            table.add_row(where, as_markup(problem.what, lines=True), as_markup(problem.remedy))
        out.print(table)
        if report.num_problems > SHOWN_PROBLEMS:
            out.print(
                f"… and {report.num_problems - SHOWN_PROBLEMS} more; --report FILE.json has them"
            )
    for note in report.notes:
        err.print(as_markup(note), soft_wrap=True)
    read = f"{report.episodes} of {_counted(report.total_episodes, 'episode')}"
    out.print(
        f"{read} in {_counted(report.shards, 'shard')} read, {decimal(report.num_bytes)}"
        + ("; no problem found" if report.ok else ""),
        soft_wrap=True,
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
