"""An S3-compatible server on loopback: moto's, behind a server that paces, logs and misbehaves."""

from __future__ import annotations

import contextlib
import http.client
import logging
from pathlib import Path
from typing import Any, Self

from .core import Content, Exchange, FaultServer
from .remote import Remote

_OF_ONE_HOP = {"connection", "content-length", "date", "host", "server", "transfer-encoding"}


class S3Process(FaultServer):
    """Objects are sent by this server, as any range of them may have to be sent wrong; moto answers
    all the rest.
    """

    def __init__(self, **options: Any) -> None:
        from moto.server import ThreadedMotoServer  # noqa: PLC0415 - takes a second, in the server's process only

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        self._moto_port = self._moto.get_host_and_port()[1]
        self._contents: dict[str, Content] = {}
        super().__init__(**options)

    def close(self) -> None:
        super().close()
        self._moto.stop()

    def respond(self, exchange: Exchange) -> None:
        bucket, _, key = exchange.route.lstrip("/").partition("/")
        method = exchange.command
        if method in ("GET", "HEAD") and bucket and key and not exchange.url.query:
            status, headers, body = self._ask("HEAD", exchange)
            if status == 200:
                if (
                    "Range" in exchange.headers
                ):  # S3 tells the whole object's checksums of the whole object only
                    headers = {
                        name: value
                        for name, value in headers.items()
                        if "checksum" not in name.lower()
                    }
                exchange.reply_object(self._content(exchange, headers["ETag"].strip('"')), headers)
                return
        else:
            status, headers, body = self._ask(method, exchange)
        if (
            method == "GET" and status == 404
        ):  # a HEAD has been asked, which has no body to say what is missing
            status, headers, body = self._ask(method, exchange)
        exchange.reply(status, body, headers)

    def _content(self, exchange: Exchange, etag: str) -> Content:
        content = self._contents.get(exchange.route)
        if content is None or content.etag != etag:
            content = Content(exchange.route, self._ask("GET", exchange)[2], etag)
            self._contents[exchange.route] = content
        return content

    def _ask(self, method: str, exchange: Exchange) -> tuple[int, dict[str, str], bytes]:
        """What moto says to a request, as if it were for the whole object and without
        conditions.
        """
        left_out = _OF_ONE_HOP | {"range", "if-match", "if-range"}
        headers = {
            name: value for name, value in exchange.headers.items() if name.lower() not in left_out
        }
        host = exchange.headers.get("Host", "")
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self._moto_port, timeout=60)
        ) as connection:
            connection.request(method, exchange.path, exchange.body, headers | {"Host": host})
            response = connection.getresponse()
            kept = {
                name: value
                for name, value in response.getheaders()
                if name.lower() not in _OF_ONE_HOP
            }
            return response.status, kept, response.read()


class S3Server(Remote):
    """A bucket at `.endpoint`. s3fs finds it with nothing but `.environment` set. moto does not
    check checksums.

    Paths of faults are `/<bucket>/<key>`:
    `server.fault("status", r"shard-0\\.tar", method="PUT", code=503)`.
    """

    server_class = S3Process

    def __init__(
        self,
        bucket: str = "shards",
        *,
        latency_s: float = 0.0,
        bytes_per_second: float | None = None,
        in_process: bool = False,
    ) -> None:
        self.bucket = bucket
        super().__init__(
            in_process=in_process, latency_s=latency_s, bytes_per_second=bytes_per_second
        )

    @property
    def endpoint(self) -> str:
        return self.url

    @property
    def bucket_url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the environment for clients; the instance metadata service is switched off,
        as looking for it takes seconds.
        """
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> Self:
        super().start()
        self.empty()
        return self

    def empty(self) -> None:
        """Back to one bucket with nothing in it."""
        with contextlib.closing(self._client()) as client:
            for bucket in client.list_buckets()["Buckets"]:
                for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                    for entry in page.get("Contents", []):
                        client.delete_object(Bucket=bucket["Name"], Key=entry["Key"])
                client.delete_bucket(Bucket=bucket["Name"])
            client.create_bucket(Bucket=self.bucket)
        self.reset()

    def add_folder(self, folder: Path | str, prefix: str = "") -> str:
        """Put a folder's files into the bucket; the URL of what is there then."""
        with contextlib.closing(self._client()) as client:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    key = "/".join(
                        filter(None, (prefix.strip("/"), path.relative_to(folder).as_posix()))
                    )
                    client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())
        return "/".join(filter(None, (self.bucket_url, prefix.strip("/"))))

    def files(self, prefix: str = "") -> dict[str, bytes]:
        with contextlib.closing(self._client()) as client:
            return {
                entry["Key"]: client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read()
                for page in client.get_paginator("list_objects_v2").paginate(
                    Bucket=self.bucket, Prefix=prefix
                )
                for entry in page.get("Contents", [])
            }

    def _client(self) -> Any:  # botocore makes its classes at run time
        import botocore.session  # noqa: PLC0415 - only tests of S3 need it

        return botocore.session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
