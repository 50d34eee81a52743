"""From a configuration to what there is to load: every mistake is found here, before the first read
of a shard.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import FormatError, OptionError
from roboshard.loader.config import LoaderConfig, SampleConfig
from roboshard.loader.episodes.parsed import Membership
from roboshard.loader.frame_cache.frames import FrameCacheSpec
from roboshard.loader.meta import DatasetMeta, MixtureMeta, manifest_of_samples, meta_of
from roboshard.loader.missing import choose_features, lacking_values
from roboshard.loader.mixtures.padding import check_padding
from roboshard.loader.order.episodes import Episodes
from roboshard.loader.order.mixture import MixturePlan
from roboshard.loader.order.plan import EpochPlan, EpochShape, Slots
from roboshard.loader.order.schedule import Schedule
from roboshard.loader.order.teams import members_of, steps_of_message
from roboshard.loader.running.device import check_devices
from roboshard.loader.samples.rows import PictureKey
from roboshard.loader.samples.windows import frame_offsets
from roboshard.loader.selection.config import SelectionConfig
from roboshard.loader.selection.select import select
from roboshard.loader.sources import Source
from roboshard.shards.features import DTYPES, OBJECT_DTYPES, Features, depth_scale, picture_shape
from roboshard.shards.locate import Urls
from roboshard.shards.reader import ShardedDataset
from roboshard.shards.snapshots import SnapshotName

Plan = EpochPlan | MixturePlan


@dataclass(frozen=True, kw_only=True)
class LoadJob:
    """All that a process needs to know to load an epoch.

    Picklable; opens nothing before it is run.
    """

    sources: tuple[Source, ...]
    """The one dataset, or the datasets of a mixture."""
    config: LoaderConfig
    offsets: dict[str, NDArray[np.int64]]
    """Feature key -> delta window in frames, (T,); in a mixture one for each dataset, (datasets,
    T).
    """
    cameras: tuple[str, ...]
    """Keys of the video features to decode."""
    image_keys: tuple[str, ...]
    meta: DatasetMeta
    schedule: Schedule | None = None
    """Which dataset of a mixture each place takes; None: there is but one dataset."""
    frame_cache: FrameCacheSpec | None = None
    """Where pictures are kept for the epochs that follow; None: they are not."""

    @property
    def dataset(self) -> ShardedDataset:
        """The one dataset, or the first of a mixture."""
        return self.sources[0].dataset

    @property
    def episodes(self) -> Episodes:
        """The chosen episodes of the one dataset, or of the first of a mixture."""
        return self.sources[0].episodes

    @property
    def metas(self) -> tuple[DatasetMeta, ...]:
        """Metadata of each dataset, as samples have its features."""
        return tuple(self.meta.metas) if isinstance(self.meta, MixtureMeta) else (self.meta,)

    @property
    def pictures(self) -> tuple[PictureKey, ...]:
        """Everything that is decoded into pictures."""
        keys = [(key, True) for key in self.cameras] + [(key, False) for key in self.image_keys]
        windows = {key: np.atleast_2d(offsets)[0] for key, offsets in self.offsets.items()}
        return tuple(
            PictureKey(key=key, is_video=video, offsets=windows.get(key)) for key, video in keys
        )

    @property
    def transformed(self) -> tuple[str, ...]:
        """Keys of the pictures that `image_transforms` is for: depth is left alone, as LeRobot
        does.
        """
        return tuple(
            picture.key for picture in self.pictures if picture.key not in self.meta.depth_keys
        )

    @property
    def has_transforms(self) -> bool:
        """Whether the user makes something else of batches before they are handed out."""
        sample = self.config.sample
        has_images = sample.image_transforms is not None and bool(self.transformed)
        return has_images or sample.batch_transform is not None

    @property
    def members(self) -> int:
        """M: workers that make each step together; 1: each makes steps of its own.

        So it is where something concerns all of a step: the user's transform of the batch, other
        episodes in the place of spoiled ones, or a step whose samples are of one episode.
        """
        config = self.config
        split, sample = config.split, config.sample
        is_whole = (
            split.batch_size is None
            or sample.batch_transform is not None
            or config.read.on_error == "skip"
            or config.read.decode_device != "cpu"
            or not config.order.shuffle
        )
        if is_whole:
            return 1
        return members_of(split.num_workers, split.batch_size or 1, self._sample_pixels)

    @property
    def steps_of_message(self) -> int:
        """Parts of how many steps a worker sends its parent together."""
        num_bytes = 3 * self._sample_pixels * (1 if self.config.sample.return_uint8 else 4)
        return steps_of_message(num_bytes * (self.config.split.batch_size or 1))

    @property
    def _sample_pixels(self) -> int:
        """Pixels to decode for a sample, as far as features tell; of a mixture the mean."""
        pixels = sum(
            size * (1 if picture.offsets is None else len(picture.offsets))
            for picture, size in self.picture_sizes
        )
        return pixels // len(self.sources)

    @property
    def picture_sizes(self) -> list[tuple[PictureKey, int]]:
        """Each picture of each dataset, with its pixels, where features tell."""
        shapes = [
            (picture, picture_shape(source.features[picture.key]))
            for source in self.sources
            for picture in self.pictures
            if picture.key in source.features
        ]
        return [(picture, shape[0] * shape[1]) for picture, shape in shapes if shape is not None]

    @property
    def num_teams(self) -> int:
        """How many teams of workers there are, each of which serves steps of its own."""
        return self.config.split.num_workers // self.members

    @property
    def slots(self) -> Slots:
        """The shape of the plan: rank slots, and samples of a step."""
        split = self.config.split
        return Slots(rank_slots=split.max_world_size, global_batch_size=split.global_batch_size)

    def plan(self, epoch: int) -> Plan:
        """Return the order of an epoch."""
        if self.schedule is not None:
            episodes = [source.episodes for source in self.sources]
            return MixturePlan(episodes, self.config.order, self.slots, self.schedule, epoch)
        return EpochPlan(self.episodes, self.config.order, self.slots, epoch)

    @property
    def has_even_epochs(self) -> bool:
        """Whether all epochs have as many steps: those of a mixture have, and of episodes without
        weights.
        """
        return self.schedule is not None or self.episodes.repeats is None

    def shape(self, epoch: int) -> EpochShape:
        """Return how many steps an epoch of one dataset has, without its order."""
        num_frames = self.episodes.num_frames(epoch)
        return EpochShape(num_frames, self.config.order, self.slots)


def make_job(
    urls: Urls,
    config: LoaderConfig,
    *,
    snapshot: SnapshotName | None = None,
    is_lenient: bool = False,
) -> LoadJob:
    """Open the dataset and hold the configuration against it. Raises what `make_loader` raises.

    `is_lenient`: rows may lack values that dataset.json says nothing of.
    """
    source, pad_to = source_of(open_shards(urls, config, snapshot), config), config.sample.pad_to
    manifest = source.dataset.manifest
    check_features(DatasetMeta(manifest))
    lacking = missing_of(source)
    features = choose_features(manifest.features, lacking, config.sample.on_missing)
    check_padding(pad_to, manifest.features)
    of_samples = manifest_of_samples(manifest, {key: key for key in manifest.features}, pad_to)
    meta = meta_of(of_samples, {key: of_samples.features[key] for key in features})
    chosen = chosen_cameras(meta, config.sample)
    check_windows(meta, config.sample.delta_timestamps, chosen)
    masked = tuple(key for key in features if key in lacking)
    membership = Membership(
        optional=masked,
        nullable=masked,
        is_lenient=is_lenient,
        pad_to={key: width for key, width in pad_to.items() if key in features},
    )
    return LoadJob(
        sources=(replace(source, features=features, membership=membership),),
        config=replace(config, selection=SelectionConfig()),  # the source has what it says
        offsets=frame_offsets(config.sample.delta_timestamps, meta.fps, config.sample.tolerance_s),
        cameras=chosen,
        image_keys=meta.image_keys,
        meta=meta,
    )


def missing_of(source: Source) -> dict[str, int]:
    """Return feature key -> rows without a value, over the chosen episodes of a source."""
    are_all = len(source.episodes) == len(source.dataset.index)
    return lacking_values(source.dataset, source.episodes, are_all=are_all)


def open_shards(
    urls: Urls, config: LoaderConfig, snapshot: SnapshotName | None = None
) -> ShardedDataset:
    """Open a dataset's shards, or those that it had before it grew."""
    check_devices(config)
    settings = config.read.settings
    if settings.cache is not None:
        settings.cache.open()
    return ShardedDataset.open(urls, settings, snapshot)


