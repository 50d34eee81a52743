"""Every kind of feature that a LeRobot dataset can have, from its files to batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from support import language, tables
from support.lerobot_source import EVERY_KIND, Built, Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.inspector import VerifyConfig, verify
from roboshard.loader import make_loader, open_dataset
from roboshard.shards import OptionError, ShardedDataset
from roboshard.shards.rows import decode_rows

STILL = EVERY_KIND.image_keys[0]
METRES, MILLIMETRES, NO_UNIT = EVERY_KIND.depth_images
Batch = dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("kinds") / "source", EVERY_KIND)


@pytest.fixture(scope="module")
def shards(built: Built) -> str:
    root = str(built.root.with_name("shards"))
    convert(ConvertConfig(source=str(built.root), destination=root, shard_size="64KB", workers=1))
    return root


def in_order(shards: Any, **options: Any) -> Batch:
    """All samples in one batch."""
    (batch,) = make_loader(shards, batch_size=sum(EVERY_KIND.lengths), shuffle=False, **options)
    return batch


def places() -> Iterator[tuple[int, int, int]]:
    """(number, episode, row) of every sample in order."""
    rows = [(episode, row) for episode, length in enumerate(EVERY_KIND.lengths) for row in range(length)]
    yield from ((number, *place) for number, place in enumerate(rows))


def stored_depth(key: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Of all samples, float32 (samples, 1, H, W) in millimetres."""
    depth = [tables.depth_images(EVERY_KIND, key, episode) for episode in range(len(EVERY_KIND.lengths))]
    factor = np.float32(1000 if EVERY_KIND.depth_images[key] == "m" else 1)
    return np.concatenate(depth)[:, None].astype(np.float32) * factor


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def test_everything_is_verified_against_the_source(built: Built, shards: str) -> None:
    report = verify(VerifyConfig(url=shards, against=str(built.root), frames=3))
    assert not report.problems


def test_all_ways_to_a_sample_give_the_same(shards: str) -> None:
    windows = {METRES: [-0.1, 0.0], STILL: [0.0], "action": [0.0, 0.1]}
    batch = in_order(shards, delta_timestamps=windows)
    singles = list(make_loader(shards, batch_size=None, shuffle=False, delta_timestamps=windows))
    dataset = open_dataset(shards, delta_timestamps=windows)
    for number, *_ in places():
        for sample in (singles[number], dataset[number]):
            assert sample.keys() == batch.keys()
            assert all(equal(sample[key], batch[key][number]) for key in batch), number
    dataset.close()


@pytest.mark.slow
def test_worker_processes_give_the_same(shards: str) -> None:
    loader = make_loader(shards, batch_size=8, shuffle=False, num_workers=1)
    expected = list(make_loader(shards, batch_size=8, shuffle=False))
    for found, batch in zip(loader, expected, strict=True):
        assert found.keys() == batch.keys()
        assert all(equal(found[key], batch[key]) for key in batch)
    loader.close()


# -- Language --------------------------------------------------------------------------------------------------


def test_messages_are_lists_of_dicts(shards: str) -> None:
    batch = in_order(shards)
    for number, episode, row in places():
        expected = language.samples(episode, EVERY_KIND.lengths[episode], EVERY_KIND.fps)
        for key in language.KEYS:
            assert [_rounded(message) for message in batch[key][number]] == [
                _rounded(message) for message in expected[key][row]
            ]


def _rounded(message: dict[str, Any]) -> dict[str, Any]:
    """Times as float32 holds them."""
    time = message.get("timestamp")
    return message if time is None else message | {"timestamp": float(np.float32(time))}


def test_messages_are_what_the_datasets_library_gives_lerobot(built: Built, shards: str, tmp_path: Path) -> None:
    batch = in_order(shards)
    files = sorted(map(str, (built.root / "data").rglob("*.parquet")))
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path)).select_columns(list(language.KEYS))
    assert list(found[language.EVENTS]) == batch[language.EVENTS]
    assert list(found[language.PERSISTENT]) == batch[language.PERSISTENT]


