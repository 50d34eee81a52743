"""Options of a command from a file, as if they stood on the command line."""

import json
import tomllib
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import yaml

from roboshard.shards import MissingError, OptionError

CONFIG_HELP = (
    "`--config FILE` reads options from a YAML, JSON or TOML file; they have the flags' names."
)


def with_config_file(arguments: Sequence[str], names: Set[str]) -> list[str]:
    """Return the arguments, with those of the file that `--config` names in its place.

    A flag beats the file. SOURCE or DESTINATION from the file stand where they would be on the
    command line.

    Args:
        arguments: The arguments of the command.
        names: The options that the command has.

    Raises:
        OptionError, MissingError: The file is missing, unreadable, or has a key that is no option.
    """
    path, rest = _take_config_flag(list(arguments))
    values = read_config_file(path, names) if path else {}
    before, after = (
        [str(values.pop(name))] if name in values else [] for name in ("source", "destination")
    )
    return [*before, *_as_flags(values), *rest, *after]


def read_config_file(path: Path, names: Set[str]) -> dict[str, Any]:
    """Return options by field name from a YAML, JSON or TOML file.

    Args:
        path: The file.
        names: The options that the command has.

    Raises:
        OptionError, MissingError: as `with_config_file`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: unreadable: {error}") from None
    parsers: dict[str, Callable[[str], Any]] = {
        ".json": json.loads,
        ".toml": tomllib.loads,
        ".yaml": _read_yaml,
        ".yml": _read_yaml,
    }
    if path.suffix not in parsers:
        raise OptionError(f"{path}: the name must end in .yaml, .yml, .json or .toml")
    try:
        values = parsers[path.suffix](text) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise OptionError(f"{path}: not valid {path.suffix[1:]}: {error}") from None
    if not isinstance(values, dict):
        raise OptionError(f"{path}: must hold options by name")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    unknown = sorted(set(values) - names)
    if unknown:
        raise OptionError(
            f"{path}: no such option: {', '.join(unknown)}; there are {', '.join(sorted(names))}"
        )
    return values


class _TextLoader(yaml.SafeLoader):
    """Reads numbers as the text that they are, to be read as a flag's would be: to YAML, 1:50 is
    110.
    """


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":bool", ":null"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _TextLoader)  # noqa: S506 - a SafeLoader


def _as_flags(values: dict[str, Any]) -> list[str]:
    """Return options of a file as they would stand on the command line, where a later flag beats an
    earlier one.
    """
    flags: list[str] = []
    # Those with several values first: the last one would take what follows it for one more.
    in_order = sorted(values.items(), key=lambda item: not isinstance(item[1], list))
    for name, value in in_order:
        if isinstance(value, bool):
            flags += [f"--{name.replace('_', '-')}"] * value
        elif isinstance(value, list):
            flag, texts = f"--{name.replace('_', '-')}", [str(item) for item in value]
            if name == "tasks":  # a text may hold any character
                flags += [part for text in texts for part in (flag, text)]
            else:
                flags += [flag, *(texts if name == "size" else [",".join(texts)])]
        elif value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def _take_config_flag(arguments: list[str]) -> tuple[Path | None, list[str]]:
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config=")), arguments[:i] + arguments[i + 1 :]
        if argument == "--config":
            if i + 1 == len(arguments):
                raise OptionError("--config needs a file")
            return Path(arguments[i + 1]), arguments[:i] + arguments[i + 2 :]
    return None, arguments
