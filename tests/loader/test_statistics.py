"""`loader.meta.stats`: exact ones of the samples that are loaded, of a selection, a mixture, and
relative actions.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.lerobot_source import Camera, Source, build
from support.lerobot_v21_source import write_v21
from support.null_lists import NEEDS_NULL_LISTS

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import Loader, Part, make_loader, open_dataset
from roboshard.loader.meta import DatasetMeta
from roboshard.loader.statistics import collect, stored
from roboshard.shards import DamageError, OptionError, ShardedDataset
from roboshard.shards.statistics import NAMES, QUANTILES

LENGTHS = {"a": (6, 9, 4, 12, 1), "b": (5, 8, 20)}
KEYS = ("observation.state", "action", "flag", "score64", "matrix", "ints", "index", "timestamp")
TOP = "observation.images.top"
Rows = dict[str, list[NDArray[np.float64]]]
"""Feature key -> the values of each episode, (rows, ...)."""


def rows_of(root: Path, lengths: tuple[int, ...]) -> Rows:
    """Rows as they lie in the source, without any code of ours; floats as samples have them."""
    table = pa.concat_tables(
        [pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))]
    ).sort_by("index")
    ends = np.cumsum(lengths)[:-1]
    found: Rows = {}
    for key in KEYS:
        values = np.asarray(table[key].to_pylist())
        if values.dtype.kind == "f":
            values = values.astype(np.float32)
        found[key] = np.split(values.astype(np.float64), ends)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Rows]]:
    """Two datasets: their shards, and the rows of their sources."""
    folder = tmp_path_factory.mktemp("statistics")
    made = {}
    for number, (name, lengths) in enumerate(LENGTHS.items()):
        source = Source(lengths=lengths, cameras=(), extra_features=True, seed=number)
        root = build(folder / name, source).root
        info = json.loads((root / "meta/info.json").read_text())
        (root / "meta/info.json").write_text(json.dumps(info | {"robot_type": f"robot {name}"}))
        convert(
            ConvertConfig(source=str(root), destination=str(folder / f"{name}-shards"), workers=1)
        )
        made[name] = (str(folder / f"{name}-shards"), rows_of(root, lengths))
    return made


def check(
    stats: Mapping[str, Any], rows: Mapping[str, NDArray[Any]], count: int | None = None
) -> None:
    """Hold statistics against NumPy's of rows, in which a row comes as often as it counts."""
    for key, values in rows.items():
        wide = values[:, None] if values.ndim == 1 else values
        assert tuple(stats[key]) == NAMES
        expected = {name: getattr(wide, name)(axis=0) for name in ("min", "max", "mean", "std")}
        expected |= {name: np.quantile(wide, level, axis=0) for name, level in QUANTILES.items()}
        for name, own in expected.items():
            assert stats[key][name].shape == wide.shape[1:], (key, name)
            np.testing.assert_allclose(
                stats[key][name], own, rtol=1e-9, atol=1e-9, err_msg=f"{key} {name}"
            )
        assert stats[key]["count"].tolist() == [len(values) if count is None else count]


