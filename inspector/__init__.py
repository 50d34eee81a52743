"""Looking into datasets: `verify` finds all that is wrong, `summarize` says what one is.

`diagnose` looks at a LeRobot dataset before it is converted.
"""

from roboshard.inspector.config import VerifyConfig
from roboshard.inspector.doctor import Diagnosis, DoctorConfig, diagnose
from roboshard.inspector.problems import Problem
from roboshard.inspector.summary import Summary, summarize
from roboshard.inspector.verify import VerifyReport, verify

__all__ = [
    "Diagnosis",
    "DoctorConfig",
    "Problem",
    "Summary",
    "VerifyConfig",
    "VerifyReport",
    "diagnose",
    "summarize",
    "verify",
]
