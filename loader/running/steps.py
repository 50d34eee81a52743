"""What the user's loop does: it waits for batches and works on them. And traces of its steps."""

import os
import time
import warnings
from ctypes import c_byte
from multiprocessing import get_context
from pathlib import Path

from roboshard import storage
from roboshard.common import jsonio
from roboshard.common.errors import OptionError, StorageError
from roboshard.common.option_values import whole_number
from roboshard.loader.running.trace import trace_events
from roboshard.loader.spans import MAX_SPANS, Span
from roboshard.loader.stats import StatsCounter


class UserSteps:
    """Counts the user's waiting and working, and writes the trace that was asked for."""

    def __init__(self, counter: StatsCounter, rank: int | None) -> None:
        """Trace nothing yet. `rank`: the rank of this process; None: there is but one."""
        self._counter = counter
        self._rank = rank
        self._asked = 0.0
        self._given: float | None = None  # when the batch came that the user works on
        self._step = 0
        self._trace: _Trace | None = None
        self._switch_of_workers: c_byte | None = None

    def trace(self, path: Path, *, num_steps: int, skip: int) -> None:
        """Record the coming steps but for the first `skip`, and write them to a file.

        Raises:
            OptionError: such steps, or such a file, cannot be.
        """
        num_steps, skip = whole_number("steps", num_steps), whole_number("skip", skip)
        if num_steps < 1 or skip < 0:
            raise OptionError(
                f"trace: steps must be at least 1 and skip at least 0, not {num_steps} and {skip}"
            )
        if not path.parent.is_dir() or path.is_dir():
            raise OptionError(f"trace: {path} must be a file in a folder that there is")
        if self._rank is not None:
            path = path.with_name(f"{path.stem}.rank{self._rank}{path.suffix}")
        self._turn(on=False)
        self._trace = _Trace(path, num_steps, skip)

    def take_over(self, other: "UserSteps") -> None:
        """Go on with the trace that another loader was asked for, in whose place this one comes."""
        self._trace, other._trace = other._trace, None

    def switch_of_workers(self) -> c_byte:
        """Return what turns the recorders of worker processes on and off."""
        if self._switch_of_workers is None:
            switch = self._counter.spans.switch
            self._switch_of_workers = get_context("spawn").RawValue(c_byte, switch.value)
        return self._switch_of_workers

    def ask(self) -> None:
        """Count that the user asks for a batch."""
        self._asked = time.perf_counter()
        if self._given is not None:
            self._counter.add(step_seconds=self._asked - self._given)
            self._counter.spans.add("step", self._given, self._asked, step=self._step)
            self._given = None
        trace = self._trace
        if trace is not None and trace.steps_left == 0:
            self._write(trace)
        elif trace is not None and trace.skip == 0 and not self._counter.spans.switch.value:
            trace.begin = self._asked if trace.begin is None else trace.begin
            self._turn(on=True)

    def give(self, epoch: int, step: int, num_samples: int) -> None:
        """Count that the user is given a batch."""
        self._given = time.perf_counter()
        self._step = step
        self._counter.add(wait_seconds=self._given - self._asked, batches=1, samples=num_samples)
        self._counter.spans.add("wait", self._asked, self._given, epoch=epoch, step=step)
        if self._trace is not None:
            self._trace.count()

    def collect(self, worker: int, spans: list[Span]) -> None:
        """Keep the spans that came from a worker."""
        if self._trace is not None and spans:
            self._trace.workers[spans[0].process] = worker
            self._trace.add(spans)

    def end(self) -> None:
        """Stop counting until a batch is asked for again; what there is of a trace is written."""
        self._given = None
        if self._trace is not None:
            self._write(self._trace)

    def _turn(self, *, on: bool) -> None:
        self._counter.spans.switch.value = on
        if self._switch_of_workers is not None:
            self._switch_of_workers.value = on
        if not on:
            self._counter.spans.take()  # what nobody wants any more
            self._counter.spans.num_left_out = 0

    def _write(self, trace: "_Trace") -> None:
        """Write a trace, if there is anything new; one that has all its steps is over.

        A full disk does not end a training.
        """
        trace.add(self._counter.spans.take())
        is_over, has_more = trace.steps_left == 0, len(trace.spans) > trace.num_written
        if trace.begin is None or not (is_over or has_more):
            return
        of_rank = "" if self._rank is None else f"rank {self._rank}"
        names = {os.getpid(): of_rank or "training"}
        for process, worker in trace.workers.items():
            names[process] = f"{of_rank} worker {worker}".strip()
        value = trace_events(trace.spans, names, trace.begin)
        value["otherData"] = {
            "spans_left_out": trace.num_left_out + self._counter.spans.num_left_out
        }
        try:
            storage.write_bytes(trace.path, jsonio.dump(value))
        except StorageError as error:
            warnings.warn(f"the trace is lost: {error}", RuntimeWarning, stacklevel=2)
        trace.num_written = len(trace.spans)
        if is_over:
            self._trace = None
            self._turn(on=False)


class _Trace:
    """A trace that is wanted, and what there is of it."""

    def __init__(self, path: Path, num_steps: int, skip: int) -> None:
        self.path = path
        self.steps_left = num_steps
        self.skip = skip
        self.begin: float | None = None
        self.workers: dict[int, int] = {}
        """Process -> number of its worker."""
        self.spans: list[Span] = []
        self.num_left_out = 0
        self.num_written = 0

    def count(self) -> None:
        """Count one more batch that the user was given."""
        if self.begin is None:
            self.skip = max(0, self.skip - 1)
        else:
            self.steps_left = max(0, self.steps_left - 1)

    def add(self, spans: list[Span]) -> None:
        """Keep spans, as many as there is room for, without those from before the trace."""
        begin = self.begin
        if begin is not None:
            spans = [span for span in spans if span.end > begin]
            room = MAX_SPANS - len(self.spans)
            self.spans += spans[:room]
            self.num_left_out += len(spans[room:])
