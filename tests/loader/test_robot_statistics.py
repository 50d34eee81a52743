"""Statistics of a mixture whose datasets call features otherwise and have vectors of other
lengths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.lerobot_source import Camera, Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import Loader, Part, make_loader, open_dataset
from roboshard.shards.statistics import QUANTILES

TOP, OTHER = "observation.images.top", "observation.images.other"


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two robots of 4 and 2 numbers, 12 rows each, which call their cameras differently."""
    folder, found = tmp_path_factory.mktemp("robots"), []
    for number, (size, key) in enumerate(((4, TOP), (2, OTHER))):
        source = Source(lengths=(5, 7), cameras=(Camera(key=key),), state_dim=size, seed=number)
        root = build(folder / f"source-{number}", source).root
        found.append(str(folder / f"shards-{number}"))
        convert(ConvertConfig(source=str(root), destination=found[-1], workers=1))
    return found


def loader_of(roots: list[str], **options: Any) -> Loader:
    parts = [Part(roots[0], 1), Part(roots[1], 2, rename={OTHER: TOP})]
    return make_loader(parts, pad_to={"action": 5, "observation.state": 5}, **options)


def rows(root: str, key: str) -> NDArray[np.float64]:
    dataset = open_dataset(root, cameras=[])
    return dataset.rows(range(len(dataset)))[key].numpy().astype(np.float64)


def check(found: dict[str, Any], own: list[NDArray[np.float64]]) -> None:
    """Of the rows of both, the second ones twice; of numbers that only the first robot has, of its
    rows.
    """
    both = np.concatenate([own[0][:, :2], own[1], own[1]])
    parts = [((0, 2), both), ((2, 4), own[0][:, 2:]), ((4, 5), np.zeros((1, 1)))]
    for (first, stop), values in parts:
        numbers = slice(first, stop)
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(
                found[name][numbers], getattr(values, name)(axis=0), atol=1e-9
            )
        for name, level in QUANTILES.items():
            np.testing.assert_allclose(
                found[name][numbers], np.quantile(values, level, axis=0), atol=1e-9
            )


def test_padding_counts_for_nothing_where_another_robot_has_a_number(roots: list[str]) -> None:
    stats = loader_of(roots).meta.stats
    for key in ("action", "observation.state"):
        check(stats[key], [rows(root, key) for root in roots])
        assert stats[key]["count"].tolist() == [24]


def test_relative_actions_likewise(roots: list[str]) -> None:
    found = loader_of(roots).meta.relative_stats()["action"]
    actions, states = (
        [rows(root, key).astype(np.float32) for root in roots]
        for key in ("action", "observation.state")
    )
    check(found, [(a - s).astype(np.float64) for a, s in zip(actions, states, strict=True)])
    excluded = loader_of(roots).meta.relative_stats(["axis0"])["action"]
    assert excluded["mean"][0] == pytest.approx(
        np.concatenate([actions[0][:, 0], actions[1][:, 0], actions[1][:, 0]]).mean()
    )


def test_pictures_go_by_their_keys_in_samples(roots: list[str]) -> None:
    loader = loader_of(roots)
    own = [
        open_dataset(root).meta.stats[key] for root, key in zip(roots, (TOP, OTHER), strict=True)
    ]
    mean = (own[0]["mean"] + 2 * own[1]["mean"]) / 3
    np.testing.assert_allclose(loader.meta.stats[TOP]["mean"], mean)
    assert OTHER not in loader.meta.stats
    chosen = make_loader(
        [Part(roots[0], 1), Part(roots[1], 2, rename={OTHER: TOP}, episodes=[1])],
        pad_to={"action": 5, "observation.state": 5},
    )
    assert chosen.metas[1].stats[TOP]["mean"].shape == (3, 1, 1)
    assert not np.allclose(chosen.metas[1].stats[TOP]["mean"], own[1]["mean"], rtol=1e-9)
