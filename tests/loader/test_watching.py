"""What can be watched of a loader: its numbers as they are logged, and traces of some steps."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import roboshard.loader.running.steps as steps_module
import roboshard.loader.spans as spans_module
from roboshard.loader import Loader, LoaderStats, make_loader
from roboshard.loader.running.steps import UserSteps
from roboshard.loader.running.trace import trace_events
from roboshard.loader.spans import Span, SpanRecorder
from roboshard.loader.stats import StatsCounter
from roboshard.shards import OptionError

STEPS = 12
OF_EVERY_STEP = {"wait", "step", "fetch", "assemble", "wait for pictures"}


def load(root: Path, **options: Any) -> Loader:
    return make_loader(str(root), batch_size=8, seed=3, **options)


# -- Numbers -------------------------------------------------------------------------------------


def test_all_numbers_are_flat_and_plain() -> None:
    stats = LoaderStats(samples=12, wait_seconds=1.0, step_seconds=3.0, frames_decoded=9)
    numbers = stats.as_dict("data/")
    assert all(type(value) in (int, float) for value in numbers.values())
    assert numbers.keys() >= {f"data/{name}" for name in vars(stats)}
    assert numbers["data/wait_share"] == 0.25
    assert numbers["data/samples_per_second"] == 3.0
    assert json.loads(json.dumps(numbers)) == numbers
    assert set(LoaderStats().as_dict().values()) == {0}


def test_a_difference_is_what_was_done_between_and_how_it_stands_now() -> None:
    earlier = LoaderStats(samples=100, wait_seconds=9.0, step_seconds=1.0, resident_bytes=70)
    later = LoaderStats(samples=140, wait_seconds=10.0, step_seconds=4.0, resident_bytes=50)
    since = later - earlier
    assert (since.samples, since.resident_bytes) == (40, 50)
    assert (since.wait_share, since.samples_per_second) == (0.25, 10.0)
    assert (later - LoaderStats()) == later


def test_sums_only_grow(arm_shards: Path) -> None:
    loader = load(arm_shards, cameras=[])
    began, seen = time.perf_counter(), [loader.stats()]
    for _ in loader:
        seen.append(loader.stats())
        time.sleep(0.002)
    took, stats = time.perf_counter() - began, loader.stats()
    assert stats.step_seconds >= 0.002 * len(loader)
    assert stats.wait_seconds + stats.step_seconds <= took
    sums = [name for name in vars(stats) if name not in ("steps_ahead", "resident_bytes")]
    for one, other in itertools.pairwise([*seen, stats]):
        assert all(getattr(one, name) <= getattr(other, name) for name in sums)


def test_the_user_waits_or_works_at_every_moment_of_an_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = iter([1.0, 4.0, 5.0, 7.0, 20.0, 21.0, 23.0])
    monkeypatch.setattr(steps_module, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    counter = StatsCounter()
    steps = UserSteps(counter, None)
    for step in range(2):  # waits from 1 to 4 and from 5 to 7, works from 4 to 5
        steps.ask()
        steps.give(0, step, num_samples=8)
    steps.end()  # at the end of an epoch, whatever comes between two is neither
    steps.ask()
    steps.give(1, 0, num_samples=8)
    steps.ask()
    stats = counter.snapshot()
    assert (stats.batches, stats.samples) == (3, 24)
    assert (stats.wait_seconds, stats.step_seconds) == (3 + 2 + 1, 1 + 2)


# -- Traces --------------------------------------------------------------------------------------


def events_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Check that a file is a trace, and return its spans by name."""
    trace = json.loads(path.read_text())
    named = {
        (event["name"], event["pid"], event["tid"] if event["name"] == "thread_name" else 0)
        for event in trace["traceEvents"]
        if event["ph"] == "M"
    }
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    of_thread: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] != "M":
            assert event["ph"] == "X"
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert ("process_name", event["pid"], 0) in named
            assert ("thread_name", event["pid"], event["tid"]) in named
            found[event["name"]].append(event)
            of_thread[event["pid"], event["tid"]].append(event)
    for events in of_thread.values():
        assert_nested(events)
    return found


def assert_nested(events: list[dict[str, Any]]) -> None:
    """Two spans of one thread are apart, or one holds the other; and they come in that order."""
    open_until: list[float] = []
    for event in events:
        begin, end = event["ts"], event["ts"] + event["dur"]
        while open_until and open_until[-1] <= begin + 0.01:
            open_until.pop()
        assert not open_until or end <= open_until[-1] + 0.01, event
        open_until.append(end)


