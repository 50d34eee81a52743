"""Looking into a dataset: `verify` finds all that is wrong with one, `summarize` says what it is."""

from roboshard.inspector.config import VerifyConfig
from roboshard.inspector.problems import Problem
from roboshard.inspector.summary import Summary, summarize
from roboshard.inspector.verify import VerifyReport, verify

__all__ = ["Problem", "Summary", "VerifyConfig", "VerifyReport", "summarize", "verify"]
