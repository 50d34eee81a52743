"""A threaded HTTP/1.1 server that paces, logs and misbehaves; what it serves is up to a subclass.

Stored bytes go from the page cache to the socket (sendfile), in slices of 10 ms when a rate is set:
several connections at 100 MB/s cost a small part of a core, so a benchmark measures the loader and
not the server.
"""

from __future__ import annotations

import array
import base64
import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import socket
import struct
import sys
import termios
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .faults import Fault, FaultPlan, Stage

_SLICE_S = 0.01
_FLIP = bytes(byte ^ 0x5A for byte in range(256))


@dataclass
class Request:
    """One line of the log. `bytes_sent` counts the body only and grows while it is being sent."""

    method: str
    path: str
    host: str
    range: str | None
    authorized: bool
    status: int | None = None
    bytes_sent: int = 0
    fault: str | None = None
    started: float = 0.0  # time.time()
    seconds: float | None = None  # None while it is being answered
    connection: int = 0  # which TCP connection of the server


@dataclass(frozen=True)
class Content:
    """Stored bytes, in a file or in memory. `key` names the object whatever it holds."""

    key: str
    source: Path | bytes
    etag: str

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()

    @classmethod
    def of_bytes(cls, key: str, data: bytes) -> Content:
        return cls(key, data, hashlib.sha256(data).hexdigest()[:32])


class _Cut(Exception):
    """The connection has been ended on purpose."""


