"""LeRobot dataset in, shards out. `run.py` shows the whole chain."""

from roboshard.converter.config import ConvertConfig
from roboshard.converter.run import ConversionPlan, ConversionReport, convert, finalize, make_plan
from roboshard.converter.shard import SkippedEpisode

__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "ConvertConfig",
    "SkippedEpisode",
    "convert",
    "finalize",
    "make_plan",
]