def picked(rows: Rows, often: Mapping[int, NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """Of each episode that is named, each row as often as it says, (rows,)."""
    return {
        key: np.concatenate(
            [np.repeat(own[episode], times, axis=0) for episode, times in often.items()]
        )
        for key, own in rows.items()
    }


def whole(lengths: tuple[int, ...]) -> dict[int, NDArray[np.int64]]:
    return {episode: np.ones(length, dtype=np.int64) for episode, length in enumerate(lengths)}


def test_of_everything_they_are_numpys(data: dict[str, tuple[str, Rows]]) -> None:
    shards, rows = data["a"]
    loader = make_loader(shards)
    check(loader.meta.exact_stats, picked(rows, whole(LENGTHS["a"])))
    assert "note" not in loader.meta.stats  # a text


def test_of_everything_they_are_the_sources_where_it_has_them(
    pusht_shards: Path, pusht_source: Path, reads: list[str]
) -> None:
    """As in LeRobot, though they are means of quantiles; what is chosen has its own."""
    declared = json.loads((pusht_source / "meta/stats.json").read_text())
    loader = make_loader(str(pusht_shards))
    for meta in (loader.meta, loader.metas[0], loader.metas.by_robot_type["pusht"]):
        found = {
            key: {name: own.tolist() for name, own in it.items()} for key, it in meta.stats.items()
        }
        assert found == declared
    assert not reads
    exact = loader.meta.exact_stats["action"]["q50"]
    assert len(reads) == 1
    assert abs(exact[0] - declared["action"]["q50"][0]) > 100
    chosen = make_loader(str(pusht_shards), episodes=range(13)).meta
    assert abs(exact[0] - chosen.stats["action"]["q50"][0]) < 20


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_of_any_selection_they_are_numpys(
    data: dict[str, tuple[str, Rows]], draw: st.DataObject
) -> None:
    shards, rows = data["a"]
    lengths = LENGTHS["a"]
    episodes = draw.draw(st.lists(st.sampled_from(range(5)), min_size=1, unique=True), "episodes")
    ranges = {
        episode: [tuple(sorted(pair))]
        for episode in episodes
        if lengths[episode] > 1 and draw.draw(st.booleans(), "has a range")
        for pair in [
            draw.draw(
                st.lists(st.integers(0, lengths[episode]), min_size=2, max_size=2, unique=True)
            )
        ]
    }
    weights = draw.draw(st.dictionaries(st.sampled_from(episodes), st.integers(1, 3)), "weights")
    often = {}
    for episode in sorted(episodes):
        times = np.zeros(lengths[episode], dtype=np.int64)
        for first, stop in ranges.get(episode, [(0, lengths[episode])]):
            times[first:stop] = weights.get(episode, 1)
        often[episode] = times
    loader = make_loader(
        shards,
        episodes=episodes,
        keep_ranges=ranges or None,
        episode_weights={key: float(value) for key, value in weights.items()} or None,
    )
    count = sum(int((times > 0).sum()) for times in often.values())
    check(loader.meta.exact_stats, picked(rows, often), count)
    if count < sum(lengths) or set(weights.values()) - {1}:
        check(loader.meta.stats, picked(rows, often), count)


@pytest.mark.parametrize(
    "options",
    [
        {"split": ("train", 0.4)},
        {"split": ("val", 0.4)},
        {"exclude_episodes": [1]},
        {"episodes": lambda e: e.length > 5},
        {"drop_n_last_frames": 2, "drop_n_first_frames": 1, "episodes": [0, 3]},
        {"episode_weights": {0: 2.0, 1: 0.0, 3: 3.0}},
    ],
    ids=["train", "val", "excluded", "function", "dropped frames", "weights"],
)
def test_they_are_those_of_the_samples_that_come(
    data: dict[str, tuple[str, Rows]], options: dict[str, Any]
) -> None:
    loader = make_loader(data["a"][0], batch_size=None, **options)
    samples = [*loader]
    values = {
        key: np.stack([sample[key].numpy() for sample in samples]).astype(np.float64)
        for key in KEYS
    }
    check(loader.meta.stats, values, len(np.unique(values["index"])))


def test_a_fraction_of_a_weight_counts_as_often_as_it_comes(
    data: dict[str, tuple[str, Rows]],
) -> None:
    shards, rows = data["a"]
    loader = make_loader(shards, episode_weights={0: 0.5, 1: 0.25, 3: 1.5})
    values = picked(rows, whole(LENGTHS["a"]))["observation.state"]
    weights = np.repeat([0.5, 0.25, 1, 1.5, 1], LENGTHS["a"])
    found = loader.meta.stats["observation.state"]
    mean = np.average(values, axis=0, weights=weights)
    np.testing.assert_allclose(found["mean"], mean)
    variance = np.average((values - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(found["std"], np.sqrt(variance))


# -- Mixtures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", [(1, 1), (1, 3), (4, 1)])
def test_of_a_mixture_each_dataset_has_its_weight(
    data: dict[str, tuple[str, Rows]], factors: tuple[int, int]
) -> None:
    (a, rows_a), (b, rows_b) = data["a"], data["b"]
    weights = [sum(LENGTHS[name]) * factor for name, factor in zip("ab", factors, strict=True)]
    loader = make_loader([(a, weights[0]), (b, weights[1])])
    own = [
        picked(rows, {episode: times * factor for episode, times in whole(LENGTHS[name]).items()})
        for rows, name, factor in zip((rows_a, rows_b), "ab", factors, strict=True)
    ]
    together = {key: np.concatenate([part[key] for part in own]) for key in KEYS}
    check(loader.meta.stats, together, sum(map(sum, LENGTHS.values())))
    for meta, rows, name in zip(loader.metas, (rows_a, rows_b), "ab", strict=True):
        check(meta.exact_stats, picked(rows, whole(LENGTHS[name])))
        alone = make_loader(data[name][0]).meta.stats
        for key, own in meta.stats.items():
            assert {it: values.tolist() for it, values in own.items()} == {
                it: values.tolist() for it, values in alone[key].items()
            }


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.05, 0.95))
def test_any_weight(data: dict[str, tuple[str, Rows]], weight: float) -> None:
    (a, rows_a), (b, rows_b) = data["a"], data["b"]
    loader = make_loader([(a, weight), Part(b, 1 - weight, exclude_episodes=[1])])
    key = "observation.state"
    own = [
        picked(rows_a, whole(LENGTHS["a"]))[key],
        picked(rows_b, {0: np.ones(5, dtype=np.int64), 2: np.ones(20, dtype=np.int64)})[key],
    ]
    each = np.repeat([weight / len(own[0]), (1 - weight) / len(own[1])], [*map(len, own)])
    values, found = np.concatenate(own), loader.meta.stats[key]
    mean = np.average(values, axis=0, weights=each)
    np.testing.assert_allclose(found["mean"], mean, atol=1e-3)  # weights are whole parts of 16,384
    variance = np.average((values - mean) ** 2, axis=0, weights=each)
    np.testing.assert_allclose(found["std"], np.sqrt(variance), atol=1e-3)


def test_robots_have_their_own(data: dict[str, tuple[str, Rows]]) -> None:
    a, b = data["a"][0], data["b"][0]
    loader = make_loader([(a, 1), (b, 2), Part(a, 3, episodes=[3])])
    robots = loader.metas.by_robot_type
    assert robots.keys() == {"robot a", "robot b"}
    assert (
        robots["robot b"].stats["action"]["std"].tolist()
        == loader.metas[1].stats["action"]["std"].tolist()
    )
    alone = make_loader([(a, 1), Part(a, 3, episodes=[3])]).meta.stats
    for key, own in robots["robot a"].stats.items():
        for name, values in own.items():
            np.testing.assert_allclose(values, alone[key][name], err_msg=f"{key} {name}")
    assert make_loader(a).metas.by_robot_type["robot a"].robot_type == "robot a"


# -- When they are found ---------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Tells in which thread rows were read for statistics, of a user who has kept none."""
    found: list[str] = []
    read = collect.read_episodes

    def told(source: Any) -> Any:
        found.append(threading.current_thread().name)
        return read(source)

    monkeypatch.setattr(collect, "read_episodes", told)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


def test_nothing_is_read_before_they_are_asked_for_and_then_once(
    data: dict[str, tuple[str, Rows]], reads: list[str], tmp_path: Path
) -> None:
    shards = data["a"][0]
    loader = make_loader([(shards, 1), Part(shards, 2, episodes=[0])], batch_size=8)
    _ = loader.meta.features, loader.metas[1].fps, [*loader]
    assert not reads
    first = loader.meta.stats
    assert len(reads) == 2  # each dataset once, for all of:
    assert loader.metas[0].stats is loader.metas[0].stats
    assert loader.metas.by_robot_type["robot a"].stats is not None
    assert len(reads) == 2
    again = make_loader([(shards, 1), Part(shards, 2, episodes=[0])]).meta.stats
    assert len(reads) == 2  # kept in a file
    for key, own in first.items():
        assert {name: (own[name].dtype, own[name].tolist()) for name in own} == {
            name: (values.dtype, values.tolist()) for name, values in again[key].items()
        }
    files = [*(tmp_path / "cache/roboshard/statistics").glob("*.json")]
    assert len(files) == 1
    assert files[0].stat().st_size < 20_000
    _ = make_loader([(shards, 1), Part(shards, 2, episodes=[1])]).meta.stats
    assert len(reads) == 4  # another selection


def test_a_loader_is_copied_with_what_it_found(data: dict[str, tuple[str, Rows]]) -> None:
    loader = make_loader(data["a"][0])
    copies = [pickle.loads(pickle.dumps(loader)) for _ in (loader, loader.meta.stats)]
    for copy in copies:
        assert (
            copy.meta.stats["action"]["q50"].tolist() == loader.meta.stats["action"]["q50"].tolist()
        )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: [path.write_text("{}") for path in folder.glob("*.json")],
        lambda folder: [path.write_text("[1, 2") for path in folder.glob("*.json")],
        lambda folder: [path.unlink() for path in folder.glob("*.json")],
    ],
    ids=["other", "torn", "gone"],
)
def test_a_file_that_is_not_right_is_made_again(
    data: dict[str, tuple[str, Rows]],
    reads: list[str],
    tmp_path: Path,
    spoil: Callable[[Path], object],
) -> None:
    expected = make_loader(data["b"][0]).meta.exact_stats
    spoil(tmp_path / "cache/roboshard/statistics")
    found = make_loader(data["b"][0]).meta.exact_stats
    assert len(reads) == 2
    assert found["action"]["mean"].tolist() == expected["action"]["mean"].tolist()