def test_messages_are_stored_with_their_types(built: Built, shards: str) -> None:
    data = ShardedDataset.open(shards).read_episode(1)
    rows = decode_rows(data.rows, "rows", data.record.length)
    for key, kind in language.TYPES.items():
        assert rows.schema.field(key).type == kind
        assert rows.column(key).equals(built.rows(1).column(key))


def test_messages_have_no_window(shards: str) -> None:
    with pytest.raises(OptionError, match="'language_events' is a language feature, which has no window"):
        make_loader(shards, delta_timestamps={"language_events": [0.0]})


# -- Depth images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("return_uint8", [True, False])
@pytest.mark.parametrize("key", [METRES, MILLIMETRES, NO_UNIT])
def test_depth_images_are_millimetres(shards: str, key: str, return_uint8: bool) -> None:
    found = in_order(shards, return_uint8=return_uint8)[key]
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), stored_depth(key))


def test_depth_images_in_a_window(shards: str) -> None:
    batch = in_order(shards, delta_timestamps={METRES: [-0.1, 0.0]})
    expected = stored_depth(METRES)
    for number, _, row in places():
        assert np.array_equal(batch[METRES][number], expected[[number - (row > 0), number]])
        assert batch[f"{METRES}_is_pad"][number].tolist() == [row == 0, False]


def test_depth_is_resized_to_the_nearest_pixel_and_not_transformed(shards: str) -> None:
    height, width = EVERY_KIND.image_size
    batch = in_order(shards, image_size=(height // 2, width // 4), image_transforms=lambda picture: picture * 0 + 7)
    assert np.array_equal(batch[MILLIMETRES], stored_depth(MILLIMETRES)[:, :, 1::2, 2::4])
    assert batch[STILL].unique().tolist() == [7]


def test_statistics_of_depth_are_in_millimetres(built: Built, shards: str) -> None:
    meta = make_loader(shards).meta
    stored = json.loads((built.root / "meta/stats.json").read_text())
    assert meta.depth_keys[:3] == (METRES, MILLIMETRES, NO_UNIT)
    for key, factor in ((METRES, 1000), (MILLIMETRES, 1), (NO_UNIT, 1), (STILL, 1)):
        assert np.array_equal(meta.stats[key]["mean"], np.asarray(stored[key]["mean"]) * factor)
        assert meta.stats[key]["count"].tolist() == stored[key]["count"]
    assert make_loader([(shards, 1.0)]).meta.stats[METRES]["max"] == pytest.approx(meta.stats[METRES]["max"])


# -- Mixtures --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset without any of it."""
    root = tmp_path_factory.mktemp("plain")
    build(root / "source", Source(lengths=(5,)))
    convert(ConvertConfig(source=str(root / "source"), destination=str(root / "shards"), workers=1))
    return str(root / "shards")


def test_a_mixture_fills_what_is_missing_with_what_is_empty(shards: str, plain: str) -> None:
    batch = next(iter(make_loader([(shards, 0.5), (plain, 0.5)], batch_size=8, on_missing="fill")))
    is_plain = batch["dataset_index"] == 1
    assert is_plain.sum() == 4
    for key in (METRES, STILL):
        assert batch[key].dtype == torch.float32
        assert batch[key].flatten(1).any(1).tolist() == (~is_plain).tolist()
        assert batch[f"{key}_is_missing"].equal(is_plain)
    assert [not messages for messages in batch[language.PERSISTENT]] == is_plain.tolist()


def test_a_mixture_drops_or_refuses_what_is_missing(shards: str, plain: str) -> None:
    mixture = [(shards, 0.5), (plain, 0.5)]
    assert language.EVENTS not in make_loader(mixture, on_missing="drop").meta.features
    with pytest.raises(OptionError, match="'language_events' is missing from dataset 1"):
        make_loader(mixture)
