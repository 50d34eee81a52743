"""Put the results of several runs of loading.py together, as a cluster's array job leaves them.

    python benchmarks/loading_collect.py --folder RESULTS --output FILE

Each file keeps its machine and the limit that was measured beside its case, so that no number is
compared with one of another node.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from report import print_result

Result = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Collect results of loading.py."""

    folder: Path
    """Folder that holds the JSON files of loading.py."""
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Read, put together, print."""
    options = tyro.cli(Options)
    results = {
        path.stem: json.loads(path.read_text()) for path in sorted(options.folder.glob("*.json"))
    }
    if not results:
        raise SystemExit(f"{options.folder}: holds no results")
    ratios = {
        name: ratio for result in results.values() for name, ratio in result["ratios"].items()
    }
    failed = {
        name: text for result in results.values() for name, text in result.get("failed", {}).items()
    }
    print_result(
        "loading_matrix", {"ratios": ratios, "failed": failed, "results": results}, options.output
    )


if __name__ == "__main__":
    main()
