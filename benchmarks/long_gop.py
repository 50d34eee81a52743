"""Make the hard case for random access: a LeRobot v3 dataset with few keyframes, as foreign
recorders write it.

    python benchmarks/long_gop.py --source DATASET --destination FOLDER

Re-encodes every video to H.264 with B-frames and a keyframe at every 250th frame only, so that
episodes begin anywhere between keyframes. Rows, file names, frame counts, timestamps and resolution
stay as they were; frame counts and timestamps are compared with the source's.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import tyro


@dataclass(frozen=True)
class Options:
    """Re-encode a dataset with long GOPs."""

    source: Path
    """A local LeRobot v3 dataset."""
    destination: Path
    """A folder that does not exist yet."""
    gop: int = 250
    """Frames from keyframe to keyframe."""
    b_frames: int = 3
    """At most this many in a row."""
    crf: int = 23
    preset: str = "medium"
    threads: int = 0
    """Threads of the encoder; 0: its own choice."""


def main() -> None:
    """Copy rows and metadata, re-encode the videos."""
    options = tyro.cli(Options)
    if options.destination.exists():
        raise SystemExit(f"{options.destination} is there already; remove it first")
    unfinished = options.destination.with_name(f"{options.destination.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for folder in ("meta", "data"):
        shutil.copytree(options.source / folder, unfinished / folder, copy_function=shutil.copyfile)
        for path in [unfinished / folder, *(unfinished / folder).rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)  # the source may be read-only
    for path in sorted((options.source / "videos").rglob("*.mp4")):
        reencode(path, unfinished / path.relative_to(options.source), options)
    describe_videos(unfinished / "meta" / "info.json", options)
    unfinished.rename(options.destination)


def reencode(source: Path, target: Path, options: Options) -> None:
    """Encode one video file again. Raises SystemExit if a frame or a timestamp is not as before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    before = frame_times(source)
    command = [
        "ffmpeg",
        "-hide_banner",
        "-loglevel",
        "error",
        "-i",
        str(source),
        "-map",
        "0:v:0",
        "-c:v",
        "libx264",
    ]
    command += ["-preset", options.preset, "-crf", str(options.crf), "-bf", str(options.b_frames)]
    command += ["-g", str(options.gop), "-keyint_min", str(options.gop), "-sc_threshold", "0"]
    command += ["-pix_fmt", "yuv420p", "-fps_mode", "passthrough", "-threads", str(options.threads)]
    command += ["-video_track_timescale", str(ticks_per_second(source)), str(target)]
    subprocess.run(command, check=True)
    if frame_times(target) != before:
        raise SystemExit(f"{target}: its frames are not where those of {source} are")


def frame_times(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds, without decoding."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [
            packet.pts * packet.time_base
            for packet in container.demux(stream)
            if packet.pts is not None
        ]
    return sorted(times)


def ticks_per_second(path: Path) -> int:
    """The time base of the video track."""
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    if base is None:
        raise SystemExit(f"{path}: its video has no time base")
    return base.denominator


def describe_videos(path: Path, options: Options) -> None:
    """Say in info.json how the videos are encoded now."""
    info: dict[str, Any] = json.loads(path.read_text())
    for spec in info["features"].values():
        if spec["dtype"] == "video":
            video = spec.setdefault("info", {})
            for key in ("video.fast_decode", "video.extra_options"):
                video.pop(key, None)
            video |= {"video.codec": "h264", "video.pix_fmt": "yuv420p", "video.g": options.gop}
            video |= {"video.crf": options.crf, "video.preset": options.preset}
    path.write_text(json.dumps(info, indent=4))


if __name__ == "__main__":
    main()
