"""The other loaders beside this one on the same frames, as a table: one row each, one column a kind
of video.
"""

from loading_cases import LIMITS, OTHERS, VIDEOS, WINDOW, peer_case
from pages.markdown import Result, table

LABELS = {
    "roboshard_sweep": "roboshard, `sweep`",
    "roboshard_uniform": "roboshard, `uniform`",
    "roboshard_uniform_float32": "roboshard, `uniform`, float32",
    "lerobot_0.6": "LeRobot 0.6.1",
    "lerobot_0.4_float32": "LeRobot 0.4.4, float32",
    "spdl": "SPDL 0.8, no rows",
    "energon": "Energon 7.4, no rows",
    "litdata": "litData 0.2.76, no rows",
}
COLUMNS = [(videos, window) for videos in VIDEOS for window in (1, WINDOW)]
KINDS = {"source": "a keyframe every other frame", "long_gop": "every 250"}


def peers_table(result: Result) -> str:
    """Table of frames/s, CPU time, and fetch and decode time of a frame, over all threads and
    workers.
    """
    limits = [cell(result, LIMITS[videos]) if window == 1 else "" for videos, window in COLUMNS]
    rows = [("the limit: torchcodec in order", *limits)]
    for name in OTHERS:
        cells = [cell(result, peer_case(videos, name, window)) for videos, window in COLUMNS]
        rows.append((LABELS[name], *cells))
    heads = [head(*column) for column in COLUMNS]
    return "\n\n".join(filter(None, (table(("", *heads), rows), failures(result))))


def head(videos: str, window: int) -> str:
    """Return the head of a column."""
    return KINDS[videos] + (f", windows of {window}" if window > 1 else "")


def failures(result: Result) -> str:
    """Return a list of the cases that failed, and why; empty where none did."""
    failed = result.get("failed", {})
    return "\n".join(
        f"- {LABELS[name]}, {head(videos, window)}: {failed[case]}"
        for name in OTHERS
        for videos, window in COLUMNS
        if (case := peer_case(videos, name, window)) in failed
    )


def cell(result: Result, case: str) -> str:
    """Return the cell of one case: frames/s; CPU milliseconds a frame, and those of fetching and
    decoding as far as they are told.
    """
    if case not in result["cases"]:
        return "failed" if case in result.get("failed", {}) else ""
    found = result["cases"][case]["median"]
    frames = found["frames"]
    parts = [
        f"{1000 * found[key] / frames:.2f} {key.removesuffix('_s')}"
        for key in ("fetch_s", "decode_s")
        if key in found
    ]
    costs = ", ".join([f"{found['cpu_ms_per_frame']:.2f} CPU", *parts])
    return f"{found['frames_per_s']:,.0f} ({costs})"
