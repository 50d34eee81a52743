"""Frames per second of the loader, beside the limit and beside other ways to load the same dataset.

    python benchmarks/loading.py --source LEROBOT_DATASET --shards ROBOSHARD_DATASET
        [--long-gop-source LEROBOT_DATASET --long-gop-shards ROBOSHARD_DATASET]

The cases (loading_cases.py) follow one another, round by round, each in a fresh process. It makes
its loader, warms up and then takes batches for a window of wall-clock time (peers/window.py says
how they are counted). With `--turn-s` the limit runs all the while, and the two take turns of a few
seconds in which the other one is held: so a machine whose speed changes from minute to minute is
the same for both. From outside, this program samples the memory of the whole process tree, up to
the window and at its end, and the CPU time that it uses in the window. Prints every run, medians
over the rounds, and ratios: taken round by round, then their median. Those of two cases are, with
turns, ratios of what part of the limit each has reached beside it.

All contenders give batches of 64 samples with all cameras at full size, in host memory, bytes but
where LeRobot 0.4.4 has nothing else than float32; a sample's own frame of each camera, or that and
the eight before it (window_9):

- torchcodec_sequential: the limit. Threads that decode whole slices in order and throw the frames
  away.
- roboshard: the loader. float32 where it stands beside LeRobot 0.4.4, uint8 otherwise.
- lerobot, lerobot_0.6: map-style LeRobotDataset in a DataLoader, two workers.
- spdl: `sample_decode_video` in two threads. energon: AVDecoder, two workers. litdata: torchcodec,
  two workers.
- webdataset_jpeg: shards of JPEG frames, two workers, uint8.
- long_gop: the same on videos with few keyframes (long_gop.py).
"""

import fnmatch
import json
import math
import signal
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from contenders import CaseError, Contender, Program, Run, run, started
from loading_cases import ALL, DEFAULT, LIMITS, Case, Videos
from loading_peers import jpeg_shards, peer
from peer_environments import PROGRAMS
from report import print_result
from roboshard.shards.reader import ShardedDataset


