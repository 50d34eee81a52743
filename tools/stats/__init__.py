"""Statistics of a dataset, or of what of it would be trained on, as a loader has them."""

from roboshard.tools.stats.config import StatsConfig
from roboshard.tools.stats.run import StatsReport, find_stats

__all__ = ["StatsConfig", "StatsReport", "find_stats"]