def test_they_are_found_where_nothing_can_be_kept(
    data: dict[str, tuple[str, Rows]],
    reads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert make_loader(data["b"][0]).meta.exact_stats["action"]["count"].tolist() == [33]
    assert len(reads) == 1


def test_old_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(stored, "MAX_FILES", 3)
    for number in range(5):
        name = f"{number:064x}"
        assert stored.kept(name, ["n"], lambda n=number: ({"n": n}, True)) == {"n": number}
    assert len([*(tmp_path / "roboshard/statistics").glob("*.json")]) == 3
    assert stored.kept("0" * 64, ["n"], lambda: ({"n": 9}, False)) == {"n": 9}
    assert stored.kept("0" * 64, ["n"], lambda: ({"n": 8}, False)) == {
        "n": 8
    }  # that was not to be kept


def test_damage_is_an_error_or_left_out(data: dict[str, tuple[str, Rows]], tmp_path: Path) -> None:
    shards, rows = data["a"]
    root = tmp_path / "damaged"
    shutil.copytree(shards, root)
    member = next(
        it
        for it in ShardedDataset.open(str(root)).sample(1).members
        if it.name.endswith(".parquet")
    )
    with (root / "shards/shard-000000.tar").open("r+b") as file:
        file.seek(member.offset + 100)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DamageError, match="ep-000000001"):
        _ = make_loader(str(root)).meta.exact_stats
    often = {episode: times for episode, times in whole(LENGTHS["a"]).items() if episode != 1}
    loader = make_loader(str(root), on_error="skip")
    check(loader.meta.exact_stats, picked(rows, often))
    assert not kept_of(loader)  # the episode may be mended


