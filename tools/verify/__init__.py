"""Everything that can be wrong with a dataset of shards, found. `run.py` shows the whole chain."""

from roboshard.tools.verify.config import VerifyConfig
from roboshard.tools.verify.problems import Problem
from roboshard.tools.verify.run import VerifyReport, verify

__all__ = ["Problem", "VerifyConfig", "VerifyReport", "verify"]
