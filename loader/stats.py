"""What a loader has done so far, in numbers."""

from dataclasses import dataclass, fields


@dataclass
class LoaderStats:
    """Sums since the loader was made, over all of its workers."""

    batches: int = 0
    """Handed to the user."""
    samples: int = 0
    wait_seconds: float = 0.0
    """The user waited for a batch."""
    fetch_seconds: float = 0.0
    """Reading and verifying episodes, and turning their rows into tensors."""
    decode_seconds: float = 0.0
    """Decoding video, wall clock."""
    assembly_seconds: float = 0.0
    """Putting samples and batches together."""
    bytes_read: int = 0
    episodes_read: int = 0
    episode_hits: int = 0
    """Times that a step found an episode it needs in memory."""
    frames_used: int = 0
    """Video frames in samples, repeats included."""
    frames_decoded: int = 0
    """Frames that decoders were asked for; what they decode on the way to one is not counted."""
    substituted_episodes: int = 0
    """Damaged episodes replaced under on_error="skip"."""

    def take(self) -> "LoaderStats":
        """The numbers so far, starting again from zero."""
        taken = LoaderStats()
        taken.add(self)
        for field in fields(self):
            setattr(self, field.name, field.default)
        return taken

    def add(self, other: "LoaderStats") -> None:
        """Add another's numbers to this one's."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
