"""Finished shards out to where they are trained from. `upload.py` shows the whole chain."""

from roboshard.publisher.config import UploadConfig
from roboshard.publisher.plan import UploadPlan, make_plan
from roboshard.publisher.upload import UploadReport, upload

__all__ = ["UploadConfig", "UploadPlan", "UploadReport", "make_plan", "upload"]