def assert_covers(events: dict[str, list[dict[str, Any]]], numbers: list[int]) -> None:
    """Every step has its waiting and its working, one after the other without a gap."""
    assert [event["args"]["step"] for event in events["wait"]] == numbers
    assert [event["args"]["step"] for event in events["step"]] == numbers
    for wait, step in zip(events["wait"], events["step"], strict=True):
        assert step["ts"] == pytest.approx(wait["ts"] + wait["dur"], abs=0.01)


def test_a_trace_shows_what_every_thread_did_in_each_step(arm_shards: Path, tmp_path: Path) -> None:
    loader = load(arm_shards, image_transforms=lambda picture: picture, device="cpu")
    loader.trace(tmp_path / "trace.json", steps=STEPS)
    for number, _ in enumerate(loader):
        assert (tmp_path / "trace.json").exists() == (number >= STEPS)
    events = events_of(tmp_path / "trace.json")
    assert_covers(events, list(range(STEPS)))
    assert len({event["tid"] for event in events["wait"] + events["step"]}) == 1
    for name in (*OF_EVERY_STEP, "transform", "copy to device"):
        assert len(events[name]) >= STEPS, name
    assert {"read", "verify", "parse", "decode"} <= events.keys()
    assert {event["args"]["camera"] for event in events["decode"]} == set(loader.meta.video_keys)
    assert sum(event["args"]["bytes"] for event in events["read"]) <= loader.stats().bytes_read
    assert {event["args"]["step"] for event in events["transform"]} >= set(range(STEPS))


def test_a_trace_shows_workers_as_processes_of_their_own_with_one_clock(
    arm_shards: Path, tmp_path: Path
) -> None:
    loader = load(arm_shards, num_workers=1)
    loader.trace(tmp_path / "trace.json", steps=STEPS)
    alone = load(arm_shards)
    assert len(list(loader)) == len(list(alone))
    names_of_sums = ("batches", "samples", "frames_used", "episodes_read", "bytes_read")
    for name in names_of_sums:
        assert getattr(loader.stats(), name) == getattr(alone.stats(), name), name
    events = events_of(tmp_path / "trace.json")
    assert_covers(events, list(range(STEPS)))
    for name in ("fetch", "assemble", "wait for pictures", "pack"):
        assert len(events[name]) >= STEPS, name
        assert {event["pid"] for event in events[name]}.isdisjoint({os.getpid()})
    for pack, wait in zip(events["pack"], events["wait"], strict=False):
        assert pack["ts"] + pack["dur"] <= wait["ts"] + wait["dur"], (
            "a batch came before it was made"
        )
    names = {
        event["args"]["name"]
        for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        if event["name"] == "process_name"
    }
    assert names == {"training", "worker 0"}
    loader.close()


def test_a_trace_begins_after_the_steps_it_skips_and_goes_on_over_epochs(
    arm_shards: Path, tmp_path: Path
) -> None:
    loader = load(arm_shards, cameras=[])
    length = len(loader)
    loader.trace(tmp_path / "trace.json", skip=length - 2, steps=5)
    assert len(list(loader)) == length
    assert_covers(events_of(tmp_path / "trace.json"), [length - 2, length - 1])
    assert len(list(loader)) == length
    assert_covers(events_of(tmp_path / "trace.json"), [length - 2, length - 1, 0, 1, 2])
    assert not loader._runner.counter.spans.switch.value


def test_pictures_that_were_kept_are_copied_and_not_decoded(
    arm_shards: Path, tmp_path: Path
) -> None:
    loader = load(arm_shards, frame_cache="64MB", frame_cache_dir=tmp_path / "frames")
    loader.trace(tmp_path / "trace.json", skip=len(loader), steps=3)
    for _ in range(2):
        list(loader)
    events = events_of(tmp_path / "trace.json")
    assert_covers(events, [0, 1, 2])
    pictures = sum(event["args"]["pictures"] for event in events["copy"])
    assert pictures >= 3 * 8 * len(loader.meta.video_keys)
    assert "decode" not in events


