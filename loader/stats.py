"""What a loader has done so far, in numbers."""

from dataclasses import dataclass, field, fields
from functools import cache
from threading import Lock

from roboshard.loader.spans import SpanRecorder

GAUGE = {"gauge": True}
"""Marks a number that says how things stand; the others are sums."""
DERIVED = (
    "wait_share",
    "samples_per_second",
    "frames_decoded_per_frame_used",
    "episode_misses",
)
"""Numbers that follow from others: of the time between two stats, those of their difference."""


@dataclass
class LoaderStats:
    """Sums since the loader was made, over all of its workers, and how it stands now."""

    batches: int = 0
    """Batches handed to the user."""
    samples: int = 0
    wait_seconds: float = 0.0
    """Seconds that the user waited for batches."""
    step_seconds: float = 0.0
    """Seconds that the user worked on batches: from being given one to asking for the next one."""
    fetch_seconds: float = 0.0
    """Seconds of waiting for episodes that were not there yet, and of turning their rows into
    arrays.
    """
    decode_seconds: float = 0.0
    """Seconds in which threads decoded and put frames in their places in batches; summed over
    threads.
    """
    assembly_seconds: float = 0.0
    """Seconds in which rows, windows and transforms were put together."""
    bytes_read: int = 0
    """Bytes read from storage; what came out of the disk cache is not among them."""
    network_bytes_read: int = 0
    """Bytes of `bytes_read` that came over the network; the others came from local files."""
    reads: int = 0
    """Requests to storage that brought `bytes_read`, repeats after a failure not counted."""
    cache_hits: int = 0
    """Pieces of shards that the disk cache had."""
    cached_bytes_read: int = 0
    """Bytes that came out of the disk cache."""
    packet_bytes_read: int = 0
    """Bytes of video read where it lies in shards and caches on this machine, when frames were
    wanted.

    Mostly out of the system's page cache.
    """
    episodes_read: int = 0
    episodes_shared: int = 0
    """Episodes that a worker was given by another one of its rank, which had read them."""
    episode_hits: int = 0
    """Times that a step found an episode it needs in memory."""
    episodes_evicted: int = 0
    """Episodes dropped from memory while they might still be needed, because `memory_bytes` were
    taken.
    """
    episodes_read_again: int = 0
    """Episodes read that had been dropped for lack of room before."""
    frames_used: int = 0
    """Video frames in samples, repeats included."""
    frames_requested: int = 0
    """Video frames that decoders were asked for: those used, without repeats within the
    look-ahead.
    """
    frames_decoded: int = 0
    """Video frames that had to be decoded, those on the way from a keyframe included."""
    frame_cache_hits: int = 0
    """Pictures that the frame cache had: nothing was decoded for them."""
    frame_cache_bytes_read: int = 0
    """Bytes of the pictures that the frame cache had."""
    frame_cache_bytes_written: int = 0
    """Bytes of pictures that were decoded and are kept for the epochs that follow."""
    frame_cache_damaged: int = 0
    """Pictures found in a folder whose bytes had changed since: they were decoded again."""
    substituted_episodes: int = 0
    """Damaged episodes replaced under on_error="skip"."""
    steps_ahead: int = field(default=0, metadata=GAUGE)
    """Steps that are being decoded, or wait for the user."""
    resident_bytes: int = field(default=0, metadata=GAUGE)
    """Bytes of episodes in memory: rows, tables of where packets lie, and video that lies in no
    local file.
    """

    @property
    def frames_decoded_per_frame_used(self) -> float:
        """Frames decoded for each frame used: 1 where every frame decoded was used once; more where
        keyframes are far apart, less where frames repeat.
        """
        return self.frames_decoded / self.frames_used if self.frames_used else 0.0

    @property
    def episode_misses(self) -> int:
        """Times that an episode was not in memory: it was read, or another worker had read it."""
        return self.episodes_read + self.episodes_shared

    @property
    def wait_share(self) -> float:
        """Share of the time of iterations that was spent waiting for batches, in 0..1."""
        seconds = self.wait_seconds + self.step_seconds
        return self.wait_seconds / seconds if seconds else 0.0

    @property
    def samples_per_second(self) -> float:
        """Samples handed to the user for each second of iterations, waiting and working."""
        seconds = self.wait_seconds + self.step_seconds
        return self.samples / seconds if seconds else 0.0

    def __sub__(self, earlier: "LoaderStats") -> "LoaderStats":
        """Return what was done since earlier stats of the same loader, and how it stands now."""
        sums = _names(gauges=False)
        since = {name: getattr(self, name) - getattr(earlier, name) for name in sums}
        return LoaderStats(**(vars(self) | since))

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """Return all numbers by name, also those that follow from others: for W&B, TensorBoard, …

        Args:
            prefix: what names begin with, as in "data/".
        """
        numbers = vars(self) | {name: getattr(self, name) for name in DERIVED}
        return {prefix + name: number for name, number in numbers.items()}

    def add(self, other: "LoaderStats") -> None:
        """Add another's numbers to this one's."""
        for name in _names(gauges=True) + _names(gauges=False):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class StatsCounter:
    """Stats under way, for any number of threads."""

    def __init__(self, spans: SpanRecorder | None = None) -> None:
        """Count from zero. `spans` records when it was done; None: one that is off."""
        self.spans = SpanRecorder() if spans is None else spans
        self.skipped: dict[int, str] = {}
        """Position of an episode in whose place others come -> why; until the user is told."""
        self._lock = Lock()
        self._stats = LoaderStats()

    def add(self, **numbers: float) -> None:
        """Add numbers to the sums of these names."""
        with self._lock:
            sums = vars(self._stats)
            for name, number in numbers.items():
                sums[name] += number

    def packets_read(self, num_bytes: int) -> None:
        """Count what was read of a slice."""
        with self._lock:
            self._stats.packet_bytes_read += num_bytes

    def set(self, **numbers: int) -> None:
        """Set the gauges of these names."""
        with self._lock:
            for name, number in numbers.items():
                setattr(self._stats, name, number)

    def merge(self, other: LoaderStats) -> None:
        """Add another's sums; its gauges are left out."""
        self.add(**{name: getattr(other, name) for name in _names(gauges=False)})

    def snapshot(self) -> LoaderStats:
        """Return the numbers so far."""
        with self._lock:
            return LoaderStats(**vars(self._stats))

    def take(self) -> LoaderStats:
        """Return the numbers so far; the sums start again from zero."""
        with self._lock:
            taken = LoaderStats(**vars(self._stats))
            for name in _names(gauges=False):
                setattr(self._stats, name, 0)
            return taken


@cache
def _names(*, gauges: bool) -> tuple[str, ...]:
    return tuple(field.name for field in fields(LoaderStats) if bool(field.metadata) == gauges)
