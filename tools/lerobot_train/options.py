"""What the trainer's own options have no name for: the loader's choices that go with a training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

OF_SAMPLES = ("cache_dir", "cache_bytes", "retry_seconds", "on_missing")
"""Names of options that `open_dataset` has as well."""


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """Options of `make_loader` beside those of the trainer. None: as the loader has it, or as the
    run had it that is resumed."""

    max_world_size: int | None = None
    """Numbers of processes that divide this can resume the run, with the same global batches."""
    pool_episodes: int | None = None
    """Episodes whose frames are mixed with each other."""
    episode_order: Literal["global", "shard"] | None = None
    """Whether any episode may follow any other, or shards are read one by one."""
    frame_order: Literal["uniform", "sweep"] | None = None
    """Whether a pool's frames are permuted, or its episodes played forward."""
    keep_ranges: str | None = None
    """A JSON or parquet file of the frames used as samples (`roboshard idle`)."""
    episode_weights: str | None = None
    """The column of the source's meta/episodes that says how often an episode comes."""
    on_missing: Literal["error", "drop", "fill"] | None = None
    """What becomes of features that some rows have no value of."""
    on_error: Literal["raise", "skip"] | None = None
    """Whether a damaged episode ends the run, or is replaced by another."""
    decode_threads: int | None = None
    """Threads that decode, per process."""
    memory_bytes: int | None = None
    """Bytes of memory for episodes, per rank."""
    frame_cache: str | None = None
    """Size such as 8GB: pictures kept for the following epochs."""
    frame_cache_dir: str | None = None
    """Folder that the pictures of `frame_cache` are kept in, for later runs too."""
    cache_dir: str | None = None
    """Folder that keeps what was read of remote shards."""
    cache_bytes: int | None = None
    """Bytes that the folder of `cache_dir` never exceeds."""
    retry_seconds: float | None = None
    """Seconds for which a remote read is tried again."""

    def given(self) -> dict[str, Any]:
        """Return the options that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def of_samples(self) -> dict[str, Any]:
        """Return the options that are not None and that `open_dataset` takes too."""
        return {name: value for name, value in self.given().items() if name in OF_SAMPLES}

    def over(self, earlier: Mapping[str, Any]) -> "LoaderOptions":
        """Return these options, and where they are None those of an earlier run."""
        known = {field.name for field in fields(self)}
        kept = {name: value for name, value in earlier.items() if name in known}
        return replace(self, **(kept | self.given()))
