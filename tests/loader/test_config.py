"""Every mistake in the options is refused before anything is read, with what is wrong and what
would do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from support.lerobot_source import Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader, open_dataset, topology
from roboshard.loader.topology import default_threads, resolve_rank
from roboshard.shards import MissingError, OptionError, ShardedDataset, StorageError

IMAGE = "observation.image"
RANKS = {"rank": 0, "world_size": 4}
LAUNCHERS = [
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*chain(*LAUNCHERS), *topology._LOCAL_RANKS, "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: ShardedDataset, position: int, cameras: Any = None) -> None:
        raise AssertionError(f"episode {position} was read")

    monkeypatch.setattr(ShardedDataset, "read_episode", read)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ({"seed": -1}, "seed must be in 0..2**63-1, not -1"),
    ({"seed": 2**63}, "seed must be in 0..2**63-1"),
    ({"pool_episodes": 0}, "pool_episodes must be at least 1, not 0"),
    ({"episode_order": "random"}, "episode_order must be 'global' or 'shard', not 'random'"),
    ({"frame_order": "fast"}, "frame_order must be 'uniform' or 'sweep', not 'fast'"),
    ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip', not 'ignore'"),
    ({"num_workers": -1}, "num_workers must not be negative: -1"),
    ({"decode_threads": 0}, "decode_threads must be at least 1"),
    ({"tolerance_s": -0.1}, "tolerance_s must not be negative: -0.1"),
    ({"tolerance_s": float("nan")}, "tolerance_s must not be negative: nan"),
    ({"drop_n_first_frames": -1}, "drop_n_first_frames must not be negative"),
    ({"drop_n_last_frames": -2}, "drop_n_last_frames must not be negative"),
    ({"rank": 1}, "pass both rank and world_size, or neither"),
    ({"world_size": 2}, "pass both rank and world_size, or neither"),
    ({"rank": 4, "world_size": 4}, "rank must be in 0..3, not 4"),
    ({"rank": -1, "world_size": 4}, "rank must be in 0..3, not -1"),
    (RANKS | {"max_world_size": 6}, "max_world_size 6 must be a multiple of the world size 4"),
    (RANKS | {"max_world_size": 2}, "max_world_size 2 must be a multiple of the world size 4"),
    ({"max_world_size": 0}, "max_world_size 0 must be a multiple of the world size 1"),
    (
        RANKS | {"max_world_size": 8, "batch_size": 3},
        "batch_size x world_size = 12 must be a multiple of",
    ),
    ({"episodes": []}, "no frame is left"),
    ({"episodes": [2, 14, 99, 3]}, "episodes: [14, 99] are not in the dataset"),
    (
        {"episodes": "0:5"},
        "episodes must be a list of episode indices, as in [0, 1, 5] or range(10), not '0:5'",
    ),
    ({"episodes": [0.5]}, "episodes must be a list of episode indices"),
    ({"episodes": [True, False]}, "episodes must be a list of episode indices"),
    ({"episodes": [-1]}, "episodes must be a list of episode indices"),
    ({"episodes": 3}, "episodes must be a list of episode indices"),
    ({"cameras": ["front"]}, f"cameras: ['front'] not among the dataset's videos ['{IMAGE}']"),
    ({"cameras": IMAGE}, f"cameras must be a list of keys: ['{IMAGE}'], not a string"),
    (
        {"delta_timestamps": {"acton": [0]}},
        "delta_timestamps: 'acton' is not a feature; the dataset has [",
    ),
    ({"delta_timestamps": {"task": [0]}}, "delta_timestamps: 'task' is not a feature"),
    ({"delta_timestamps": {"action": [0.05]}}, "0.05 s is not a whole number of frames at 10 fps"),
    ({"delta_timestamps": {"action": [0.101]}}, "use multiples of 1/10"),
    ({"delta_timestamps": {"action": []}}, "must be a list of at least one number of seconds"),
    (
        {"delta_timestamps": {IMAGE: [0]}, "cameras": []},
        f"camera '{IMAGE}' is left out by cameras=[]",
    ),
    *(
        ({name: value}, f"{name} must be a whole number, not {value!r}")
        for name in (
            *("seed", "pool_episodes", "batch_size", "max_world_size", "num_workers"),
            *("drop_n_first_frames", "drop_n_last_frames"),
            *("decode_threads", "memory_bytes", "cache_bytes"),
        )
        for value in (1.0, True, np.True_, "1")
    ),
    ({"rank": 0.0, "world_size": 1}, "rank must be a whole number, not 0.0"),
    ({"rank": 0, "world_size": "1"}, "world_size must be a whole number, not '1'"),
    ({"seed": np.array(True)}, "seed must be a whole number, not array(True)"),
    ({"seed": torch.tensor(True)}, "seed must be a whole number, not tensor(True)"),
    ({"seed": None}, "seed must be a whole number, not None"),
    ({"seed": np.array([1, 2])}, "seed must be a whole number, not array([1, 2])"),
    ({"cache_bytes": 0}, "cache_bytes must be at least 1, not 0"),
    ({"frame_cache": True}, "frame_cache must be a number of bytes"),
    ({"frame_cache": 1e9}, "frame_cache must be a number of bytes"),
    *(
        ({name: value}, f"{name} must be True or False, not {value!r}")
        for name in ("shuffle", "drop_last", "return_uint8", "pin_memory")
        for value in (1, "no")
    ),
    ({"shuffle": None}, "shuffle must be True or False, not None"),
    *(
        ({name: value}, f"{name} must be a number, not {value!r}")
        for name in ("tolerance_s", "retry_seconds")
        for value in ("1", True, None)
    ),
    ({"tolerance_s": 10**400}, "tolerance_s must be a number, not 1000"),
    ({"retry_seconds": -1}, "retry_seconds must not be negative: -1"),
    ({"image_transforms": "flip"}, "image_transforms must be a function, not 'flip'"),
    ({"batch_transform": [len]}, "batch_transform must be a function, not [<built-in"),
    (
        {"delta_timestamps": [0.0, 0.1]},
        "delta_timestamps must be a dict, feature key -> list of seconds, not [0.0, 0.1]",
    ),
    ({"delta_timestamps": []}, "delta_timestamps must be a dict"),
    ({"pad_to": []}, "pad_to must be a dict"),
    ({"split": ("val", 0.1, True)}, "a seed may follow"),
    ({"split": ("val", 0.1, 1.0)}, "a seed may follow"),
    ({"split": ("val", 0.1, 1, 2)}, "a seed may follow"),
    ({"split": ("val",)}, "split must be"),
]


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("options", "message"), REFUSED, ids=[f"{options!s:.80}" for options, _ in REFUSED]
)
def test_options_that_cannot_be_used(
    pusht_shards: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        make_loader(str(pusht_shards), **options)


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    "options",
    [
        {"delta_timestamps": {"action": [0.101]}, "tolerance_s": 0.002},
        {"episodes": range(3)},
        {"episodes": np.array([3, 1, 1])},
        {"cameras": (IMAGE, IMAGE)},
        {
            "batch_size": 3,
            "rank": 1,
            "world_size": 4,
            "max_world_size": 12,
            "num_workers": 5,
        },
        {"seed": 2**63 - 1},
        {"shuffle": np.False_, "pin_memory": None, "retry_seconds": 3},
        {"tolerance_s": np.float32(0.001), "retry_seconds": np.int64(3)},
        {"split": ["train", np.float32(0.25), np.int64(7)], "frame_cache": np.int64(10**6)},
    ],
    ids=str,
)
def test_options_that_can_be_used(pusht_shards: Path, options: dict[str, Any]) -> None:
    assert len(make_loader(str(pusht_shards), **options)) > 0


@pytest.mark.parametrize("whole", [np.int64, torch.tensor], ids=["numpy", "torch"])
def test_whole_numbers_of_other_types_are_those_numbers(
    pusht_shards: Path, whole: Callable[[int], Any]
) -> None:
    names = {"seed": 3, "pool_episodes": 4, "batch_size": 50, "drop_n_first_frames": 1, **RANKS}
    plain = make_loader(str(pusht_shards), **names, cameras=[])
    other = make_loader(
        str(pusht_shards), **{name: whole(value) for name, value in names.items()}, cameras=[]
    )
    other.set_epoch(whole(0))
    for expected, found in zip(plain, other, strict=True):
        assert torch.equal(expected["index"], found["index"])
    assert json.dumps(other.state_dict()) == json.dumps(plain.state_dict())
    other.set_epoch(whole(2))
    assert json.loads(json.dumps(other.state_dict()))["epoch"] == 2
    counted = other.state_at(whole(5), world_size=whole(4), batch_size=whole(50))
    state = plain.state_at(5, world_size=4, batch_size=50)
    assert json.dumps(counted) == json.dumps(state)


@pytest.mark.parametrize("wrong", [1.0, True, "1", None], ids=repr)
def test_epochs_and_steps_are_whole_numbers(pusht_shards: Path, wrong: Any) -> None:
    loader = make_loader(str(pusht_shards))
    before = loader.state_dict()
    steps = {"step": 1, "world_size": 1, "batch_size": 64}
    loader.state_at(**steps)
    for name in steps:
        with pytest.raises(OptionError, match=f"^{name} must be a whole number, not {wrong!r}$"):
            loader.state_at(**steps | {name: wrong})
    with pytest.raises(OptionError, match=f"^epoch must be a whole number, not {wrong!r}$"):
        loader.set_epoch(wrong)
    with pytest.raises(OptionError, match=f"^steps must be a whole number, not {wrong!r}$"):
        loader.trace("trace.json", steps=wrong)
    with pytest.raises(OptionError, match=f"^episode_index must be a whole number, not {wrong!r}"):
        open_dataset(str(pusht_shards)).episode(wrong)
    assert loader.state_dict() == before


@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_state_is_refused(pusht_shards: Path, strict: bool) -> None:
    loader = make_loader(str(pusht_shards))
    for wrong in ("str", json.dumps(loader.state_dict()), b"{}"):
        with pytest.raises(OptionError, match=r"dict that state_dict\(\) returned.*json\.loads"):
            loader.load_state_dict(wrong, strict=strict)  # type: ignore[arg-type]
    for other in (None, 3, [loader.state_dict()]):
        with pytest.raises(OptionError, match=r"dict that state_dict\(\) returned") as error:
            loader.load_state_dict(other, strict=strict)  # type: ignore[arg-type]
        assert "json" not in str(error.value)
    state: Any = MappingProxyType(loader.state_dict())
    loader.load_state_dict(state, strict=strict)


def test_a_string_has_no_window(tmp_path: Path) -> None:
    source = build(tmp_path / "source", Source(lengths=(3,), extra_features=True))
    convert(ConvertConfig(source=str(source.root), destination=str(tmp_path / "shards"), workers=1))
    with pytest.raises(
        OptionError, match="delta_timestamps: 'note' is a string feature, which has no window"
    ):
        make_loader(str(tmp_path / "shards"), delta_timestamps={"note": [0.0]})


# -- Episodes and frames that are left out ---------------------------------------------------------


def test_episodes_without_a_frame_left_are_named_in_a_warning(pusht_shards: Path) -> None:
    lengths = ShardedDataset.open(str(pusht_shards)).index.length
    shortest = int(np.argmin(lengths))
    with pytest.warns(
        UserWarning, match=rf"1 episodes have no frame left.*=1 .*=\d+.*\[{shortest}\]"
    ) as caught:
        loader = make_loader(
            str(pusht_shards),
            drop_n_first_frames=1,
            drop_n_last_frames=int(lengths.min()) - 1,
            cameras=[],
        )
    assert caught[0].filename == __file__
    found = {int(index) for batch in loader for index in batch["episode_index"]}
    assert found == set(range(len(lengths))) - {shortest}


@pytest.mark.filterwarnings("ignore:14 episodes have no frame left:UserWarning")
def test_dropping_every_frame_is_an_error(pusht_shards: Path) -> None:
    with pytest.raises(OptionError, match="leaves nothing to load"):
        make_loader(str(pusht_shards), drop_n_first_frames=10_000)


# -- Where the dataset is --------------------------------------------------------------------------


def test_urls_that_lead_nowhere(tmp_path: Path, pusht_shards: Path) -> None:
    with pytest.raises(
        MissingError, match=r"dataset\.json: no such file\. Not a roboshard dataset, or"
    ):
        make_loader(str(tmp_path))
    with pytest.raises(MissingError, match="no such file"):
        make_loader(str(tmp_path / "shards/shard-000000.tar"))
    with pytest.raises(OptionError, match=r"does not list shards/shard-000099\.tar"):
        make_loader(str(pusht_shards / "shards/shard-000099.tar"))
    with pytest.raises(OptionError, match="no URL given"):
        make_loader([])
    with pytest.raises(StorageError, match="refused"):
        make_loader("pipe:cat shards/shard-000000.tar")


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        (None, "None"),
        (3, "3"),
        ([3], "a list with <class 'int'>"),
        (["a", None], "a list with <class 'NoneType'>"),
        (b"a", "<class 'bytes'>"),
        ({"s3://key:secret@bucket/a": 0.5}, "<class 'dict'>"),
    ],
    ids=str,
)
def test_what_is_no_url(urls: Any, told: str) -> None:
    for opened in (make_loader, open_dataset):
        with pytest.raises(OptionError, match="urls must be a dataset's root") as error:
            opened(urls)
        assert str(error.value).endswith(f"not {told}")


# -- Which rank this is ----------------------------------------------------------------------------


@pytest.mark.parametrize("names", LAUNCHERS, ids=str)
def test_the_launchers_environment_gives_the_rank(
    monkeypatch: pytest.MonkeyPatch, pusht_shards: Path, names: tuple[str, str]
) -> None:
    assert resolve_rank(None, None) == (0, 1)
    alone = len(make_loader(str(pusht_shards), batch_size=4))
    monkeypatch.setenv(names[0], "2")
    assert resolve_rank(None, None) == (0, 1)
    monkeypatch.setenv(names[1], "4")
    assert resolve_rank(None, None) == (2, 4)
    assert resolve_rank(1, 2) == (1, 2)
    assert len(make_loader(str(pusht_shards), batch_size=4)) == -(-alone // 4)
    assert len(make_loader(str(pusht_shards), batch_size=4, rank=0, world_size=1)) == alone


def test_torchruns_variables_come_before_those_of_the_cluster_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for (rank, world_size), values in zip(
        LAUNCHERS, [("5", "16"), ("1", "2"), ("0", "1")], strict=True
    ):
        monkeypatch.setenv(rank, values[0])
        monkeypatch.setenv(world_size, values[1])
    assert resolve_rank(None, None) == (5, 16)


@pytest.mark.parametrize("names", LAUNCHERS, ids=str)
@pytest.mark.parametrize("values", [("one", "4"), ("1", ""), ("1.0", "4")], ids=str)
def test_an_environment_that_holds_no_numbers(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], values: tuple[str, str]
) -> None:
    for name, value in zip(names, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        OptionError, match=f"{names[0]} and {names[1]} in the environment are not numbers"
    ):
        resolve_rank(None, None)


def test_an_initialised_process_group_gives_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resolve_rank(None, None) == (3, 8)
    assert resolve_rank(0, 4) == (0, 4)


def test_decoding_threads_are_the_cores_shared_out_over_the_workers() -> None:
    cores = default_threads(0)
    assert cores >= 1
    assert default_threads(1) == cores
    assert default_threads(10_000) == 1


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Be a process bound to so many cores, below one bound to so many, on a machine of so many."""

    def be(own: int, parent: int, machine: int, quota: float | None = None) -> None:
        monkeypatch.setattr(topology, "usable_cores", lambda: min(own, int(quota or own)))
        monkeypatch.setattr(topology, "bound_cores", lambda process=0: parent if process else own)
        monkeypatch.setattr("roboshard.common.cores.cpu_quota", lambda: quota)
        monkeypatch.setattr("os.cpu_count", lambda: machine)

    return be


