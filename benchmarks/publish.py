"""Put what the benchmarks printed into the pages: tables between markers, and charts.

    python benchmarks/publish.py

Reads benchmarks/results/*.json. A page holds `<!-- NAME -->` … `<!-- /NAME -->`; what is between
them is made here, by the function of benchmarks/pages that `render_blocks` names.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from pages.conversion import conversion_table, draw_conversion
from pages.loading import loading_table, matrix_table
from pages.loading_chart import draw_loading, draw_matrix
from pages.markdown import Result, provenance
from pages.peers import peers_table
from pages.running import (
    consumer_table,
    frame_cache_table,
    profile_table,
    remote_table,
    resume_table,
    steady_table,
)
from pages.scale import (
    many_datasets_table,
    many_episodes_table,
    memory_table,
    open_scale_table,
    plan_table,
    remote_warm_table,
    worker_cost_table,
    worker_start_table,
)
from pages.shuffle import draw_shuffle, shuffle_table

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))


def main() -> None:
    """Fill the pages, draw the chart."""
    blocks = render_blocks()
    for page in PAGES:
        page.write_text(fill(page.read_text(), blocks))
    pictures = PROJECT / "docs" / "pictures"
    draw_conversion(load("conversion"), pictures / "conversion.png")
    draw_loading(load("loading"), pictures / "loading.png")
    draw_matrix(load("matrix"), pictures / "matrix.png")
    draw_shuffle(load("shuffle_quality"), pictures / "shuffle.png")


def render_blocks() -> dict[str, str]:
    """Block name -> Markdown, of what has been measured."""
    makers: dict[str, Callable[[Result], str]] = {
        "conversion": conversion_table,
        "loading": loading_table,
        "loading_256x256": loading_table,
        "loading_96x96": loading_table,
        "loading_many": loading_table,
        "long_gop": loading_table,
        "peers_480x640": peers_table,
        "peers_256x256": peers_table,
        "peers_96x96": peers_table,
        "matrix": matrix_table,
        "consumer": consumer_table,
        "steady": steady_table,
        "plan_scale": plan_table,
        "many_datasets": many_datasets_table,
        "shuffle_quality": shuffle_table,
        "frame_cache": frame_cache_table,
        "resume_cost": resume_table,
        "remote": remote_table,
        "profile_loading": profile_table,
        "memory": memory_table,
        "many_episodes": many_episodes_table,
        "worker_cost": worker_cost_table,
        "worker_start": worker_start_table,
        "open_scale": open_scale_table,
        "remote_warm": remote_warm_table,
    }
    results = {name: load(name) for name in makers if result_file(name).exists()}
    return {
        name: f"{makers[name](result)}\n\n{provenance(result)}" for name, result in results.items()
    }


def fill(page: str, blocks: dict[str, str]) -> str:
    """The page with every block that it has filled anew."""
    for name, text in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = pattern.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)
    return page


def load(name: str) -> Result:
    """Return the result of a benchmark."""
    result: Result = json.loads(result_file(name).read_text())
    return result


def result_file(name: str) -> Path:
    """Return where a benchmark leaves its result."""
    return RESULTS / f"{name}.json"


if __name__ == "__main__":
    main()
