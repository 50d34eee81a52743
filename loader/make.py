"""`make_loader`: from a user's keywords to a loader."""

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from roboshard.common.errors import OptionError
from roboshard.loader.config import (
    BatchKind,
    BatchTransform,
    EpisodeOrder,
    FrameOrder,
    ImageTransform,
    LoaderConfig,
    OnError,
    OnMissing,
    OrderConfig,
    ReadConfig,
    SampleConfig,
    SplitConfig,
)
from roboshard.loader.job import make_job
from roboshard.loader.loader import Loader
from roboshard.loader.mixtures.job import Mixture, is_mixture, make_mixture_job, mixture_parts
from roboshard.loader.order.pools import default_pool
from roboshard.loader.resume.growth import Made, Recipe, Snapshots
from roboshard.loader.running import worker_start
from roboshard.loader.running.scratch import with_scratch
from roboshard.loader.running.shared_frames import with_frame_cache
from roboshard.loader.selection.config import (
    EpisodePredicate,
    EpisodeWeights,
    KeepRanges,
    SelectionConfig,
    Split,
)
from roboshard.loader.topology import resolve_rank
from roboshard.shards.locate import Urls
from roboshard.shards.snapshots import SnapshotName


def make_loader(  # noqa: PLR0913 - keyword-only, grouped behind
    urls: Urls | Mixture,
    *,
    batch_size: int | None = 64,
    delta_timestamps: Mapping[str, Sequence[float]] | None = None,
    episodes: Sequence[int] | EpisodePredicate | None = None,
    exclude_episodes: Sequence[int] | None = None,
    tasks: Collection[str] | None = None,
    split: Split | None = None,
    snapshot: SnapshotName | None = None,
    keep_ranges: KeepRanges | None = None,
    episode_weights: EpisodeWeights | None = None,
    drop_n_first_frames: int = 0,
    drop_n_last_frames: int = 0,
    shuffle: bool = True,
    seed: int = 0,
    pool_episodes: int | None = None,
    episode_order: EpisodeOrder = "global",
    frame_order: FrameOrder = "uniform",
    image_transforms: ImageTransform | None = None,
    batch_transform: BatchTransform | None = None,
    return_uint8: bool = True,
    image_size: tuple[int, int] | None = None,
    tolerance_s: float = 1e-4,
    cameras: Sequence[str] | None = None,
    num_workers: int = 0,
    decode_threads: int | None = None,
    decode_device: str = "cpu",
    device: str | None = None,
    pin_memory: bool | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    max_world_size: int | None = None,
    drop_last: bool = False,
    memory_bytes: int | None = None,
    frame_cache: int | str | None = None,
    frame_cache_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int = 100 * 10**9,
    retry_seconds: float = 120.0,
    on_error: OnError = "raise",
    on_missing: OnMissing = "error",
    pad_to: Mapping[str, int] | None = None,
    batches: BatchKind = "mixed",
    max_workers: int | None = None,
) -> Loader:
    """Load training batches from a roboshard dataset.

    A sample is what map-style LeRobotDataset returns: the same keys, values, dtypes and shapes.
    Only `return_uint8` differs in its default.

    Args:
        urls: the dataset's root, one shard, a brace pattern, or a list of shards. Or a mixture: a
            list of pairs (urls, weight) or of `Part`s, whose samples come in the proportion of the
            weights, each with its `dataset_index`; a weight of "frames" is the number of the
            dataset's frames.
        batch_size: samples per rank and step; None: single samples, without a batch axis.
        delta_timestamps: feature key -> offsets in seconds; the feature gains an axis of that
            length and a mask `<key>_is_pad`, True where the window leaves the episode.
        episodes: episode indices to use; or a function that is called once for each episode with
            its `EpisodeInfo`, and returns whether it is used; None: all.
        exclude_episodes: episode indices that are not used.
        tasks: texts: only episodes with one of these tasks are used; None: with any.
        split: ("train", 0.02) or ("val", 0.02): that side of a hold-out of this fraction of the
            episodes, drawn by `seed`, or by a seed of its own as in ("val", 0.02, 7). An episode
            stays on its side when the dataset grows.
        snapshot: what a dataset was before it grew (`convert-to-shards --append`): its number, 0 is
            the dataset as first converted, or its fingerprint; None: all there is.
        keep_ranges: episode index -> [(first, stop), ...], the frames used as samples (windows
            still see all), stop not included; or the path of a JSON or parquet file of them.
            Episodes that are not named are used whole.
        episode_weights: episode index -> how often it comes in an epoch, or the name of a column of
            the source's meta/episodes that says it: 2.0 twice, 0.5 every other epoch, 0 never.
            Epochs then differ in length.
        drop_n_first_frames: leave out the first frames of every episode as samples (windows still
            see them).
        drop_n_last_frames: leave out the last frames of every episode as samples (windows still
            see them).
        shuffle: False: dataset order.
        seed: what all that is drawn at random depends on.
        pool_episodes: episodes whose frames are mixed with each other, per rank slot
            (`max_world_size`); None: so many that batches are about as mixed as a true shuffle's,
            64 at least and 1,024 over all rank slots; 64 for "sweep".
        episode_order: "global": any episode may follow any other; "shard": shard by shard, read in
            sequence.
        frame_order: "uniform": a pool's frames in a random permutation; "sweep": its episodes all
            played forward from random phases, chunks of them mixed: frames are decoded in order,
            not again from a keyframe each.
        image_transforms: called per sample and camera with (C, H, W), or (T, C, H, W) for windows;
            not for depth. Random numbers that it draws from the global generators of torch, Python
            and NumPy depend on seed, epoch and step alone: a resumed run has the same pictures.
        batch_transform: called with each batch, after `image_transforms`, and returns the batch
            that the loader gives: to tokenize, pack or augment, in the workers if there are some.
            Its random numbers, too, depend on seed, epoch and step alone.
        return_uint8: video as uint8 in 0..255; False: float32 in 0..1. Images from parquet are
            always float32, and depth is float32 in millimetres.
        image_size: (H, W): pictures are resized to it as they are decoded, bilinear with
            antialiasing: the pixels that torch's `interpolate(antialias=True)` or torchvision's
            `v2.Resize` would make of them in uint8; depth to the nearest pixel.
        tolerance_s: how far an offset may be from a whole number of frames.
        cameras: video features to decode; None: all, []: none.
        num_workers: worker processes; 0: this process, with threads.
        decode_threads: threads that decode, per process; None: as many as the rank has cores, of
            those that it shares with the other ranks of its node, but of small pictures no more
            than gain something: none at 96 x 96, which the thread that draws steps decodes itself,
            five at 256 x 256.
        decode_device: "cuda": decode video on the GPU (NVDEC), where batches then are; rows stay on
            the CPU.
        device: copy batches to this device, beside whatever else runs on it; None: they stay where
            they were made.
        pin_memory: pictures in page-locked memory, for fast copies to a GPU; None: if there is one.
        rank: the data-parallel rank; None: torch.distributed's, else the launcher's RANK, else 0.
        world_size: the number of data-parallel ranks, given together with `rank`.
        max_world_size: R: every world size that divides it sees the same global batches; None:
            world_size.
        drop_last: leave out the last, incomplete step; False: pad it where ranks need it.
        memory_bytes: bytes of episodes, open decoders and, in uniform order, pictures kept for
            coming batches in memory, over all workers of this rank; None: 2 GiB. What does not fit
            is read or decoded again; batches are the same.
        frame_cache: "8GB", or bytes: pictures are kept as they go into batches (after
            `image_size`), in memory that the ranks and workers of a node share, and following
            epochs copy them instead of decoding. What does not fit is decoded as before; batches
            are the same.
        frame_cache_dir: keep them in this folder of a local disk instead, which outlives the run;
            it needs `frame_cache` beside it, which says how much.
        cache_dir: folder of this machine that keeps what was read of remote shards, shared by its
            ranks and workers; None: nothing is kept. Bytes are found by content, so one folder
            serves any number of datasets.
        cache_bytes: most bytes that `cache_dir` holds.
        retry_seconds: how long a remote read is tried again without a new byte before it is an
            error.
        on_error: "skip" replaces a damaged episode by the next one, warns and counts it. Storage
            that cannot be reached is an error all the same.
        on_missing: what becomes of features that some rows have no value of, or some datasets of a
            mixture: "error"; "drop" leaves them out, as MultiLeRobotDataset does; "fill" puts zeros
            there (False, "", black), and a mask `<key>_is_missing` in all samples, (n,), or (n, T)
            where single rows of a window may lack their value.
        pad_to: feature key -> numbers that its vectors get, as in {"action": 32}: zeros are put
            behind those that there are, and a mask `<key>_dim_is_pad`, (n, 32), tells them apart.
            So robots of several sizes can be in one batch.
        batches: for a mixture. "mixed": each batch has samples of all datasets; "by_dataset": of
            one, the same on all ranks, and of so many batches each dataset has its share.
        max_workers: deprecated, and without effect: any number of workers sees the same batches.

    Returns:
        A loader, to be iterated over once an epoch.

    Raises:
        OptionError: an argument that cannot be used with this dataset.
        MissingError, FormatError, VersionError, DamageError, StorageError: no usable dataset at
            `urls`.

    Example:
        >>> loader = make_loader("my_dataset_shards", batch_size=8, seed=1)
        >>> batch = next(iter(loader))
        >>> batch["observation.image"].shape, batch["observation.image"].dtype
        (torch.Size([8, 3, 96, 96]), torch.uint8)
        >>> loader.close()
    """
    if on_missing not in ("error", "drop", "fill"):  # samples by number have one choice more
        raise OptionError(f"on_missing must be 'error' or 'drop' or 'fill', not {on_missing!r}")
    if max_workers is not None:
        warnings.warn(
            "max_workers has no effect any more, leave it out: any number of workers sees the "
            "same batches",
            DeprecationWarning,
            stacklevel=2,
        )
    found_rank, found_world = resolve_rank(rank, world_size)
    shared_out = SplitConfig(
        batch_size=batch_size,
        rank=found_rank,
        world_size=found_world,
        max_world_size=found_world if max_world_size is None else max_world_size,
        num_workers=num_workers,
    )
    pool = pool_episodes
    if pool is None:
        pool = default_pool(
            frame_order,
            rank_slots=shared_out.max_world_size,
            global_batch_size=shared_out.global_batch_size,
        )
    config = LoaderConfig(
        order=OrderConfig(
            shuffle=shuffle,
            seed=seed,
            pool_episodes=pool,
            episode_order=episode_order,
            frame_order=frame_order,
            drop_last=drop_last,
            batches=batches,
        ),
        selection=SelectionConfig(
            episodes=episodes,
            exclude_episodes=exclude_episodes,
            tasks=tasks,
            split=split,
            keep_ranges=keep_ranges,
            episode_weights=episode_weights,
            drop_n_first_frames=drop_n_first_frames,
            drop_n_last_frames=drop_n_last_frames,
        ),
        sample=SampleConfig(
            delta_timestamps={} if delta_timestamps is None else delta_timestamps,
            tolerance_s=tolerance_s,
            cameras=cameras,
            image_transforms=image_transforms,
            batch_transform=batch_transform,
            return_uint8=return_uint8,
            image_size=image_size,
            on_missing=on_missing,
            pad_to={} if pad_to is None else pad_to,
        ),
        split=shared_out,
        read=ReadConfig(
            decode_threads=decode_threads,
            decode_device=decode_device,
            device=device,
            pin_memory=pin_memory,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            cache_bytes=cache_bytes,
            frame_cache=frame_cache,
            frame_cache_dir=None if frame_cache_dir is None else os.fspath(frame_cache_dir),
            memory_bytes=ReadConfig.memory_bytes if memory_bytes is None else memory_bytes,
            retry_s=retry_seconds,
            on_error=on_error,
        ),
    )
    loader = make_of_snapshots(urls, config, snapshot)
    if len(loader) == 0:  # the first epoch has as many episodes as any, where they have weights
        warnings.warn(
            f"the loader has no batch: {config.split.global_batch_size} samples a step "
            "(batch_size x world_size) are more than the frames chosen, and drop_last=True leaves "
            "out what is incomplete",
            UserWarning,
            stacklevel=2,
        )
    return loader


def make_of_snapshots(
    urls: Urls | Mixture, config: LoaderConfig, snapshot: SnapshotName | None
) -> Loader:
    """Make a loader that can be made again of what its datasets were before they grew."""
    if is_mixture(urls):
        if snapshot is not None:
            raise OptionError(
                "snapshot= is of one dataset, and a mixture has several: give it to its part, as "
                "in [Part(urls, weight, snapshot=...), ...]"
            )
        asked: Snapshots = tuple(part.snapshot for part in mixture_parts(urls))
    else:
        asked = (snapshot,)

    def make(snapshots: Snapshots) -> Made:
        if is_mixture(urls):
            job = make_mixture_job(urls, config, snapshots)
        else:
            job = make_job(cast(Urls, urls), config, snapshot=snapshots[0])
        job, frames = with_frame_cache(job)
        return *with_scratch(job), frames

    if config.split.num_workers:
        worker_start.prepare()
    return Loader(*make(asked), Recipe(make, asked))
