"""Numbers and switches as users give them: what has another type is refused, and never rounded."""

import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from roboshard.common.errors import OptionError


def whole_number(name: str, value: Any) -> int:
    """Return a whole number of any type, NumPy's and torch's too, as a plain int.

    Raises OptionError for all else: a bool, a float such as 1.0, a string.
    """
    # torch.tensor(True) has an index too, and torch is not known here.
    kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    if kind != "bool":
        with suppress(TypeError):
            return operator.index(value)
    raise OptionError(f"{name} must be a whole number, not {value!r:.100}")


def number(name: str, value: Any) -> float:
    """Return a number, NumPy's too, as a float. Raises OptionError for all else."""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        with suppress(OverflowError):  # an int that no float holds
            return float(value)
    raise OptionError(f"{name} must be a number, not {value!r:.100}")


def yes_or_no(name: str, value: Any) -> bool:
    """Return a bool, NumPy's too, as a plain one. Raises OptionError for all else, 0 and 1 too."""
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"{name} must be True or False, not {value!r:.100}")
    return bool(value)


def function_or_none(name: str, value: Any) -> Any:
    """Return what can be called, or None. Raises OptionError for all else."""
    if not (value is None or callable(value)):
        raise OptionError(f"{name} must be a function, not {value!r:.100}")
    return value


def check_fields(config: object, check: Callable[[str, Any], object], *names: str) -> None:
    """Put what `check` returns in the place of some values of a frozen dataclass."""
    for name in names:
        object.__setattr__(config, name, check(name, getattr(config, name)))
