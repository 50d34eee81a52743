"""Record the datasets of the benchmarks: simulated robots, LeRobot's recorder, and conversion.

    python benchmarks/data.py                     # bench_data/, some minutes
    python benchmarks/data.py --quick             # bench_data/quick/, small ones
    python benchmarks/data.py --only pusht_96x96

Below the folder, for each NAME of `RECORDINGS`: NAME, a LeRobot v3 dataset (AV1, every other frame
a keyframe); NAME_gop250, the same frames with a keyframe every 250 (long_gop.py); and NAME_shards
and NAME_gop250_shards, both converted. Every episode of these is simulated and recorded, none is a
copy of another one. `MANY` alone, for a dataset of many pictures, repeats one of them (repeat.py),
as do benchmarks that need more than one wants to record; they say so. What is there already is
kept.

The simulators live in an environment of their own with LeRobot 0.6.1, made when first used
(peer_environments.py). MuJoCo needs OpenGL without a display: EGL (Debian: libegl1 and
libgl1-mesa-dri) or OSMesa (libosmesa6).
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from peer_environments import PEERS, PROJECT, offline, recorder_python
from repeat import repeat_dataset
from roboshard.converter import ConvertConfig, convert
from roboshard.shards.reader import ShardedDataset

RECORD = PROJECT / "benchmarks" / "recording" / "record.py"
LONG_GOP = PROJECT / "benchmarks" / "long_gop.py"
BENCH_DATA = PROJECT / "bench_data"
RENDERERS = ("egl", "osmesa")
DRAWS = "import mujoco; mujoco.GLContext(8, 8).make_current()"

Robot = Literal["aloha", "pusht"]


@dataclass(frozen=True)
class Recording:
    """A dataset to record. Aloha has three cameras and 50 frames a second, PushT one and 10."""

    robot: Robot
    height: int
    width: int
    episodes: int
    frames: int
    """Frames in each episode."""

    def quick(self) -> "Recording":
        """Return less of the same: three episodes of Aloha, eight of PushT, of 50 frames."""
        episodes = 3 if self.robot == "aloha" else 8
        return Recording(self.robot, self.height, self.width, episodes, min(50, self.frames))


RECORDINGS: dict[str, Recording] = {
    "aloha_480x640": Recording("aloha", 480, 640, 16, 200),
    "aloha_256x256": Recording("aloha", 256, 256, 8, 500),
    "pusht_96x96": Recording("pusht", 96, 96, 320, 50),
}

MANY = ("aloha_256x256", 40)
"""The recording that NAME_many_shards repeats, and how often: 480,000 pictures."""


@dataclass(frozen=True)
class Options:
    """Record the datasets of the benchmarks."""

    folder: Path | None = None
    """Default: bench_data, or bench_data/quick."""
    quick: bool = False
    """A few short episodes of each."""
    only: tuple[str, ...] = ()
    """Names of the datasets to record; default: all."""
    peers_dir: Path = PEERS
    """Where the recorder's environment is kept."""


def main() -> None:
    """Make what is missing; exit code 1 if some of it cannot be made here."""
    options = tyro.cli(Options)
    unknown = set(options.only) - set(RECORDINGS)
    if unknown:
        raise SystemExit(f"no such dataset: {', '.join(sorted(unknown))}; {', '.join(RECORDINGS)}")
    folder = (options.folder or (BENCH_DATA / "quick" if options.quick else BENCH_DATA)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    refused: list[str] = []
    for name in options.only or RECORDINGS:
        recording = RECORDINGS[name].quick() if options.quick else RECORDINGS[name]
        try:
            make(folder, name, recording, options.peers_dir.absolute())
        except LookupError as error:
            refused.append(f"{name}: {error}")
            continue
        if name == MANY[0]:
            make_many(folder / name, 2 if options.quick else MANY[1])
    if refused:
        raise SystemExit("\n".join(refused))


def make(folder: Path, name: str, recording: Recording, peers: Path) -> None:
    """Record one dataset and derive the others from it; LookupError where that cannot be done."""
    source, long_gop = folder / name, folder / f"{name}_gop250"
    if not source.exists():
        record(source, recording, peers)
    if not long_gop.exists():
        command = [sys.executable, str(LONG_GOP)]
        command += ["--source", str(source), "--destination", str(long_gop)]
        subprocess.run(command, check=True)
    for dataset in (source, long_gop):
        shards = dataset.with_name(f"{dataset.name}_shards")
        convert(ConvertConfig(source=str(dataset), destination=str(shards)))
        frames = int(ShardedDataset.open(str(shards)).index.length.sum())
        if frames != recording.episodes * recording.frames:
            raise SystemExit(
                f"{shards}: {frames} frames, not {recording.episodes} times {recording.frames}: it"
                f" was recorded with other settings; remove {folder / name}* and start again"
            )
        print(f"{shards}: {recording.episodes} episodes, {frames} frames")


def make_many(source: Path, copies: int) -> None:
    """Convert a dataset that is repeated so often; of the repeated one nothing stays."""
    shards = source.with_name(f"{source.name}_many_shards")
    if not shards.exists():
        once = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            repeat_dataset(source, Path(folder) / "many", copies * once)
            convert(ConvertConfig(source=f"{folder}/many", destination=f"{folder}/shards"))
            Path(folder, "shards").rename(shards)
    print(f"{shards}: {source.name}, repeated {copies} times")


def record(root: Path, recording: Recording, peers: Path) -> None:
    """Run the recorder; the dataset appears whole or not at all."""
    python = recorder_python(peers)
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    variables = offline(HF_HOME=str(peers / "hf_home"))
    if recording.robot == "aloha":
        variables["MUJOCO_GL"] = renderer(python)
    given = {**vars(recording), "root": str(unfinished)}
    subprocess.run([str(python), str(RECORD), json.dumps(given)], check=True, env=variables)
    unfinished.rename(root)


def renderer(python: Path) -> str:
    """Return how MuJoCo can draw here without a display; LookupError where it cannot."""
    for name in RENDERERS:
        command = [str(python), "-c", DRAWS]
        drawn = subprocess.run(
            command, check=False, capture_output=True, env=offline(MUJOCO_GL=name)
        )
        if drawn.returncode == 0:
            return name
    raise LookupError(
        "MuJoCo cannot draw here, neither by EGL nor by OSMesa. On Debian and Ubuntu: apt-get"
        " install libegl1 libgl1-mesa-dri, or libosmesa6"
    )


if __name__ == "__main__":
    main()