@dataclass(frozen=True)
class Options:
    """Loading, beside the limit and other loaders."""

    source: Path | None = None
    """A local LeRobot v3 dataset."""
    shards: Path | None = None
    """Shards converted from `source`."""
    long_gop_source: Path | None = None
    """What long_gop.py made of `source`."""
    long_gop_shards: Path | None = None
    """Shards converted from `long_gop_source`."""
    cases: tuple[str, ...] = ()
    """Names or patterns (`matrix_*_sweep_*`); default: the cases of the headline for which there is
    data.
    """
    list: bool = False
    """Print the names of all cases and end."""
    runs: int = 5
    """Rounds in which the cases take turns."""
    warmup_s: float = 3.0
    warmup_batches: int = 4
    """Least batches of the warm-up; these and `warmup_s` are both waited for."""
    window_s: float = 10.0
    min_batches: int = 8
    """Least batches of the window, which is lengthened for a contender that gives fewer in it."""
    min_epochs: int = 0
    """Whole epochs that the window of roboshard's loader has at least, which is lengthened for
    them: pictures that are kept for the next epoch make epochs unlike. 0: it ends anywhere.
    """
    turn_s: float = 0.0
    """Seconds of a case's turn, after which its limit has as long a one; 0: the whole window, and
    the limit is a case like others. What loaders tell of their threads' seconds is left out then.
    """
    threads: int = 2
    """Threads of the limit: as many as there are cores for the others."""
    peers_dir: Path = Path(__file__).resolve().parent.parent / ".peers"
    """Where other contenders' environments and data are kept."""
    timeout_s: float = 600
    """Seconds that one run of one case may take."""
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure and print; exit code 1 if a case failed."""
    options = tyro.cli(Options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or what is held would stay for ever
    if options.list:
        print("\n".join(case.name for case in ALL))
        return
    cases = choose(options)
    programs = {case.name: program(case, options) for case in cases}
    runs: dict[str, list[Run]] = {case.name: [] for case in cases}
    failed: dict[str, str] = {}
    with beside(cases, options) as limits:
        for number in range(options.runs):
            for case in [each for each in cases if each.name not in failed]:
                limit = limits.get(case.videos)
                try:
                    runs[case.name].append(run(programs[case.name], options.timeout_s, limit))
                except CaseError as error:
                    failed[case.name] = str(error)
                note = failed.get(case.name) or f"{runs[case.name][-1]['frames_per_s']} frames/s"
                print(f"round {number + 1} of {options.runs}, {case.name}: {note}", file=sys.stderr)
    done = [case for case in cases if case.name not in failed]
    values: dict[str, Any] = {
        "window_s": options.window_s,
        "warmup_s": options.warmup_s,
        "min_epochs": options.min_epochs,
        "turn_s": options.turn_s,
        "cases": {case.name: summary(case, runs[case.name]) for case in done},
        "ratios": ratios(done, runs),
    }
    print_result("loading", values | ({"failed": failed} if failed else {}), options.output)
    sys.exit(1 if failed else 0)


def choose(options: Options) -> list[Case]:
    """The cases asked for, or those of the headline, as far as there is data for them."""
    have = {"source": options.shards is not None, "long_gop": options.long_gop_shards is not None}
    if not options.cases:
        chosen = [case for case in DEFAULT if have[case.videos]]
    else:
        chosen = [
            case
            for case in ALL
            if any(fnmatch.fnmatchcase(case.name, name) for name in options.cases)
        ]
        missing = [case.name for case in chosen if not have[case.videos]]
        if missing:
            raise SystemExit(f"no --shards or --long-gop-shards for {', '.join(missing)}")
    if not chosen:
        raise SystemExit("no case to measure: give --shards, or other --cases (see --list)")
    return chosen


@contextmanager
def beside(cases: list[Case], options: Options) -> Iterator[dict[Videos, Contender]]:
    """Start the limits that these cases take turns with, if they do."""
    with ExitStack() as stack:
        limits: dict[Videos, Contender] = {}
        for videos in dict.fromkeys(case.videos for case in cases) if options.turn_s else ():
            case = next(each for each in ALL if each.name == LIMITS[videos])
            limits[videos] = stack.enter_context(started(program(case, options, window_s=math.inf)))
            limits[videos].warm_up()
        yield limits


def program(case: Case, options: Options, window_s: float | None = None) -> Program:
    """The contender's command line; what it needs is made first."""
    shards, source = options.shards, options.source
    if case.videos == "long_gop":
        shards, source = options.long_gop_shards, options.long_gop_source
    if shards is None:
        raise SystemExit(f"{case.name}: no shards")
    timing = {
        name: getattr(options, name)
        for name in (
            "warmup_s",
            "warmup_batches",
            "window_s",
            "min_batches",
            "min_epochs",
            "turn_s",
        )
    }
    if window_s is not None:
        timing["window_s"] = window_s
    dataset = ShardedDataset.open(str(shards))
    given: dict[str, Any] = {
        "timing": timing,
        "cameras": dataset.camera_keys,
        "batch_size": case.batch_size,
        "num_workers": case.num_workers,
        "window": case.window,
        "fps": dataset.manifest.fps,
    }
    python, environment = Path(sys.executable), None
    if case.contender == "torchcodec":
        given |= {"shards": str(shards), "threads": options.threads, "max_bytes": 1 << 30}
    elif case.contender == "roboshard":
        given |= {"shards": str(shards), "keywords": case.keywords}
    elif case.contender == "webdataset":
        given |= {"jpeg_shards": str(jpeg_shards(options.peers_dir, shards))}
    else:
        python, environment, needs = peer(case, options.peers_dir.absolute(), source, shards)
        given |= needs
    name = case.contender.removesuffix("_0.6")
    return Program([str(python), str(PROGRAMS / f"run_{name}.py"), json.dumps(given)], environment)


def summary(case: Case, runs: list[Run]) -> dict[str, Any]:
    """Return the settings of a case, medians, and every run."""
    return {"settings": case.settings, **summary_of(runs)}


def summary_of(runs: list[Run]) -> dict[str, Any]:
    """Return the medians of all runs, and every run."""
    numbers = [key for key, value in runs[0].items() if isinstance(value, int | float)]
    medians = {key: round(statistics.median(one[key] for one in runs), 3) for key in numbers}
    plain = [{key: value for key, value in one.items() if key != "batch"} for one in runs]
    return {"batch": runs[0]["batch"], "median": medians, "runs": plain}


def ratios(cases: list[Case], runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Frames/s of each case over its limit, and over what it stands beside, as far as these were
    measured too.
    """
    names = {case.name for case in cases}
    over_limit = {
        f"{case.name} / {case.limit}": [of_limit(one) for one in runs[case.name]]
        for case in cases
        if "limit_frames_per_s" in runs[case.name][0]
    }
    pairs = [(case.name, other) for case in cases for other in (case.limit, *case.over)]
    between = {
        pair: [of_limit(a) / of_limit(b) for a, b in zip(runs[name], runs[other], strict=True)]
        for name, other in pairs
        if other in names and other != name and (pair := f"{name} / {other}") not in over_limit
    }
    return {pair: ratio(rounds) for pair, rounds in (over_limit | between).items()}


def of_limit(run: Run) -> float:
    """Frames/s, as a part of those of the limit where it had turns beside it."""
    frames_per_s: float = run["frames_per_s"]
    return frames_per_s / run.get("limit_frames_per_s", 1.0)


def ratio(rounds: list[float]) -> dict[str, Any]:
    """Median of the rounds' ratios, and each."""
    return {
        "median": round(statistics.median(rounds), 3),
        "rounds": [round(value, 3) for value in rounds],
    }


if __name__ == "__main__":
    main()
