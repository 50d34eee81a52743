"""The side of a server that tests hold: it starts the server, in a process of its own or here, and
controls it.
"""

from __future__ import annotations

import base64
import http.client
import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from .core import FaultServer, Request
from .faults import Fault

_TESTS = Path(__file__).parents[2]
_MAIN = "import sys; from support.servers.remote import main; main(sys.argv[1])"


class Remote:
    """A running server.

    Its own process by default: its Python must not compete for the lock of the loader's.
    """

    server_class: type[FaultServer]

    def __init__(self, *, in_process: bool = False, **options: Any) -> None:
        self._in_process = in_process
        self._options = options
        self._server: FaultServer | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._control_port = 0

    def start(self) -> Self:
        if self._in_process:
            self._server = self.server_class(**self._options)
            self.port, self._control_port = self._server.port, self._server.control_port
            return self
        name = f"{self.server_class.__module__}:{self.server_class.__qualname__}"
        environment = os.environ | {"PYTHONPATH": str(_TESTS)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, json.dumps([name, self._options], default=str)],
            # closed when this process ends, however it ends: the server ends with it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"{name} did not start; its error is above")
        self.port, self._control_port = json.loads(line)
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # -- Control -----------------------------------------------------------------------------------

    def fault(
        self,
        kind: str,
        path_pattern: str = ".*",
        times: int | None = 1,
        *,
        after: int = 0,
        method: str | None = None,
        **args: Any,
    ) -> None:
        """Arm a fault of `faults.KINDS` for the paths in which the pattern is found: after `after`,
        `times` times.
        """
        if isinstance(args.get("content"), bytes):
            args["content"] = base64.b64encode(args["content"]).decode()
        Fault(
            kind, path_pattern, times, after, method, dict(args)
        )  # mistakes show here, in the test
        self.call(
            "arm",
            kind=kind,
            path_pattern=path_pattern,
            times=times,
            after=after,
            method=method,
            args=args,
        )

    def accept(self) -> None:
        """End a `refuse` that has no end of its own."""
        self.call("accept")

    def reset(self) -> None:
        """Forget faults, replacements and the log; latency and rate stay."""
        self.call("clear")

    def configure(self, **values: Any) -> None:
        """Set latency_s, bytes_per_second (per connection; None: no limit) or an option of the
        subclass.
        """
        self.call("configure", **values)

    @property
    def requests(self) -> list[Request]:
        return [Request(**entry) for entry in self.call("log_entries")]

    @property
    def bytes_sent(self) -> int:
        return sum(request.bytes_sent for request in self.requests)

    @property
    def armed(self) -> list[dict[str, Any]]:
        """Faults that have not struck (for the last time) yet: a test can tell that its fault was
        met.
        """
        answer: list[dict[str, Any]] = self.call("armed")
        return answer

    def call(self, name: str, **keywords: Any) -> Any:
        """Call a control of the server by name."""
        connection = http.client.HTTPConnection("127.0.0.1", self._control_port, timeout=120)
        try:
            connection.request(
                "POST", f"/{name}", json.dumps(keywords, default=str), {"Connection": "close"}
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{name}: {answer}")
        return answer


def main(configuration: str) -> None:
    """Run a server until the process that started it lets go of standard input."""
    name, options = json.loads(configuration)
    module, _, class_name = name.partition(":")
    server: FaultServer = getattr(importlib.import_module(module), class_name)(**options)
    sys.stdout.write(json.dumps([server.port, server.control_port]) + "\n")
    sys.stdout.flush()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    threading.Event().wait()
