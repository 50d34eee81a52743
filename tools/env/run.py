"""Versions, decoders, cores, ranks and GPUs of this process. Nothing is read of any dataset."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import av

from roboshard.common.cores import bound_cores, cpu_quota, usable_cores
from roboshard.common.errors import OptionError
from roboshard.shards.slices import DECODERS

PACKAGES = (
    *("roboshard", "torch", "torchcodec", "av", "numpy", "pyarrow", "pillow", "webdataset"),
    *("huggingface_hub", "hf_xet", "fsspec", "s3fs", "gcsfs", "lerobot", "datasets"),
    *("torchvision", "ray", "rerun-sdk", "matplotlib"),
)
"""Packages that decide how data is read and decoded, or are used beside roboshard."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only its size is looked at


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What roboshard finds on this machine and in this process."""

    python: str
    system: str
    packages: dict[str, str]
    """Name -> version of the packages that are installed."""
    ffmpeg: dict[str, str]
    """PyAV's FFmpeg, and what became of loading the one that torchcodec needs."""
    decoders: dict[str, str | None]
    """Codec -> FFmpeg's decoder that reads it here; None: there is none."""
    cores: dict[str, float | None]
    """Cores of the machine, those that this process is bound to, the limit of its control groups,
    and those that are used.
    """
    memory: dict[str, int]
    """Bytes of the machine's memory, and free bytes of the shared memory through which workers send
    batches.
    """
    ranks: dict[str, int | str]
    """This process's rank, how many there are, and the decoding threads that it would start."""
    gpus: tuple[str, ...]


def describe() -> Environment:
    """Look at this process's machine and libraries.

    Returns:
        What was found. What is missing or cannot be loaded is part of it, with the reason.

    Example:
        >>> environment = describe()
        >>> environment.decoders["h264"]
        'h264'
    """
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=platform.platform(),
        packages=_packages(),
        ffmpeg=_ffmpeg(),
        decoders={codec: _decoder(names.split(",")) for codec, names in DECODERS.items()},
        cores={
            "machine": os.cpu_count(),
            "bound": bound_cores(),
            "limit": cpu_quota(),
            "used": usable_cores(),
        },
        memory=_memory(),
        ranks=_ranks(),
        gpus=_gpus(),
    )


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _ffmpeg() -> dict[str, str]:
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    return {
        "av": f"{av.ffmpeg_version_info} (libavcodec {libavcodec})",
        "torchcodec": _torchcodec(),
    }


def _torchcodec() -> str:
    """Return what importing torchcodec gives: it loads the system's FFmpeg libraries."""
    try:
        import torchcodec  # noqa: F401, PLC0415 - seconds, and may fail
    except Exception as error:  # noqa: BLE001 - whatever its libraries raise is the answer
        return f"cannot be loaded: {str(error).strip().splitlines()[0]}"
    loaded = {
        Path(line.split()[-1]).name
        for line in _mapped_files()
        if "libavcodec.so" in line and "av.libs" not in line
    }
    return ", ".join(sorted(loaded)) or "loaded"


def _mapped_files() -> list[str]:
    try:
        return Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _decoder(names: list[str]) -> str | None:
    """Return the first of these decoders that PyAV's FFmpeg has; None where it has none."""
    for name in names:
        try:
            return str(av.Codec(name, "r").name)
        except ValueError:
            continue
    return None


def _memory() -> dict[str, int]:
    found = {}
    if sys.platform == "linux":
        found["machine"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if SHARED_MEMORY.is_dir():
        found["shared, free"] = shutil.disk_usage(SHARED_MEMORY).free
    return found


def _ranks() -> dict[str, int | str]:
    from roboshard.loader import topology  # noqa: PLC0415 - brings torch

    threads = topology.default_threads(0)
    try:
        rank, world_size = topology.resolve_rank(None, None)
    except OptionError as error:
        return {"unknown": str(error), "decode_threads": threads}
    return {"rank": rank, "world_size": world_size, "decode_threads": threads}


def _gpus() -> tuple[str, ...]:
    import torch  # noqa: PLC0415 - seconds

    if not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
