"""What is odd in a source, how it will be read, and what would be refused: before anything is
converted.

Episodes are read as a conversion reads them, by the same code, and written nowhere: so what it
refuses is refused here, and nothing else is.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from roboshard.common.errors import OptionError, RoboshardError, StorageError
from roboshard.common.selection import spread
from roboshard.shards.documents import Finding
from roboshard.shards.schema import EpisodeRecord
from roboshard.tools.doctor.config import DoctorConfig
from roboshard.tools.verify.frames import check_frames, choose_rows
from roboshard.tools.verify.problems import Place, Problems

if TYPE_CHECKING:  # imported when a source is opened: the converter is another part
    from roboshard.converter.source.api import Source
    from roboshard.converter.source.findings import FindingGroup

OnEpisode = Callable[[int, int], None]
"""A function that is told, after each episode, how many were looked at, of how many."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a conversion would refuse."""

    episode_index: int | None
    """The episode that would be refused; None: the whole source would be."""
    reason: str
    """What is wrong, where, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a look at a source has found."""

    source: str
    total_episodes: int
    """Episodes that were chosen by their indices."""
    episodes: int
    """Episodes that were looked at."""
    rows: int
    """Rows of all episodes that could be read."""
    findings: "tuple[FindingGroup, ...]"
    """What is odd and is read all the same, kind by kind."""
    refused: tuple[Refusal, ...]

    @property
    def ok(self) -> bool:
        """Whether a conversion would take all that was looked at."""
        return not self.refused

    def as_json(self) -> str:
        """Return the diagnosis as a JSON object."""
        value: dict[str, Any] = {"ok": self.ok} | asdict(self)
        value["findings"] = [
            {
                "code": group.code,
                "count": group.count,
                "read_as": group.read_as,
                "first": [found.model_dump(mode="json") for found in group.first],
            }
            for group in self.findings
        ]
        return json.dumps(value, indent=2)  # escaped: nothing for a terminal to act on


def diagnose(config: DoctorConfig, on_episode: OnEpisode | None = None) -> Diagnosis:
    """Look at a source as a conversion would, and write nothing.

    Args:
        config: the source, which episodes of it, and how closely.
        on_episode: told how many episodes were looked at, after each one.

    Returns:
        What is odd, how it would be read, and what would be refused.

    Raises:
        OptionError: options that cannot be used, or episodes that there are not.
        StorageError: a remote source does not answer, which is not its fault.

    Example:
        >>> diagnosis = diagnose(DoctorConfig(source="my_dataset", frames=2))
        >>> [refusal.reason for refusal in diagnosis.refused]
        []
    """
    from roboshard.converter.config import ConvertConfig  # noqa: PLC0415 - another part
    from roboshard.converter.plan import make_plan  # noqa: PLC0415
    from roboshard.converter.source.findings import grouped  # noqa: PLC0415

    as_converted = ConvertConfig(
        source=config.source,
        destination="doctor",
        dry_run=True,
        episodes=config.episodes,
        tolerance_s=config.tolerance_s,
        scratch=config.scratch,
        scratch_size=config.scratch_size,
    )
    try:
        plan = make_plan(as_converted)
    except (OptionError, StorageError):
        raise
    except RoboshardError as error:
        refusal = Refusal(episode_index=None, reason=str(error))
        return Diagnosis(
            source=config.source,
            total_episodes=0,
            episodes=0,
            rows=0,
            findings=(),
            refused=(refusal,),
        )
    with closing(plan.source.meta.files):
        indices: list[int] = plan.episodes.tolist()
        if config.sample is not None:
            indices = [indices[place] for place in spread(len(indices), config.sample)]
        look = _Look(plan.source, config)
        findings = grouped(chain(plan.findings, look.at(indices, on_episode)))
    return Diagnosis(
        source=config.source,
        total_episodes=len(plan.episodes),
        episodes=len(indices),
        rows=look.rows,
        findings=findings,
        refused=tuple(look.refused),
    )


class _Look:
    """Reads episodes as a conversion does, and counts."""

    def __init__(self, source: "Source", config: DoctorConfig) -> None:
        self._source = source
        self._config = config
        self.rows = 0
        self.refused: list[Refusal] = []

    def at(self, indices: Sequence[int], on_episode: OnEpisode | None) -> Iterator[Finding]:
        """Look at episodes one after the other, and yield what is odd in them."""
        from roboshard.converter.episode.reader import EpisodeReader  # noqa: PLC0415 - another part

        with EpisodeReader(self._source.meta, self._config.tolerance_s) as reader:
            for number, index in enumerate(indices, start=1):
                try:
                    (episode,) = self._source.episodes([index])
                    record, _, videos = reader.read(episode, None)
                except StorageError:  # says nothing of the episode
                    raise
                except RoboshardError as error:
                    self.refused.append(Refusal(episode_index=index, reason=str(error)))
                else:
                    self.rows += record.length
                    yield from record.findings
                    self._decode(record, videos)
                if on_episode is not None:
                    on_episode(number, len(indices))

    def _decode(self, record: EpisodeRecord, videos: Mapping[str, bytes]) -> None:
        """Decode some frames of each camera, as a loader would."""
        config, index = self._config, record.episode_index
        rows = choose_rows(record.length, config.frames, f"{config.seed} {index}")
        for camera in record.cameras if config.frames else ():
            problems = Problems()
            spec = self._source.meta.features[camera.key]
            place = Place(problems=problems, file=f"episode {index}, camera {camera.key!r}")
            check_frames(camera, spec, memoryview(videos[camera.member]), rows, place)
            self.refused += [
                Refusal(
                    episode_index=index,
                    reason=f"{problem.file}: {problem.what}: encode the camera again, or leave the "
                    "episode out (--episodes)",
                )
                for problem in problems.sorted()
            ]
