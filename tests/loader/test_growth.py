"""Loading a dataset that grows: earlier snapshots, states that were saved on them, readers that
were there before.
"""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from support.growing import LENGTHS, append, record
from support.slowly import some_quickly

from roboshard.loader import Loader, Part, make_loader, open_dataset
from roboshard.shards import MissingError, OptionError

NIGHTS = 10
FIRST = 3
"""Episodes at the end of the first night; one more comes every night."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training on the dataset as it was one night: where it was saved, and what would have
    followed.
    """

    state: dict[str, Any]
    rest: list[torch.Tensor]
    episodes: int


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A dataset that was appended to ten times, with a state of every night."""

    root: Path
    runs: list[Run]


OPTIONS: dict[str, Any] = {"batch_size": 4, "pool_episodes": 2, "seed": 3}


def load(root: Path, **options: Any) -> Loader:
    return make_loader(str(root), **(OPTIONS | options))


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown")
    runs = []
    for episodes in range(FIRST, FIRST + NIGHTS + 1):
        record(folder / "robot", episodes, cameras=(), state_dim=2)
        append(folder / "robot", folder / "shards")
        loader = load(folder / "shards", split=("train", 0.25))
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        rest = [batch["observation.state"] for batch in batches]
        runs.append(Run(state=state, rest=rest, episodes=loader.num_episodes))
    return Grown(root=folder / "shards", runs=runs)


@pytest.mark.parametrize("night", some_quickly(range(NIGHTS), {0, 4, 9}))
@pytest.mark.parametrize("num_workers", some_quickly([0, 2], {0}))
def test_a_state_resumes_on_exactly_what_it_was_saved_on(
    grown: Grown, night: int, num_workers: int
) -> None:
    run = grown.runs[night]
    loader = load(grown.root, split=("train", 0.25), num_workers=num_workers)
    told = rf"had {FIRST + night} episodes when the state was saved, and has {FIRST + NIGHTS}"
    with pytest.warns(UserWarning, match=told):
        loader.load_state_dict(run.state)
    assert loader.state_dict() == run.state
    assert loader.num_episodes == run.episodes
    assert loader.meta.total_episodes == FIRST + night
    assert loader.meta.total_frames == sum(LENGTHS[: FIRST + night])
    rest = [batch["observation.state"] for batch in loader]
    assert len(rest) == len(run.rest)
    assert all(torch.equal(one, other) for one, other in zip(rest, run.rest, strict=True))
    loader.close()


def test_a_trace_that_was_asked_for_is_that_of_the_state_that_is_loaded(
    grown: Grown, tmp_path: Path
) -> None:
    loader = load(grown.root, split=("train", 0.25))
    loader.trace(tmp_path / "trace.json", steps=2)
    with pytest.warns(UserWarning, match="had 3 episodes"):
        loader.load_state_dict(grown.runs[0].state)
    for _ in zip(range(3), loader, strict=False):
        pass
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    steps = [event["args"]["step"] for event in events if event["name"] == "step"]
    assert steps == [1, 2]


def test_the_newest_state_resumes_without_a_word(grown: Grown) -> None:
    loader = load(grown.root, split=("train", 0.25))
    loader.load_state_dict(grown.runs[-1].state)
    assert len(list(loader)) == len(grown.runs[-1].rest)


def test_a_loader_goes_from_state_to_state(grown: Grown) -> None:
    loader = load(grown.root, split=("train", 0.25))
    for night in (1, 6, 2):
        with pytest.warns(UserWarning, match="this loader now loads what the state was saved on"):
            loader.load_state_dict(grown.runs[night].state)
        assert loader.meta.total_episodes == FIRST + night
    with pytest.warns(UserWarning, match="this loader now loads") as told:
        loader.load_state_dict(grown.runs[-1].state)
    assert told[0].filename == __file__
    assert loader.meta.total_episodes == FIRST + NIGHTS


def test_what_else_does_not_fit_is_refused_and_the_loader_stays(grown: Grown) -> None:
    loader = load(grown.root, batch_size=5, split=("train", 0.25))
    state = loader.state_dict()
    with (
        pytest.warns(UserWarning, match="this loader now loads"),
        pytest.raises(OptionError, match="global_batch_size is 5 now and 4 in the state"),
    ):
        loader.load_state_dict(grown.runs[1].state)
    assert loader.state_dict() == state
    with pytest.warns(UserWarning, match=r"saved on|the state does not fit") as told:
        loader.load_state_dict(grown.runs[1].state, strict=False)
    assert ["saved on" in str(each.message) for each in told] == [True, False]
    assert loader.meta.total_episodes == FIRST + 1


def test_a_state_of_another_dataset_is_still_refused(grown: Grown) -> None:
    loader = load(grown.root, split=("train", 0.25))
    with pytest.raises(OptionError, match="fingerprint is"):
        loader.load_state_dict(grown.runs[0].state | {"fingerprint": "0" * 64})


@pytest.mark.parametrize("night", [0, 3, NIGHTS])
def test_a_snapshot_by_number_or_fingerprint(grown: Grown, night: int) -> None:
    run = grown.runs[night]
    for name in (night, run.state["fingerprint"], run.state["fingerprint"][:12]):
        loader = load(grown.root, snapshot=name)
        assert loader.meta.total_episodes == FIRST + night
        seen = sorted(chain(*indices(loader)))
        assert seen == list(range(sum(LENGTHS[: FIRST + night])))
    assert len(open_dataset(str(grown.root), snapshot=night)) == len(seen)
    loader = load(grown.root, split=("train", 0.25), snapshot=night)
    loader.load_state_dict(run.state)
    assert len(list(loader)) == len(run.rest)


def test_a_loader_stays_with_the_snapshot_that_it_was_asked_for(grown: Grown) -> None:
    loader = load(grown.root, split=("train", 0.25), snapshot=2)
    with pytest.raises(OptionError, match="fingerprint is"):
        loader.load_state_dict(grown.runs[1].state)


def test_snapshots_that_there_are_not(grown: Grown) -> None:
    with pytest.raises(OptionError, match=rf"snapshot 99 is not one of 0\.\.{NIGHTS}"):
        load(grown.root, snapshot=99)
    with pytest.raises(OptionError, match="`roboshard inspect` lists them"):
        load(grown.root, snapshot="f" * 64)


def test_an_episode_stays_on_its_side_of_the_split(grown: Grown) -> None:
    sides = []
    for night in (0, 4, NIGHTS):
        loader = load(grown.root, snapshot=night, split=("train", 0.25), shuffle=False)
        batches = list(loader)
        sides.append({int(i) for batch in batches for i in batch["episode_index"]})
    assert sides[0] == sides[1] & set(range(FIRST))
    assert sides[1] == sides[2] & set(range(FIRST + 4))


def test_a_mixture_goes_back_with_each_of_its_datasets(grown: Grown) -> None:
    mixture: Any = [Part(str(grown.root), 1, snapshot=1), Part(str(grown.root), 2, snapshot=4)]
    then = make_loader(mixture, **OPTIONS)
    batches = iter(then)
    next(batches)
    state, rest = then.state_dict(), indices(batches)
    now = make_loader([(str(grown.root), 1), (str(grown.root), 2)], **OPTIONS)
    with pytest.warns(UserWarning, match="had 4 episodes .* had 7 episodes"):
        now.load_state_dict(state)
    assert indices(now) == rest
    with pytest.raises(OptionError, match="give it to its part"):
        make_loader([(str(grown.root), 1)], snapshot=1, **OPTIONS)


def test_a_loader_that_was_there_before_goes_on(tmp_path: Path) -> None:
    """Through three nights, in the middle of its epoch and in the next ones, with metadata that it
    reads late.
    """
    record(tmp_path / "robot", FIRST, cameras=())
    append(tmp_path / "robot", tmp_path / "shards")
    expected = indices(load(tmp_path / "shards"))
    loader = load(tmp_path / "shards", memory_bytes=1 << 16)
    batches = iter(loader)
    seen = [next(batches)["index"].tolist()]
    for episodes in range(FIRST + 1, FIRST + 4):
        record(tmp_path / "robot", episodes, cameras=())
        append(tmp_path / "robot", tmp_path / "shards")
        seen.append(next(batches)["index"].tolist())
    seen += indices(batches)
    assert seen == expected
    assert sorted(chain(*indices(loader))) == sorted(chain(*expected))
    assert loader.meta.total_episodes == FIRST


def test_a_copy_keeps_what_it_loads(grown: Grown) -> None:
    loader = load(grown.root, snapshot=2)
    copy = pickle.loads(pickle.dumps(loader))
    assert indices(copy) == indices(loader)


def test_a_snapshot_whose_files_are_gone_is_an_error_that_names_them(
    grown: Grown, tmp_path: Path
) -> None:
    root = tmp_path / "shards"
    shutil.copytree(grown.root, root)
    state = grown.runs[2].state
    (root / f"snapshots/{state['fingerprint']}.json").unlink()
    with pytest.raises(MissingError, match=rf"snapshots/{state['fingerprint']}\.json: missing"):
        load(root, snapshot=2)
    assert len(load(root)) > 0