def test_what_there_is_of_a_trace_is_written_where_the_loop_ends(
    arm_shards: Path, tmp_path: Path
) -> None:
    loader = load(arm_shards, cameras=[])
    loader.trace(tmp_path / "left.json", steps=50)
    for _ in itertools.islice(loader, 3):
        pass
    loader.close()
    events = events_of(tmp_path / "left.json")
    assert [event["args"]["step"] for event in events["wait"]] == [0, 1, 2]
    loader.trace(tmp_path / "whole.json", steps=2)  # in the place of the other one
    for _ in itertools.islice(loader, 2):
        pass
    loader.close()
    assert len(events_of(tmp_path / "whole.json")["wait"]) == 2
    assert not loader._runner.counter.spans.switch.value, "it has all its steps"
    assert events_of(tmp_path / "left.json") == events


def test_nothing_is_recorded_before_and_after_a_trace(arm_shards: Path, tmp_path: Path) -> None:
    loader = load(arm_shards)
    for number, _ in enumerate(loader):
        if number == 4:
            assert not loader._runner.counter.spans.take()
            loader.trace(tmp_path / "trace.json", steps=2)
    assert len(loader._runner.counter.spans.take()) < 8, "what threads had just begun to record"
    assert_covers(events_of(tmp_path / "trace.json"), [5, 6])


def test_each_of_several_ranks_writes_a_file_of_its_own(arm_shards: Path, tmp_path: Path) -> None:
    loader = load(arm_shards, cameras=[], rank=1, world_size=2)
    loader.trace(tmp_path / "trace.json", steps=2)
    list(loader)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.rank1.json"]
    assert '"name":"rank 1"' in (tmp_path / "trace.rank1.json").read_text()


def test_what_cannot_be_traced_is_refused_at_once(arm_shards: Path, tmp_path: Path) -> None:
    loader = load(arm_shards, cameras=[])
    with pytest.raises(OptionError, match="steps must be at least 1"):
        loader.trace(tmp_path / "trace.json", steps=0)
    with pytest.raises(OptionError, match="skip at least 0"):
        loader.trace(tmp_path / "trace.json", skip=-1)
    for path in (tmp_path / "no folder/trace.json", tmp_path):
        with pytest.raises(OptionError, match="a file in a folder that there is"):
            loader.trace(path)


def test_a_file_that_cannot_be_written_does_not_end_a_training(
    arm_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    loader = load(arm_shards, cameras=[])
    loader.trace(tmp_path / "folder/trace.json", steps=2)
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").write_text("in its way")
    with pytest.warns(RuntimeWarning, match="trace is lost"):
        assert len(list(loader)) == len(loader)


def test_a_trace_has_an_end_to_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "MAX_SPANS", 40)
    monkeypatch.setattr(steps_module, "MAX_SPANS", 40)
    counter = StatsCounter()
    steps = UserSteps(counter, None)
    steps.trace(tmp_path / "trace.json", num_steps=1, skip=0)
    steps.ask()
    now = time.perf_counter()
    steps.collect(0, [Span("decode", now, now, 1, 2, "a worker's", {})] * 30)
    for _ in range(50):
        counter.spans.add("decode", now)
    steps.end()
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert len([event for event in trace["traceEvents"] if event["ph"] == "X"]) == 40
    assert trace["otherData"] == {"spans_left_out": 10 + 30}
    steps.ask()
    steps.give(0, 0, num_samples=8)
    steps.end()
    assert not counter.spans.switch.value, "it is over, though there is no room for its step"


def test_spans_from_before_a_trace_are_cut_or_left_out() -> None:
    spans = [
        Span("inner", 9.0, 10.5, 1, 2, "a thread", {}),
        Span("outer", 9.0, 11.0, 1, 2, "a thread", {"camera": "top"}),
    ]
    found = trace_events(spans, {1: "training"}, begin=10.0)["traceEvents"]
    assert [(event["name"], event.get("ts"), event.get("dur")) for event in found] == [
        ("process_name", None, None),
        ("thread_name", None, None),
        ("outer", 0.0, 1e6),
        ("inner", 0.0, 0.5e6),
    ]


def test_any_number_of_threads_can_record() -> None:
    recorder = SpanRecorder()
    recorder.add("unseen", 0.0)
    assert not recorder.take()
    recorder.switch.value = 1
    threads = [
        threading.Thread(target=lambda: [recorder.add("work", 0.0) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorder.take()) == 2000
    assert not recorder.take()
