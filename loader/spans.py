"""When each thread of a process did what, recorded while a trace is wanted and at no other time."""

import os
import threading
import time
from ctypes import c_byte
from typing import Any, NamedTuple

MAX_SPANS = 100_000
"""Spans of a process that are kept until they are taken, and of a whole trace."""


class Span(NamedTuple):
    """One piece of work of one thread."""

    name: str
    begin: float
    """When the work began, in seconds of `time.perf_counter`, which all processes of a machine
    share.
    """
    end: float
    process: int
    thread: int
    """The system's number of the thread."""
    thread_name: str
    details: dict[str, Any]
    """What the work was done to: plain values for JSON."""


class SpanRecorder:
    """Records spans of any number of threads, as long as its switch is on."""

    def __init__(self, switch: c_byte | None = None) -> None:
        """Record nothing before the switch is on.

        Args:
            switch: 0 is off; in memory shared with whoever turns it, where that is another
                process. None: one of its own.
        """
        self.switch = c_byte(0) if switch is None else switch
        self._spans: list[Span] = []
        self.num_left_out = 0
        """How many spans beyond `MAX_SPANS` were left out."""

    def add(self, name: str, begin: float, end: float | None = None, **details: Any) -> None:
        """Record what the calling thread has done.

        Args:
            name: what it was.
            begin: since when, in seconds of `time.perf_counter`.
            end: until when; None: until now.
            details: what it was done to.
        """
        if not self.switch.value:
            return
        if len(self._spans) >= MAX_SPANS:
            self.num_left_out += 1
            return
        thread = threading.current_thread()
        self._spans.append(
            Span(
                name=name,
                begin=begin,
                end=time.perf_counter() if end is None else end,
                process=os.getpid(),
                thread=thread.native_id or 0,
                thread_name=thread.name,
                details=details,
            )
        )

    def take(self) -> list[Span]:
        """Return what was recorded since the last time."""
        if not self._spans:
            return []
        taken, self._spans = self._spans, []
        return taken
