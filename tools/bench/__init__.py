"""Whether a training waits for its data on this machine, and which setting of the loader helps."""

from roboshard.tools.bench.config import BenchConfig
from roboshard.tools.bench.report import BenchReport, Measurement
from roboshard.tools.bench.run import bench

__all__ = ["BenchConfig", "BenchReport", "Measurement", "bench"]
