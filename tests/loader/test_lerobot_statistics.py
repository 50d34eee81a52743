"""LeRobot's normalisers run from our statistics, and torchvision's transforms resume; with the real
ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.lerobot_source import Source, build
from support.lerobot_v21_source import write_v21

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader, open_dataset

if TYPE_CHECKING:
    from support.lerobot import LeRobot

pytest_plugins = ["support.lerobot"]
pytestmark = pytest.mark.lerobot

HERE = Path(__file__).parent
KEYS = ("observation.state", "action")
WINDOW = 5


def as_json(stats: Any) -> Any:
    return {key: {name: own.tolist() for name, own in it.items()} for key, it in stats.items()}


def rows_of(shards: list[str], **options: Any) -> dict[str, Any]:
    """All rows of several datasets, one after the other."""
    rows = []
    for root in shards:
        dataset = open_dataset(root, cameras=[], **options)
        rows.append(dataset.rows(range(len(dataset))))
    return {
        key: np.concatenate([own[key].numpy() for own in rows]).tolist()
        for key in (*KEYS, "episode_index")
    }


def test_normalisers_of_lerobot_run_from_statistics_of_a_v21_source_of_a_mixture_and_of_a_choice(
    tmp_path: Path, pusht_shards: Path
) -> None:
    shards = []
    for number, lengths in enumerate([(40, 60, 30), (50, 50)]):
        built = build(tmp_path / f"v3-{number}", Source(lengths=lengths, cameras=(), seed=number))
        write_v21(built.root, tmp_path / f"v21-{number}")
        shards.append(str(tmp_path / f"shards-{number}"))
        convert(
            ConvertConfig(source=str(tmp_path / f"v21-{number}"), destination=shards[-1], workers=1)
        )
    older, pusht = shards[0], str(pusht_shards)
    by_size = make_loader([(shards[0], 130), (shards[1], 100)])
    cases = {
        "v2.1": {"stats": as_json(make_loader(older).meta.stats), "rows": rows_of([older])},
        "v2.1, by number": {
            "stats": as_json(open_dataset(older).meta.stats),
            "rows": rows_of([older]),
        },
        "mixture": {"stats": as_json(by_size.meta.stats), "rows": rows_of(shards)},
        "choice": {
            "stats": as_json(make_loader(pusht, episodes=range(3, 9)).meta.stats),
            "rows": rows_of([pusht], episodes=range(3, 9)),
        },
    }
    windows = {"action": [step / 10 for step in range(WINDOW)]}
    loader = make_loader(pusht, delta_timestamps=windows, drop_n_last_frames=WINDOW - 1)
    features = open_dataset(pusht).meta.features
    relative = {
        "stats": as_json(loader.meta.relative_stats(["Y"]))["action"],
        "rows": rows_of([pusht]),
        "features": features | {"action": features["action"] | {"names": ["x", "y"]}},
        "window": WINDOW,
        "exclude": ["Y"],
    }
    (tmp_path / "cases.json").write_text(json.dumps({"stats": cases, "relative": relative}))
    from support.lerobot import lerobot_of  # noqa: PLC0415 - the plugin, which pytest imports itself

    lerobot = lerobot_of("0.6.1", tmp_path / "home")
    done = lerobot(HERE / "lerobot_normaliser_program.py", tmp_path / "cases.json")
    assert int(done.stdout.splitlines()[-1]) == 4


def test_random_transforms_of_torchvision_resume(
    lerobot_training: LeRobot, pusht_shards: Path
) -> None:
    done = lerobot_training(HERE / "lerobot_transforms_program.py", pusht_shards)
    assert int(done.stdout.splitlines()[-1]) == 2 * 13
