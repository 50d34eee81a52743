"""What a server can be told to do wrong, and to which requests."""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Stage = Literal["request", "reply", "object"]
"""When a fault strikes: before the request is looked at, as any 200 or 206 is sent, or as stored
bytes are sent.
"""

KINDS: dict[str, dict[str, Any]] = {
    # kind: its arguments and their defaults
    "refuse": {
        "seconds": None
    },  # acts at once and on the whole server: nobody listens; None is until `accept()`
    "drop": {},  # RST before the request is looked at: it has no effect
    "status": {"code": 503, "retry_after": None},
    "redirect": {
        "host": "localhost",
        "uses": None,
        "seconds": None,
    },  # 403 after so many uses or seconds
    "redirect_loop": {},
    "stall": {"seconds": 30.0, "after_bytes": None},  # None is before the headers
    "reset": {"after_bytes": 0},  # RST in the body; what was asked has been done
    "truncate": {"after_bytes": 0},  # close in the body, under the right Content-Length
    "wrong_bytes": {"at": None},  # one byte of the body flipped; None is the middle one
    "ignore_range": {},  # 200 and all of it
    "wrong_range": {"shift": 1},  # 206 with bytes of another place, which Content-Range admits
    "wrong_header": {"shift": 1},  # 206 with the right bytes and a Content-Range of another place
    "short_total": {"by": -1},  # Content-Range gives the object another size
    "gzip": {},  # Content-Encoding although nobody asked
    "replace": {
        "content": None,
        "after_bytes": None,
    },  # another object from here on; after_bytes: from mid-body on
}
_REQUEST = {"drop", "status", "redirect", "redirect_loop"}
_REPLY = {"reset", "truncate"}
_NEEDS_RANGE = {"ignore_range", "wrong_range", "wrong_header", "short_total"}


@dataclass
class Fault:
    """One armed fault.

    It skips `after` requests that fit, then strikes `times` of them (None: all).
    """

    kind: str
    path_pattern: str = ".*"
    times: int | None = 1
    after: int = 0
    method: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault {self.kind!r}; there are {', '.join(KINDS)}")
        if unknown := self.args.keys() - KINDS[self.kind].keys():
            raise ValueError(f"fault {self.kind!r} has no argument {', '.join(unknown)}")
        self.args = KINDS[self.kind] | self.args

    @property
    def stage(self) -> Stage:
        if self.kind in _REQUEST or (self.kind == "stall" and self.args["after_bytes"] is None):
            return "request"
        return "reply" if self.kind in _REPLY or self.kind == "stall" else "object"

    def fits(self, stage: Stage, method: str, path: str, ranged: bool) -> bool:
        """Whether it concerns this request: a HEAD never uses up a fault of bodies, nor a link a
        redirect.
        """
        return (
            stage == self.stage
            and (self.method or method) == method
            and (stage == "request" or method != "HEAD")
            and (ranged or self.kind not in _NEEDS_RANGE)
            and not (self.kind == "redirect" and path.startswith("/__link/"))
            and re.search(self.path_pattern, path) is not None
        )


class FaultPlan:
    """The armed faults, for the threads of one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        with self._lock:
            self._armed.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._armed.clear()

    def armed(self) -> list[dict[str, Any]]:
        """What has not struck yet, or not for the last time."""
        with self._lock:
            return [asdict(fault) for fault in self._armed]

    def take(self, stage: Stage, method: str, path: str, ranged: bool) -> Fault | None:
        """The first fault that strikes here, counted as having struck."""
        with self._lock:
            for fault in self._armed:
                if not fault.fits(stage, method, path, ranged):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._armed.remove(fault)
                return fault
        return None