@pytest.mark.parametrize(
    ("variables", "bound", "expected"),
    [
        ({}, (96, 96, 96), 96),
        ({"LOCAL_WORLD_SIZE": "1"}, (96, 96, 96), 96),
        ({"LOCAL_WORLD_SIZE": "8"}, (96, 96, 96), 12),
        ({"LOCAL_WORLD_SIZE": "8"}, (32, 32, 128), 4),  # a job on some of the node's cores
        ({"LOCAL_WORLD_SIZE": "8"}, (48, 96, 96), 12),  # ranks bound to half of the node
        ({"LOCAL_WORLD_SIZE": "8"}, (96, 96, 96, 16.0), 2),  # a container
        ({"LOCAL_WORLD_SIZE": "8"}, (4, 4, 4), 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_CPUS_ON_NODE": "64"}, (64, 96, 96), 8),
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_CPUS_ON_NODE": "64"}, (6, 96, 96), 6),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "LOCAL_WORLD_SIZE": "8"}, (64, 64, 64), 8),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, (64, 64, 64), 16),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, (1, 64, 64), 1),  # mpirun binds to one core each
        ({"LOCAL_WORLD_SIZE": "many"}, (8, 8, 8), 8),
    ],
)
def test_ranks_of_a_node_share_its_cores(
    monkeypatch: pytest.MonkeyPatch,
    cores: Callable[..., None],
    variables: dict[str, str],
    bound: tuple[int, ...],
    expected: int,
) -> None:
    cores(*bound)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_threads(0) == expected
    assert default_threads(2) == max(1, expected // 2)