def kept_of(loader: Loader) -> bool:
    name = loader._measured._name(None)
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "roboshard/statistics"
    return (folder / f"{name}.json").exists()


# -- Relative actions ------------------------------------------------------------------------------


def relative(
    rows: Rows, often: Mapping[int, NDArray[np.int64]], offsets: list[int], mask: list[bool]
) -> NDArray[np.float64]:
    """Actions of all windows less the state of their sample, as the words of the page say, one by
    one.
    """
    found = []
    for episode, times in often.items():
        actions, states = (
            rows[key][episode].astype(np.float32) for key in ("action", "observation.state")
        )
        for row, count in enumerate(times):
            for offset in offsets:
                if 0 <= row + offset < len(actions):
                    value = actions[row + offset] - np.where(mask, states[row], np.float32(0))
                    found += [value.astype(np.float64)] * int(count)
    return np.stack(found)


@pytest.mark.parametrize(
    ("options", "often", "offsets"),
    [
        ({}, whole(LENGTHS["a"]), [0]),
        ({"delta_timestamps": [-1, 0, 1, 2, 7]}, whole(LENGTHS["a"]), [-1, 0, 1, 2, 7]),
        (
            {
                "delta_timestamps": [0, 1, 2],
                "keep_ranges": {1: [(2, 4)], 3: [(0, 1), (9, 12)]},
                "episodes": [1, 3],
            },
            {1: np.eye(9, dtype=int)[2:4].sum(0), 3: np.asarray([1] + [0] * 8 + [1] * 3)},
            [0, 1, 2],
        ),
        (
            {"delta_timestamps": [0, 1], "episode_weights": {0: 3.0}},
            whole(LENGTHS["a"]) | {0: np.full(6, 3)},
            [0, 1],
        ),
    ],
    ids=["no window", "window", "ranges", "weights"],
)
def test_relative_actions(
    data: dict[str, tuple[str, Rows]],
    options: dict[str, Any],
    often: Mapping[int, NDArray[np.int64]],
    offsets: list[int],
) -> None:
    shards, rows = data["a"]
    fps = make_loader(shards).meta.fps
    if "delta_timestamps" in options:
        options = options | {"delta_timestamps": {"action": [step / fps for step in offsets]}}
    loader = make_loader(shards, **options)
    for exclude, mask in (
        ((), [True] * 4),
        (["AXIS1"], [True, False, True, True]),
        (["axis"], [False] * 4),
    ):
        found = loader.meta.relative_stats(exclude)
        expected = relative(rows, often, offsets, mask)
        count = sum(
            0 <= row + offset < len(times)
            for times in often.values()
            for row in np.flatnonzero(times).tolist()
            for offset in offsets
        )
        check(found, {"action": expected}, count)
        assert found["observation.state"] is loader.meta.stats["observation.state"]


