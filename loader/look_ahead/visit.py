"""A slice while a thread decodes it: what is wanted, what has come, and what that took."""

import time

from roboshard.loader.frame_cache.frames import EpisodeRows
from roboshard.loader.look_ahead.request_queue import Requests, Slice


class Visit:
    """A slice while it is served, and what has not been settled of it."""

    def __init__(self, slot: Slice, requests: Requests, cached: EpisodeRows | None = None) -> None:
        """Begin a visit. `cached`: where the pictures come from, if they are not decoded."""
        self.requests = requests
        self._cached = cached
        self.served: list[int] = []
        """Frames that have come and are not settled yet."""
        self._slot = slot
        self._is_video = slot.source.is_video(slot.key)
        self.begun = self._since = time.perf_counter()
        self._decoded_before = slot.source.num_decoded(slot.key)

    def counts(self, num_used: int) -> dict[str, float]:
        """Return what was done since the last time, by the names of the loader's statistics."""
        now, decoded = time.perf_counter(), self._slot.source.num_decoded(self._slot.key)
        found = {
            "decode_seconds": now - self._since,
            "frames_used": num_used * self._is_video,
            "frames_decoded": decoded - self._decoded_before,
        }
        if self._cached is None:
            found["frames_requested"] = len(self.served) * self._is_video
        else:
            found["frame_cache_hits"] = num_used
            found["frame_cache_bytes_read"] = num_used * self._cached.store.spec.picture_bytes
        self._since, self._decoded_before = now, decoded
        return found
