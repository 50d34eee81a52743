"""Stands in for torchvision, of which there is no build that loads beside the CPU build of torch
used here.

LeRobot 0.4.4 imports it in `datasets/utils.py` and `datasets/video_utils.py`, but calls it only for
images stored in parquet and for its "pyav" video backend. Video decoded by torchcodec, its default,
never gets here; what does get here fails, so that nothing can be measured by accident.
"""

from . import transforms

__all__ = ["transforms"]
