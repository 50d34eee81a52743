"""`roboshard doctor SOURCE`: what is odd in a LeRobot dataset, before it is converted."""

from collections.abc import Sequence

from rich.table import Table

from roboshard.cli.findings import show_findings
from roboshard.cli.options import parse_options
from roboshard.cli.progress import counter
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.shards import RoboshardError
from roboshard.tools.doctor import Diagnosis, DoctorConfig, diagnose

SHOWN_REFUSALS = 100


def doctor_command(arguments: Sequence[str]) -> None:
    """Run `roboshard doctor`. Raises RoboshardError where something of the source would
    be refused.
    """
    wants_json = "--json" in arguments
    config = parse_options(
        DoctorConfig,
        "roboshard doctor",
        [argument for argument in arguments if argument != "--json"],
        "Look at a LeRobot dataset as a conversion would, and write nothing: what is "
        "odd, how it will be read, what would be refused, and what to do about that. --json prints "
        "it for programs. Exits with 1 where something would be refused.",
    )
    with counter("episodes") as on_episode:
        diagnosis = diagnose(config, on_episode)
    if wants_json:
        out.file.write(diagnosis.as_json() + "\n")
    else:
        _show(diagnosis)
    if not diagnosis.ok:
        raise RoboshardError(f"{diagnosis.source}: {_refused(diagnosis)}")


def _show(diagnosis: Diagnosis) -> None:
    show_findings(diagnosis.findings)
    if diagnosis.refused:
        table = Table("episode", "would be refused", show_lines=True)
        for refusal in diagnosis.refused[:SHOWN_REFUSALS]:
            index = "all" if refusal.episode_index is None else str(refusal.episode_index)
            table.add_row(index, as_markup(refusal.reason, lines=True))
        out.print(table)
        if len(diagnosis.refused) > SHOWN_REFUSALS:
            out.print(f"… and {len(diagnosis.refused) - SHOWN_REFUSALS} more; --json has them")
    odd = "" if diagnosis.findings else "; nothing is odd"
    out.print(
        f"{diagnosis.episodes} of {diagnosis.total_episodes} episodes looked at, "
        f"{diagnosis.rows} rows{odd}" + ("; all of it converts" if diagnosis.ok else ""),
        soft_wrap=True,
    )


def _refused(diagnosis: Diagnosis) -> str:
    if diagnosis.refused[0].episode_index is None:
        return "it would be refused as a whole"
    episodes = len({refusal.episode_index for refusal in diagnosis.refused})
    return f"{episodes} of {diagnosis.episodes} episodes would be refused"
