"""Finished shards out to where they are trained from. `run.py` shows the whole chain."""

from roboshard.tools.upload.config import UploadConfig
from roboshard.tools.upload.plan import UploadPlan, make_plan
from roboshard.tools.upload.run import UploadReport, upload

__all__ = ["UploadConfig", "UploadPlan", "UploadReport", "make_plan", "upload"]
