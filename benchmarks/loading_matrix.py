"""The matrix of benchmarks/loading.py as rows and groups: one setting at a time away from the default."""

from typing import Any

from loading_cases import LIMITS, ROBOSHARD_KEYWORDS

Result = dict[str, Any]

LIMIT = LIMITS["source"]
ORDERS = ("sweep", "uniform")
NAMES = tuple(f"matrix_source_{order}_" for order in ORDERS)
"""How the cases' names begin."""


def matrix_rows(result: Result) -> dict[str, tuple[str, ...]]:
    """What is set -> the cases of it, one for each order."""
    settings = [name.removeprefix(NAMES[0]) for name in result["cases"] if name.startswith(NAMES[0])]
    rows = {}
    for setting in settings:
        changed = [f"`{keyword}={value}`" for keyword, value in changes(result, setting).items()]
        rows[", ".join(changed) or "the default"] = cases_of(setting)
    return rows


def matrix_groups(result: Result) -> dict[str, dict[str, tuple[str, ...]]]:
    """Keyword -> value -> cases, one for each order; of settings that change one keyword."""
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    for names in matrix_rows(result).values():
        changed = changes(result, names[0].removeprefix(NAMES[0]))
        if len(changed) == 1:
            ((keyword, value),) = changed.items()
            groups.setdefault(keyword, {})[str(value)] = names
    return groups


def cases_of(setting: str) -> tuple[str, ...]:
    """Names of the cases of a setting, one for each order."""
    return tuple(name + setting for name in NAMES)


def changes(result: Result, setting: str) -> dict[str, Any]:
    """Keywords of `make_loader` in which a setting differs from the default."""
    found, default = (result["cases"][cases_of(each)[0]]["settings"] for each in (setting, "default"))
    values = {each: found[each] for each in ROBOSHARD_KEYWORDS if found.get(each) != default.get(each)}
    return {each: tuple(value) if isinstance(value, list) else value for each, value in values.items()}
