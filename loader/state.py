"""Where a loader stands, as a small dict: the same for every rank, checked before it is used."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from roboshard.common.errors import OptionError

STATE_VERSION = 2
"""1: with worker slots, each of which had lanes of its own. With one of them the order is the same."""


@dataclass(frozen=True, kw_only=True)
class LoaderState:
    """Position in the order, and all that the order depends on."""

    version: int
    fingerprint: str
    """Of the dataset."""
    selection: str
    """SHA-256 over the episodes and rows in use."""
    seed: int
    epoch: int
    step: int
    """Steps of the epoch that the user has received."""
    global_batch_size: int
    rank_slots: int
    shuffle: bool
    pool_episodes: int
    episode_order: str
    frame_order: str
    drop_last: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class MixtureState(LoaderState):
    """Position in the order of a mixture. `fingerprint` and `selection` are those of all datasets, in their order."""

    weights: list[int]
    """In whole parts."""
    drawn: list[dict[str, int]]
    """Of each dataset its own epoch, and the samples drawn of that. It follows from the rest."""


def check_state(state: dict[str, Any], current: LoaderState, num_steps: int) -> LoaderState:
    """The state, if it fits the loader.

    Raises:
        OptionError: every field that differs, and what would do.
    """
    state = _without_worker_slots(state)
    names = type(current).__dataclass_fields__
    if set(state) != set(names):
        missing, unknown = sorted(set(names) - set(state)), sorted(set(state) - set(names))
        raise OptionError(
            f"not a loader state of this release: fields missing {missing}, unknown {unknown}"
        )
    given = type(current)(**state)
    if not (given.shuffle or current.shuffle):  # in dataset order nothing is pooled
        given = replace(given, pool_episodes=current.pool_episodes)
    problems = [
        f"{name} is {getattr(current, name)!r} now and {getattr(given, name)!r} in the state"
        for name in names
        if name not in ("epoch", "step", "drawn") and getattr(given, name) != getattr(current, name)
    ]
    if not (isinstance(given.epoch, int) and given.epoch >= 0):
        problems.append(f"epoch {given.epoch!r} is not an epoch")
    if not (isinstance(given.step, int) and 0 <= given.step <= num_steps):
        problems.append(f"step {given.step!r} is outside the epoch's 0..{num_steps}")
    if problems:
        remedy = (
            f"any number of workers and world sizes that divide {given.rank_slots} will do, with "
            f"max_world_size={given.rank_slots}, pool_episodes={given.pool_episodes} and "
            f"batch_size x world_size = {given.global_batch_size}"
        )
        raise OptionError("\n  - ".join(["the state does not fit this loader:", *problems, remedy]))
    return given


def _without_worker_slots(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state of version 1 as one of version 2; any other one as it is.

    Raises:
        OptionError: It was saved with several worker slots, whose order there is no more.
    """
    if state.get("version") != 1 or "worker_slots" not in state:
        return state
    slots = state["worker_slots"]
    if slots != 1:
        raise OptionError(
            f"the state was saved by a release whose order depended on max_workers, which was {slots}: "
            "that order is no more, since workers share one pool now. Its epoch cannot be resumed in the "
            "middle; begin it anew, or the next one, with set_epoch"
        )
    kept = {name: value for name, value in state.items() if name != "worker_slots"}
    return kept | {"version": STATE_VERSION}
