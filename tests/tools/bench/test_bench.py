"""`roboshard bench`: what a training gets on this machine, and which settings are said to help."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.interrupting import ENDS_WITHIN_S, LINE, Command
from support.servers import RangeServer
from support.waiting import wait_until

from roboshard.cli.main import dispatch
from roboshard.shards import OptionError
from roboshard.tools.bench import BenchConfig, BenchReport, Measurement, bench, measure
from roboshard.tools.bench.settings import others

pytest_plugins = ["support.servers.fixtures"]

IMAGE = "observation.image"


def measured(
    steps: float, *, wait: float = 0.0, decoded: float = 1.5, **settings: Any
) -> Measurement:
    return Measurement(
        settings=settings,
        steps_per_second=steps,
        samples_per_second=64 * steps,
        frames_per_second=64 * steps,
        wait_share=wait,
        frames_decoded_per_frame_used=decoded,
        steps_in_all=3,
    )


def report_of(given: list[Measurement], **found: Any) -> BenchReport:
    sizes = {"episodes": 14, "frames": 644, "batch_size": 64, "cores": 2, "step_ms": 50.0}
    return BenchReport(url="shards", given=given, **(sizes | found))


# -- Which settings are tried --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "cores", "expected"),
    [
        ({}, 1, [{"frame_order": "sweep"}]),
        ({}, 2, [{"frame_order": "sweep"}, {"num_workers": 2}, {"decode_threads": 1}]),
        (
            {"frame_order": "sweep", "num_workers": 2},
            8,
            [
                {"frame_order": "uniform"},
                {"num_workers": 0},
                {"num_workers": 4},
                {"num_workers": 8},
                {"decode_threads": 2},
            ],
        ),
        (
            {"num_workers": 3, "decode_threads": 1},
            3,
            [{"frame_order": "sweep"}, {"num_workers": 0}, {"num_workers": 2}],
        ),
        ({"decode_device": "cuda"}, 8, [{"frame_order": "sweep"}]),
    ],
    ids=str,
)
def test_settings_that_are_tried_are_one_away_and_no_more_than_there_are_cores(
    given: dict[str, Any], cores: int, expected: list[dict[str, Any]]
) -> None:
    assert others(BenchConfig(url="shards", **given), cores) == expected


# -- What is said of them ------------------------------------------------------------------------


def test_a_training_that_does_not_wait_is_told_so() -> None:
    report = report_of([measured(19.8, wait=0.01)], perfect=measured(20.0))
    assert not report.waits
    assert report.advice == [
        "With a step of 50 ms training does not wait for data (1.0% of its time)."
    ]


def test_settings_help_that_gain_more_than_measuring_twice_differs() -> None:
    given = [measured(10.0, wait=0.5), measured(11.0, wait=0.4)]
    workers, sweep = measured(13.0, num_workers=2), measured(18.9, frame_order="sweep")
    slight = measured(11.3, decode_threads=1)
    report = report_of(given, tried=[slight, workers, sweep], perfect=measured(21.0))
    assert report.helpful == [sweep, workers]
    said = " ".join(report.advice)
    assert "waits for data 45% of its time, and makes 50% of the steps" in said
    assert "more steps a second: frame_order='sweep' (+80%), num_workers=2 (+24%)." in said
    assert "keyframes" not in said
    assert "busy" not in said
    noisy = report_of([measured(6.0), measured(15.0)], tried=[workers, sweep])
    assert noisy.helpful == []
    assert "differed by 86%" in " ".join(noisy.advice)


def test_without_a_step_the_largest_rate_is_told() -> None:
    report = report_of([measured(40.0, wait=1.0)], step_ms=None)
    assert report.waits
    (said,) = report.advice
    assert (
        "serve 40 steps a second: a training whose step takes 25 ms or more does not wait" in said
    )
    tried = [measured(41.0, num_workers=2)]
    assert "No setting that was tried" in " ".join(
        report_of([measured(40.0)], step_ms=None, tried=tried).advice
    )


def test_far_keyframes_and_a_slow_network_are_told() -> None:
    report = report_of(
        [measured(10.0, wait=0.5, decoded=40.0)],
        tried=[measured(10.0, num_workers=2)],
        first_epoch=measured(4.0),
    )
    said = " ".join(report.advice)
    assert "40.0 frames are decoded for each one used" in said
    assert "over the network, 0 MB/s, it makes 40% of these steps" in said


def test_other_settings_are_tried_between_two_measurements_of_the_given_ones(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    waits = 0.5

    def measure_nothing(
        _config: BenchConfig, _fixed: Any, settings: dict[str, Any], seconds: float, **_: Any
    ) -> Measurement:
        assert 0 < seconds <= 0.25 * 20
        asked.append(settings)
        return measured(20.0 if settings else 10.0, wait=waits, **settings)

    monkeypatch.setattr(measure, "measure", measure_nothing)
    config = BenchConfig(url=str(pusht_shards), seconds=20, step_ms=1.0)
    monkeypatch.setattr("roboshard.tools.bench.run.usable_cores", lambda: 2)
    told: list[tuple[int, int]] = []
    report = bench(config, lambda done, number: told.append((done, number)))
    assert asked == [{}, {"frame_order": "sweep"}, {"num_workers": 2}, {"decode_threads": 1}, {}]
    assert told == [(done, 5) for done in range(5)]
    assert len(report.given) == 2
    assert len(report.helpful) == 3
    waits = 0.01
    asked.clear()
    assert not bench(config).tried
    assert asked == [{}], "a training that does not wait needs no other settings"


# -- What is measured ----------------------------------------------------------------------------


def test_a_training_is_measured_beside_a_perfect_loader(pusht_shards: Path) -> None:
    report = bench(
        BenchConfig(
            url=pusht_shards,  # type: ignore[arg-type]
            seconds=0.2,
            alone=True,
            step_ms=5.0,
            batch_size=4,
            delta_timestamps=(f"{IMAGE}=-0.1,0.0", "action=0.0,0.1"),
        )
    )
    (given,) = report.given
    assert (report.episodes, report.frames, report.tried) == (14, 644, [])
    assert 0 < given.steps_per_second <= 200
    assert given.samples_per_second == pytest.approx(4 * given.steps_per_second, rel=0.2)
    assert given.frames_per_second == pytest.approx(2 * given.samples_per_second)
    assert 0 <= given.wait_share < 1
    assert 8 <= given.steps < given.steps_in_all
    assert report.perfect is not None
    assert 0 < report.perfect.steps_per_second <= 200
    assert report.first_epoch is None


def test_remote_shards_are_measured_while_they_come_and_once_they_are_here(
    range_server: RangeServer, pusht_shards: Path
) -> None:
    range_server.serve(pusht_shards)
    report = bench(BenchConfig(url=range_server.url, seconds=0.2, alone=True))
    assert report.first_epoch is not None
    assert report.first_epoch.bytes_read_per_second > 0
    assert report.given[0].bytes_read_per_second == 0
    assert 0 < report.first_epoch.steps_in_all <= 11


def test_episodes_of_steps_are_those_that_batches_have(pusht_shards: Path) -> None:
    config = BenchConfig(url=str(pusht_shards), batch_size=4, cameras=())
    with closing(measure.open_loader(config, {})) as loader:
        batches = [batch["episode_index"] for _, batch in zip(range(2), loader, strict=False)]
    found = {int(index) for indices in batches for index in indices}
    assert measure.episodes_of_steps(config, 2) == sorted(found)


def test_the_command(pusht_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(pusht_shards), "--alone", "--seconds", "0.2", "--cameras"]
    assert dispatch(["bench", "/no such"]) == 1
    assert "dataset.json: no such file" in " ".join(capsys.readouterr().err.split())
    assert dispatch(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "14 episodes, 644 frames; batches of 64" in said
    assert "steps/s samples/s frames/s waiting" in said
    assert "These settings serve" in said
    assert dispatch([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["given"][0]["steps_per_second"] > 0
    assert found["advice"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"step_ms": 0.0}, "step_ms must be"),
        ({"step_ms": float("nan")}, "step_ms must be"),
        ({"seconds": 0.0}, "seconds must be"),
        ({"seconds": 1e9}, "seconds must be"),
        ({"delta_timestamps": "action=0"}, "must be a list"),
        ({"delta_timestamps": ("action",)}, "write a feature's key and offsets"),
        ({"delta_timestamps": ("=0.1",)}, "write a feature's key and offsets"),
        ({"delta_timestamps": ("action=now",)}, "write a feature's key and offsets"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"cameras": ("none",)}, "not among the dataset's videos"),
        ({"num_workers": -1}, "num_workers must not be negative"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(
    pusht_shards: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        bench(BenchConfig(url=str(pusht_shards), **options))


@pytest.mark.slow
def test_all_settings_are_tried(pusht_shards: Path) -> None:
    report = bench(BenchConfig(url=str(pusht_shards), seconds=10))
    assert {"frame_order": "sweep"} in [it.settings for it in report.tried]
    assert all(it.steps_per_second > 0 for it in [*report.given, *report.tried])


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "seconds"), [("0", 6), ("2", 6), ("2", 1.5)])
def test_ctrl_c(pusht_shards: Path, tmp_path: Path, workers: str, seconds: float) -> None:
    """Seconds from the start of its workers, who load only after the second one."""
    command = Command(
        tmp_path, "roboshard", "bench", pusht_shards, "--step-ms", "3", "--num-workers", workers
    )
    try:
        if workers != "0":
            assert wait_until(lambda: len(command.workers) == 2, seconds=60)
        assert not wait_until(lambda: not command.is_running, seconds=seconds)
        command.send(signal.SIGINT, to_group=True)
        assert command.wait_gone() < ENDS_WITHIN_S
        assert command.said == LINE[signal.SIGINT]
        assert command.process.returncode == 128 + signal.SIGINT
    finally:
        command.kill()
    assert not list(command.temporary.iterdir())
