"""Datasets of different robots in one batch: keys renamed, vectors padded, windows at rates of
their own.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.converting import each_converted
from support.lerobot_source import Camera, Source
from support.resume import Setup, Topology, check_resume_at_every_step
from support.slowly import slowly

from roboshard.loader import Loader, Part, make_loader, open_dataset
from roboshard.loader.episodes.columns import RaggedColumn, TensorColumn, padded_column
from roboshard.loader.mixtures.naming import sample_keys
from roboshard.loader.mixtures.padding import check_padding, padded_features
from roboshard.shards import FormatError, OptionError

TOP, WRIST, IMAGE = "observation.images.top", "observation.images.wrist", "observation.image"
SOURCES = {
    "arm": Source(fps=10, lengths=(12, 9, 15), cameras=(Camera(key=TOP), Camera(key=WRIST))),
    "cart": Source(
        fps=30,
        lengths=(8, 14, 5),
        cameras=(Camera(key=IMAGE, size=(96, 96)),),
        tasks=("push", "pull"),
        state_dim=2,
        seed=1,
    ),
    "button": Source(
        fps=10, lengths=(6, 7), cameras=(Camera(key=IMAGE),), state_dim=1, extra_features=True
    ),
}
VECTORS = ("action", "observation.state")
Roots = dict[str, str]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    return each_converted(SOURCES, tmp_path_factory.mktemp("robots"))


def robots(roots: Roots, **of_cart: Any) -> list[Any]:
    return [(roots["arm"], 1), Part(roots["cart"], 2, **{"rename": {IMAGE: TOP}} | of_cart)]


OPTIONS: dict[str, Any] = {
    "image_size": (32, 32),
    "on_missing": "fill",
    "pad_to": {"action": 6, "observation.state": 5},
}


def load(mixture: Any, **options: Any) -> Loader:
    return make_loader(mixture, **{"batch_size": 9} | OPTIONS | options)


def samples(batch: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: values[i] for key, values in batch.items()} for i in range(len(batch["index"]))]


def refused(mixture: Any, **options: Any) -> str:
    with pytest.raises(OptionError) as why:
        load(mixture, **options)
    return str(why.value)


# -- Samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, slowly(2)])
def test_samples_are_those_of_their_dataset_under_other_keys_and_padded(
    roots: Roots, num_workers: int
) -> None:
    windows = {"action": [0.0, 0.1], TOP: [-0.1, 0.0]}
    alone = [
        open_dataset(roots["arm"], image_size=(32, 32), delta_timestamps=windows),
        open_dataset(
            roots["cart"],
            image_size=(32, 32),
            delta_timestamps={"action": [0.0, 1 / 30], IMAGE: [-1 / 30, 0.0]},
        ),
    ]
    own_windows = {"action": [0.0, 1 / 30], TOP: [-1 / 30, 0.0]}
    loader = load(
        robots(roots, delta_timestamps=own_windows),
        delta_timestamps=windows,
        num_workers=num_workers,
    )
    widths = (4, 2)
    seen = 0
    for batch in loader:
        assert batch["action"].shape == (9, 2, 6)
        assert batch["observation.state"].shape == (9, 5)
        assert batch["action_dim_is_pad"].shape == (9, 6)
        assert batch["action_dim_is_pad"].dtype == torch.bool
        for sample in samples(batch):
            number = int(sample["dataset_index"])
            expected = alone[number][int(sample["index"])]
            width = widths[number]
            for key in VECTORS:
                assert sample[key].dtype == torch.float32
                assert torch.equal(sample[key][..., :width], expected[key])
                assert not sample[key][..., width:].any()
                is_pad = sample[f"{key}_dim_is_pad"]
                assert is_pad.tolist() == [i >= width for i in range(len(is_pad))]
            picture = IMAGE if number else TOP
            assert torch.equal(sample[TOP], expected[picture])
            assert torch.equal(sample[f"{TOP}_is_pad"], expected[f"{picture}_is_pad"])
            assert torch.equal(sample["action_is_pad"], expected["action_is_pad"])
            assert bool(sample[f"{WRIST}_is_missing"]) == bool(number)
            assert sample[WRIST].any() != bool(number)
            assert sample["task"] == expected["task"]
            assert IMAGE not in sample
            seen += 1
    loader.close()
    assert seen == 9 * len(loader)


def test_one_dataset_is_padded_as_one_of_a_mixture_is(roots: Roots) -> None:
    alone = make_loader(roots["cart"], batch_size=4, cameras=[], pad_to={"action": 7})
    (mixed,) = (make_loader([(roots["cart"], 1)], batch_size=4, cameras=[], pad_to={"action": 7}),)
    for loader in (alone, mixed):
        batch = next(iter(loader))
        assert batch["action"].shape == (4, 7)
        assert not batch["action"][:, 2:].any()
        assert batch["action_dim_is_pad"].tolist() == 4 * [[False] * 2 + [True] * 5]
        assert loader.meta.features["action"]["shape"] == (7,)
    assert "action_dim_is_pad" not in next(iter(make_loader(roots["cart"], cameras=[])))


def test_a_single_number_is_padded_to_a_vector(roots: Roots) -> None:
    mixture = [(roots["arm"], 1), (roots["button"], 1)]
    batch = next(iter(load(mixture, cameras=[], on_missing="drop", batch_size=12)))
    assert batch["action"].shape == (12, 6)
    width = torch.where(batch["dataset_index"] == 0, 4, 1)
    assert torch.equal(batch["action_dim_is_pad"], torch.arange(6) >= width[:, None])
    index = batch["index"][batch["dataset_index"] == 1].tolist()
    dataset = open_dataset(roots["button"], cameras=[])
    expected = [float(dataset[i]["action"]) for i in index]
    assert batch["action"][batch["dataset_index"] == 1, 0].tolist() == expected


def test_rows_that_are_laid_out_in_ways_of_their_own_are_those_of_their_datasets(
    roots: Roots,
) -> None:
    """Each dataset has features that the other lacks, numbers, flags, texts and arrays."""
    parts = ("arm", "button")
    mixture = [Part(roots["arm"], 1, rename={"action": "action.arm"}), (roots["button"], 1)]
    alone = [open_dataset(roots[name], cameras=[]) for name in parts]
    batch = next(iter(load(mixture, cameras=[], batch_size=24, pad_to={"observation.state": 4})))
    checked = set()
    for sample in samples(batch):
        number = int(sample["dataset_index"])
        expected = alone[number][int(sample["index"])]
        if number == 0:
            expected["action.arm"] = expected.pop("action")
        state = expected.pop("observation.state")
        assert torch.equal(sample["observation.state"][: state.numel()], state.reshape(-1))
        for key, value in expected.items():
            same = (
                torch.equal(sample[key], value) if torch.is_tensor(value) else sample[key] == value
            )
            assert same, key
            checked.add(key)
        for key in batch:
            if key.endswith("_is_missing"):
                own = key.removesuffix("_is_missing")
                assert bool(sample[key]) == (own not in expected)
                if torch.is_tensor(sample[own]) and bool(sample[key]):
                    assert not sample[own].any()
    assert {"action", "action.arm", "task"} < checked
    assert len(checked) > 10


def test_a_padded_vector_that_a_part_lacks_is_all_padding(roots: Roots) -> None:
    mixture = robots(roots, rename={IMAGE: TOP, "observation.state": None})
    batch = next(iter(load(mixture)))
    lacks = batch["dataset_index"] == 1
    assert torch.equal(batch["observation.state_is_missing"], lacks)
    assert batch["observation.state_dim_is_pad"][lacks].all()
    assert batch["observation.state_dim_is_pad"][~lacks].sum(dim=1).eq(1).all()
    assert not batch["observation.state"][lacks].any()
    assert batch["observation.state"][~lacks].any()


def test_a_window_of_what_a_part_lacks_needs_no_frames_of_it(roots: Roots) -> None:
    """A tenth of a second is a frame of the arm alone; the cart has no wrist."""
    mixture = [(roots["cart"], 1), (roots["arm"], 1)]
    cart, arm = mixture
    slow = [Part(*cart, rename={IMAGE: TOP}), arm]
    batch = next(iter(load(slow, delta_timestamps={WRIST: [-0.1, 0.0, 0.1]})))
    assert batch[WRIST].shape == (9, 3, 3, 32, 32)
    assert batch[f"{WRIST}_is_pad"][batch["dataset_index"] == 0].all()
    assert not batch[f"{WRIST}_is_pad"][batch["dataset_index"] == 1].all()


def test_a_key_that_two_robots_use_for_different_things_is_told_apart(roots: Roots) -> None:
    mixture = robots(roots, rename={IMAGE: TOP, "action": "action.cart"})
    batch = next(iter(load(mixture, pad_to={"observation.state": 4})))
    of_cart = batch["dataset_index"] == 1
    assert torch.equal(batch["action.cart_is_missing"], ~of_cart)
    assert torch.equal(batch["action_is_missing"], of_cart)
    assert batch["action.cart"].shape == (9, 2)
    assert batch["action"].shape == (9, 4)


def test_two_cameras_can_change_places(roots: Roots) -> None:
    dataset = open_dataset(roots["arm"])
    loader = make_loader(
        [Part(roots["arm"], 1, rename={TOP: WRIST, WRIST: TOP})], batch_size=4, shuffle=False
    )
    batch = next(iter(loader))
    for number in range(4):
        assert torch.equal(batch[TOP][number], dataset[number][WRIST])
        assert torch.equal(batch[WRIST][number], dataset[number][TOP])


def test_only_the_cameras_that_are_wanted_are_read(roots: Roots) -> None:
    few = load(robots(roots), cameras=[TOP])
    all_of_them = load(robots(roots))
    for loader in (few, all_of_them):
        assert len(list(loader)) == len(few)
    assert few.stats().bytes_read < all_of_them.stats().bytes_read
    assert few.stats().frames_used == 9 * len(few)


def test_pictures_of_renamed_cameras_are_kept_between_epochs(roots: Roots, tmp_path: Path) -> None:
    options: dict[str, Any] = {"frame_cache": "1GB", "frame_cache_dir": str(tmp_path)}
    plain = [batch[TOP] for batch in load(robots(roots))]
    alone = make_loader(roots["cart"], batch_size=9, image_size=(32, 32), **options)
    list(alone)  # the same pictures, whatever they are called
    loader = load(robots(roots), **options)
    assert all(map(torch.equal, plain, (batch[TOP] for batch in loader)))
    assert loader.stats().frame_cache_hits > 0
    loader.set_epoch(0)
    assert all(map(torch.equal, plain, (batch[TOP] for batch in loader)))


# -- Metadata --------------------------------------------------------------------------------------


def test_metadata_has_the_keys_and_shapes_of_samples(roots: Roots) -> None:
    loader = load(robots(roots))
    assert set(loader.meta.camera_keys) == {TOP, WRIST}
    assert loader.meta.features["action"]["shape"] == (6,)
    assert loader.meta.features["action"]["names"] is None
    arm, cart = loader.metas
    assert cart.camera_keys == (TOP,)
    assert cart.fps == 30
    assert [meta.features["observation.state"]["shape"] for meta in (arm, cart)] == [(5,), (5,)]
    assert cart.info["features"].keys() == cart.features.keys()
    assert cart.stats[TOP]["mean"].shape == (3, 1, 1)
    assert IMAGE not in cart.stats
    own = open_dataset(roots["cart"]).meta.exact_stats["action"]
    for name in ("min", "max", "mean", "std", "q01", "q99"):
        padded = [*own[name].tolist(), 0, 0, 0, 0]
        assert cart.stats["action"][name].tolist() == pytest.approx(padded)
    assert cart.stats["action"]["count"].tolist() == [27]
    merged = loader.meta.stats["action"]
    first, second = (meta.stats["action"] for meta in loader.metas)
    assert merged["mean"][:2] == pytest.approx((first["mean"] + 2 * second["mean"])[:2] / 3)
    for name in (
        "min",
        "max",
        "mean",
        "std",
        "q10",
    ):  # two numbers that only the arm has, two of none
        assert merged[name][2:4] == pytest.approx(first[name][2:4])
        assert merged[name][4:].tolist() == [0, 0]
    assert loader.meta.stats[WRIST]["mean"] == pytest.approx(arm.stats[WRIST]["mean"])
    of_cart = loader.metas.by_robot_type
    assert {tuple(meta.features["action"]["shape"]) for meta in of_cart.values()} == {(6,)}
    changed = load([Part(roots["arm"], 1, rename={TOP: WRIST, WRIST: TOP})]).meta.stats
    assert changed[TOP]["mean"] == pytest.approx(arm.stats[WRIST]["mean"])
    relative = load(robots(roots), pad_to={"action": 6, "observation.state": 6}).meta
    alone = load([(roots["arm"], 1)], pad_to={"action": 6, "observation.state": 6}).meta
    found, expected = (meta.relative_stats()["action"] for meta in (relative, alone))
    for name in ("min", "mean", "q50"):
        assert found[name][2:4] == pytest.approx(expected[name][2:4])
        assert found[name][4:].tolist() == [0, 0]
    copy = pickle.loads(pickle.dumps(loader))
    assert copy.meta.features == loader.meta.features


def test_predicates_of_a_part_see_the_dataset_as_it_is(roots: Roots) -> None:
    seen: list[set[str]] = []

    def remember(episode: Any) -> bool:
        seen.append(set(episode.stats))
        return True

    load(robots(roots, episodes=remember))
    assert all(IMAGE in keys for keys in seen)


# -- States ----------------------------------------------------------------------------------------


def test_resume_at_every_step_in_any_topology(roots: Roots) -> None:
    windows = {"action": [0.0, 0.1]}
    setup = Setup(
        root=robots(roots, delta_timestamps={"action": [0.0, 1 / 30]}),
        global_batch_size=12,
        max_world_size=2,
        options=OPTIONS | {"cameras": [], "delta_timestamps": windows, "pool_episodes": 4},
    )
    check_resume_at_every_step(setup, Topology(2), [Topology(1)], fresh=False)


@pytest.mark.slow
def test_resume_with_worker_processes_and_pictures(roots: Roots) -> None:
    setup = Setup(
        root=robots(roots), global_batch_size=12, max_world_size=2, options=OPTIONS | {"seed": 5}
    )
    check_resume_at_every_step(setup, Topology(1, 2), [Topology(2, 0)], fresh=False)


# -- Weights by size -------------------------------------------------------------------------------


def test_a_weight_of_frames_is_the_number_of_frames_that_are_samples(roots: Roots) -> None:
    mixture = [
        Part(roots["arm"], "frames", episodes=[0, 2], keep_ranges={0: [(2, 5)]}),
        (roots["cart"], "frames"),
    ]
    loader = load(mixture, pad_to={"action": 4, "observation.state": 4}, cameras=[])
    assert loader.state_dict()["weights"] == [2, 3]  # 18 and 27
    by_number = [
        Part(roots["arm"], 2, episodes=[0, 2], keep_ranges={0: [(2, 5)]}),
        robots(roots)[1],
    ]
    weights = {"episode_weights": {0: 2.0, 1: 0.5, 2: 0}}
    weighted = [Part(roots["cart"], "frames", **weights), Part(roots["cart"], "frames")]
    assert load(weighted).state_dict()["weights"] == [23, 27]  # 2 * 8 + 7
    told = refused([*mixture[:1], *by_number[1:]])
    assert "for all parts of a mixture or for none" in told
    assert "[18, 27] frames" in told


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rename", "reason"),
    [
        ({"nowhere": TOP}, r"dataset 1 .*rename names \['nowhere'\].*it has \['observation.state'"),
        ({IMAGE: "action"}, "rename gives 'action' and '.*image' the same key 'action'.*None"),
        ({IMAGE: "x", "action": "x"}, "the same key 'x'"),
        ({IMAGE: "task"}, "the key 'task', which is the loader's own"),
        ({IMAGE: "dataset_index"}, "the loader's own"),
        ({"index": "number"}, "'index' says which row"),
        ({"task_index": None}, "'task_index' says which row"),
        ({IMAGE: ""}, "rename must be a dict"),
        ({IMAGE: 3}, "rename must be a dict"),
        ([(IMAGE, TOP)], "rename must be a dict"),
    ],
    ids=str,
)
def test_names_that_cannot_be_are_refused(roots: Roots, rename: Any, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        load(robots(roots, rename=rename))


def test_a_renamed_key_that_is_swapped_or_stays_is_fine() -> None:
    features: Any = {key: {} for key in ("a", "b", "c", "index")}
    assert sample_keys(features, {"a": "b", "b": "a", "c": "c", "index": "index"}, "") == {
        "a": "b",
        "b": "a",
        "c": "c",
        "index": "index",
    }
    assert sample_keys(features, {"a": None, "b": "a"}, "") == {
        "b": "a",
        "c": "c",
        "index": "index",
    }


@pytest.mark.parametrize(
    ("pad_to", "reason"),
    [
        ({"action": 3}, r"dataset 0 .*pad_to: 'action' has 4 numbers, more than the 3.*give 4 or"),
        ({"actions": 9}, r"pad_to: 'actions' is not a feature; there are \['action'"),
        ({TOP: 9}, f"pad_to: '{TOP}' has dtype video.*only vectors"),
        ({"index": 9}, "pad_to: 'index' says which row"),
        ({"action": 0}, "pad_to must be a dict"),
        ({"action": True}, "pad_to must be a dict"),
        ({"action": 1.5}, "pad_to must be a dict"),
        ({"action": 1 << 20}, "1 to 65536 numbers"),
        ([("action", 3)], "pad_to must be a dict"),
        ({}, r"'action', which is float32 \[4\] in dataset 0 .*pad_to=\{'action': 4\}"),
    ],
    ids=str,
)
def test_lengths_that_cannot_be_are_refused(roots: Roots, pad_to: Any, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        load(robots(roots), pad_to=pad_to)


def test_a_mask_that_has_the_name_of_a_feature_is_refused() -> None:
    with pytest.raises(OptionError, match="'action_dim_is_pad', which is the name of a feature"):
        check_padding({"action": 3}, ["action", "action_dim_is_pad"])


@pytest.mark.parametrize("shape", [[2, 3], [-1], None, ["n"]])
def test_what_is_no_vector_is_not_padded(shape: Any) -> None:
    with pytest.raises(OptionError, match="only vectors of numbers"):
        padded_features({"a": {"dtype": "float32", "shape": shape}}, {"a": 8})


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (RaggedColumn([np.zeros(2), np.zeros(3)]), "episode 7: its rows have no common shape"),
        (TensorColumn(np.zeros((4, 2, 2))), r"episode 7: its rows have shape \(2, 2\)"),
        (TensorColumn(np.zeros((4, 9))), "episode 7: its rows hold 9 numbers, more than the 8"),
    ],
)
def test_rows_that_are_not_what_their_dataset_says_are_an_error_with_its_place(
    column: Any, reason: str
) -> None:
    with pytest.raises(FormatError, match=reason):
        padded_column(column, 8, "episode 7")


@pytest.mark.parametrize(
    ("of_cart", "of_all", "reason"),
    [
        ({"action": [0.0]}, {}, "'action' has a window in dataset 1 .* and none in dataset 0"),
        ({"action": [0.0]}, {"action": [0.0, 0.1]}, "different lengths, 2 in dataset 0 .*, 1 in"),
        ({}, {"action": [1 / 30]}, r"dataset 0 .*at 10 fps.*Part\(delta_timestamps=\)"),
        ({"action": [0.05]}, {"action": [0.1]}, "dataset 1 .*at 30 fps"),
        ({}, {"nowhere": [0.0]}, "delta_timestamps: 'nowhere' is not a feature"),
        ({"nowhere": [0.0]}, {}, "dataset 1 .*delta_timestamps of the Part: 'nowhere' is not"),
        ({WRIST: [0.0]}, {}, f"'{WRIST}' is not a feature that is loaded of it; it has"),
        ([0.0], {}, "delta_timestamps of a Part must be a dict"),
    ],
    ids=str,
)
def test_windows_that_do_not_go_together_are_refused(
    roots: Roots, of_cart: Any, of_all: dict[str, Sequence[float]], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        load(robots(roots, delta_timestamps=of_cart), delta_timestamps=of_all)


def test_what_differs_is_told_with_the_remedy(roots: Roots) -> None:
    told = refused(robots(roots), image_size=None)
    assert re.search(r"video \[64, 96, 3\] in dataset 0 .*video \[96, 96, 3\].*image_size=", told)
    told = refused([(roots["arm"], 1), (roots["cart"], 1)], on_missing="error")
    assert "Part(rename=) gives features that are the same one key" in told
