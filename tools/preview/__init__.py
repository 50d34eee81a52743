"""Looking at an episode: `preview` draws a contact sheet of it, and writes a recording for the
Rerun viewer.
"""

from roboshard.tools.preview.config import PreviewConfig
from roboshard.tools.preview.run import PreviewReport, preview

__all__ = ["PreviewConfig", "PreviewReport", "preview"]
