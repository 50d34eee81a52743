"""`roboshard COMMAND`: all commands under one name."""

import sys
from collections.abc import Callable, Sequence

from roboshard.cli.convert import convert_command
from roboshard.cli.export import export_command
from roboshard.cli.finalize import finalize_command
from roboshard.cli.inspect import inspect_command
from roboshard.cli.preview import preview_command
from roboshard.cli.rebuild import rebuild_command
from roboshard.cli.run import EXIT_USAGE, err, out, run_command
from roboshard.cli.upload import upload_command
from roboshard.cli.verify import verify_command

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "convert": (convert_command, "LeRobot dataset → shards (the same as convert-to-shards)"),
    "finalize": (finalize_command, "shards that were converted in parts → one dataset"),
    "upload": (upload_command, "finished shards → Hub, S3, … (the same as upload-shards)"),
    "verify": (verify_command, "everything that is wrong with a dataset"),
    "inspect": (
        inspect_command,
        "what a dataset holds: counts, tasks, lengths, cameras, provenance",
    ),
    "preview": (preview_command, "an episode → a picture, or a recording for the Rerun viewer"),
    "export": (export_command, "shards → LeRobot v3 dataset"),
    "rebuild": (rebuild_command, "shards → manifests and index, where those are lost"),
}


def main() -> None:
    """Entry point of `roboshard`."""
    sys.exit(dispatch(sys.argv[1:]))


def dispatch(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names; the exit code."""
    if arguments and arguments[0] in COMMANDS:
        return run_command(COMMANDS[arguments[0]][0], arguments[1:])
    usage = "\n".join(
        [
            "usage: roboshard COMMAND …",
            *(f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items()),
        ]
    )
    if arguments and arguments[0] in ("-h", "--help"):
        out.print(usage)
        return 0
    err.print(usage)
    return EXIT_USAGE