class Exchange(BaseHTTPRequestHandler):
    """Answers the requests of one connection.

    A subclass of FaultServer answers each of its requests by `reply` or `reply_object`.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultServer  # type: ignore[assignment]

    def _answer(self) -> None:
        self.url = urlsplit(self.path)
        self.route = unquote(self.url.path)
        self.query = dict(parse_qsl(self.url.query))
        self.body = self._read_body()
        self.record = Request(
            self.command,
            self.path,
            self.headers.get("Host", ""),
            self.headers.get("Range"),
            "Authorization" in self.headers,
            started=time.time(),
            connection=id(self.connection),
        )
        self.server.log.append(self.record)
        try:
            if not self._struck_early(self._take("request")):
                self.server.respond(self)
        except (_Cut, ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:  # noqa: BLE001 - a bug in a test server is to be seen on both sides
            traceback.print_exc(file=sys.stderr)
            self.close_connection = True
            if self.record.status is None:
                self.reply(500, {"error": traceback.format_exc(limit=-1)})
        finally:
            self.record.seconds = time.time() - self.record.started

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing on stderr: the log is asked for."""

    def json(self) -> Any:
        return json.loads(self.body or b"null")

    # -- Answers -----------------------------------------------------------------------------------

    def reply(
        self, status: int, body: Any = b"", headers: Mapping[str, str | int] | None = None
    ) -> None:
        """Answer with bytes, or with anything else as JSON."""
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fault = self._take("reply") if status in (200, 206) else None
        self._send(status, {"Content-Type": kind} | dict(headers or {}), data, 0, len(data), fault)

    def reply_object(
        self, content: Content, headers: Mapping[str, str | int] | None = None
    ) -> None:
        """Answer with stored bytes, or the range of them that was asked for."""
        content = self.server.replaced.get(content.key, content)
        fault = self._take("object") or self._take("reply")
        args = fault.args if fault else {}
        kind = fault.kind if fault else None
        old = content
        if kind == "replace":
            content = self._replacement(old, args["content"])
            self.server.replaced[old.key] = content
            if args["after_bytes"] is None:
                old = content
        size, etag = old.size, f'"{old.etag}"'
        out = {
            "Content-Type": "application/octet-stream",
            "ETag": etag,
            "Accept-Ranges": "bytes",
        } | dict(headers or {})
        if self.headers.get("If-Match", etag) not in (etag, "*"):
            return self._send(412, out, b"", 0, 0, None)
        span = self._asked_range(size) if self.headers.get("If-Range", etag) == etag else None
        if span is not None and span[0] >= size:
            return self._send(416, out | {"Content-Range": f"bytes */{size}"}, b"", 0, 0, None)
        if kind == "ignore_range":
            span = None
        status, (first, end) = (200, (0, size)) if span is None else (206, span)
        if status == 206:
            told, told_size = first, size + (args["by"] if kind == "short_total" else 0)
            if kind in ("wrong_range", "wrong_header"):
                told = first + args["shift"]
            if kind == "wrong_range":
                length = min(end - first, size - 1)
                first = told = (
                    told
                    if 0 <= told <= size - length
                    else (first - args["shift"]) % (size - length + 1)
                )
                end = first + length
            out["Content-Range"] = f"bytes {told}-{told + end - first - 1}/{told_size}"
        source = old.source
        if kind == "replace" and args["after_bytes"] is not None:
            torn = first + args["after_bytes"]
            source = old.read()[:torn] + content.read()[torn:].ljust(max(0, size - torn), b"\0")
        if kind == "wrong_bytes" and end > first:
            data = bytearray(old.read()[first:end])
            at = (end - first) // 2 if args["at"] is None else min(args["at"], end - first - 1)
            data[at] ^= 0xFF
            source, first, end = bytes(data), 0, end - first
        if kind == "gzip":
            source = gzip.compress(old.read()[first:end], 1)
            out["Content-Encoding"] = "gzip"
            first, end = 0, len(source)
        self._send(status, out, source, first, end, fault)
        return None

    def redirect(
        self, status: int, location: str, headers: Mapping[str, str | int] | None = None
    ) -> None:
        self.reply(status, b"", dict(headers or {}) | {"Location": location})

    # -- Sending -----------------------------------------------------------------------------------

    def _send(
        self,
        status: int,
        headers: Mapping[str, str | int],
        source: Path | bytes,
        first: int,
        end: int,
        fault: Fault | None,
    ) -> None:
        self.server.wait(self.server.latency_s)
        self.record.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.kind not in ("reset", "truncate", "stall"):
            self._send_body(source, first, end)
            return
        middle = min(first + fault.args["after_bytes"], end)
        self._send_body(source, first, middle)
        if fault.kind == "stall":
            self.server.wait(fault.args["seconds"])
            self._send_body(source, middle, end)
        else:
            self._cut(reset=fault.kind == "reset")

    def _send_body(self, source: Path | bytes, first: int, end: int) -> None:
        """Send bytes [first, end) at the server's rate."""
        with contextlib.ExitStack() as stack:
            file = (
                memoryview(source)
                if isinstance(source, bytes)
                else stack.enter_context(source.open("rb"))
            )
            rate = self.server.bytes_per_second
            most = max(1 << 14, int(rate * _SLICE_S)) if rate else 1 << 22
            begun, at = time.monotonic(), first
            while at < end:
                count = min(most, end - at)
                if isinstance(file, memoryview):
                    sent = self.connection.send(file[at : at + count])
                else:
                    sent = os.sendfile(self.connection.fileno(), file.fileno(), at, count)
                    if sent == 0:
                        raise EOFError(f"{self.path} has shrunk")
                at += sent
                self.record.bytes_sent += sent
                if rate:
                    self.server.wait(begun + (at - first) / rate - time.monotonic())

    def _cut(self, reset: bool) -> None:
        """End the connection, after what was sent has reached the other side's kernel."""
        waiting = array.array("i", [1])
        deadline = time.monotonic() + 2
        while reset and time.monotonic() < deadline:
            fcntl.ioctl(self.connection.fileno(), termios.TIOCOUTQ, waiting)
            if waiting[0] == 0:
                break
            time.sleep(0.001)
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Cut

    def _take(self, stage: Stage) -> Fault | None:
        fault = self.server.plan.take(stage, self.command, self.route, "Range" in self.headers)
        if fault is not None:
            self.record.fault = fault.kind
        return fault

    def _struck_early(self, fault: Fault | None) -> bool:
        """Let a fault of the whole request happen; True when that was the answer."""
        if fault is None:
            return self.route.startswith("/__link/") and self._link_expired()
        args = fault.args
        if fault.kind == "drop":
            self._cut(reset=True)
        if fault.kind == "stall":
            self.server.wait(args["seconds"])
            return False
        if fault.kind == "status":
            after = {} if args["retry_after"] is None else {"Retry-After": args["retry_after"]}
            self.reply(args["code"], {"error": "told to fail"}, after)
        elif fault.kind == "redirect":
            location = self.server.make_link(args["host"], self.path, args["uses"], args["seconds"])
            self.redirect(302, location)
        else:
            self.redirect(302, self.path)
        return True

    def _link_expired(self) -> bool:
        """Take a link's prefix off the path, or answer 403 when it is used up."""
        _, _, name, path = self.path.split("/", 3)
        if not self.server.use_link(name):
            self.reply(
                403,
                b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
            )
            return True
        self.url = urlsplit("/" + path)
        self.route = unquote(self.url.path)
        return False

    @staticmethod
    def _replacement(old: Content, content: str | None) -> Content:
        return Content.of_bytes(
            old.key, old.read().translate(_FLIP) if content is None else base64.b64decode(content)
        )

    def _asked_range(self, size: int) -> tuple[int, int] | None:
        """[first, end) of a single byte range; None where the header says nothing or nothing this
        server can do.
        """
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if match is None or match[0] == "bytes=-":
            return None
        if not match[1]:
            return max(0, size - int(match[2])), size
        first, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        return (first, end) if first < max(end, first + (not match[2])) or first >= size else None

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while length := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)


