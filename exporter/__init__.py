"""Shards back to a LeRobot v3 dataset, so that nobody is locked in; `run` is the file to read first."""

from roboshard.exporter.config import ExportConfig
from roboshard.exporter.run import ExportReport, export

__all__ = ["ExportConfig", "ExportReport", "export"]
