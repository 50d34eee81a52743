"""What a measurement found, and what it means for a training. Arithmetic alone."""

from dataclasses import dataclass, field
from typing import Any

WAITS = 0.05
"""Share of its time that a training may wait and yet count as one that does not."""
HELPS = 0.10
"""A setting helps that gives this share more steps a second, if measuring twice differs by less."""
FAR_KEYFRAMES = 3.0
"""Frames decoded for each one used, from which on their order or encoding is worth a thought."""
ELSE = (
    "image_size= makes batches smaller, and frame_cache= keeps pictures, so that later epochs "
    "decode nothing: docs/performance.md."
)
BUSY = 0.3
"""Largest noise, as a share of the mean, of a machine that does nothing else."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a loader gave a training for some seconds."""

    settings: dict[str, Any]
    """The settings of the loader that differ from the given ones, by name."""
    steps_per_second: float
    samples_per_second: float
    frames_per_second: float
    """How many pictures of cameras come in batches in a second."""
    wait_share: float
    """Share of the time that the training waited, in 0..1."""
    frames_decoded_per_frame_used: float = 0.0
    bytes_read_per_second: float = 0.0
    """Bytes a second from storage since the loader was made, without what a cache on disk had."""
    first_batch_seconds: float = 0.0
    steps: int = 0
    """How many steps were measured."""
    steps_in_all: int = 0
    """How many steps were made, those included in which the loader warmed up."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What was measured of a dataset on this machine."""

    url: str
    episodes: int
    frames: int
    """How many samples an epoch has."""
    batch_size: int
    cores: int
    """How many cores this process may use."""
    step_ms: float | None
    """Milliseconds of a step of the training; None: batches were taken as fast as they came."""
    given: list[Measurement]
    """The given settings, measured once, or before and after the others."""
    tried: list[Measurement] = field(default_factory=list)
    """Other settings, each one step away from the given ones."""
    first_epoch: Measurement | None = None
    """The given settings while bytes came over the network; None: the dataset lies here."""
    perfect: Measurement | None = None
    """What a loader that has every batch at once would give; None without `step_ms`."""

    @property
    def steps_per_second(self) -> float:
        """Steps a second with the given settings."""
        return sum(it.steps_per_second for it in self.given) / len(self.given)

    @property
    def wait_share(self) -> float:
        """Share of the time that the training waits with the given settings."""
        return sum(it.wait_share for it in self.given) / len(self.given)

    @property
    def noise(self) -> float:
        """Noise: how far measuring the given settings twice differed, as a share of the mean."""
        rates = [it.steps_per_second for it in self.given]
        return (max(rates) - min(rates)) / max(self.steps_per_second, 1e-9)

    def gain(self, measurement: Measurement) -> float:
        """Return how many more steps a second other settings give: 0.2 is a fifth more."""
        return measurement.steps_per_second / max(self.steps_per_second, 1e-9) - 1.0

    @property
    def helpful(self) -> list[Measurement]:
        """The tried settings that help, the one that helps most first."""
        least = max(HELPS, self.noise)
        found = [it for it in self.tried if self.gain(it) > least]
        return sorted(found, key=self.gain, reverse=True)

    @property
    def waits(self) -> bool:
        """Whether the training waits for data. Without a step it does nothing else."""
        return self.step_ms is None or self.wait_share > WAITS

    @property
    def advice(self) -> list[str]:
        """What the measurement means for a training, in sentences."""
        sentences = [self._of_waiting(), self._of_storage()]
        if self.waits and self.tried:
            sentences += [self._of_settings(), self._of_keyframes(), ELSE]
        if self.noise > BUSY:
            sentences.append(
                f"Measuring the same twice differed by {self.noise:.0%}: other programs were busy "
                "on this machine, or --seconds was too short."
            )
        return [sentence for sentence in sentences if sentence]

    def _of_waiting(self) -> str:
        rate = self.steps_per_second
        if self.step_ms is None:
            return (
                f"These settings serve {rate:.3g} steps a second: a training whose step takes "
                f"{1000 / max(rate, 1e-9):.3g} ms or more does not wait."
            )
        step = f"With a step of {self.step_ms:g} ms training"
        if not self.waits:
            return f"{step} does not wait for data ({self.wait_share:.1%} of its time)."
        lost = ""
        if self.perfect is not None:
            share = rate / self.perfect.steps_per_second
            lost = f", and makes {share:.0%} of the steps that it would with a perfect loader"
        return f"{step} waits for data {self.wait_share:.0%} of its time{lost}."

    def _of_storage(self) -> str:
        first = self.first_epoch
        if first is None or first.steps_per_second > (1 - HELPS) * self.steps_per_second:
            return ""
        share = first.steps_per_second / self.steps_per_second
        return (
            f"While bytes come over the network, {first.bytes_read_per_second / 1e6:.3g} MB/s, it "
            f"makes {share:.0%} of these steps: cache_dir= keeps them for later epochs and runs."
        )

    def _of_settings(self) -> str:
        named = [f"{named_settings(it)} ({self.gain(it):+.0%})" for it in self.helpful]
        if not named:
            return "No setting that was tried gives clearly more steps a second."
        return f"What gives more steps a second: {', '.join(named)}."

    def _of_keyframes(self) -> str:
        decoded = self.given[0].frames_decoded_per_frame_used
        if decoded <= FAR_KEYFRAMES:
            return ""
        return (
            f"{decoded:.1f} frames are decoded for each one used, as keyframes are far apart: "
            "frame_order='sweep' plays forward, convert-to-shards --video reencode --gop 2 makes "
            "near ones."
        )


def named_settings(measurement: Measurement) -> str:
    """Return settings as they are written in Python: num_workers=2."""
    return ", ".join(f"{name}={value!r}" for name, value in measurement.settings.items())
