"""Spans of work in the format of Chrome's tracing, which Perfetto opens: ui.perfetto.dev."""

from collections.abc import Mapping, Sequence
from typing import Any

from roboshard.loader.spans import Span

MICROSECONDS = 1e6


def trace_events(
    spans: Sequence[Span], processes: Mapping[int, str], begin: float
) -> dict[str, Any]:
    """Return the JSON of a trace: one complete event for each span, and the names of all threads.

    Args:
        spans: of any processes of this machine, in any order.
        processes: how processes are called.
        begin: where time is 0, in seconds of `time.perf_counter`; a span from before begins there.
    """
    threads = {(span.process, span.thread): span.thread_name for span in spans}
    named = {process: processes.get(process, f"process {process}") for process, _ in threads}
    events = [_name("process_name", process, 0, name) for process, name in named.items()]
    events += [
        _name("thread_name", process, thread, name) for (process, thread), name in threads.items()
    ]
    # Where several begin at once, the one that holds the others comes first.
    for span in sorted(spans, key=lambda span: (span.begin, -span.end)):
        since = max(begin, span.begin)
        events.append(
            {
                "name": span.name,
                "cat": "roboshard",
                "ph": "X",
                "ts": round((since - begin) * MICROSECONDS, 3),
                "dur": round((span.end - since) * MICROSECONDS, 3),
                "pid": span.process,
                "tid": span.thread,
                "args": span.details,
            }
        )
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
