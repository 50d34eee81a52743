"""Looking at an episode: `preview` draws a contact sheet of it, and writes a recording for the Rerun viewer."""

from roboshard.viewer.config import PreviewConfig
from roboshard.viewer.run import PreviewReport, preview

__all__ = ["PreviewConfig", "PreviewReport", "preview"]