class FaultServer:
    """The server itself, in the process that runs it. Tests hold a `Remote`, which controls one."""

    CONTROLS: tuple[str, ...] = ("arm", "clear", "accept", "configure", "log_entries", "armed")

    def __init__(self, latency_s: float = 0.0, bytes_per_second: float | None = None) -> None:
        self.latency_s = latency_s
        self.bytes_per_second = bytes_per_second
        self.plan = FaultPlan()
        self.log: list[Request] = []
        self.replaced: dict[str, Content] = {}
        self._links: dict[str, list[float]] = {}  # name: uses left, end of its life
        self._timers: list[threading.Timer] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._connections: set[socket.socket] = set()
        # Bound, never listening: it keeps the port while connections are refused.
        self._holder = self._bound(0)
        self.port: int = self._holder.getsockname()[1]
        self._listener: socket.socket | None = None
        self._control = self._bound(0)
        self.control_port: int = self._control.getsockname()[1]
        self._control.listen(64)
        self._accept_on(self._control, _ControlExchange)
        self.accept()

    def respond(self, exchange: Exchange) -> None:
        """Answer one request; a subclass says how."""
        raise NotImplementedError

    # -- What tests may call, by name --------------------------------------------------------------

    def arm(self, **fault: Any) -> None:
        armed = Fault(**fault)
        if armed.kind == "refuse":
            self._refuse(armed.args["seconds"])
        else:
            self.plan.arm(armed)

    def armed(self) -> list[dict[str, Any]]:
        return self.plan.armed()

    def clear(self) -> None:
        """Forget faults, replacements and the log; let connections be accepted."""
        self.plan.clear()
        self.replaced.clear()
        self._links.clear()
        self.log = []
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.accept()

    def configure(self, **values: Any) -> None:
        for name, value in values.items():
            if not hasattr(self, name) or name.startswith("_") or callable(getattr(self, name)):
                raise ValueError(f"nothing to set called {name!r}")
            setattr(self, name, value)

    def log_entries(self) -> list[dict[str, Any]]:
        """The log, once answers that have arrived are counted: a client can be quicker than the
        count.
        """
        deadline = time.monotonic() + 0.25
        while (
            any(record.seconds is None for record in list(self.log)) and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        return [asdict(record) for record in list(self.log)]

    def accept(self) -> None:
        """Listen, if connections are being refused."""
        with self._lock:
            if self._listener is not None or self._stop.is_set():
                return
            self._listener = self._bound(self.port)
            self._listener.listen(512)
            self._accept_on(self._listener, Exchange)

    # -- Life --------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Sleep, unless the server is being stopped."""
        if seconds > 0 and self._stop.wait(seconds):
            raise _Cut

    def close(self) -> None:
        self._stop.set()
        self._refuse(None)
        for server in (self._control, self._holder):
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()

    def make_link(self, host: str, path: str, uses: int | None, seconds: float | None) -> str:
        name = uuid.uuid4().hex
        with self._lock:
            self._links[name] = [
                float("inf") if uses is None else uses,
                float("inf") if seconds is None else time.monotonic() + seconds,
            ]
        return f"http://{host}:{self.port}/__link/{name}{path}"

    def use_link(self, name: str) -> bool:
        with self._lock:
            link = self._links.get(name)
            if link is None or link[0] <= 0 or link[1] <= time.monotonic():
                return False
            link[0] -= 1
            return True

    @staticmethod
    def _bound(port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("127.0.0.1", port))
        return made

    def _refuse(self, seconds: float | None) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            open_now = list(self._connections)
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(
                    socket.SHUT_RDWR
                )  # wakes the thread in accept(); close() alone would not
            listener.close()
        for connection in open_now:  # keep-alive connections would go on being served
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if seconds is not None:
            timer = threading.Timer(seconds, self.accept)
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def _accept_on(self, listener: socket.socket, handler: Callable[..., Any]) -> None:
        def serve(connection: socket.socket, address: Any) -> None:
            with self._lock:
                if handler is Exchange:
                    self._connections.add(connection)
            try:
                with contextlib.suppress(OSError):
                    handler(connection, address, self)
            finally:
                with self._lock:
                    self._connections.discard(connection)
                connection.close()

        def loop() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection, address), daemon=True).start()

        threading.Thread(target=loop, daemon=True).start()


class _ControlExchange(BaseHTTPRequestHandler):
    """POST /<method> with its keywords as JSON, on a port of its own: faults never touch it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultServer  # type: ignore[assignment]

    def do_POST(self) -> None:
        name = self.path.strip("/")
        keywords = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if name not in self.server.CONTROLS:
                raise ValueError(f"no control {name!r}")
            status, answer = 200, getattr(self.server, name)(**keywords)
        except Exception as error:  # noqa: BLE001 - raised again at the caller
            status, answer = 500, f"{type(error).__name__}: {error}"
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing on stderr."""