def source_of(dataset: ShardedDataset, config: LoaderConfig) -> Source:
    """Choose the episodes of a dataset."""
    return Source(
        dataset=dataset,
        episodes=select(dataset, config.selection, config.order.seed),
        features=dataset.manifest.features,
        tasks=dataset.manifest.task_texts,
        is_chosen=config.selection.chooses,
    )


def check_features(meta: DatasetMeta) -> None:
    """Raise OptionError for features of a kind that is not loaded."""
    unknown = {key: spec.get("dtype") for key, spec in meta.features.items()}
    unknown = {key: dtype for key, dtype in unknown.items() if dtype not in DTYPES}
    if unknown:
        raise OptionError(f"features of a kind that this release does not load: {unknown}")


def chosen_cameras(meta: DatasetMeta, sample: SampleConfig) -> tuple[str, ...]:
    """Return the cameras to decode. Raises OptionError for those that there are not."""
    if isinstance(sample.cameras, str):
        raise OptionError(f"cameras must be a list of keys: [{sample.cameras!r}], not a string")
    chosen = meta.video_keys if sample.cameras is None else tuple(sample.cameras)
    unknown = [key for key in chosen if key not in meta.video_keys]
    if unknown:
        raise OptionError(
            f"cameras: {unknown} not among the dataset's videos {list(meta.video_keys)}"
        )
    check_depth({key: meta.features[key] for key in chosen})
    return tuple(key for key in meta.video_keys if key in chosen)


def check_depth(features: Features, where: str = "") -> None:
    """Raise OptionError for depth video from which no distance follows; `where` goes before the
    message.
    """
    for key, spec in features.items():
        try:
            depth_scale(spec)
        except FormatError as error:
            raise OptionError(
                f"{where}camera {key!r} cannot be loaded, leave it out of cameras=: {error}"
            ) from None


def check_windows(meta: DatasetMeta, windows: Iterable[str], cameras: Sequence[str]) -> None:
    """Raise OptionError for windows of what is not loaded."""
    for key in windows:
        if key not in meta.features:
            raise OptionError(
                f"delta_timestamps: {key!r} is not a feature; the dataset has {list(meta.features)}"
            )
        if (dtype := meta.features[key].get("dtype")) in OBJECT_DTYPES:
            raise OptionError(
                f"delta_timestamps: {key!r} is a {dtype} feature, which has no window"
            )
        if key in meta.video_keys and key not in cameras:
            raise OptionError(
                f"delta_timestamps: camera {key!r} is left out by cameras={list(cameras)}"
            )
