"""Which episodes and frames are trained on, and how often: all ways to say it, alone and in
mixtures.
"""

from __future__ import annotations

import json
import pickle
import shutil
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.utils.data
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lerobot_source import Camera, Source, build
from support.resume import Setup, Topology, check_resume_at_every_step
from support.servers import RangeServer
from support.slowly import slowly

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import EpisodeInfo, Loader, Part, make_loader, open_dataset
from roboshard.loader.selection.config import SelectionConfig
from roboshard.loader.selection.select import select
from roboshard.loader.selection.split import held_out
from roboshard.shards import OptionError, ShardedDataset
from roboshard.shards.index import EpisodeIndex

pytest_plugins = ["support.servers.fixtures"]

TOP = "observation.images.top"
LENGTHS = (12, 9, 15, 7, 11, 8, 10, 14, 6, 13)
TASKS = ("push", "pull", "lift")
ALL = list(range(len(LENGTHS)))
QUALITY = [0.5, 1.0, 2.0, 0.0, 1.5, 1.0, 0.25, 1.0, 3.0, 1.0]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes of three tasks in turn, with columns of their own in meta/episodes."""
    folder = tmp_path_factory.mktemp("choosing")
    source = Source(fps=10, lengths=LENGTHS, cameras=(Camera(key=TOP),), tasks=TASKS)
    root = build(folder / "source", source).root
    for path in sorted((root / "meta/episodes").rglob("*.parquet")):
        table = pq.read_table(path)
        index = table["episode_index"].to_pylist()
        table = table.append_column("success", pa.array([i % 2 == 0 for i in index]))
        table = table.append_column("quality", pa.array([QUALITY[i] for i in index]))
        table = table.append_column("note", pa.array([f"episode {i}" for i in index]))
        pq.write_table(table, path)
    convert(
        ConvertConfig(
            source=str(root), destination=str(folder / "shards"), shard_size="64KB", workers=1
        )
    )
    return folder / "shards"


def load(root: Any, **options: Any) -> Loader:
    return make_loader(
        root if isinstance(root, list) else str(root), **{"batch_size": 8, "cameras": []} | options
    )


def frames(loader: Loader) -> list[tuple[int, int]]:
    """(episode, frame) of the samples of an epoch."""
    return [
        pair
        for batch in loader
        for pair in zip(batch["episode_index"].tolist(), batch["frame_index"].tolist(), strict=True)
    ]


def chosen(root: Any, **options: Any) -> list[int]:
    return sorted({episode for episode, _ in frames(load(root, **options))})


def refused(root: Any, **options: Any) -> str:
    with pytest.raises(OptionError) as why:
        load(root, **options)
    return str(why.value)


# -- Episodes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"episodes": lambda e: e.length > 10}, [0, 2, 4, 7, 9]),
        ({"episodes": lambda e: e.episode_index % 3 == 0}, [0, 3, 6, 9]),
        ({"episodes": lambda e: "push" in e.tasks}, [0, 3, 6, 9]),
        ({"episodes": lambda e: e["success"]}, [0, 2, 4, 6, 8]),
        ({"episodes": lambda e: e["note"] == "episode 4"}, [4]),
        ({"episodes": lambda e: e.get("no such", 1) == 1 and e.length < 8}, [3, 8]),
        ({"episodes": lambda e: "quality" in e.columns}, ALL),
        ({"episodes": lambda e: bool(e.stats["timestamp"]["max"][0] > 1.05)}, [0, 2, 7, 9]),
        ({"tasks": ["pull"]}, [1, 4, 7]),
        ({"tasks": {"pull", "lift"}}, [1, 2, 4, 5, 7, 8]),
        ({"exclude_episodes": [0, 9, 9]}, ALL[1:9]),
        ({"episodes": range(5), "exclude_episodes": [1]}, [0, 2, 3, 4]),
        ({"episodes": lambda e: e.length > 10, "tasks": ["push"], "exclude_episodes": [9]}, [0]),
    ],
    ids=range(13),
)
def test_episodes_are_chosen_and_open_dataset_chooses_the_same(
    shards: Path, options: dict[str, Any], expected: list[int]
) -> None:
    loader = load(shards, **options)
    assert loader.num_episodes == len(expected)
    assert Counter(frames(loader)) == {
        (episode, frame): 1 for episode in expected for frame in range(LENGTHS[episode])
    }
    dataset = open_dataset(str(shards), cameras=[], **options)
    assert dataset.episodes == expected
    assert len(dataset) == sum(LENGTHS[episode] for episode in expected)
    assert len(dataset.episode(expected[-1])) == LENGTHS[expected[-1]]


def test_a_predicate_is_called_once_for_each_episode_that_is_left_in_order(shards: Path) -> None:
    seen: list[EpisodeInfo] = []

    def remember(episode: EpisodeInfo) -> bool:
        seen.append(episode)
        return True

    load(shards, episodes=remember, tasks=["pull", "push"], exclude_episodes=[3])
    assert [episode.episode_index for episode in seen] == [0, 1, 4, 6, 7, 9]
    assert [episode.length for episode in seen] == [LENGTHS[i] for i in (0, 1, 4, 6, 7, 9)]
    assert repr(seen[0]) == "EpisodeInfo(episode_index=0, length=12)"


def test_a_predicate_that_asks_for_no_metadata_reads_no_rows(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_reading(*_: object, **__: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(ShardedDataset, "read_episodes", no_reading)
    assert load(shards, episodes=lambda e: e.length > 10 and "push" in e.tasks).num_episodes == 2
    with pytest.raises(AssertionError, match="read"):
        load(shards, episodes=lambda e: e["success"])


def test_some_shards_of_a_dataset(shards: Path) -> None:
    first = str(sorted((shards / "shards").glob("*.tar"))[0])
    there = chosen(first)
    assert 0 < len(there) < len(ALL)
    assert chosen(first, tasks=["push"]) == [i for i in there if i % 3 == 0]
    ranges = {i: [(0, 2)] for i in ALL}  # of the whole dataset
    assert Counter(
        frames(load(first, keep_ranges=ranges, episode_weights=dict.fromkeys(ALL, 2)))
    ) == {(i, row): 2 for i in there for row in (0, 1)}


def test_a_chosen_dataset_can_be_copied_to_worker_processes(shards: Path) -> None:
    dataset = open_dataset(str(shards), cameras=[], episodes=lambda e: e["success"])
    copy = pickle.loads(pickle.dumps(dataset))  # without the function, which pickle cannot have
    assert copy.episodes == [0, 2, 4, 6, 8]
    assert [int(sample["episode_index"]) for sample in (copy[0], copy[-1])] == [0, 8]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"episodes": lambda e: e["sucess"]},
            r"episode 0 have no column 'sucess'; there are.*'success'",
        ),
        ({"episodes": lambda e: None}, "returned None for episode 0: it must return True or False"),
        ({"episodes": lambda e: False}, r"no frame is left.*of 10 episodes: episodes=<function"),
        ({"episodes": [3, 99]}, r"episodes: \[99\] are not in the dataset"),
        ({"exclude_episodes": [99]}, r"exclude_episodes: \[99\] are not in the dataset"),
        ({"exclude_episodes": np.array(ALL)}, r"no frame is left.*exclude_episodes=array"),
        ({"exclude_episodes": "3"}, "exclude_episodes must be a list of episode indices"),
        ({"tasks": "push"}, "tasks must be a list of task texts, not 'push'"),
        ({"tasks": ["pusj"]}, "no episode has 'pusj'; the dataset has 3 tasks, such as 'push'"),
        ({"tasks": []}, "no frame is left"),
        ({"split": ("test", 0.1)}, "split must be ..train., 0.02. or ..val., 0.02."),
        ({"split": ("val", 0)}, "more than 0 and less than 1"),
        ({"split": ("val", 1.0)}, "more than 0 and less than 1"),
        ({"split": ("val", 0.1, -1)}, "a seed may follow"),
        ({"split": "val"}, "split must be"),
        ({"split": ("val", 0.001)}, r"no frame is left.*a small fraction may hold out none"),
    ],
    ids=range(16),
)
def test_what_cannot_be_chosen_is_refused_with_the_remedy(
    shards: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=f"(?s){reason}"):
        load(shards, **options)


# -- Hold-out --------------------------------------------------------------------------------------

FRACTIONS = st.one_of(st.floats(0.001, 0.999), st.sampled_from([0.02, 0.1, 0.25, 1 / 3, 0.5, 0.9]))


@given(st.integers(1, 3000), FRACTIONS, st.integers(0, 2**63 - 1), st.integers(0, 10**6))
@settings(deadline=None)
def test_a_hold_out_is_exact_and_stable(count: int, fraction: float, seed: int, first: int) -> None:
    index = np.arange(first, first + count)
    held = held_out(index, fraction, seed)
    assert abs(held.sum() - count * fraction) <= 2
    # Whichever others there are: an episode never changes sides.
    grown = held_out(np.arange(first + 2 * count), fraction, seed)
    assert grown[first : first + count].tolist() == held.tolist()
    some = np.flatnonzero(np.arange(count) % 3)
    assert held_out(index[some], fraction, seed).tolist() == held[some].tolist()


def test_a_hold_out_is_drawn_by_the_seed_alone_and_evenly() -> None:
    index = np.arange(100_000)
    counts = np.zeros(50)
    for seed in range(20):
        held = np.flatnonzero(held_out(index, 0.02, seed))
        assert len(held) == 2000
        counts += np.bincount(held % 50, minlength=50)
    assert counts.min() > 0.8 * counts.mean()  # any place in a run is as likely as another
    assert counts.max() < 1.2 * counts.mean()
    assert np.flatnonzero(held_out(index, 0.02, 0))[:6].tolist() == PINNED_SPLIT


PINNED_SPLIT = [4, 57, 140, 187, 224, 261]


@given(st.integers(0, 1000), st.sampled_from([0.1, 0.3, 0.5]))
@settings(deadline=None, max_examples=10)
def test_both_sides_are_all_episodes_each_once(shards: Path, seed: int, fraction: float) -> None:
    def side(name: str, **options: Any) -> list[int]:
        try:
            return chosen(shards, split=(name, fraction), **options)
        except OptionError:
            return []

    train, val = side("train", seed=seed), side("val", seed=seed)
    assert sorted(train + val) == ALL
    assert abs(len(val) - 10 * fraction) <= 1
    # The seed of the split counts, not that of the order; nor does what else is chosen.
    again = open_dataset(str(shards), split=("train", fraction, seed), cameras=[])
    assert again.episodes == train
    assert side("val", seed=seed, exclude_episodes=[0, 4]) == [i for i in val if i not in (0, 4)]


# -- Frames ----------------------------------------------------------------------------------------

RANGES = {0: [(2, 5), (8, 12)], 2: [], 3: [(0, 7)], 5: [(4, 5)]}


def expected_frames(ranges: dict[int, list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return [
        (episode, frame)
        for episode in ALL
        for first, stop in ranges.get(episode, [(0, LENGTHS[episode])])
        for frame in range(first, stop)
    ]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["dict", "json", "parquet"])
def test_only_kept_frames_are_samples(
    shards: Path, tmp_path: Path, kind: str, shuffle: bool
) -> None:
    ranges: Any = RANGES
    if kind == "json":
        ranges = tmp_path / "ranges.json"
        ranges.write_text(json.dumps({str(e): own for e, own in RANGES.items()}))
    elif kind == "parquet":
        rows = [(e, *pair) for e, own in RANGES.items() for pair in reversed(own or [(None, None)])]
        columns = dict(
            zip(("episode_index", "first", "stop"), zip(*rows, strict=True), strict=True)
        )
        ranges = str(tmp_path / "ranges.parquet")
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), ranges)
    loader = load(shards, keep_ranges=ranges, shuffle=shuffle)
    found = frames(loader)
    assert sorted(found) == expected_frames(RANGES)
    assert shuffle or found == expected_frames(RANGES)
    assert loader.num_episodes == len(ALL) - 1


def test_windows_see_the_frames_around_a_kept_range_and_not_beyond_the_episode(
    shards: Path,
) -> None:
    loader = load(
        shards,
        keep_ranges={0: [(1, 3), (10, 12)]},
        episodes=[0],
        shuffle=False,
        batch_size=4,
        cameras=[TOP],
        delta_timestamps={"frame_index": [-0.2, 0.0, 0.2], TOP: [-0.2, 0.0]},
    )
    (batch,) = loader
    assert batch["frame_index"].tolist() == [[0, 1, 3], [0, 2, 4], [8, 10, 11], [9, 11, 11]]
    assert batch["frame_index_is_pad"].tolist() == [
        [True, False, False],
        [False, False, False],
        [False, False, True],
        [False, False, True],
    ]
    whole = open_dataset(str(shards), delta_timestamps={TOP: [-0.2, 0.0]})
    for number, row in enumerate((1, 2, 10, 11)):
        assert torch.equal(batch[TOP][number], whole[row][TOP])


def test_dropped_frames_are_dropped_of_kept_ranges_too(shards: Path) -> None:
    options: dict[str, Any] = {"drop_n_first_frames": 3, "drop_n_last_frames": 2, "shuffle": False}
    with pytest.warns(UserWarning, match="1 episodes have no frame left in keep_ranges.*3"):
        loader = load(
            shards, episodes=[0, 2, 3], keep_ranges=RANGES | {3: [(0, 3), (6, 7)]}, **options
        )
    assert frames(loader) == [(0, 3), (0, 4), (0, 8), (0, 9)]


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ({0: [(0, 13)]}, r"\(0, 13\) of episode 0 leaves it, which has 12 frames"),
        ({0: [(4, 8), (0, 5)]}, r"\(0, 5\), \(4, 8\) of episode 0 overlap: make one range"),
        ({0: [(3, 3)]}, r"\(3, 3\) of episode 0 is no range"),
        ({0: [(-1, 3)]}, r"\(-1, 3\) of episode 0 is no range"),
        ({0: [(1.5, 3)]}, "not a list of .first, stop."),
        ({0: 5}, "episode 0 has 5, not a list"),
        ({0: [(0, 1 << 80)]}, "not a list of .first, stop."),
        ({"x": []}, "'x' is not an episode index"),
        ({77: [(0, 1)]}, r"keep_ranges: episodes \[77\] are not in the dataset, which has 10"),
        ({i: [] for i in ALL}, "no frame is left"),
        ([(0, 5)], "keep_ranges must be a dict"),
        ("ranges.txt", "must end in .json or .parquet"),
    ],
    ids=str,
)
def test_ranges_that_cannot_be_are_refused(shards: Path, ranges: Any, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        load(shards, keep_ranges=ranges)


def test_files_of_ranges_that_cannot_be_read_are_refused(shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"episode_index": [0], "start": [1], "stop": [2]}), other)
    with pytest.raises(OptionError, match="no column first: a row is a range"):
        load(shards, keep_ranges=other)
    twice = tmp_path / "twice.json"
    twice.write_text('{"7": [], "07": [[0, 1]]}')
    with pytest.raises(OptionError, match="episode 7 is named twice"):
        load(shards, keep_ranges=twice)


# -- Weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "weights", [dict(enumerate(QUALITY)), "quality"], ids=["by dict", "by column"]
)
def test_episodes_come_as_often_as_their_weights_say(
    shards: Path, weights: Any, shuffle: bool
) -> None:
    loader = load(shards, episode_weights=weights, keep_ranges={2: [(3, 5)]}, shuffle=shuffle)
    assert loader.num_episodes == 9  # 0 is never
    came: Counter[tuple[int, int]] = Counter()
    lengths = []
    for epoch in range(4):
        assert loader.epoch == epoch
        lengths.append(len(loader))
        before = came.copy()
        batches = frames(loader)
        assert -(-len(batches) // 8) == lengths[-1]
        came.update(batches)
        own = came - before
        assert {own[frame] for frame in own if frame[0] in (1, 5, 7, 9)} == {1}
        assert {own[frame] for frame in own if frame[0] == 2} == {2}
    expected = expected_frames({2: [(3, 5)]})
    assert came == Counter({(e, frame): int(4 * QUALITY[e]) for e, frame in expected if QUALITY[e]})
    assert len(set(lengths)) > 1


def test_epochs_of_which_some_are_empty(shards: Path) -> None:
    loader = load(shards, episodes=[0, 3], episode_weights={0: 0.25, 3: 0.25})
    lengths = [(len(loader), len(frames(loader))) for _ in range(9)]
    assert sorted(lengths[:4]) == [(0, 0), (0, 0), (1, 7), (2, 12)]
    assert lengths[:5] == lengths[4:]
    loader.set_epoch(lengths.index((0, 0)))
    (cursor,) = loader.cursor()  # of the next epoch that has a step
    assert (cursor.episode_index, cursor.frame) == next(
        found for found in (frames(loader) for _ in range(4)) if found
    )[0]
    assert pickle.loads(pickle.dumps(loader)).state_dict() == loader.state_dict()


def test_an_equal_weight_changes_nothing(shards: Path) -> None:
    plain = load(shards, seed=4)
    weighted = load(shards, seed=4, episode_weights={3: 1.0})
    assert weighted.state_dict() == plain.state_dict()
    assert frames(weighted) == frames(plain)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({3: -1}, r"episode_weights\[3\] is -1: a weight says how often"),
        ({3: float("nan")}, r"episode_weights\[3\] is nan"),
        ({3: float("inf")}, r"episode_weights\[3\] is inf"),
        ({3: True}, "is True"),
        ({"3": 1.0}, "must have episode indices as keys"),
        ({3: "2"}, "is '2'"),
        ({3: 1e-9}, "1e-09 of episode 3 is less than once in 65536 epochs: give it 0"),
        ({33: 1.0}, r"episode_weights: episodes \[33\] are not in the dataset, which has 10"),
        (dict.fromkeys(ALL, 0), "no frame is left"),
        ("no column", "no column 'no column'"),
        ("note", "column 'note' of episode 0 is 'episode 0': a weight"),
        ([1.0] * 10, "episode_weights must be a dict"),
    ],
    ids=str,
)
def test_weights_that_cannot_be_are_refused(shards: Path, weights: Any, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        load(shards, episode_weights=weights)


# -- States ----------------------------------------------------------------------------------------

CHOICE: dict[str, Any] = {
    "episode_weights": {0: 0.5, 1: 2.0, 4: 1.5, 6: 0.5, 9: 0.25},
    "keep_ranges": {1: [(0, 3), (5, 9)], 2: [], 7: [(3, 4), (6, 11)]},
    "exclude_episodes": [8],
    "cameras": [],
}


@pytest.mark.parametrize("frame_order", ["uniform", slowly("sweep")])
def test_a_choice_resumes_at_every_step_in_any_topology(shards: Path, frame_order: str) -> None:
    setup = Setup(
        root=str(shards),
        global_batch_size=12,
        max_world_size=4,
        options=CHOICE | {"frame_order": frame_order, "pool_episodes": 3},
    )
    length = len(setup.loader(0, Topology(1)))
    run = check_resume_at_every_step(setup, Topology(2), [Topology(1)], into_next_epoch=length + 2)
    assert len(run.batches) == 2 * length + 2


@pytest.mark.slow
def test_a_choice_resumes_with_worker_processes(shards: Path) -> None:
    setup = Setup(root=str(shards), global_batch_size=12, max_world_size=2, options=CHOICE)
    length = len(setup.loader(0, Topology(1)))
    check_resume_at_every_step(
        setup, Topology(1, 2), [Topology(2)], fresh=False, into_next_epoch=length + 3
    )


@pytest.mark.parametrize("num_workers", [0, slowly(2)])
def test_epochs_that_follow_each_other_differ_in_length(shards: Path, num_workers: int) -> None:
    """Some have fewer steps than there are workers, and some have none."""
    options: dict[str, Any] = {
        "episodes": [0, 3],
        "episode_weights": {0: 0.5, 3: 0.25},
        "num_workers": num_workers,
    }
    loader = load(shards, **options)
    running = [frames(loader) for _ in range(8)]
    loader.close()
    for epoch, expected in enumerate(running):
        alone = load(shards, **options | {"num_workers": 0})
        alone.set_epoch(epoch)
        assert frames(alone) == expected
    assert sum(map(len, running)) == 4 * 12 + 2 * 7
    assert [] in running


def test_a_step_of_a_trainer_is_found_in_uneven_epochs(shards: Path) -> None:
    loader = load(shards, **CHOICE)
    step, places = 0, []
    for epoch in range(3):
        for received in range(len(loader)):
            places.append((epoch, received))
            step += 1
        for _ in loader:
            pass
    for step, (epoch, received) in enumerate(places):
        state = loader.state_at(step, world_size=1, batch_size=8)
        assert (state["epoch"], state["step"]) == (epoch, received)


def test_a_step_that_no_epoch_has_is_refused(shards: Path) -> None:
    with pytest.warns(UserWarning, match="no batch"):
        loader = load(shards, episodes=[3], episode_weights={3: 0.5}, batch_size=64, drop_last=True)
    with pytest.raises(OptionError, match="step 3 is never reached"):
        loader.state_at(3, world_size=1, batch_size=64)


@pytest.mark.parametrize(
    "other",
    [
        {"episode_weights": {0: 0.5, 1: 2.0}},
        {"keep_ranges": {1: [(0, 4), (6, 9)]}},
        {"exclude_episodes": [8, 9]},
        {"split": ("train", 0.2)},
        {"tasks": ["push"]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_state_of_another_choice_is_refused(shards: Path, other: dict[str, Any]) -> None:
    state = load(shards, **CHOICE).state_dict()
    loader = load(shards, **CHOICE | other)
    for strict in (True, False):
        with pytest.raises(OptionError, match="selection is"):
            loader.load_state_dict(state, strict=strict)
    same = load(shards, **CHOICE)
    same.load_state_dict(state)


def test_ranges_in_other_places_are_another_choice(shards: Path) -> None:
    """As many frames, from the same first one on."""
    state = load(shards, keep_ranges={1: [(0, 3), (5, 9)]}).state_dict()
    with pytest.raises(OptionError, match="selection is"):
        load(shards, keep_ranges={1: [(0, 3), (4, 8)]}).load_state_dict(state)


def test_a_substitute_gives_only_frames_that_are_kept(shards: Path, tmp_path: Path) -> None:
    root = shutil.copytree(shards, tmp_path / "damaged")
    dataset = ShardedDataset.open(str(root))
    rows = next(m for m in dataset.sample(4).members if m.name.endswith(".parquet"))
    with (root / dataset.manifest.shards[dataset.index.shard[4]].name).open("r+b") as file:
        file.seek(rows.offset + rows.size // 2)
        file.write(b"damaged!")
    with pytest.warns(RuntimeWarning, match="another episode takes its place"):
        found = frames(load(root, on_error="skip", keep_ranges={5: [(1, 2), (6, 8)]}))
    assert {frame for episode, frame in found if episode == 5} == {1, 6, 7}


# -- Mixtures --------------------------------------------------------------------------------------


def mixed(root: Path, **options: Any) -> list[Any]:
    return [Part(str(root), 0.5, **options), (str(root), 0.5)]


def by_dataset(loader: Loader, epochs: int = 1) -> list[list[tuple[int, int]]]:
    found: list[list[tuple[int, int]]] = [[], []]
    for _ in range(epochs):
        for batch in loader:
            for number, *frame in zip(
                *(batch[key].tolist() for key in ("dataset_index", "episode_index", "frame_index")),
                strict=True,
            ):
                found[number].append((frame[0], frame[1]))
    return found


def test_a_part_has_its_own_choice(shards: Path) -> None:
    own, other = by_dataset(
        load(
            mixed(
                shards,
                tasks=["pull"],
                exclude_episodes=[4],
                keep_ranges={1: [(2, 4)]},
                episode_weights={1: 3, 7: 2},
            )
        )
    )
    assert {frame for frame in own if frame[0] == 1} == {(1, 2), (1, 3)}
    assert {episode for episode, _ in own} == {1, 7}
    counts = Counter(own)
    assert abs(counts[1, 2] / counts[7, 3] - 1.5) < 0.5
    assert Counter(other).keys() == {(e, f) for e in ALL for f in range(LENGTHS[e])}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"episodes": lambda e: e["success"]}, [0, 2, 4, 6, 8]),
        ({"split": ("val", 0.3, 5)}, np.flatnonzero(held_out(np.arange(10), 0.3, 5)).tolist()),
        ({"episode_weights": "quality"}, [e for e in ALL if QUALITY[e]]),
    ],
    ids=["predicate", "split", "column"],
)
def test_what_holds_for_any_dataset_holds_for_all_parts(
    shards: Path, options: dict[str, Any], expected: list[int]
) -> None:
    loader = load(mixed(shards), **options)
    for frames_of_one in by_dataset(loader, 4):
        assert sorted({episode for episode, _ in frames_of_one}) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"episodes": [0]},
        {"exclude_episodes": [0]},
        {"tasks": ["push"]},
        {"keep_ranges": {0: [(0, 3)]}},
        {"episode_weights": {0: 2.0}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_names_episodes_of_one_dataset_is_for_its_part(
    shards: Path, options: dict[str, Any]
) -> None:
    (name,) = options
    assert f"give it to its part, as in [Part(urls, weight, {name}=...), ...]" in refused(
        mixed(shards), **options
    )
    load(mixed(shards, **options))


def test_a_part_stands_in_a_list(shards: Path) -> None:
    with pytest.raises(OptionError, match="give a list of them"):
        make_loader(Part(str(shards), 1))  # type: ignore[arg-type]


def test_a_wrong_choice_names_its_dataset(shards: Path) -> None:
    assert "dataset 1: tasks: no episode has 'x'" in refused(
        [(str(shards), 1), Part(str(shards), 1, tasks=["x"])]
    )


@pytest.mark.slow
def test_a_mixture_of_choices_resumes_at_every_step(shards: Path) -> None:
    parts = [
        Part(
            str(shards),
            0.6,
            episode_weights={0: 0.5, 1: 2, 4: 0.5, 9: 0.25},
            tasks=["push", "pull"],
        ),
        Part(str(shards), 0.4, keep_ranges={1: [(0, 3), (5, 9)], 2: []}, episode_weights="quality"),
    ]
    setup = Setup(
        root=parts,
        global_batch_size=30,
        max_world_size=2,
        options={"cameras": [], "pool_episodes": 4},
    )
    check_resume_at_every_step(setup, Topology(2), [Topology(1)])


# -- A million episodes ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_million_episodes_are_chosen_in_seconds(shards: Path) -> None:
    small, count = ShardedDataset.open(str(shards)), 1_000_000
    index = EpisodeIndex(
        episode_index=np.arange(count),
        length=np.resize(np.asarray(LENGTHS, dtype=np.int64) * 10, count),
        shard=np.arange(count) // 1000,
        offset=np.arange(count) % 1000,
        size=np.ones(count, dtype=np.int64),
        crc32c=np.zeros(count, dtype=np.int64),
    )
    manifest = small.manifest.model_copy(update={"total_episodes": count})
    dataset = replace(small, index=index, manifest=manifest)
    started = time.process_time()
    episodes = select(
        dataset,
        SelectionConfig(
            episodes=lambda e: e.length > 60,
            split=("train", 0.02),
            keep_ranges={i: [(0, 5), (7, 50)] for i in range(0, count, 10)},
            episode_weights=dict.fromkeys(range(0, count, 2), 0.5),
        ),
        0,
    )
    assert time.process_time() - started < 20
    assert len(episodes) == pytest.approx(0.9 * 0.98 * count, rel=0.01)


# -- Any choice ------------------------------------------------------------------------------------


@given(st.data())
@settings(deadline=None)
def test_any_choice_of_episodes_frames_and_weights(shards: Path, data: st.DataObject) -> None:
    """Frames and how often they come over four epochs, by the words of the options one after the
    other.
    """
    some = st.sets(st.sampled_from(ALL), max_size=8)
    wanted, excluded = data.draw(some), data.draw(st.sets(st.sampled_from(ALL), max_size=3))
    drop_first, drop_last = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    weights = data.draw(
        st.dictionaries(st.sampled_from(ALL), st.sampled_from([0, 0.25, 0.5, 1, 1.75, 2]))
    )
    ranges = {
        episode: [
            (cuts[i], cuts[i + 1])
            for cuts in [sorted(data.draw(st.sets(st.integers(0, LENGTHS[episode]), max_size=6)))]
            for i in range(0, len(cuts) - 1, 2)
        ]
        for episode in data.draw(some)
    }
    expected: Counter[tuple[int, int]] = Counter()
    for episode in wanted - excluded:
        for first, stop in ranges.get(episode, [(0, LENGTHS[episode])]):
            for row in range(max(first, drop_first), min(stop, LENGTHS[episode] - drop_last)):
                expected[episode, row] = int(4 * weights.get(episode, 1))
    expected += Counter()  # without those that never come
    selection = SelectionConfig(
        episodes=lambda e: e.episode_index in wanted,
        exclude_episodes=sorted(excluded),
        keep_ranges=ranges,
        episode_weights=weights,
        drop_n_first_frames=drop_first,
        drop_n_last_frames=drop_last,
    )
    dataset = ShardedDataset.open(str(shards))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of episodes that lose all their frames
        if not expected:
            with pytest.raises(OptionError, match="no frame is left"):
                select(dataset, selection, 0)
            return
        episodes = select(dataset, selection, 0)
    first = data.draw(st.integers(0, 10**6))
    found: Counter[tuple[int, int]] = Counter()
    for epoch in range(first, first + 4):
        own = episodes.in_epoch(epoch)
        for place in range(len(own)):
            count = int(own.num_rows[place])
            rows = own.rows(np.full(count, place), np.arange(count))
            found.update((int(own.position[place]), row) for row in rows.tolist())
    assert found == expected


# -- Remote ----------------------------------------------------------------------------------------


def test_a_remote_dataset_is_chosen_from_as_a_local_one(
    shards: Path, range_server: RangeServer, tmp_path: Path
) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    ranges = {str(e): own for e, own in RANGES.items()}
    (tmp_path / "ranges.json").write_text(json.dumps(ranges))

    def choice(root: str, of_ranges: Any) -> list[tuple[int, int]]:
        return frames(
            load(
                root,
                episodes=lambda e: e["quality"] >= 1 and "push" not in e.tasks,
                keep_ranges=of_ranges,
                episode_weights="quality",
            )
        )

    url = range_server.url
    assert choice(f"{url}/shards", f"{url}/ranges.json") == choice(str(shards), RANGES)
