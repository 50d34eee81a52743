"""Real servers on loopback for tests and benchmarks: files by range, a Hub with xet storage, S3."""

from .hub import LocalHub
from .range_server import RangeServer
from .s3 import S3Server

__all__ = ["LocalHub", "RangeServer", "S3Server"]
