"""What a dataset of shards is, in numbers."""

from roboshard.tools.inspect.run import Summary, summarize

__all__ = ["Summary", "summarize"]
