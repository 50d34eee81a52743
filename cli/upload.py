"""`upload-shards SOURCE DESTINATION`: publishing as a command."""

from collections.abc import Sequence
from dataclasses import fields

from rich.filesize import decimal
from rich.table import Table

from roboshard.cli.config_file import CONFIG_HELP, with_config_file
from roboshard.cli.options import parse_options
from roboshard.cli.run import err, out
from roboshard.common.plain import as_markup
from roboshard.common.selection import some
from roboshard.storage import redacted
from roboshard.tools.upload import UploadConfig, UploadPlan, UploadReport, make_plan, upload

SHOWN_FILES = 20


def upload_command(arguments: Sequence[str]) -> None:
    """Run `upload-shards`: parse flags, then plan or send."""
    config = parse_options(
        UploadConfig,
        "upload-shards",
        with_config_file(arguments, {field.name for field in fields(UploadConfig)}),
        "Publish a finished dataset. Only what is missing or different is sent; run it again to "
        f"continue where it was interrupted. {CONFIG_HELP}",
    )
    if config.dry_run:
        _show_plan(make_plan(config))
    else:
        _show_report(upload(config))


def _show_plan(plan: UploadPlan) -> None:
    uploads = plan.uploads
    table = Table("send", "size")
    for upload_ in uploads[:SHOWN_FILES]:
        table.add_row(as_markup(upload_.path), decimal(upload_.size))
    if len(uploads) > SHOWN_FILES:
        table.add_row(f"… and {len(uploads) - SHOWN_FILES} more", "")
    if uploads:
        out.print(table)
    if plan.remove:
        out.print(f"remove {len(plan.remove)} files of the dataset that is there")
    out.print(
        f"{len(uploads)} files, {decimal(sum(upload_.size for upload_ in uploads))}, would be "
        f"sent to {as_markup(redacted(plan.target.url))}; {len(plan.kept)} are there already; "
        "nothing was changed (--dry-run)",
        soft_wrap=True,
    )
    _show_rest(plan.unlisted, plan.notes)


def _show_report(report: UploadReport) -> None:
    kept = f"; {report.files_kept} files were there already" if report.files_kept else ""
    removed = (
        f"; {len(report.removed)} files of the dataset before were removed"
        if report.removed
        else ""
    )
    out.print(
        f"{report.files_sent} files, {decimal(report.bytes_sent)}, sent{kept}{removed} → "
        f"{as_markup(redacted(report.destination))}",
        soft_wrap=True,
    )
    _show_rest(report.unlisted, report.notes)


def _show_rest(unlisted: Sequence[str], notes: Sequence[str]) -> None:
    for note in notes:
        err.print(as_markup(note), soft_wrap=True)
    if unlisted:
        err.print(
            as_markup(f"left alone, not of this dataset: {len(unlisted)} files ({some(unlisted)})"),
            soft_wrap=True,
        )
