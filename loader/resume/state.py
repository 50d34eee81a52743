"""Where a loader stands, as a small dict: the same for every rank, checked before it is used."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, replace
from typing import Any

from roboshard.common.errors import OptionError

STATE_VERSION = 2
"""Version of states. 1 had worker slots, each with lanes of its own; with one of them the order is
the same.
"""


OF_THE_PLACE = ("epoch", "step", "drawn")
OF_THE_DATA = ("fingerprint", "selection", "weights")
OF_THE_BATCHES = ("global_batch_size", "drop_last")
"""Fields on which the order of a dataset's samples within a lane does not depend."""


@dataclass(frozen=True, kw_only=True)
class LoaderState:
    """Position in the order, and all that the order depends on."""

    version: int
    fingerprint: str
    """Fingerprint of the dataset, or of all datasets, joined by commas."""
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
        """Return the state as plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class MixtureState(LoaderState):
    """Position in the order of a mixture.

    `fingerprint` and `selection` are those of all datasets, in their order.
    """

    weights: list[int]
    """Weights of the datasets, in whole parts."""
    drawn: list[dict[str, int]]
    """For each dataset its own epoch, and the samples drawn of that. It follows from the rest."""
    batches: str = "mixed"
    """How batches are mixed; left out of the dict where it is "mixed", as states were before there
    was a choice.
    """

    def as_dict(self) -> dict[str, Any]:
        """Return the state as plain values, ready for JSON."""
        values = super().as_dict()
        if self.batches == "mixed":
            del values["batches"]
        return values


def as_state(state: Any) -> dict[str, Any]:
    """Return what was given as a state. Raises OptionError for what is no dict."""
    if not isinstance(state, Mapping):
        remedy = "; json.loads makes a dict of its JSON" if isinstance(state, str | bytes) else ""
        raise OptionError(
            f"a state is the dict that state_dict() returned, not {state!r:.100}{remedy}"
        )
    return dict(state)


def check_state(
    state: dict[str, Any], current: LoaderState, steps_of: Callable[[int], int]
) -> LoaderState:
    """Return the state, if it fits the loader.

    Args:
        state: what a loader gave.
        current: this loader's state.
        steps_of: how many steps an epoch of this loader has.

    Raises:
        OptionError: every field that differs, and what would do.
    """
    given = _parsed(_without_worker_slots(state), current)
    problems = list(_differences(given, current).values())
    if not (isinstance(given.epoch, int) and given.epoch >= 0):
        problems.append(f"epoch {given.epoch!r} is not an epoch")
    elif not (isinstance(given.step, int) and 0 <= given.step <= steps_of(given.epoch)):
        problems.append(f"step {given.step!r} is outside the epoch's 0..{steps_of(given.epoch)}")
    if problems:
        remedy = (
            f"any number of workers and world sizes that divide {given.rank_slots} will do, with "
            f"max_world_size={given.rank_slots}, pool_episodes={given.pool_episodes} and "
            f"batch_size x world_size = {given.global_batch_size}"
        )
        raise OptionError("\n  - ".join(["the state does not fit this loader:", *problems, remedy]))
    return given


def nearest_state(
    state: dict[str, Any], current: LoaderState, steps_of: Callable[[int], int]
) -> tuple[LoaderState, str]:
    """Return the state of this loader that is nearest to one that does not fit, and what becomes of
    samples.

    As many samples of the epoch count as received as the other loader had received.

    Args:
        state: A state of the same data in another order or in other batches.
        current: This loader's state.
        steps_of: How many steps an epoch of this loader has.

    Raises:
        OptionError: A state of other data; or no state at all.
    """
    if state.get("version") not in (1, STATE_VERSION):
        raise OptionError(
            f"a state of version {state.get('version')!r}, which this release does not know"
        )
    slots = state.get("worker_slots", 1)
    kept = {name: value for name, value in state.items() if name != "worker_slots"}
    given = _parsed(kept | {"version": STATE_VERSION}, current)
    differences = _differences(given, current)
    others = [differences[name] for name in OF_THE_DATA if name in differences]
    if others:
        raise OptionError("\n  - ".join(["the state is of other data:", *others]))
    numbers = (given.epoch, given.step, given.global_batch_size)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise OptionError(f"the state is at step {given.step!r} of epoch {given.epoch!r}")
    size = current.global_batch_size
    received = given.step * given.global_batch_size
    num_steps = steps_of(given.epoch)
    step = min(num_steps, (2 * received + size) // (2 * size))
    same = () if isinstance(current, MixtureState) else OF_THE_BATCHES
    orders = [text for name, text in differences.items() if name not in same]
    if slots != 1:
        orders.append(f"max_workers was {slots}")
    moved = step * size - received
    told = f"{abs(moved)} samples are {'left out of it' if moved > 0 else 'repeated'}"
    if orders:
        share = min(1.0, step / max(1, num_steps))
        told = (
            f"its order is another one ({'; '.join(orders)}), so about {share:.0%} of the samples "
            "that are left of it have been received, and as many never will be in it"
        )
    return replace(current, epoch=given.epoch, step=step), (
        f"the state does not fit this loader, which goes on at step {step} of {num_steps} of epoch "
        f"{given.epoch}: " + told
    )


def _parsed(state: dict[str, Any], current: LoaderState) -> LoaderState:
    """Return a state of the kind of this loader's; raise OptionError for other fields than it
    has.
    """
    names = type(current).__dataclass_fields__
    optional = {name for name, field in names.items() if field.default is not MISSING}
    if not set(names) - optional <= set(state) <= set(names):
        missing = sorted(set(names) - optional - set(state))
        unknown = sorted(set(state) - set(names))
        raise OptionError(
            f"not a loader state of this release: fields missing {missing}, unknown {unknown}"
        )
    given = type(current)(**state)
    if not (given.shuffle or current.shuffle):  # in dataset order nothing is pooled
        given = replace(given, pool_episodes=current.pool_episodes)
    return given


def _differences(given: LoaderState, current: LoaderState) -> dict[str, str]:
    """Return what differs but the place: field -> both values in words."""
    return {
        name: f"{name} is {getattr(current, name)!r} now and {getattr(given, name)!r} in the state"
        for name in type(current).__dataclass_fields__
        if name not in OF_THE_PLACE and getattr(given, name) != getattr(current, name)
    }


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
            "the state was saved by a release whose order depended on max_workers, which was "
            f"{slots}: that order is no more, since workers share one pool now. Go on near its "
            "place with load_state_dict(state, strict=False), or begin an epoch anew with set_epoch"
        )
    kept = {name: value for name, value in state.items() if name != "worker_slots"}
    return kept | {"version": STATE_VERSION}
