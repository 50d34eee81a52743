"""A look at a LeRobot dataset before it is converted."""

from roboshard.tools.doctor.config import DoctorConfig
from roboshard.tools.doctor.run import Diagnosis, diagnose

__all__ = ["Diagnosis", "DoctorConfig", "diagnose"]
