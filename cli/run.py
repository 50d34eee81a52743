"""What every command does around its work: parse, run, and turn errors into one message and an exit
code.
"""

from collections.abc import Callable, Sequence

from rich.console import Console

from roboshard.cli.progress import bar
from roboshard.cli.terminal import EXIT_OUTPUT_CLOSED
from roboshard.common.plain import as_markup
from roboshard.common.progress import shown_on
from roboshard.shards import OptionError, RoboshardError
from roboshard.storage import redacted

EXIT_FAILED = 1
EXIT_USAGE = 2


class _Console(Console):
    """A console that leaves it to `run_command` what a closed output means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


out = _Console(highlight=False)
err = _Console(stderr=True, highlight=False)


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run a command and return the process's exit code."""
    try:
        with shown_on(bar):
            command(arguments)
    except BrokenPipeError:  # nobody reads what is printed any more, as after `| head`
        return EXIT_OUTPUT_CLOSED
    except OptionError as error:
        _print_error(error)
        return EXIT_USAGE
    except (
        RoboshardError,
        OSError,
    ) as error:  # OSError: a full disk, a folder that may not be written to
        _print_error(error)
        return EXIT_FAILED
    return 0


def _print_error(error: Exception) -> None:
    """Say why a command failed: without secrets that a library may have named, and as plain
    text.
    """
    err.print(f"[bold red]error:[/] {as_markup(redacted(str(error)), lines=True)}", soft_wrap=True)
