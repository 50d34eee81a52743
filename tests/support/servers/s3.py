"""An S3-compatible server on loopback: moto's, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

_MAIN = """
import json, sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(json.dumps(f"http://{host}:{port}"), flush=True)
sys.stdin.buffer.read()
"""


class S3Server:
    """A bucket at `.endpoint`. s3fs finds it with nothing but `.environment` set. moto does not check checksums."""

    def __init__(self, bucket: str = "shards") -> None:
        self.bucket = bucket
        self.endpoint = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For clients; the instance metadata service is switched off, as looking for it takes seconds."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    def start(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN],
            stdin=subprocess.PIPE,  # closed when this process ends, however it ends: the server ends with it
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a line for each request
            env=os.environ | {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("moto's server did not start: is moto[server] installed?")
        self.endpoint = json.loads(line)
        self.empty()
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def empty(self) -> None:
        """Back to one bucket with nothing in it."""
        client = self._client()
        with contextlib.closing(client):
            for bucket in client.list_buckets()["Buckets"]:
                for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                    for entry in page.get("Contents", []):
                        client.delete_object(Bucket=bucket["Name"], Key=entry["Key"])
                client.delete_bucket(Bucket=bucket["Name"])
            client.create_bucket(Bucket=self.bucket)

    def add_folder(self, folder: Path | str, prefix: str = "") -> str:
        """Put a folder's files into the bucket; the URL of what is there then."""
        client = self._client()
        with contextlib.closing(client):
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    key = "/".join(filter(None, (prefix.strip("/"), path.relative_to(folder).as_posix())))
                    client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())
        return "/".join(filter(None, (self.url, prefix.strip("/"))))

    def files(self, prefix: str = "") -> dict[str, bytes]:
        client = self._client()
        with contextlib.closing(client):
            return {
                entry["Key"]: client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read()
                for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
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
