"""LeRobot dataset in, shards out. `run.py` shows the whole chain."""

from roboshard.converter.config import ConvertConfig
from roboshard.converter.plan import ConversionPlan, make_plan
from roboshard.converter.reencoding.settings import ReencodeConfig
from roboshard.converter.report import ConversionReport
from roboshard.converter.run import convert, finalize
from roboshard.converter.shard import SkippedEpisode
from roboshard.converter.source.findings import FindingGroup
from roboshard.converter.survey import survey_videos

__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "ConvertConfig",
    "FindingGroup",
    "ReencodeConfig",
    "SkippedEpisode",
    "convert",
    "finalize",
    "make_plan",
    "survey_videos",
]
