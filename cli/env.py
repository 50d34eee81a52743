"""`roboshard env`: what a report of a fault should say of the machine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.filesize import decimal
from rich.table import Table

from roboshard.cli.options import parse_options
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.tools.env import Environment, describe


@dataclass(frozen=True)
class EnvOptions:
    """Show versions, FFmpeg, decoders, cores, memory, ranks and GPUs: for reports of faults."""

    json: bool = False
    """Print one JSON object."""


def env_command(arguments: Sequence[str]) -> None:
    """Run `roboshard env`: parse options, look and print."""
    options = parse_options(EnvOptions, "roboshard env", arguments)
    environment = describe()
    if options.json:
        out.print(json.dumps(asdict(environment), indent=2), soft_wrap=True, markup=False)
    else:
        _show(environment)


def _show(environment: Environment) -> None:
    missing = [codec for codec, decoder in environment.decoders.items() if decoder is None]
    have = [codec for codec in environment.decoders if codec not in missing]
    memory = {name: decimal(size) for name, size in environment.memory.items()}
    lines = {
        "python": environment.python,
        "system": environment.system,
        "packages": _listed(environment.packages),
        "FFmpeg": _listed(environment.ffmpeg, "; "),
        "decoders": ", ".join(have) + (f"; none for {', '.join(missing)}" if missing else ""),
        "cores": _listed(environment.cores),
        "memory": _listed(memory),
        "ranks": _listed(environment.ranks),
        "GPUs": ", ".join(environment.gpus) or "none",
    }
    table = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        table.add_row(f"[bold]{name}[/]", as_markup(text))
    out.print(table)


def _listed(values: Mapping[str, object], by: str = ", ") -> str:
    return by.join(f"{name} {value}" for name, value in values.items() if value is not None)
