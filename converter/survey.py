"""How a source's cameras are encoded, before anything is converted."""

from collections.abc import Iterator
from contextlib import closing

from roboshard.common.selection import spread
from roboshard.converter.config import ConvertConfig
from roboshard.converter.episode.reader import EpisodeReader
from roboshard.converter.plan import make_plan
from roboshard.shards.cameras import EPISODES_LOOKED_AT, CameraSummary, summarize_cameras
from roboshard.shards.schema import CameraRecord


def survey_videos(config: ConvertConfig) -> list[CameraSummary]:
    """What each camera's video is like, over a few of the chosen episodes, from their packets: none
    is decoded.

    Args:
        config: the options of a conversion; nothing is written.

    Returns:
        One summary a camera.

    Raises:
        OptionError, SourceError, MissingError: as `convert` does for these episodes.

    Example:
        >>> config = ConvertConfig(source="my_dataset", destination="converted")
        >>> [(each.key, each.codec, each.size) for each in survey_videos(config)]
        [('observation.image', 'av1', '96x96')]
    """
    plan = make_plan(config)
    with closing(plan.source.meta.files):
        indices = sorted(plan.episodes[spread(len(plan.episodes), EPISODES_LOOKED_AT)].tolist())

        def records() -> Iterator[tuple[CameraRecord, int]]:
            with EpisodeReader(plan.source.meta, config.tolerance_s) as reader:
                for episode in plan.source.episodes(indices):
                    record, _, videos = reader.read(episode, None)
                    yield from ((camera, len(videos[camera.member])) for camera in record.cameras)

        return summarize_cameras(records())
