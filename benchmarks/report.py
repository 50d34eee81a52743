"""What every benchmark prints: its result as JSON, with the command and the machine that made
it.
"""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import psutil


def print_result(name: str, values: dict[str, Any], output: Path | None) -> None:
    """Print the result, and write it to `output` if given."""
    memory = f"{psutil.virtual_memory().total >> 30} GiB"
    cores = f"{psutil.cpu_count()} cores"
    result = {
        "benchmark": name,
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {cores}, {memory}, Python {platform.python_version()}",
        **values,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")
