"""What frames cost where keyframes are near or far apart, and being told of it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from support.converting import shards_of
from support.lerobot_source import Camera, Source
from support.slowly import slowly
from support.three_pictures import FRAMES, LENGTHS, LITTLE_MEMORY, TOP, TWO_WORKERS_SLOWLY, load

from roboshard.loader import Loader, resources
from roboshard.loader.long_gops import FIRST_FRAMES, JUDGED_FRAMES
from roboshard.loader.look_ahead.decode_ahead import LOOK_AHEAD_STEPS
from roboshard.shards.gop import COSTLY, mean_random_cost

pytestmark = pytest.mark.usefixtures("no_threads_before")


LONG_GOP, SHORT_GOP, LONG_LENGTHS = 40, 10, (40,) * 12


@pytest.fixture(scope="module")
def distant_keyframes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One keyframe an episode."""
    camera = Camera(key=TOP, gop=LONG_GOP, size=(32, 48))
    source = Source(lengths=LONG_LENGTHS, cameras=(camera,))
    return Path(shards_of(source, tmp_path_factory.mktemp("distant")))


def _warnings_of(loader: Loader, epochs: int = 2) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(epochs):
            for _ in loader:
                pass
    loader.close()
    return caught


@pytest.fixture
def judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether keyframes are far apart is told from the first frames on, which few data have."""
    monkeypatch.setattr("roboshard.loader.long_gops.FIRST_FRAMES", 0)


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_distant_keyframes_are_warned_of_once(distant_keyframes: Path, num_workers: int) -> None:
    options: dict[str, Any] = {"batch_size": 2, "memory_bytes": LITTLE_MEMORY}
    (warning,) = _warnings_of(load(distant_keyframes, num_workers=num_workers, **options))
    assert re.match(
        r'\d+\.\d frames are decoded for every frame used.*frame_order="sweep"',
        str(warning.message),
    )
    assert warning.category is UserWarning
    assert warning.filename == __file__
    cost = float(str(warning.message).split()[0])
    assert COSTLY < cost <= mean_random_cost([0], LONG_GOP)


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_that_decode_the_same_frames_are_warned_of(
    distant_keyframes: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order a frame costs one; each of these workers, whose steps are too small to be made
    together, passes through all of them.
    """
    monkeypatch.setattr("roboshard.loader.long_gops.COSTLY", 1.5)
    loader = load(distant_keyframes, batch_size=2, num_workers=num_workers, shuffle=False)
    found = [str(warning.message) for warning in _warnings_of(loader, epochs=1)]
    assert len(found) == (num_workers > 0)
    for message in found:
        assert re.match(
            r"[12]\.\d frames .* workers that serve other steps .* num_workers=0 .* --gop 2",
            message,
        )


@pytest.mark.slow
def test_what_the_first_frames_cost_is_not_warned_of(distant_keyframes: Path) -> None:
    """Few later frames are known at first that share their GOPs; here soon all of them are."""
    loader = load(distant_keyframes, batch_size=2)
    costs: list[float] = []
    assert _warnings_of(loader, 1 + (FIRST_FRAMES + JUDGED_FRAMES) // sum(LONG_LENGTHS)) == []
    for epochs in (1, 5):
        again = load(distant_keyframes, batch_size=2)
        for _ in range(epochs):
            list(again)
        costs.append(again.stats().frames_decoded_per_frame_used)
    assert costs[1] < costs[0]


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize(
    "options",
    [
        {"frame_order": "sweep"},
        {"shuffle": False},
        {"cameras": []},
        {"episodes": [0, 1, 2], "drop_n_first_frames": 9},
    ],
    ids=str,
)
def test_nothing_is_warned_of_where_frames_are_cheap_or_few(
    distant_keyframes: Path, options: dict[str, Any]
) -> None:
    assert 3 * (LONG_GOP - 9) * 2 < JUDGED_FRAMES < sum(LONG_LENGTHS)
    assert _warnings_of(load(distant_keyframes, batch_size=2, **options)) == []


@pytest.mark.usefixtures("judged_at_once")
def test_near_keyframes_are_not_warned_of(pusht_shards: Path) -> None:
    assert _warnings_of(load(pusht_shards, batch_size=2), epochs=1) == []


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize("gop", [slowly(1), 2, SHORT_GOP])
def test_a_frame_at_random_costs_what_its_keyframes_say(
    tmp_path: Path, gop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(lengths=LONG_LENGTHS, cameras=(Camera(key=TOP, gop=gop, size=(32, 48)),))
    monkeypatch.setattr(resources, "EARLY_FRACTION", 0.0)
    loader = load(shards_of(source, tmp_path), batch_size=1)
    assert len(_warnings_of(loader, epochs=1)) == int(gop == SHORT_GOP)
    expected = mean_random_cost(range(0, LONG_LENGTHS[0], gop), LONG_LENGTHS[0])
    assert 0.75 * expected <= loader.stats().frames_decoded_per_frame_used <= expected * 1.1


def test_a_sweep_plays_each_episode_from_its_phase_on(distant_keyframes: Path) -> None:
    """Each frame costs one; those before the phase that an episode begins at are decoded once more
    on the way.
    """
    loader = load(distant_keyframes, frame_order="sweep")
    list(loader)
    stats = loader.stats()
    assert stats.frames_used == sum(LONG_LENGTHS)
    assert sum(LONG_LENGTHS) < stats.frames_decoded <= 2 * sum(LONG_LENGTHS)


@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_stats_tell_how_things_stand(shards: Path, num_workers: int) -> None:
    loader = load(shards, num_workers=num_workers, batch_size=4)
    whole = sum(path.stat().st_size for path in (shards / "shards").glob("*.tar"))
    ahead, resident = [], []
    for step, _ in enumerate(loader, 1):
        stats = loader.stats()
        ahead.append(stats.steps_ahead)
        resident.append(stats.resident_bytes)
        assert (stats.batches, stats.samples) == (step, min(FRAMES, 4 * step))
        assert stats.samples * 2 <= stats.frames_used
    assert all(1 <= steps <= LOOK_AHEAD_STEPS[1] * max(1, num_workers) for steps in ahead)
    assert max(ahead) > 1
    assert all(0 < size <= whole * max(1, num_workers) for size in resident)
    assert stats.frames_used == 2 * FRAMES <= stats.frames_decoded
    assert stats.decode_seconds > 0
    assert stats.episodes_read >= len(LENGTHS)
    loader.close()
