"""The streams that a command prints to: whatever they are, they take all that is printed."""

import codecs
import io
import os
import sys

EXIT_OUTPUT_CLOSED = 141
"""Exit code of a command whose output was closed, as of a program that SIGPIPE ends."""
_ERRORS = "roboshard-plain"
_PLAIN = {"→": "->", "…": "...", "█": "#", "×": "x", "•": "*", "–": "-", "—": "-", "━": "-"}
_BOXES = {"─": "-", "│": "|"}


def open_streams() -> None:
    """Let standard input, output and error exist, and take any text in any encoding.

    A descriptor that is closed would be given to the next file that is opened, and what libraries
    print would go into that file.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115
    codecs.register_error(_ERRORS, _plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def flush_streams(code: str | int | None) -> str | int | None:
    """Write out what is left to print; return the exit code, which tells where that failed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # What is still buffered would fail once more at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if isinstance(error, BrokenPipeError):
                code = EXIT_OUTPUT_CLOSED
            elif not code:
                os.write(2, f"error: what was printed is lost: {error.strerror}\n".encode())
                code = 1
    return code


def _plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace what a stream cannot encode: by what looks alike, or by its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_plain_character, text)), error.end


def _plain_character(character: str) -> str:
    if "\u2500" <= character <= "\u257f" and character not in _PLAIN:  # parts of boxes
        return _BOXES.get(character, "+")
    numbered = character.encode("ascii", "backslashreplace").decode()
    return _PLAIN.get(character, numbered)