def test_relative_actions_of_a_mixture(data: dict[str, tuple[str, Rows]]) -> None:
    (a, rows_a), (b, rows_b) = data["a"], data["b"]
    fps = make_loader(a).meta.fps
    loader = make_loader(
        [(a, sum(LENGTHS["a"]) * 2), (b, sum(LENGTHS["b"]))],
        delta_timestamps={"action": [0.0, 1 / fps]},
    )
    twice = {episode: 2 * times for episode, times in whole(LENGTHS["a"]).items()}
    mask = [True] * rows_a["action"][0].shape[1]
    expected = [
        relative(rows_a, twice, [0, 1], mask),
        relative(rows_b, whole(LENGTHS["b"]), [0, 1], mask),
    ]
    count = sum(2 * length - 1 for length in (*LENGTHS["a"], *LENGTHS["b"]))
    check(loader.meta.relative_stats(), {"action": np.concatenate(expected)}, count)
    check(loader.metas[1].relative_stats(), {"action": expected[1]}, 2 * 33 - 3)
    chosen = make_loader([(a, 1), Part(b, 1, episodes=[0])]).metas[1]
    check(chosen.relative_stats(), {"action": relative(rows_b, {0: np.ones(5, int)}, [0], mask)})


def test_what_cannot_be_relative_is_refused(data: dict[str, tuple[str, Rows]]) -> None:
    meta = make_loader(data["a"][0]).meta
    with pytest.raises(OptionError, match="'no such' is not a feature"):
        meta.relative_stats(state="no such")
    with pytest.raises(OptionError, match=r"'action' has 4 numbers.*'flag'.*has 1"):
        meta.relative_stats(state="flag")
    with pytest.raises(OptionError, match="'note' is not of rows of numbers"):
        meta.relative_stats(action="note")
    with pytest.raises(OptionError, match="in the `meta` of a loader"):
        DatasetMeta(meta.manifest).relative_stats()


# -- Pictures, and what sources say ----------------------------------------------------------------


