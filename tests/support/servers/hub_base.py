"""What the Hub's routes share: tokens, pages, redirects to the storage host, and the storage host
itself.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from .core import Content, Exchange, FaultServer
from .xet_store import XetStore

Handler = Callable[..., None]
_SECRET = b"signs links"


def route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Mark a method as the answer to requests whose unquoted path fits; HEAD goes where GET
    goes.
    """

    def mark(handler: Handler) -> Handler:
        handler.route = (method, re.compile(pattern))  # type: ignore[attr-defined]
        return handler

    return mark


def now_ms() -> int:
    return int(time.time() * 1000)


def iso(milliseconds: int) -> str:
    return (
        datetime.fromtimestamp(milliseconds / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


class HubBase(FaultServer):
    """Names are of two hosts, as on the real Hub: 127.0.0.1 knows tokens, localhost serves signed
    links.
    """

    def __init__(
        self, root: str, user: str, tokens: Mapping[str, str], page_size: int = 1000, **options: Any
    ) -> None:
        self.user = user
        self.tokens = dict(tokens)  # token: "write", "read", or "none" for a stranger's
        self.page_size = page_size
        self.link_seconds = 3600.0
        self.link_uses: int | None = None
        self.refusals: list[dict[str, Any]] = []
        self.lock = threading.RLock()
        self.store = XetStore(Path(root))
        self._uses: dict[str, int] = {}
        self._routes = [
            (*handler.route, name)
            for name in dir(type(self))
            if hasattr(handler := getattr(type(self), name), "route")
        ]
        super().__init__(**options)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def respond(self, exchange: Exchange) -> None:
        method = "GET" if exchange.command == "HEAD" else exchange.command
        for verb, pattern, name in self._routes:
            if verb == method and (match := pattern.fullmatch(exchange.route)):
                getattr(self, name)(exchange, *match.groups())
                return
        exchange.reply(404, {"error": f"this Hub has no route {method} {exchange.route}"})

    # -- Answers that routes share -----------------------------------------------------------------

    def denied(self, exchange: Exchange, private: bool, write: bool) -> bool:
        """Whether the request was refused, for want of the right token."""
        header = exchange.headers.get("Authorization")
        right = self.tokens.get((header or "").removeprefix("Bearer "))
        if header is not None and right is None:
            message = "Invalid credentials in Authorization header"
            exchange.reply(401, {"error": message}, {"X-Error-Message": message})
        elif header is None and private:  # nobody shall learn that it exists
            self.not_found(exchange, "RepoNotFound", "Repository not found", status=401)
        elif header is None and write:
            message = "Invalid username or password."
            exchange.reply(401, {"error": message}, {"X-Error-Message": message})
        elif (write and right != "write") or (private and right == "none"):
            message = "Forbidden: you do not have the required permissions."
            exchange.reply(403, {"error": message}, {"X-Error-Message": message})
        else:
            return False
        return True

    def not_found(
        self,
        exchange: Exchange,
        code: str,
        message: str,
        status: int = 404,
        commit: str | None = None,
    ) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        exchange.reply(
            status, {"error": message}, headers | ({"X-Repo-Commit": commit} if commit else {})
        )

    def reply_page(self, exchange: Exchange, entries: list[Any]) -> None:
        """Answer with one page of a listing, and the link to the next one."""
        limit = min(int(exchange.query.get("limit", self.page_size)), self.page_size)
        cursor = int(exchange.query.get("cursor", 0))
        headers = {}
        if cursor + limit < len(entries):
            query = urlencode(exchange.query | {"cursor": str(cursor + limit)})
            headers["Link"] = f'<{self.url}{exchange.url.path}?{query}>; rel="next"'
        exchange.reply(200, entries[cursor : cursor + limit], headers)

    def reply_xet_token(self, exchange: Exchange, use: str, hashes: set[str]) -> None:
        """Where xet may be used and how long, twice: hf_xet reads the body, huggingface_hub the
        headers.
        """
        place = self.store.upload_url() if use == "write" else self.store.read_url(hashes)
        end = int(time.time()) + 3600
        headers: dict[str, str | int] = {
            "X-Xet-Cas-Url": place,
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": end,
        }
        exchange.reply(200, {"casUrl": place, "accessToken": "xet", "exp": end}, headers)

    def redirect_to_cdn(
        self, exchange: Exchange, xet_hash: str, path: str, headers: Mapping[str, str]
    ) -> None:
        """302 to a link that is signed for a while and needs no token."""
        expires, nonce = time.time() + self.link_seconds, uuid.uuid4().hex
        signature = _signature(xet_hash, f"{expires}", nonce)
        query = urlencode({"expires": f"{expires}", "nonce": nonce, "signature": signature})
        shared = {
            "X-Xet-Hash": xet_hash,
            "X-Linked-Size": str(self.store.size(xet_hash)),
            "Accept-Ranges": "bytes",
        }
        location = f"http://localhost:{self.port}/cdn/{xet_hash}/{quote(path)}?{query}"
        exchange.redirect(302, location, shared | dict(headers))

    @route("GET", r"/cdn/([0-9a-f]{64})/(.*)")
    def _cdn(self, exchange: Exchange, xet_hash: str, _path: str) -> None:
        expires, nonce = exchange.query.get("expires", ""), exchange.query.get("nonce", "")
        right = hmac.compare_digest(
            exchange.query.get("signature", ""), _signature(xet_hash, expires, nonce)
        )
        with self.lock:
            uses = self._uses[nonce] = self._uses.get(nonce, 0) + 1
        if (
            not right
            or float(expires) < time.time()
            or (self.link_uses is not None and uses > self.link_uses)
        ):
            exchange.reply(
                403,
                b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
            )
            return
        exchange.reply_object(Content(xet_hash, self.store.blob(xet_hash), xet_hash))


def _signature(xet_hash: str, expires: str, nonce: str) -> str:
    return hmac.new(_SECRET, f"{xet_hash}:{expires}:{nonce}".encode(), hashlib.sha256).hexdigest()
