"""Parameters that the quick suite passes over, though not all of them."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slowly(*values: Any) -> Any:
    """A parameter, or the values of several, for `make test-slow` alone."""
    return pytest.param(*values, marks=pytest.mark.slow)


def some_quickly(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """All values, those that are not `quick` marked slow."""
    values = list(values)
    unknown = set(quick) - set(values)
    if unknown:
        raise ValueError(f"no such parameters: {sorted(unknown)}")
    return [value if value in quick else slowly(value) for value in values]
