"""LeRobot's trainer from its first line to its last, with batches and their place from our
loader.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch.utils.data import Dataset

from roboshard.common.errors import OptionError
from roboshard.loader import Loader, make_loader, open_dataset
from roboshard.shards.features import keys_of
from roboshard.tools.lerobot_train import checkpoint as checkpoints
from roboshard.tools.lerobot_train.datasets import (
    TrainerDataset,
    TrainerMeta,
    evaluation_samples,
    put_imagenet_stats,
    split_episodes,
)
from roboshard.tools.lerobot_train.hooks import (
    Release,
    command_line,
    installed_release,
    load_trainer,
    replaced,
)
from roboshard.tools.lerobot_train.options import LoaderOptions

log = logging.getLogger(__name__)
Datasets = tuple[TrainerDataset, Dataset[Any] | None]


def train(arguments: Sequence[str], options: LoaderOptions | None = None) -> None:
    """Run `lerobot-train` with batches from shards.

    Under `accelerate launch` each process does this, and the loader splits itself by rank.

    Args:
        arguments: Options of `lerobot-train`; `--dataset.root` is a folder of shards or their URL.
        options: Options of the loader that the trainer has no name for.

    Raises:
        OptionError: Options that cannot be used, or a checkpoint that does not fit them; no
            LeRobot, or a release whose trainer this was not tried with.
        MissingError, FormatError, VersionError, DamageError, StorageError: No usable dataset.
    """
    release = installed_release()
    trainer = load_trainer()
    training = Training(trainer, release, options or LoaderOptions())
    with replaced(trainer, training.functions()), command_line(arguments):
        trainer.main()


class Training:
    """What the trainer calls in the place of its own functions, in the order of the calls."""

    def __init__(self, trainer: ModuleType, release: Release, options: LoaderOptions) -> None:
        self._save: Callable[..., None] = trainer.save_checkpoint
        self._release = release
        self._options = options
        self._loader: Loader | None = None
        self._batch_size = 0
        self._num_processes = 1

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Return the functions that replace the trainer's, by their names in its module."""
        make_datasets = self.datasets if self._release.returns_two else self.dataset
        more = dict.fromkeys(self._release.more, _refuse_remote)
        return more | {
            self._release.make_datasets: make_datasets,
            "cycle": self.batches,
            "save_checkpoint": self.save_checkpoint,
        }

    def dataset(self, cfg: Any) -> TrainerDataset:
        """Make the dataset that the trainer counts and makes its policy from, and the loader."""
        return self.datasets(cfg)[0]

    def datasets(self, cfg: Any) -> Datasets:
        """Make the trainer's dataset, the loader, and where asked for the dataset for
        evaluation.
        """
        root = cfg.dataset.root
        _check_dataset(cfg)
        place = None
        if cfg.resume:
            place = checkpoints.read(Path(cfg.checkpoint_path))
            self._options = place.continued(self._options)
        samples = self._options.of_samples()
        episodes, held_out = cfg.dataset.episodes, None
        fraction = getattr(cfg.dataset, "eval_split", 0.0)
        if fraction:
            episodes, held_out = split_episodes(root, episodes, fraction, **samples)
        dataset = self._open(cfg, episodes, with_transforms=True)
        self._make_loader(cfg, episodes, place)
        if not held_out:
            return dataset, None
        log.info("%d episodes are trained on, %d held out", len(episodes), len(held_out))
        evaluation = self._open(cfg, held_out, with_transforms=False)
        return dataset, evaluation_samples(evaluation, root, cfg.max_eval_samples, **samples)

    def batches(self, _dataloader: Any) -> Iterator[dict[str, Any]]:
        """Yield batches, epoch after epoch, in the place of those of the trainer's DataLoader."""
        loader = self._made()
        language = keys_of(loader.meta.features, "language")  # LeRobot's batches have none
        while True:
            for batch in loader:
                for key in language:
                    batch.pop(key, None)
                yield batch

    def save_checkpoint(self, *, checkpoint_dir: Path, step: int, **parts: Any) -> None:
        """Write the trainer's checkpoint, and the loader's place into it."""
        checkpoints.remove(checkpoint_dir)
        self._save(checkpoint_dir=checkpoint_dir, step=step, **parts)
        checkpoints.Place(
            step=step,
            num_processes=self._num_processes,
            batch_size=self._batch_size,
            loader=self._made().state_dict(),
            options=self._options.given(),
        ).write(checkpoint_dir)

    def _open(
        self, cfg: Any, episodes: Sequence[int] | None, *, with_transforms: bool
    ) -> TrainerDataset:
        options = self._sample_options(cfg)
        if not with_transforms:
            options["image_transforms"] = None
        found = open_dataset(cfg.dataset.root, episodes=episodes, **options)
        meta = TrainerMeta(found.meta, cfg.dataset.repo_id)
        if cfg.dataset.use_imagenet_stats:
            put_imagenet_stats(meta)
        return TrainerDataset(found, meta)

    def _make_loader(
        self, cfg: Any, episodes: Sequence[int] | None, place: checkpoints.Place | None
    ) -> None:
        from accelerate.state import PartialState  # noqa: PLC0415 - the trainer has made it

        state = PartialState()
        self._batch_size, self._num_processes = cfg.batch_size, state.num_processes
        if place is not None:
            place.check(state.num_processes, cfg.batch_size)
        self._loader = make_loader(
            cfg.dataset.root,
            batch_size=cfg.batch_size,
            episodes=episodes,
            seed=cfg.seed or 0,
            drop_n_last_frames=getattr(_trained(cfg), "drop_n_last_frames", 0),
            num_workers=cfg.num_workers,
            rank=state.process_index,
            world_size=state.num_processes,
            device=None if state.device.type == "cpu" else str(state.device),
            **self._options.given() | self._sample_options(cfg),
        )
        if place is not None:
            self._loader.load_state_dict(place.loader)
            log.info(
                "Going on at step %d of epoch %d",
                self._loader.state_dict()["step"],
                self._loader.epoch,
            )

    def _sample_options(self, cfg: Any) -> dict[str, Any]:
        """Return the options that say what a sample is, by the trainer's options."""
        from lerobot.datasets.factory import ImageTransforms, resolve_delta_timestamps  # noqa: PLC0415

        options = self._options.of_samples()
        transforms = cfg.dataset.image_transforms
        meta = open_dataset(cfg.dataset.root, **options).meta
        return {
            "on_missing": "error",
            **options,
            "delta_timestamps": resolve_delta_timestamps(_trained(cfg), meta),
            "image_transforms": ImageTransforms(transforms) if transforms.enable else None,
            "return_uint8": self._release.takes_uint8,
            "tolerance_s": cfg.tolerance_s,
        }

    def _made(self) -> Loader:
        if self._loader is None:
            raise OptionError("LeRobot's trainer has asked for batches before it had its datasets")
        return self._loader


def _trained(cfg: Any) -> Any:
    """Return the configuration of what is trained: a policy, or a reward model."""
    return getattr(cfg, "trainable_config", cfg.policy)


def _check_dataset(cfg: Any) -> None:
    """Refuse options that would be without effect on shards."""
    dataset = cfg.dataset
    if dataset.root is None:
        raise OptionError("--dataset.root is missing: a folder of shards, or their URL")
    if dataset.revision is not None:
        raise OptionError(
            f"--dataset.revision={dataset.revision} is of LeRobot's datasets: a revision of shards "
            "is part of their URL, as in hf://datasets/org/name@revision"
        )
    if getattr(dataset, "depth_output_unit", "mm") != "mm":
        raise OptionError(
            f"--dataset.depth_output_unit={dataset.depth_output_unit}: depth comes in millimetres"
        )


def _refuse_remote(_cfg: Any) -> NoReturn:
    raise OptionError(
        "--job.target sends `lerobot-train` itself to another machine, which knows nothing of "
        "shards: start `roboshard lerobot-train` there"
    )