@pytest.fixture(scope="module")
def with_pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A source of some lengths, with a camera, and its shards."""
    folder = tmp_path_factory.mktemp("pictures")
    source = Source(lengths=(3, 5, 2), cameras=(Camera(key=TOP),))
    root = build(folder / "source", source).root
    convert(ConvertConfig(source=str(root), destination=str(folder / "shards"), workers=1))
    return root, str(folder / "shards")


def test_pictures_have_the_sources_or_those_of_the_episodes(
    with_pictures: tuple[Path, str],
) -> None:
    root, shards = with_pictures
    declared = json.loads((root / "meta/stats.json").read_text())[TOP]
    found = make_loader(shards).meta.stats[TOP]
    assert {name: own.tolist() for name, own in found.items()} == {
        name: declared[name] for name in NAMES
    }
    episodes = pq.read_table(root / "meta/episodes").sort_by("episode_index")
    means = np.asarray(episodes[f"stats/{TOP}/mean"].to_pylist(), dtype=np.float64).reshape(
        3, 3, 1, 1
    )
    chosen = make_loader(shards, episodes=[0, 1], keep_ranges={1: [(0, 1)]}).meta.stats[TOP]
    np.testing.assert_allclose(chosen["mean"], (3 * means[0] + 1 * means[1]) / 4)
    assert (np.diff([chosen[name] for name in ("min", *QUANTILES, "max")], axis=0) >= 0).all()
    one = make_loader(shards, episodes=[2]).meta.stats[TOP]
    np.testing.assert_allclose(one["mean"], means[2])
    mixture = make_loader([Part(shards, 0.75, episodes=[0]), Part(shards, 0.25, episodes=[2])])
    np.testing.assert_allclose(
        mixture.meta.stats[TOP]["mean"], 0.75 * means[0] + 0.25 * means[2], rtol=1e-3
    )


def test_open_dataset_has_the_sources_and_what_they_lack(tmp_path: Path) -> None:
    source = Source(lengths=(3, 5, 2), cameras=(), extra_features=True)
    root = build(tmp_path / "v3", source).root
    write_v21(root, tmp_path / "v21")
    for name, path in (("v3", root), ("v21", tmp_path / "v21")):
        convert(
            ConvertConfig(source=str(path), destination=str(tmp_path / f"{name}-shards"), workers=1)
        )
    declared = json.loads((root / "meta/stats.json").read_text())
    stats = open_dataset(str(tmp_path / "v3-shards"), episodes=[1]).meta.stats
    assert stats["action"]["mean"].tolist() == declared["action"]["mean"]
    manifest = ShardedDataset.open(str(tmp_path / "v21-shards")).manifest
    assert manifest.stats is not None
    assert "q01" not in manifest.stats["action"]
    older = open_dataset(str(tmp_path / "v21-shards"), episodes=[1])
    assert older.meta.stats["action"]["std"].tolist() == manifest.stats["action"]["std"]
    np.testing.assert_allclose(
        older.meta.stats["action"]["q99"], declared["action"]["q99"], rtol=1e-6
    )
    rows = rows_of(root, (3, 5, 2))
    everything = picked(rows, whole((3, 5, 2)))
    stats = make_loader(str(tmp_path / "v21-shards")).meta.stats
    assert stats["action"]["std"].tolist() == manifest.stats["action"]["std"]
    assert stats["action"].keys() == set(NAMES)
    np.testing.assert_allclose(
        stats["action"]["q01"], np.quantile(everything["action"], 0.01, axis=0)
    )
    check(make_loader(str(tmp_path / "v21-shards")).meta.exact_stats, everything)
    found = older.meta.relative_stats()
    check(found, {"action": relative(rows, whole((3, 5, 2)), [0], [True] * 4)})


@NEEDS_NULL_LISTS
def test_rows_without_a_value_are_left_out(tmp_path: Path) -> None:
    root = build(tmp_path / "source", Source(lengths=(4, 3), cameras=(), extra_features=True)).root
    (path,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    values = np.asarray(table["action"].to_pylist(), dtype=np.float64)
    column = [None if row in (1, 5) else own.tolist() for row, own in enumerate(values)]
    at = table.column_names.index("action")
    kind = table.schema.field("action").type
    pq.write_table(table.set_column(at, "action", pa.array(column, kind)), path)
    convert(ConvertConfig(source=str(root), destination=str(tmp_path / "shards"), workers=1))
    loader = make_loader(str(tmp_path / "shards"), on_missing="fill")
    check(loader.meta.exact_stats, {"action": np.delete(values, [1, 5], axis=0)})
    assert "action" not in make_loader(str(tmp_path / "shards"), on_missing="drop").meta.stats
    found = loader.meta.relative_stats()["action"]
    states = np.asarray(table["observation.state"].to_pylist(), dtype=np.float64)
    np.testing.assert_allclose(
        found["mean"], np.delete(values - states, [1, 5], axis=0).mean(axis=0), rtol=1e-6
    )
