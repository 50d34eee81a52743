"""Mixtures of real datasets: what samples hold, resuming anywhere in any topology, and what is
refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.converting import each_converted
from support.lerobot_source import Camera, Source
from support.resume import Setup, Topology, check_resume_at_every_step, record
from support.slowly import slowly

from roboshard.loader import Loader, make_loader
from roboshard.loader.episodes.columns import TensorColumn
from roboshard.loader.episodes.fetch import DrawnStep
from roboshard.loader.episodes.parsed import Membership
from roboshard.loader.episodes.row_table import RowTable
from roboshard.loader.samples.rows import delta_windows
from roboshard.loader.stats import StatsCounter
from roboshard.shards import OptionError

TOP, WRIST = "observation.images.top", "observation.images.wrist"
SOURCES = {
    "a": Source(fps=10, lengths=(12, 9, 15, 7, 11), cameras=(Camera(key=TOP), Camera(key=WRIST))),
    "b": Source(
        fps=30, lengths=(8, 14, 5), cameras=(Camera(key=TOP),), tasks=("push", "pull"), seed=1
    ),
    "large": Source(fps=10, lengths=(6, 4), cameras=(Camera(key=TOP, size=(96, 96)),), seed=2),
}
Roots = dict[str, str]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    return each_converted(SOURCES, tmp_path_factory.mktemp("mixture"))


def mixture_of(roots: Roots) -> list[Any]:
    return [[roots["a"], 0.7], [roots["b"], 0.3]]


def setup_of(roots: Roots, **options: Any) -> Setup:
    return Setup(
        root=mixture_of(roots),
        global_batch_size=12,
        max_world_size=2,
        options={"cameras": [TOP], "seed": 3} | options,
    )


def ids(batches: list[Any]) -> list[tuple[int, int]]:
    return [
        pair
        for batch in batches
        for pair in zip(batch["dataset_index"].tolist(), batch["index"].tolist(), strict=True)
    ]


# -- Order and state -------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_order", ["uniform", slowly("sweep")])
def test_resume_at_every_step_in_any_topology(roots: Roots, frame_order: str) -> None:
    setup = setup_of(roots, frame_order=frame_order, pool_episodes=4, cameras=[])
    check_resume_at_every_step(setup, Topology(2), [Topology(1)])


@pytest.mark.slow
def test_worker_processes_with_pictures_and_windows(roots: Roots) -> None:
    setup = setup_of(
        roots, delta_timestamps={TOP: [-0.1, 0.0], "action": [0.0, 0.1, 0.2]}, drop_last=True
    )
    check_resume_at_every_step(setup, Topology(1, 2), [Topology(1, 0)], fresh=False)


def test_each_dataset_keeps_epochs_of_its_own(roots: Roots) -> None:
    loader = make_loader(mixture_of(roots), batch_size=12, cameras=[])
    stream = ids([batch for _ in range(3) for batch in loader])
    for dataset, source in enumerate((SOURCES["a"], SOURCES["b"])):
        frames = sum(source.lengths)
        mine = [index for number, index in stream if number == dataset]
        assert len(mine) >= frames
        for start in range(0, len(mine) - frames + 1, frames):
            assert sorted(mine[start : start + frames]) == list(range(frames))
    assert [number for number, _ in stream[:10]] == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]


def test_the_state_counts_what_each_dataset_has_given(roots: Roots) -> None:
    loader = make_loader(mixture_of(roots), batch_size=12, cameras=[])
    run = record([loader], len(loader) + 3)
    for steps, text in run.checkpoints[:-1]:
        state = json.loads(text)
        given = ids([batch for (batch,) in run.batches[:steps]])
        assert state["weights"] == [7, 3]
        for dataset, (source, drawn) in enumerate(
            zip((SOURCES["a"], SOURCES["b"]), state["drawn"], strict=True)
        ):
            count = sum(number == dataset for number, _ in given)
            assert drawn["epoch"] * sum(source.lengths) + drawn["samples"] == count
    other = make_loader([(roots["a"], 0.5), (roots["b"], 0.5)], batch_size=12, cameras=[])
    state = json.loads(run.checkpoints[3].state)
    with pytest.raises(OptionError, match="weights is"):
        other.load_state_dict(state)
    state["drawn"][0]["samples"] += 1
    with pytest.raises(OptionError, match="drawn"):
        loader.load_state_dict(state)
    alone = make_loader(roots["a"], batch_size=12, cameras=[])
    with pytest.raises(OptionError, match=r"unknown \['drawn', 'weights'\]"):
        alone.load_state_dict(json.loads(run.checkpoints[3].state))
    assert "drawn" not in alone.state_dict()


def test_whole_batches_of_one_dataset_in_exact_proportion(roots: Roots) -> None:
    loader = make_loader(mixture_of(roots), batch_size=12, cameras=[], batches="by_dataset")
    owners = [set(batch["dataset_index"].tolist()) for _ in range(4) for batch in loader]
    expected = [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]
    assert owners[:30] == [{number} for number in 3 * expected]
    stream = ids(list(make_loader(mixture_of(roots), batch_size=12, cameras=[])))
    mixed, state = make_loader(mixture_of(roots), batch_size=12, cameras=[]), loader.state_dict()
    assert state["batches"] == "by_dataset"
    assert "batches" not in mixed.state_dict()
    with pytest.raises(OptionError, match="batches is 'mixed' now and 'by_dataset' in the state"):
        mixed.load_state_dict(state)
    with pytest.raises(OptionError, match="batches is 'by_dataset' now and 'mixed' in the state"):
        loader.load_state_dict(mixed.state_dict())
    with pytest.warns(UserWarning, match="its order is another one"):
        mixed.load_state_dict(state | {"epoch": 0, "step": 3}, strict=False)
    assert ids(list(mixed)) == stream[3 * 12 :]


@pytest.mark.slow
@pytest.mark.parametrize("frame_order", ["uniform", "sweep"])
def test_batches_by_dataset_resume_at_every_step_in_any_topology(
    roots: Roots, frame_order: str
) -> None:
    setup = setup_of(
        roots, frame_order=frame_order, pool_episodes=4, cameras=[], batches="by_dataset"
    )
    check_resume_at_every_step(setup, Topology(2), [Topology(1)], fresh=False)


# -- Samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, None])
def test_samples_are_those_of_their_dataset_alone(roots: Roots, batch_size: int | None) -> None:
    windows = {TOP: [-0.1, 0.0], "action": [0.0, 0.1, 0.2]}
    options: dict[str, Any] = {"delta_timestamps": windows, "batch_size": None}
    alone = [
        {int(sample["index"]): sample for sample in make_loader(roots[name], **options)}
        for name in ("a", "b")
    ]
    mixed = make_loader(
        mixture_of(roots), **options | {"batch_size": batch_size}, on_missing="fill"
    )
    seen = 0
    for batch in mixed:
        samples = [batch] if batch_size is None else samples_of(batch)
        for sample in samples:
            dataset = int(sample["dataset_index"])
            expected = alone[dataset][int(sample["index"])]
            assert bool(sample[f"{WRIST}_is_missing"]) == (dataset == 1)
            if dataset == 1:
                assert not sample[WRIST].any()
            assert set(sample) == {*alone[0][0], "dataset_index", f"{WRIST}_is_missing"}
            for key, value in expected.items():
                if isinstance(value, torch.Tensor):
                    assert sample[key].dtype == value.dtype
                    assert torch.equal(sample[key], value), key
                else:
                    assert sample[key] == value
            assert sample["dataset_index"].dtype == torch.int64
            seen += 1
    assert seen == len(mixed) * (batch_size or 1)


def samples_of(batch: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: values[i] for key, values in batch.items()} for i in range(len(batch["index"]))]


def test_what_only_some_have_is_filled_and_masked_or_left_out(roots: Roots) -> None:
    window = {WRIST: [-0.1, 0.0]}
    batch = next(
        iter(loader_of(roots, on_missing="fill", delta_timestamps=window, return_uint8=False))
    )
    lacks = batch["dataset_index"] == 1
    assert torch.equal(batch[f"{WRIST}_is_missing"], lacks)
    assert batch[f"{WRIST}_is_pad"][lacks].all()
    assert batch[WRIST].shape == (16, 2, 3, 64, 96)
    assert not batch[WRIST][lacks].any()
    assert batch[WRIST][~lacks].flatten(1).any(dim=1).all()
    dropped = loader_of(roots, on_missing="drop")
    assert WRIST not in next(iter(dropped))
    assert dropped.meta.camera_keys == (TOP,)


def test_a_feature_that_is_named_like_a_mask_stays_as_it_is() -> None:
    """`action_is_pad` of the datasets themselves: no window makes one, and one dataset lacks
    `action`.
    """
    flags = np.array([True, False, True])
    episodes: list[Any] = [
        SimpleNamespace(
            length=3,
            columns={"action_is_pad": TensorColumn(flags)},
            table=RowTable.of({}, len(flags)),
            membership=Membership(dataset=dataset, missing=missing, optional=("action",)),
            tasks=lambda rows: None,
        )
        for dataset, missing in enumerate(({}, {"action": {"dtype": "float32", "shape": [1]}}))
    ]
    step = DrawnStep(episodes=episodes, episode_of=np.array([0, 1, 1]), rows=np.array([1, 1, 2]))
    (found,) = delta_windows([step], {}, [], StatsCounter())
    assert found.values["action_is_pad"].tolist() == [False, False, True]
    assert found.values["action_is_missing"].tolist() == [False, True, True]


def loader_of(roots: Roots, **options: Any) -> Loader:
    return make_loader(mixture_of(roots), batch_size=16, **options)


def test_metadata(roots: Roots) -> None:
    loader = loader_of(roots, on_missing="fill")
    assert [meta.fps for meta in loader.metas] == [10, 30]
    assert set(loader.meta.camera_keys) == {TOP, WRIST}
    assert (loader.meta.total_episodes, loader.meta.total_frames) == (8, 81)
    assert loader.meta.tasks == ("pick the cube", "push", "pull")
    a, b = (meta.stats["action"] for meta in loader.metas)
    merged = loader.meta.stats["action"]
    assert merged["mean"] == pytest.approx(0.7 * a["mean"] + 0.3 * b["mean"])
    assert (merged["max"] >= a["max"]).all()
    with pytest.raises(OptionError, match="10, 30"):
        _ = loader.meta.fps
    one = make_loader(roots["a"])
    assert [meta.features for meta in one.metas] == [one.meta.features]


def test_sizes_must_agree_unless_image_size_makes_them(roots: Roots) -> None:
    mixture = [(roots["b"], 1), (roots["large"], 2)]
    with pytest.raises(OptionError, match=r"image_size="):
        make_loader(mixture)
    batch = next(iter(make_loader(mixture, batch_size=6, image_size=(32, 48))))
    assert batch[TOP].shape == (6, 3, 32, 48)


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, f"'{WRIST}' is missing from dataset 1 .*on_missing="),
        ({"cameras": [TOP], "delta_timestamps": {"action": [1 / 30]}}, "dataset 0 .*at 10 fps"),
        ({"cameras": ["nowhere"]}, "cameras: .*nowhere"),
        ({"on_missing": "drop", "delta_timestamps": {WRIST: [0.0]}}, "is not a feature"),
        ({"on_missing": "ignore"}, "on_missing must be"),
        ({"batches": "by_robot"}, "batches must be 'mixed' or 'by_dataset', not 'by_robot'"),
        ({"cameras": [], "episodes": [0]}, "a mixture has several"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(
    roots: Roots, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        loader_of(roots, **options)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 1e-9, "x"])
def test_weights_that_are_none_are_refused(roots: Roots, weight: Any) -> None:
    with pytest.raises(OptionError, match="weight"):
        make_loader([(roots["a"], 1.0), (roots["a"], weight)], cameras=[])


def test_the_same_dataset_twice_has_two_orders(roots: Path) -> None:
    loader = make_loader([(roots["a"], 1), (roots["a"], 1)], batch_size=10, cameras=[])
    stream = ids(list(loader))
    assert [i for number, i in stream if number == 0] != [i for number, i in stream if number == 1]
