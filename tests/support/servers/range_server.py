"""An HTTP server of a folder that answers ranges, simulates a slow line, and misbehaves on
command.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from .core import Content, Exchange, FaultServer
from .remote import Remote

_HASHED_WHOLE = 1 << 24


class RangeServerProcess(FaultServer):
    """GET and HEAD of the files below a folder. ETags follow the content."""

    CONTROLS = (*FaultServer.CONTROLS, "serve")

    def __init__(self, folder: str, **options: Any) -> None:
        self._folder = Path(folder).resolve()
        self._etags: dict[tuple[str, int, int], str] = {}
        super().__init__(**options)

    def serve(self, folder: str) -> None:
        self._folder = Path(folder).resolve()

    def respond(self, exchange: Exchange) -> None:
        path = (self._folder / exchange.route.lstrip("/")).resolve()
        if exchange.command not in ("GET", "HEAD"):
            exchange.reply(405)
        elif not path.is_relative_to(self._folder) or not path.is_file():
            exchange.reply(404, b"no such file")
        else:
            exchange.reply_object(Content(exchange.route, path, self._etag_of(path)))

    def _etag_of(self, path: Path) -> str:
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size)
        if key not in self._etags:
            self._etags[key] = _etag(path, stat)
        return self._etags[key]


def _etag(path: Path, stat: os.stat_result) -> str:
    """A hash of the content; of a large file its start and time, as reading it all would delay the
    first request.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if stat.st_size <= _HASHED_WHOLE:
            digest.update(file.read())
        else:
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode() + file.read(1 << 16))
    return digest.hexdigest()[:32]


class RangeServer(Remote):
    """A folder at `.url`.

    with RangeServer(folder, latency_s=0.05, bytes_per_second=100e6) as server:
        server.fault("truncate", r"shard-0\\.tar", after_bytes=1000)
        ... read f"{server.url}/shard-0.tar" ...
        assert server.bytes_sent < 5_000_000
    """

    server_class = RangeServerProcess

    def __init__(
        self,
        folder: Path | str,
        *,
        latency_s: float = 0.0,
        bytes_per_second: float | None = None,
        in_process: bool = False,
    ) -> None:
        super().__init__(
            in_process=in_process,
            folder=str(folder),
            latency_s=latency_s,
            bytes_per_second=bytes_per_second,
        )

    def serve(self, folder: Path | str) -> None:
        """Serve another folder from now on."""
        self.call("serve", folder=str(folder))
