"""The matrix of benchmarks/loading.py as rows and groups: one setting at a time away from the
default.
"""

from collections.abc import Iterator
from typing import Any

from loading_cases import LIMITS, MATRIX, ORDERS, matrix_case
from pages.markdown import Result

LIMIT = LIMITS["source"]


def matrix_rows(result: Result) -> dict[str, tuple[str, ...]]:
    """What is set -> the cases of it that were measured, one for each order."""
    return {
        ", ".join(f"`{keyword}={value}`" for keyword, value in changes.items())
        or "the default": names
        for changes, names in measured(result)
    }


def matrix_groups(result: Result) -> dict[str, dict[str, tuple[str, ...]]]:
    """Keyword -> value -> cases, one for each order; of settings that change one keyword."""
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    for changes, names in measured(result):
        if len(changes) == 1:
            ((keyword, value),) = changes.items()
            groups.setdefault(keyword, {})[str(value)] = names
    return groups


def measured(result: Result) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """What differs from the default, and the cases of it, one for each order; of settings that were
    measured.
    """
    for setting, changes in MATRIX.items():
        names = tuple(matrix_case("source", order, setting) for order in ORDERS)
        if result["cases"].keys() >= set(names):
            yield changes, names
