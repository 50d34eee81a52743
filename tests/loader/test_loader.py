"""What a loader gives: batches, what the options make of them, and what it tells of itself."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from support.lerobot_source import Camera, Source, build
from support.slowly import slowly
from support.waiting import wait_until

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import Loader, make_loader, resources, topology
from roboshard.loader.episodes import fetch
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.look_ahead import decode_ahead
from roboshard.shards import FormatError, OptionError, ShardedDataset

TOP, WRIST, STILL = "observation.images.top", "observation.images.wrist", "observation.images.still"
LENGTHS = (12, 9, 15, 7, 11, 10, 8)
SOURCE = Source(
    lengths=LENGTHS,
    cameras=(Camera(key=TOP), Camera(key=WRIST, codec="av1", gop=2, size=(80, 64))),
    image_keys=(STILL,),
    extra_features=True,
    tasks=("pick", "place"),
)
FRAMES = sum(LENGTHS)
Batch = dict[str, Any]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several shards with two cameras, an image feature, and features of every dtype."""
    folder = tmp_path_factory.mktemp("loader")
    build(folder / "source", SOURCE)
    config = ConvertConfig(
        source=str(folder / "source"),
        destination=str(folder / "shards"),
        shard_size="64KB",
        workers=1,
    )
    assert convert(config).shards > 2
    return folder / "shards"


def load(root: Path | list[str], **options: Any) -> Loader:
    return make_loader(
        root if isinstance(root, list) else str(root), **({"shuffle": False} | options)
    )


def column(batches: Iterable[Batch], key: str = "index") -> list[Any]:
    """One feature over all batches, as Python values."""
    return [value.item() for batch in batches for value in batch[key]]


# -- Batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [None, slowly(1), 5, slowly(FRAMES - 1), FRAMES, FRAMES + 1])
@pytest.mark.filterwarnings("ignore:the loader has no batch")
def test_len_is_the_number_of_batches(
    shards: Path, batch_size: int | None, drop_last: bool
) -> None:
    loader = load(shards, batch_size=batch_size, drop_last=drop_last, cameras=[])
    batches = list(loader)
    assert (
        len(loader)
        == len(batches)
        == (FRAMES if drop_last else FRAMES - 1 + (batch_size or 1)) // (batch_size or 1)
    )
    if batch_size is not None:
        sizes = [len(batch["index"]) for batch in batches]
        assert all(size == batch_size for size in sizes[:-1])
        assert sum(sizes) == (FRAMES // batch_size * batch_size if drop_last else FRAMES)


def test_a_batch_stacks_samples_and_keeps_strings_as_lists(shards: Path) -> None:
    batch = next(iter(load(shards, batch_size=5)))
    samples = [sample for sample, _ in zip(load(shards, batch_size=None), range(5), strict=False)]
    described = {
        key: (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for key, value in batch.items()
        if isinstance(value, torch.Tensor)
    }
    assert described == {
        "observation.state": ("float32", (5, 4)),
        "action": ("float32", (5, 4)),
        TOP: ("uint8", (5, 3, 64, 96)),
        WRIST: ("uint8", (5, 3, 80, 64)),
        STILL: ("float32", (5, 3, 48, 64)),
        "flag": ("bool", (5,)),
        "score64": ("float32", (5,)),
        "matrix": ("float32", (5, 3, 2)),
        "ints": ("int64", (5, 2)),
        "vec64": ("float32", (5, 4)),
        "timestamp": ("float32", (5,)),
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), ("int64", (5,))),
    }
    assert set(batch) - set(described) == {"note", "task"}
    for key, value in batch.items():
        if key in described:
            assert torch.equal(value, torch.stack([sample[key] for sample in samples]))
        else:
            assert value == [sample[key] for sample in samples]


