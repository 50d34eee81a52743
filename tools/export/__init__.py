"""Shards back to a LeRobot v3 dataset, so that nobody is locked in; `run.py` shows the whole
chain.
"""

from roboshard.tools.export.config import ExportConfig
from roboshard.tools.export.run import ExportReport, export

__all__ = ["ExportConfig", "ExportReport", "export"]
