"""What remote loading asks a server for: what the steps need, ahead and in their order, and no more
once left.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import remote_loading
from support.remote_loading import bounded, digests, read_threads, small_loader
from support.servers import RangeServer

from roboshard.loader import resources
from roboshard.loader.episodes import fetch as episodes
from roboshard.loader.episodes import prefetch
from roboshard.loader.episodes.prefetch import EpisodePrefetcher
from roboshard.loader.look_ahead import decode_ahead
from roboshard.loader.stats import StatsCounter
from roboshard.shards import DamageError, EpisodeData, ShardedDataset
from roboshard.shards import fetch as shard_fetch

pytestmark = pytest.mark.usefixtures("no_threads_before")

pytest_plugins = ["support.servers.fixtures"]

TOP = "observation.images.top"
SMALL_GAP = 1024
"""MAX_GAP for episodes of 40 KB, as 128 KiB is for episodes of some MB."""


@pytest.fixture
def http(range_server: RangeServer, arm_shards: Path) -> RangeServer:
    range_server.serve(arm_shards)
    return range_server


@pytest.fixture
def small_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MAX_GAP", SMALL_GAP)
    monkeypatch.setattr(shard_fetch, "MAX_GAP", SMALL_GAP)


def data_requests(server: RangeServer) -> list[tuple[str, int, int]]:
    """(shard, first byte, end) of each read of a shard."""
    found = []
    for request in server.requests:
        if request.path.endswith(".tar"):
            assert request.range is not None
            first, last = request.range.removeprefix("bytes=").split("-")
            found.append((request.path, int(first), int(last) + 1))
    return found


def needed_bytes(root: Path) -> int:
    """Of all episodes of a dataset."""
    return int(ShardedDataset.open(str(root)).index.size.sum())


# -- Requests and bytes ----------------------------------------------------------------------------


def test_global_order_asks_once_for_an_episode_and_never_for_a_shard(
    http: RangeServer, arm_shards: Path, small_gap: None
) -> None:
    loader = small_loader(http.url, episode_order="global")
    digests(loader)
    dataset = ShardedDataset.open(str(arm_shards))
    asked = data_requests(http)
    assert len(asked) <= len(dataset.index)
    assert len(http.requests) <= len(asked) + 2 + len(dataset.manifest.shards)
    assert http.bytes_sent <= 1.3 * needed_bytes(arm_shards)
    assert sum(end - first for _, first, end in asked) <= 1.05 * needed_bytes(arm_shards)
    assert loader.stats().bytes_read == sum(end - first for _, first, end in asked)
    assert loader.stats().reads == len(asked)


def test_a_few_episodes_cost_a_few_reads(
    http: RangeServer, arm_shards: Path, small_gap: None
) -> None:
    chosen = [1, 7, 16]
    digests(small_loader(http.url, episodes=chosen))
    index = ShardedDataset.open(str(arm_shards)).index
    size = {
        int(episode): int(n) for episode, n in zip(index.episode_index, index.size, strict=True)
    }
    asked = data_requests(http)
    assert sorted(end - first for _, first, end in asked) == sorted(
        size[episode] for episode in chosen
    )
    assert (
        len(http.requests) == 2 + 3 + 3
    )  # dataset.json and the index, manifests of their shards, episodes


def test_shard_order_reads_neighbours_together(http: RangeServer, arm_shards: Path) -> None:
    digests(small_loader(http.url, episode_order="shard", pool_episodes=8))
    assert len(data_requests(http)) <= len(ShardedDataset.open(str(arm_shards)).index) / 2
    assert http.bytes_sent <= 1.1 * needed_bytes(arm_shards)


def test_only_the_chosen_cameras_are_read(
    http: RangeServer, arm_shards: Path, small_gap: None
) -> None:
    dataset = ShardedDataset.open(str(arm_shards))
    samples = [
        sample
        for shard in dataset.manifest.shards
        for sample in dataset.shard_manifest(shard).samples
    ]
    for cameras, suffixes in (
        ([TOP], (".json", ".parquet", "top.mp4")),
        ([], (".json", ".parquet")),
    ):
        http.reset()
        digests(small_loader(http.url, cameras=cameras))
        asked = data_requests(http)
        needed = sum(
            member.size
            for sample in samples
            for member in sample.members
            if member.name.endswith(suffixes)
        )
        sent = sum(end - first for _, first, end in asked)
        assert (
            needed <= sent <= needed + len(samples) * 3 * SMALL_GAP
        )  # tar headers and padding between members
        assert len(asked) <= len(samples)


def test_resuming_reads_what_its_steps_need_and_no_more_than_a_start(
    http: RangeServer, monkeypatch: pytest.MonkeyPatch, small_gap: None
) -> None:
    monkeypatch.setattr(resources, "REMOTE_READING", (4, 1))  # as far ahead as it must
    monkeypatch.setattr(decode_ahead, "LOOK_AHEAD_STEPS", (1, 1))
    monkeypatch.setattr(episodes, "DRAWS_AT_ONCE", 2)
    options: dict[str, Any] = {"pool_episodes": 5, "batch_size": 4}
    plan = small_loader(http.url, **options)._job.plan(0)

    def first_batch_from(step: int) -> tuple[int, int]:
        """Bytes of shards sent until the first batch is there, and of the episodes of the steps
        drawn till then.
        """
        loader = small_loader(http.url, **options)
        loader.load_state_dict(loader.state_dict() | {"step": step})
        http.reset()
        batches = iter(loader)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        drawn = range(step, min(step + 6, plan.num_steps))
        positions = {int(position) for s in drawn for position in plan.step(s, range(1)).positions}
        return (
            sum(end - first for _, first, end in data_requests(http)),
            sum(int(loader._job.dataset.index.size[position]) for position in positions),
        )

    fresh, needed = first_batch_from(0)
    assert fresh <= 1.05 * needed
    resumed = []
    for step in range(5, plan.num_steps - 10, 4):
        sent, needed = first_batch_from(step)
        assert sent <= 1.05 * needed
        resumed.append(sent)
    assert sum(resumed) / len(resumed) <= 1.2 * fresh


# -- Reading ahead ---------------------------------------------------------------------------------


LEAVES_BEFORE_ITS_STEP: dict[str, Any] = {
    "batch_size": 7,
    "pool_episodes": 5,
    "episode_order": "global",
    "shuffle": True,
    "seed": 8,
}
"""An episode is in memory when it is expected, and is not any more when its step comes."""


@settings(max_examples=12)
@example(budget=1, threads=1, options=LEAVES_BEFORE_ITS_STEP)
@given(
    budget=st.sampled_from([1, 20_000, 100_000, 300_000, 1 << 30]),
    threads=st.integers(1, 6),
    options=st.fixed_dictionaries(
        {
            "batch_size": st.integers(1, 12),
            "pool_episodes": st.integers(1, 8),
            "episode_order": st.sampled_from(["global", "shard"]),
            "shuffle": st.booleans(),
            "seed": st.integers(0, 99),
        }
    ),
)
def test_any_budget_gives_the_same_batches_and_is_held(
    arm_shards: Path, budget: int, threads: int, options: dict[str, Any]
) -> None:
    expected = digests(small_loader(str(arm_shards), cameras=[], **options))
    coming: list[tuple[int, int]] = []

    class Watched(EpisodePrefetcher):
        taking = False

        def want(self, positions: Sequence[int]) -> None:
            before = self._coming_bytes
            super().want(positions)
            if not self.taking:
                coming.append((before, self._coming_bytes))

        def take(self, position: int) -> EpisodeData:
            self.taking = True
            try:
                return super().take(position)
            finally:
                self.taking = False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "LOCAL_READING", (threads, budget))
        patch.setattr(resources, "EpisodePrefetcher", Watched)
        assert digests(small_loader(str(arm_shards), cameras=[], **options)) == expected
    # What a step needs now is read whatever the budget (it may have left the memory since it was
    # expected); beyond that nothing is begun unless there is room.
    assert all(before < budget or before == after for before, after in coming if before)
    assert not read_threads()


@dataclass
class FakeDataset:
    """Episodes of 100 bytes, ten to a shard, `spacing` apart; reading one takes a moment and may
    fail.
    """

    spacing: int = 1 << 30
    seconds: float = 0.0
    failing: frozenset[int] = frozenset()
    begun: list[int] = field(default_factory=list)
    sources: list[list[int]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    num_episodes: int = 200

    def __post_init__(self) -> None:
        numbers = np.arange(self.num_episodes)
        self.index = SimpleNamespace(
            shard=numbers // 10,
            offset=numbers % 10 * self.spacing,
            size=np.full(self.num_episodes, 100),
        )
        self.hold.set()

    def read_episodes(
        self, positions: Sequence[int], cameras: Sequence[str], on_read: Callable[..., None]
    ) -> Iterator[int | DamageError]:
        self.sources.append(list(positions))
        for position in positions:
            self.begun.append(position)
            self.hold.wait(20)
            time.sleep(self.seconds)
            yield DamageError(f"episode {position}") if position in self.failing else position


def reading(dataset: FakeDataset, threads: int, max_bytes: int = 10_000) -> EpisodePrefetcher:
    counter = StatsCounter()
    return EpisodePrefetcher(dataset, (), threads, max_bytes, counter)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 4])
def test_episodes_are_begun_in_the_order_of_need(threads: int) -> None:
    dataset = FakeDataset(seconds=0.002)
    reads = reading(dataset, threads)
    wanted = random.Random(1).sample(range(200), 60)
    reads.want(wanted)
    assert [reads.take(position) for position in wanted] == wanted  # type: ignore[comparison-overlap]
    reads.close()
    places = [wanted.index(position) for position in dataset.begun]
    assert sorted(places) == list(range(60))
    assert all(abs(place - turn) < threads for turn, place in enumerate(places))


def test_neighbours_are_read_together_and_the_first_one_needed_sets_their_turn() -> None:
    dataset = FakeDataset(spacing=100)
    reads = reading(dataset, 1)
    reads.want([33, 5, 31, 32, 4, 90])
    assert [reads.take(position) for position in (33, 5, 90)] == [33, 5, 90]  # type: ignore[comparison-overlap]
    assert dataset.sources == [[31, 32, 33], [4, 5], [90]]
    reads.close()


def test_episodes_that_nobody_wants_yet_are_not_read_with_those_around_them() -> None:
    dataset = FakeDataset(spacing=100)
    reads = reading(dataset, 1)
    reads.want([30, 32, 34])
    assert [reads.take(position) for position in (30, 32, 34)] == [30, 32, 34]  # type: ignore[comparison-overlap]
    assert dataset.sources == [[30], [32], [34]]
    reads.close()


def test_an_episode_that_fails_takes_no_neighbour_with_it_and_can_be_asked_for_again() -> None:
    dataset = FakeDataset(spacing=100, failing=frozenset({12}))
    reads = reading(dataset, 2)
    reads.want(range(10, 20))
    for _ in range(2):
        with pytest.raises(DamageError, match="episode 12"):
            reads.take(12)
    assert [reads.take(position) for position in (11, 13, 19)] == [11, 13, 19]  # type: ignore[comparison-overlap]
    reads.close()


def test_room_comes_back_as_episodes_are_taken() -> None:
    reads = reading(FakeDataset(), 2, max_bytes=250)
    reads.want([1, 2, 50])
    reads.want([2, 50])  # on their way already
    assert not reads.has_room
    reads.take(1)
    assert reads.has_room
    reads.take(50)
    reads.take(2)
    assert reads._coming_bytes == 0
    reads.close()


@pytest.mark.parametrize("spacing", [100, 1 << 30])
def test_closing_leaves_no_thread_and_begins_nothing_more(spacing: int) -> None:
    dataset = FakeDataset(spacing=spacing)
    reads = reading(dataset, 3)
    dataset.hold.clear()
    reads.want(range(200))
    while len(dataset.begun) < 3:
        time.sleep(0.001)
    threading.Timer(0.2, dataset.hold.set).start()
    reads.close()
    assert not read_threads()
    assert len(dataset.begun) == 3


def test_closing_does_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "CLOSE_S", 0.2)
    dataset = FakeDataset()
    reads = reading(dataset, 3)
    dataset.hold.clear()
    reads.want(range(50))
    with bounded(3):
        reads.close()
    dataset.hold.set()
    until = time.monotonic() + 5
    while read_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert not read_threads()
    assert len(dataset.begun) <= 3


@pytest.mark.filterwarnings("ignore:on_error='skip':RuntimeWarning")
def test_damage_in_a_read_of_several_episodes_is_of_one_of_them(
    http: RangeServer, arm_shards: Path
) -> None:
    dataset = ShardedDataset.open(str(arm_shards))
    (_, middle, _) = (int(position) for position in np.flatnonzero(dataset.index.shard == 2))
    data = bytearray((arm_shards / dataset.manifest.shards[2].name).read_bytes())
    data[int(dataset.index.offset[middle]) + 5000] ^= 1
    http.fault("replace", r"shard-000002\.tar", content=bytes(data))
    loader = small_loader(http.url, on_error="skip", shuffle=False)
    found, expected = list(loader), list(small_loader(str(arm_shards), shuffle=False))
    assert loader.stats().substituted_episodes == 1
    for batch, right in zip(found, expected, strict=True):
        for i, episode in enumerate(right["episode_index"].tolist()):
            if episode != middle:
                assert all(
                    (batch[key][i] == right[key][i]).all() for key in ("index", "action", TOP)
                )
            else:
                assert batch["episode_index"][i] == middle + 1
    of_shard = [(first, end) for path, first, end in data_requests(http) if path.endswith("2.tar")]
    again = (
        int(dataset.index.offset[middle]),
        int(dataset.index.offset[middle] + dataset.index.size[middle]),
    )
    assert of_shard.count(again) <= 1  # it alone is read again
    assert sum(end - first for first, end in of_shard) < 2 * len(data)


def test_leaving_in_mid_epoch_leaves_nothing(http: RangeServer) -> None:
    http.configure(latency_s=0.02)
    for taken in (1, 3, 6):
        loader = small_loader(http.url)
        for _ in itertools.islice(iterator := iter(loader), taken):
            pass
        iterator.close()  # type: ignore[attr-defined]
        assert not read_threads()
        assert loader.stats().resident_bytes == loader.stats().steps_ahead == 0


# -- Ctrl-C in a stall -----------------------------------------------------------------------------


@pytest.fixture
def stalled_run(http: RangeServer) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a run whose reads stall soon; returns when they do."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**options: Any) -> subprocess.Popen[bytes]:
        http.fault("stall", r"\.tar", None, after=3, seconds=60.0)
        command = [
            sys.executable,
            remote_loading.__file__,
            json.dumps({"urls": http.url, **options}),
        ]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        until = time.monotonic() + 120
        while not any(request.fault == "stall" for request in http.requests):
            assert time.monotonic() < until
            assert started[-1].poll() is None
            time.sleep(0.05)
        time.sleep(0.3)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_ctrl_c_in_a_stall_ends_soon(stalled_run: Callable[..., subprocess.Popen[bytes]]) -> None:
    run = stalled_run()
    with bounded(
        15
    ):  # of the read's 20 s; most of them for a busy machine to end a process with torch
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=18)
    assert errors.rstrip().endswith(b"KeyboardInterrupt")


@pytest.mark.slow
def test_ctrl_c_in_a_stall_of_workers_ends_as_soon_as_torch_does(
    stalled_run: Callable[..., subprocess.Popen[bytes]],
) -> None:
    run = stalled_run(num_workers=2)
    with bounded(15):
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert errors.rstrip().endswith(b"KeyboardInterrupt")
