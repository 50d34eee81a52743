"""What a GPU changes: decoding by NVDEC, copies beside the step, cores, and a training step.

    python benchmarks/gpu.py --source LEROBOT_DATASET --shards ROBOSHARD_DATASET
    python benchmarks/gpu.py ... --rehearse      # no GPU: the same programs on the CPU

Needs an NVIDIA GPU and CUDA builds of torch and torchcodec; ends with what is missing otherwise.
Prints the chip, what of the dataset NVDEC decodes on it (torchcodec goes over to the CPU without a
word where it cannot), and frames/s of:

- copies: batches that stay, that are copied to the GPU from page-locked memory, and from other;
- threads and workers: 1, 2, 4, 8 and 16 of each, with batches on the GPU;
- nvdec: decoding on the GPU, at its size and resized;
- training: steps of LeRobot's ACT policy, fed by this loader and by LeRobot's own, and how busy
  the GPU was.

Each case is a fresh process, as in loading.py, in turn, round by round; `--cases` chooses some.
"""

import fnmatch
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from contenders import CaseError, Program, Run, run
from loading import summary_of
from peer_environments import PEERS, PROGRAMS, lerobot_06_training_python, offline
from report import print_result
from roboshard.loader.decoding.gpu_fallback import fallback_reason
from roboshard.shards.reader import ShardedDataset

COUNTS = (1, 2, 4, 8, 16)
GPU = {"device": "cuda"}
CASES: dict[str, dict[str, Any]] = {
    "copies_none": {},
    "copies_pinned": {**GPU, "pin_memory": True},
    "copies_unpinned": {**GPU, "pin_memory": False},
    **{f"threads_{n}": {**GPU, "decode_threads": n} for n in COUNTS},
    **{f"workers_{n}": {**GPU, "num_workers": n} for n in COUNTS},
    "nvdec": {"decode_device": "cuda"},
    "nvdec_size_224": {"decode_device": "cuda", "image_size": (224, 224)},
}
"""Name -> keywords of `make_loader`."""
TRAINING = {"training_roboshard": "roboshard", "training_lerobot": "lerobot"}


@dataclass(frozen=True)
class Options:
    """Measure loading with a GPU."""

    shards: Path
    """A roboshard dataset."""
    source: Path | None = None
    """The LeRobot dataset that it was made from: for training."""
    cases: tuple[str, ...] = ()
    """Names or patterns of cases; default: all."""
    batch_size: int = 64
    num_workers: int = 8
    """Worker processes in training, of both loaders."""
    runs: int = 3
    warmup_s: float = 5.0
    window_s: float = 8.0
    rehearse: bool = False
    """Run on the CPU, to see that everything works: it gives no numbers."""
    peers_dir: Path = PEERS
    timeout_s: float = 600
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure and print; exit code 1 if a case failed."""
    options = tyro.cli(Options)
    if not options.rehearse:
        check_gpu()
    device = "cpu" if options.rehearse else "cuda"
    decoders = preflight(options.shards, device)
    print(json.dumps(decoders, indent=2), file=sys.stderr)
    programs = {name: program(name, options) for name in chosen(options)}
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    failed: dict[str, str] = {}
    for number in range(options.runs):
        for name in [each for each in programs if each not in failed]:
            try:
                runs[name].append(run(programs[name], options.timeout_s))
            except CaseError as error:
                failed[name] = str(error)
            note = failed.get(name) or f"{runs[name][-1]['frames_per_s']} frames/s"
            print(f"round {number + 1} of {options.runs}, {name}: {note}", file=sys.stderr)
    values = {
        "chip": chip(device),
        "torch": torch.__version__,
        "decoded_by": decoders,
        "cases": {name: summary_of(runs[name]) for name in programs if name not in failed},
    }
    print_result("gpu", values | ({"failed": failed} if failed else {}), options.output)
    sys.exit(1 if failed else 0)


def check_gpu() -> None:
    """End with what is missing where there is no GPU."""
    if torch.cuda.is_available():
        return
    build = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
    if torch.version.cuda is None:
        build = (
            f"torch {torch.__version__} is a build for CPUs: install one for CUDA, and torchcodec"
        )
    raise SystemExit(
        f"no NVIDIA GPU: torch.cuda finds none; {build}. Nothing was measured. --rehearse runs the"
        " same programs on the CPU"
    )


def preflight(shards: Path, device: str) -> dict[str, str]:
    """Camera -> its codec, and which chip decodes it: the GPU, or the CPU and why."""
    from torchcodec.decoders import VideoDecoder  # noqa: PLC0415 - a GPU is missed first

    episode = ShardedDataset.open(str(shards)).read_episode(0)
    found = {}
    for camera in episode.record.cameras:
        decoder = VideoDecoder(bytes(episode.videos[camera.key]), device=device)
        decoder.get_frame_at(0)
        found[camera.key] = describe(vars_of(camera), fallback_reason(decoder), device)
    return found


def vars_of(camera: Any) -> str:
    """Codec, pixel format and size of a camera's video."""
    return f"{camera.codec}, {camera.pix_fmt}, {camera.height} x {camera.width}"


def describe(video: str, reason: str | None, device: str) -> str:
    """Say which device decodes a video, and why."""
    if device == "cpu":
        return f"{video}: the CPU, which was asked for"
    return (
        f"{video}: NVDEC of {chip(device)}" if reason is None else f"{video}: the CPU, for {reason}"
    )


def chip(device: str) -> str:
    """Return the name of a device."""
    return "none: a rehearsal" if device == "cpu" else torch.cuda.get_device_name(device)


def chosen(options: Options) -> list[str]:
    """Return the names of the cases asked for, as far as there is data for them."""
    names = [*CASES, *(TRAINING if options.source else ())]
    wanted = options.cases or ("*",)
    found = [name for name in names if any(fnmatch.fnmatchcase(name, one) for one in wanted)]
    if not found:
        raise SystemExit(f"no such case; there are {', '.join(names)}")
    return found


def program(name: str, options: Options) -> Program:
    """The contender's command line; its environment is made first."""
    dataset = ShardedDataset.open(str(options.shards))
    given: dict[str, Any] = {
        "timing": {
            "warmup_s": options.warmup_s,
            "warmup_batches": 4,
            "window_s": options.window_s,
            "min_batches": 8 if not options.rehearse else 1,
        },
        "cameras": dataset.camera_keys,
        "batch_size": options.batch_size,
        "shards": str(options.shards.resolve()),
    }
    if name in TRAINING:
        given |= {
            "loader": TRAINING[name],
            "source": str((options.source or options.shards).resolve()),
            "num_workers": options.num_workers,
            "device": "cpu" if options.rehearse else "cuda",
            "keywords": {},
        }
        python = lerobot_06_training_python(options.peers_dir.absolute())
        return Program(
            [str(python), str(PROGRAMS / "run_training.py"), json.dumps(given)], offline()
        )
    keywords = {"batch_size": options.batch_size, **CASES[name]}
    given["keywords"] = rehearsed(keywords) if options.rehearse else keywords
    return Program([sys.executable, str(PROGRAMS / "run_roboshard.py"), json.dumps(given)])


def rehearsed(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a case for the CPU."""
    there = {key: "cpu" if value == "cuda" else value for key, value in keywords.items()}
    return there | ({"pin_memory": False} if "pin_memory" in there else {})


if __name__ == "__main__":
    main()