def test_what_cannot_be_stacked_is_an_error_with_the_remedy(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter(range(1, 100))
    loader = load(
        shards, batch_size=2, cameras=[], image_transforms=lambda image: image[:, : next(sizes)]
    )
    with pytest.raises(
        FormatError, match=rf"'{STILL}' has shapes .* use batch_size=None and a collate function"
    ):
        next(iter(loader))


# -- Pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [[0.0], [-0.1, 0.0, 0.3]])
def test_float_pictures_are_the_bytes_over_255(shards: Path, window: list[float]) -> None:
    options: dict[str, Any] = {"batch_size": None, "delta_timestamps": {TOP: window, STILL: window}}
    for one, other in zip(
        load(shards, **options), load(shards, return_uint8=False, **options), strict=True
    ):
        assert one[TOP].dtype == one[WRIST].dtype == torch.uint8
        for key in (TOP, WRIST):
            assert other[key].dtype == torch.float32
            assert torch.equal(other[key], one[key].float() / 255)
        assert torch.equal(one[STILL], other[STILL])


@pytest.mark.parametrize("return_uint8", [True, False])
def test_transforms_see_each_camera_once_per_sample_with_its_window(
    shards: Path, return_uint8: bool
) -> None:
    seen: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def transform(frames: torch.Tensor) -> torch.Tensor:
        seen.append((frames.dtype, tuple(frames.shape)))
        return frames.flip(-1)

    options: dict[str, Any] = {
        "batch_size": 3,
        "return_uint8": return_uint8,
        "delta_timestamps": {TOP: [-0.1, 0.0], STILL: [0.0, 0.1, 0.2], "action": [0.0, 0.1]},
    }
    plain, changed = (
        next(iter(load(shards, **options, **more)))
        for more in ({}, {"image_transforms": transform})
    )
    video = torch.uint8 if return_uint8 else torch.float32
    expected = [(video, (2, 3, 64, 96)), (video, (3, 80, 64)), (torch.float32, (3, 3, 48, 64))]
    assert seen[:9] == expected * 3  # and those of the steps ahead
    for key in plain:
        if key in (TOP, WRIST, STILL):
            assert torch.equal(changed[key], plain[key].flip(-1))
        elif isinstance(plain[key], torch.Tensor):
            assert torch.equal(changed[key], plain[key])


def test_cameras_choose_what_is_decoded_and_read(shards: Path) -> None:
    loaders = {
        name: load(shards, cameras=cameras)
        for name, cameras in (("all", None), ("both", [WRIST, TOP]), ("one", [WRIST]), ("none", []))
    }
    batches = {name: next(iter(loader)) for name, loader in loaders.items()}
    keys = {name: {TOP, WRIST, STILL} & set(batch) for name, batch in batches.items()}
    assert keys == {
        "all": {TOP, WRIST, STILL},
        "both": {TOP, WRIST, STILL},
        "one": {WRIST, STILL},
        "none": {STILL},
    }
    assert torch.equal(batches["one"][WRIST], batches["all"][WRIST])
    read = {name: loader.stats().bytes_read for name, loader in loaders.items()}
    assert read["all"] == read["both"] > read["one"] > read["none"] > 0
    assert loaders["none"].stats().frames_decoded == 0


# -- Which samples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
def test_chosen_episodes_keep_their_own_indices(shards: Path, shuffle: bool) -> None:
    loader = load(shards, episodes=[5, 1, 5], cameras=[], shuffle=shuffle)
    starts = np.cumsum([0, *LENGTHS])
    expected = [*range(starts[1], starts[2]), *range(starts[5], starts[6])]
    batches = list(loader)
    assert sorted(column(batches)) == expected
    assert set(column(batches, "episode_index")) == {1, 5}
    assert shuffle or column(batches) == expected


def test_dropped_frames_are_no_samples_and_are_still_seen_by_windows(shards: Path) -> None:
    deltas = {"frame_index": [-0.3, 0.0, 0.3]}
    loader = load(
        shards,
        batch_size=None,
        cameras=[],
        drop_n_first_frames=2,
        drop_n_last_frames=4,
        delta_timestamps=deltas,
    )
    found = list(loader)
    middles = [(int(s["episode_index"]), int(s["frame_index"][1])) for s in found]
    assert middles == [(e, f) for e, length in enumerate(LENGTHS) for f in range(2, length - 4)]
    for sample, (_, frame) in zip(found, middles, strict=True):
        assert sample["frame_index"].tolist() == [max(0, frame - 3), frame, frame + 3]
        assert sample["frame_index_is_pad"].tolist() == [frame < 3, False, False]


def test_shards_can_be_given_by_pattern_and_by_list(shards: Path) -> None:
    index, num = (
        ShardedDataset.open(str(shards)).index,
        len(list((shards / "shards").glob("*.tar"))),
    )
    every = column(load(shards, cameras=[]))
    pattern = f"{shards}/shards/shard-{{000000..{num - 1:06d}}}.tar"
    for urls in (
        [pattern],
        [f"file://{pattern}"],
        [str(path) for path in (shards / "shards").glob("*.tar")],
    ):
        assert column(load(urls, cameras=[])) == every
    some = [f"{shards}/shards/shard-000002.tar", f"{shards}/shards/shard-{{000000,000001}}.tar"]
    chosen = index.episode_index[index.shard < 3].tolist()
    assert sorted(set(column(load(some, cameras=[]), "episode_index"))) == chosen
    one = load([f"{shards}/shards/shard-000001.tar"], cameras=[])
    assert set(column(one, "episode_index")) == set(index.episode_index[index.shard == 1].tolist())


# -- What it tells of itself -----------------------------------------------------------------------


def test_metadata_is_what_policies_are_built_from(shards: Path) -> None:
    meta = load(shards).meta
    assert (meta.fps, meta.robot_type, meta.tasks) == (10, "stampbot", ("pick", "place"))
    assert (meta.total_episodes, meta.total_frames) == (len(LENGTHS), FRAMES)
    assert (meta.video_keys, meta.image_keys, meta.camera_keys) == (
        (TOP, WRIST),
        (STILL,),
        (TOP, WRIST, STILL),
    )
    assert meta.features["action"] == {
        "dtype": "float32",
        "shape": (4,),
        "names": [f"axis{i}" for i in range(4)],
    }
    assert meta.stats["action"]["mean"].shape == (4,)
    assert meta.stats[TOP]["max"].shape == (3, 1, 1)
    actions = torch.cat([batch["action"] for batch in load(shards, cameras=[])])
    np.testing.assert_allclose(
        meta.stats["action"]["mean"], actions.mean(dim=0), rtol=1e-4, atol=1e-6
    )


def test_stats_count_what_was_done(shards: Path) -> None:
    loader = load(shards, batch_size=4, delta_timestamps={TOP: [-0.1, 0.0, 0.1]})
    before = loader.stats()
    assert all(value == 0 for value in vars(before).values())
    list(loader)
    stats = loader.stats()
    assert (stats.batches, stats.samples) == (len(loader), FRAMES)
    assert (stats.episodes_read, stats.substituted_episodes) == (len(LENGTHS), 0)
    assert stats.frames_used == FRAMES * 4
    assert (
        FRAMES * 2 <= stats.frames_decoded < stats.frames_used
    )  # a window shares frames with its neighbours
    files = sum(path.stat().st_size for path in (shards / "shards").glob("*.tar"))
    assert 0.8 * files < stats.bytes_read <= files
    for name in ("wait_seconds", "fetch_seconds", "decode_seconds", "assembly_seconds"):
        assert 0 < getattr(stats, name) < 60
    assert before.batches == 0
    list(loader)
    assert loader.stats().batches == 2 * len(loader)


def test_no_more_episodes_stay_in_memory_than_the_pools(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Episode] = weakref.WeakSet()

    class Counted(Episode):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            alive.add(self)

    monkeypatch.setattr(fetch, "Episode", Counted)
    # Of what is small more may stay, and be announced: test_memory.py, test_kept_frames.py.
    monkeypatch.setattr(resources, "SMALL_DATASET_BYTES", 0)
    monkeypatch.setattr(decode_ahead, "ANNOUNCED_SHARE", 0)
    loader = load(shards, batch_size=2, shuffle=True, pool_episodes=2)
    most = 0
    for _ in loader:
        # A pool, one for the pool that follows, and what steps under way still need of the last;
        # threads hold more for moments, however long a busy machine makes these.
        assert wait_until(lambda: len(alive) <= 5)
        most = max(most, len(alive))
    assert most >= 2
    gc.collect()
    assert not alive


# -- Living with others ----------------------------------------------------------------------------


def test_a_loader_survives_pickling_with_its_place(shards: Path) -> None:
    loader = load(
        shards,
        batch_size=4,
        shuffle=True,
        cameras=[],
        image_transforms=partial(torch.mul, other=0.5),
    )
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    state = loader.state_dict()
    copy: Loader = pickle.loads(pickle.dumps(loader))
    assert copy.meta.features == loader.meta.features
    copy.load_state_dict(state)
    loader.load_state_dict(state)
    for one, other in zip(loader, copy, strict=True):
        assert torch.equal(one[STILL], other[STILL])
        assert torch.equal(one["index"], other["index"])


def test_a_loader_feeds_a_webdataset_pipeline(shards: Path) -> None:
    def doubled(batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield batch | {"action": batch["action"] * 2}

    loader = load(shards, cameras=[])
    stages: list[Callable[..., Any]] = [
        partial(iter, loader),
        doubled,
        wds.map(lambda batch: batch["action"]),
    ]
    found = torch.cat(list(wds.DataPipeline(*stages)))
    assert torch.equal(
        found, torch.cat([batch["action"] * 2 for batch in load(shards, cameras=[])])
    )


def test_in_a_worker_of_another_dataloader_it_refuses(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "in_worker", lambda: True)
    with pytest.raises(OptionError, match="it has workers of its own"):
        next(iter(load(shards)))


def test_a_program_that_ends_in_mid_epoch_ends_quietly(shards: Path) -> None:
    program = f"""
from roboshard.loader import make_loader
batches = iter(make_loader({str(shards)!r}, batch_size=2))
next(batches)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
