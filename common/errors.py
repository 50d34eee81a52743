"""Every error that roboshard raises on purpose.

    RoboshardError
    ├── OptionError    (ValueError)         an argument or configuration value that cannot be used
    ├── SourceError    (ValueError)         a LeRobot source that cannot be copied as it is
    ├── FormatError    (ValueError)         a file that is not, or not safely, in the shard format
    │   └── VersionError                    a format version that this release does not read
    ├── DamageError    (OSError)            bytes that differ from what their manifest recorded
    ├── MissingError   (FileNotFoundError)  a shard, manifest or source file that is not there
    └── StorageError   (OSError)            a URL that cannot be read

Each also subclasses the builtin that a caller would catch. Messages say what is wrong, where, and
what to do.
"""

from collections.abc import Sequence


class RoboshardError(Exception):
    """Base class of all errors raised by roboshard."""


class OptionError(RoboshardError, ValueError):
    """An argument or configuration value cannot be used."""


class SourceError(RoboshardError, ValueError):
    """A source dataset contradicts itself, or a part of it cannot be copied exactly."""


class FormatError(RoboshardError, ValueError):
    """A file does not follow the shard format.

    `problems` lists each fault with its place in the file.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__("\n  - ".join([message, *problems]))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[object, ...]:
        # The message already holds the problems: restoring must not append them again.
        return (_restore_format_error, (type(self), str(self), self.problems))


def _restore_format_error(
    cls: type[FormatError], message: str, problems: tuple[str, ...]
) -> FormatError:
    error = cls(message)
    error.problems = problems
    return error


class VersionError(FormatError):
    """The format version is newer than this release, or not a version at all."""


class DamageError(RoboshardError, OSError):
    """Stored bytes are not the ones that were written."""


class MissingError(RoboshardError, FileNotFoundError):
    """A file that must exist does not."""


class StorageError(RoboshardError, OSError):
    """A URL cannot be read or written."""
