"""An error of a worker process on its way to its parent, where it is raised as what it is."""

import traceback
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Failure(NamedTuple):
    """What a worker sends in the place of its next message.

    Torch would make another error of it: of the same type, if that takes one string, and with
    words of its own before those that say what is wrong.
    """

    pickled: bytes
    told: str
    """The worker and its traceback."""

    @classmethod
    def of(cls, error: Exception, worker: int) -> "Failure":
        """Return what is sent of an error of this worker."""
        lines = "".join(traceback.format_exception(error)).rstrip()
        return cls(_pickled(error), f"In worker process {worker}:\n{lines}")


def arrived(message: T | Failure) -> T:
    """Return a message of a worker. Raises the worker's error, with its traceback as a note."""
    if isinstance(message, Failure):
        error = _restored(message.pickled)
        error.add_note(message.told)
        raise error
    return message


def _pickled(error: Exception) -> bytes:
    """Return an error as bytes of which `_restored` makes one of the same type with the same words,
    and as many of its attributes as can be; or else a RuntimeError that names its type.
    """
    kind = type(error)
    for form in (error, (kind, error.args, vars(error)), (kind, (str(error),), {})):
        with suppress(Exception):  # whatever its class does
            copy = _restored(bytes(ForkingPickler.dumps(form)))
            if type(copy) is kind and str(copy) == str(error):
                return bytes(ForkingPickler.dumps(form))  # anew: tensors in it arrive but once
    return bytes(ForkingPickler.dumps(RuntimeError(f"{kind.__qualname__}: {error}")))


def _restored(pickled: bytes) -> Exception:
    """Return an error; without its constructor, whose arguments nobody knows, where pickle's way of
    calling that did not do.
    """
    form: Any = ForkingPickler.loads(pickled)  # by a worker of this process
    if isinstance(form, Exception):
        return form
    kind, args, attributes = form
    error: Exception = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error
