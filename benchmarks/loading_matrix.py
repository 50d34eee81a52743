"""The matrix of benchmarks/loading.py as rows and groups: one setting at a time away from the default."""

from typing import Any

from loading_cases import LIMITS, MATRIX, ORDERS, matrix_case

Result = dict[str, Any]

LIMIT = LIMITS["source"]


def matrix_rows(result: Result) -> dict[str, tuple[str, ...]]:
    """What is set -> the cases of it that were measured, one for each order."""
    rows = {}
    for setting, changes in MATRIX.items():
        if result["cases"].keys() >= set(cases_of(setting)):
            changed = [f"`{keyword}={value}`" for keyword, value in changes.items()]
            rows[", ".join(changed) or "the default"] = cases_of(setting)
    return rows


def matrix_groups(result: Result) -> dict[str, dict[str, tuple[str, ...]]]:
    """Keyword -> value -> cases, one for each order; of settings that change one keyword."""
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    measured = set(matrix_rows(result).values())
    for setting, changes in MATRIX.items():
        if len(changes) == 1 and cases_of(setting) in measured:
            ((keyword, value),) = changes.items()
            groups.setdefault(keyword, {})[str(value)] = cases_of(setting)
    return groups


def cases_of(setting: str) -> tuple[str, ...]:
    """Names of the cases of a setting, one for each order."""
    return tuple(matrix_case("source", order, setting) for order in ORDERS)
