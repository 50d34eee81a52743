"""The loader's place in the trainer's checkpoints: one more file, the same for all ranks."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from roboshard.common import jsonio
from roboshard.common.errors import FormatError, MissingError, OptionError
from roboshard.tools.lerobot_train.options import LoaderOptions

NAME = Path("training_state") / "roboshard_loader.json"
"""Path of the loader's place below a checkpoint's folder, beside the trainer's own state."""
MAX_BYTES = 1 << 20
OF_THE_ORDER = ("pool_episodes", "episode_order", "frame_order")
"""Fields of a loader's state that are options as well."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run stood at a checkpoint."""

    step: int
    """The trainer's step at the checkpoint."""
    num_processes: int
    batch_size: int
    """Samples per process and step."""
    loader: dict[str, Any]
    """The loader's state, as `state_dict` returns it."""
    options: dict[str, Any]
    """The loader's options that were given."""

    @property
    def rank_slots(self) -> int:
        """Ranks that the order is split for: any number of processes that divides it can go on."""
        return int(self.loader["rank_slots"])

    def write(self, checkpoint: Path) -> None:
        """Write the place so that it appears whole."""
        temporary = checkpoint / NAME.with_suffix(".tmp")
        temporary.write_bytes(jsonio.dump(asdict(self)))
        temporary.replace(checkpoint / NAME)

    def check(self, num_processes: int, batch_size: int) -> None:
        """Refuse other sizes than those with which the order goes on.

        Raises:
            OptionError: The number of processes or their batches do not fit, with what would.
        """
        samples = self.num_processes * self.batch_size
        fits = self.rank_slots % num_processes == 0 and num_processes * batch_size == samples
        if fits:
            return
        fitting = [
            f"{n} x {samples // n}"
            for n in range(1, self.rank_slots + 1)
            if not self.rank_slots % n
        ]
        raise OptionError(
            f"the checkpoint of step {self.step} was written by {self.num_processes} processes "
            f"with --batch_size={self.batch_size}, and cannot go on with {num_processes} x "
            f"{batch_size}: other samples would come. Processes x batch size may be "
            f"{' or '.join(fitting)}. Runs that begin with --loader.max_world_size=N can resume on "
            "any number of processes that divides N"
        )

    def continued(self, options: LoaderOptions) -> LoaderOptions:
        """Return the options with which the order goes on: those given now over those of before."""
        order = {name: self.loader[name] for name in OF_THE_ORDER}
        order["max_world_size"] = self.rank_slots
        return options.over(self.options | order)


def remove(checkpoint: Path) -> None:
    """Remove the place from a checkpoint that is about to be written again."""
    (checkpoint / NAME).unlink(missing_ok=True)


def read(checkpoint: Path) -> Place:
    """Return the place that a checkpoint holds.

    Raises:
        MissingError: It has none.
        FormatError: The file is not what `write` made.
    """
    path = checkpoint / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingError(
            f"{path} is missing: the checkpoint is not of `roboshard lerobot-train`, so which "
            "samples its run has seen is unknown. To start from its weights, in an order that "
            "begins anew, leave out --resume and pass "
            f"--policy.path={checkpoint / 'pretrained_model'}"
        ) from None
    found = jsonio.load(content, str(path), MAX_BYTES)
    expected = {field.name for field in fields(Place)}
    loader = found.get("loader")
    if found.keys() != expected or not (
        isinstance(loader, dict) and loader.keys() >= {*OF_THE_ORDER, "rank_slots"}
    ):
        raise FormatError(f"{path} is not what this release writes: it has {sorted(found)}")
    return Place(**found)
