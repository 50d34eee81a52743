"""What every command does around its work: parse, run, and turn errors into one message and an exit code."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from roboshard.shards import OptionError, RoboshardError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run a command and return the process's exit code."""
    try:
        command(arguments)
    except OptionError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return EXIT_USAGE
    except (
        RoboshardError,
        OSError,
    ) as error:  # OSError: a full disk, a folder that may not be written to
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return EXIT_FAILED
    except KeyboardInterrupt:
        err.print("interrupted; run the same command again to continue")
        return EXIT_INTERRUPTED
    return 0
