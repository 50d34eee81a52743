"""How the parts may depend on each other, and the names and signatures that users rely on."""

from __future__ import annotations

import ast
import inspect
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import roboshard.converter
import roboshard.loader
import roboshard.shards
import roboshard.tools.bench
import roboshard.tools.doctor
import roboshard.tools.env
import roboshard.tools.export
import roboshard.tools.idle
import roboshard.tools.inspect
import roboshard.tools.lerobot_storage
import roboshard.tools.lerobot_train
import roboshard.tools.preview
import roboshard.tools.stats
import roboshard.tools.upload
import roboshard.tools.verify
from roboshard.common import errors
from roboshard.converter import (
    ConversionReport,
    ConvertConfig,
    ReencodeConfig,
    convert,
    finalize,
    make_plan,
    survey_videos,
)
from roboshard.loader import DatasetMeta, Loader, LoaderStats, MapDataset, make_loader
from roboshard.loader.meta import MapMeta
from roboshard.shards import ShardedDataset, rebuild

ROOT = Path(__file__).parents[1]
BASE = {"common", "storage", "shards"}
TOOLS = (
    "bench",
    "doctor",
    "env",
    "export",
    "idle",
    "inspect",
    "lerobot_storage",
    "lerobot_train",
    "preview",
    "stats",
    "upload",
    "verify",
)
MAY_IMPORT = {
    "common": {"common"},
    "storage": {"common", "storage"},
    "shards": BASE,
    "converter": BASE | {"converter"},
    "loader": BASE | {"loader"},
    "tools": set(),
    "tools.bench": BASE | {"tools.bench"},
    "tools.doctor": BASE | {"tools.doctor", "tools.verify"},
    "tools.env": BASE | {"tools.env"},
    "tools.export": BASE | {"tools.export"},
    "tools.idle": BASE | {"tools.idle"},
    "tools.inspect": BASE | {"tools.inspect"},
    "tools.lerobot_storage": BASE
    | {"tools.lerobot_storage", "tools.export", "converter", "loader"},
    "tools.lerobot_train": BASE | {"tools.lerobot_train", "loader"},
    "tools.preview": BASE | {"tools.preview", "loader"},
    "tools.stats": BASE | {"tools.stats"},
    "tools.upload": BASE | {"tools.upload"},
    "tools.verify": BASE | {"tools.verify"},
    "cli": BASE | {"cli", "converter"} | {f"tools.{name}" for name in TOOLS},
}
"""Every part, a tool one of its own, and what its files may import."""
PARTS = ("common", "storage", "shards", "converter", "loader", "tools", "cli")
WHEN_NEEDED = {
    ROOT / "tools/upload/preview.py": {
        "loader"
    },  # decodes frames for the sample picture of a dataset card
    ROOT / "tools/bench/measure.py": {"loader"},  # measures loaders
    ROOT / "tools/env/run.py": {"loader"},  # tells this process's rank, as a loader finds it
    ROOT / "tools/stats/run.py": {"loader"},  # chooses and finds statistics as a loader does
    ROOT / "tools/doctor/run.py": {"converter"},  # reads sources as a conversion does
    ROOT / "tools/verify/frames.py": {"loader"},  # verify --frames decodes as a loader would
    ROOT / "tools/verify/reencoded.py": {
        "converter"
    },  # verify --against decodes sources as a conversion does
    ROOT / "tools/verify/source.py": {"converter"},  # verify --against reads sources
}
"""Files that import another part when they come to it, and not before."""
STAGES = (
    "order",
    "decoding",
    "episodes",
    "samples",
    "frame_cache",
    "batches",
    "look_ahead",
    "transforms",
    "running",
)
"""Folders of the loader, in the order in which data flows through them: none knows of one after
it.
"""
CHAIN = (
    "task",
    "work_folder",
    "source",
    "video",
    "reencoding",
    "config",
    "episode",
    "base",
    "destination",
    "shard",
    "engines",
    "partition",
    "plan",
    "unchanged",
    "survey",
    "report",
    "run",
)
"""Folders and files of the converter: none knows of one after it."""
MAX_LINES = 350
ENCODER = ROOT / "converter/reencoding/encoder.py"
FILES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))

every_file = pytest.mark.parametrize(
    "path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES]
)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands, with what is taken from
    it.
    """
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# -- Who may import whom ---------------------------------------------------------------------------


def test_every_part_has_files() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PARTS)


def test_every_part_is_installed_and_type_checked() -> None:
    """setup.py takes the packages below its parts: folders without an __init__.py are left out."""
    found = [node for node in tree(ROOT / "setup.py").body if isinstance(node, ast.Assign)]
    parts = {
        node.targets[0].id: node.value for node in found if isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(parts["PARTS"]) == PARTS
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["mypy"]["packages"] == [f"roboshard.{part}" for part in PARTS]
    assert all((path.parent / "__init__.py").exists() for path in FILES)
    assert all((ROOT / part / "py.typed").exists() for part in PARTS)


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_every_part(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    tree, out = tmp_path / "tree", tmp_path / "out"
    for name in (*PARTS, "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    out.mkdir()
    subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=tree, check=True, capture_output=True
    )
    (wheel,) = out.glob("*.whl")
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kept = [path for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file()]
    kept = [path for path in kept if "__pycache__" not in path.parts]
    assert held == {f"roboshard/{path.relative_to(ROOT)}" for path in kept}


@every_file
def test_parts_import_only_what_they_may(path: Path) -> None:
    names = [name.split(".") for name in imported(path)]
    needed = {part_of(name[1:]) for name in names if name[0] == "roboshard"}
    part = part_of(path.relative_to(ROOT).with_suffix("").parts)
    assert needed <= MAY_IMPORT[part] | WHEN_NEEDED.get(path, set())
    assert {name[0] for name in names}.isdisjoint({*PARTS, "tests", "benchmarks", "examples"})


def part_of(names: Sequence[str]) -> str:
    """The key of `MAY_IMPORT` for a module below the root: its folder, or the tool that it is
    of.
    """
    return ".".join(names[:2]) if names[0] == "tools" and names[1] in TOOLS else names[0]


def test_no_file_imports_itself_by_way_of_others() -> None:
    names = {module_of(path): path for path in FILES}
    needs = {
        name: {
            module
            for full in imported(path)
            if (module := full if full in names else full.rpartition(".")[0]) in names
        }
        for name, path in names.items()
    }
    while ends := {name for name, needed in needs.items() if not needed & needs.keys()}:
        needs = {name: needed for name, needed in needs.items() if name not in ends}
    assert not needs, f"in a circle, or in need of one: {sorted(needs)}"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["roboshard", *parts]).removesuffix(".__init__")


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_of_the_loader_knows_of_a_later_one(stage: str) -> None:
    later = {f"roboshard.loader.{name}" for name in STAGES[STAGES.index(stage) + 1 :]}
    files = list((ROOT / "loader" / stage).glob("*.py"))
    assert len(files) > 1
    for path in files:
        assert {".".join(name.split(".")[:3]) for name in imported(path)}.isdisjoint(later), path


@pytest.mark.parametrize("link", CHAIN)
def test_no_part_of_the_converter_knows_of_a_later_one(link: str) -> None:
    later = {f"roboshard.converter.{name}" for name in CHAIN[CHAIN.index(link) + 1 :]}
    for path in (p for p in FILES if link_of(p) == link):
        assert {".".join(name.split(".")[:3]) for name in imported(path)}.isdisjoint(later), path


def test_every_file_of_the_converter_has_its_place_in_the_chain() -> None:
    links = {link_of(path) for path in FILES if path.is_relative_to(ROOT / "converter")}
    assert links == {*CHAIN, "__init__"}


def link_of(path: Path) -> str | None:
    """The folder or file of the converter that a path is in."""
    if not path.is_relative_to(ROOT / "converter"):
        return None
    return path.relative_to(ROOT / "converter").parts[0].removesuffix(".py")


def test_the_order_is_arithmetic() -> None:
    """It opens nothing, starts nothing, and needs no torch."""
    needed = {
        name.split(".")[0]
        for path in (ROOT / "loader/order").glob("*.py")
        for name in imported(path)
    }
    assert needed <= {
        "collections",
        "dataclasses",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "math",
        "typing",
        "numpy",
        "roboshard",
    }


def test_nothing_outside_imports_the_folders_by_their_bare_names() -> None:
    outside = [
        path
        for folder in ("tests", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
    ]
    for path in outside:
        bare = {name.split(".")[0] for name in imported_from_anywhere(path)} & set(PARTS)
        assert not bare, path


def imported_from_anywhere(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "roboshard.storage",
            {
                "huggingface_hub",
                "fsspec",
                "urllib3",
                "pyarrow",
                "numpy",
                "pydantic",
                "torch",
                "roboshard.shards",
            },
        ),
        (
            "roboshard.shards",
            {"torch", "torchcodec", "webdataset", "av", "tyro", "roboshard.converter"},
        ),
        (
            "roboshard.converter",
            {"ray", "torch", "torchcodec", "webdataset", "roboshard.loader", "roboshard.cli"},
        ),
        (
            "roboshard.tools.upload",
            {"torch", "torchcodec", "webdataset", "av", "roboshard.loader", "roboshard.converter"},
        ),
        (
            "roboshard.tools.verify",
            {"torch", "torchcodec", "webdataset", "roboshard.loader", "roboshard.converter"},
        ),
        (
            "roboshard.tools.export",
            {
                "torch",
                "torchcodec",
                "webdataset",
                "roboshard.loader",
                "roboshard.converter",
                "roboshard.cli",
            },
        ),
        ("roboshard.tools.bench", {"torch", "av", "roboshard.loader", "roboshard.converter"}),
        ("roboshard.tools.doctor", {"torch", "roboshard.loader", "roboshard.converter"}),
        ("roboshard.tools.idle", {"torch", "av", "roboshard.loader", "roboshard.converter"}),
        ("roboshard.tools.inspect", {"torch", "av", "roboshard.loader", "roboshard.converter"}),
        ("roboshard.tools.lerobot_storage", {"torch", "lerobot", "roboshard.loader"}),
        ("roboshard.tools.stats", {"torch", "av", "roboshard.loader", "roboshard.converter"}),
        (
            "roboshard.tools.preview",
            {"torch", "matplotlib", "rerun", "roboshard.loader", "roboshard.cli"},
        ),
        (
            "roboshard.cli.main",
            {
                "torch",
                "torchcodec",
                "webdataset",
                "matplotlib",
                "roboshard.loader",
                "huggingface_hub",
                "hf_xet",
            },
        ),
        ("roboshard.loader", {"tyro", "roboshard.converter", "roboshard.cli"}),
    ],
)
def test_importing_a_part_loads_nothing_heavy_that_it_does_not_need(
    module: str, unwanted: set[str]
) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert set(done.stdout.split()).isdisjoint(unwanted)
    assert done.stderr == ""


# -- What no file does -----------------------------------------------------------------------------


@every_file
def test_the_environment_is_read_in_one_file_alone(path: Path) -> None:
    reads = {
        node.attr
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    } & {"environ", "environb", "getenv", "getenvb", "putenv"}
    # putenv reads nothing: it is SVT-AV1's one switch for its messages
    assert (
        not reads or path == ROOT / "loader/topology.py" or (path, reads) == (ENCODER, {"putenv"})
    )
    assert not any(name in ("os.environ", "os.getenv", "os.*") for name in imported(path))


@every_file
def test_nothing_is_printed_or_asserted_and_no_error_is_swallowed_whole(path: Path) -> None:
    for node in ast.walk(tree(path)):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), where
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec", "breakpoint"), where
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, where
        for name in ("pickle", "marshal", "shelve"):
            assert not (
                isinstance(node, ast.Import) and any(alias.name == name for alias in node.names)
            ), where


@every_file
def test_a_file_fits_on_a_few_screens_and_says_what_it_is(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert ast.get_docstring(tree(path))


# -- The public names ------------------------------------------------------------------------------


def test_public_names() -> None:
    assert sorted(roboshard.shards.__all__) == [
        "DamageError",
        "DatasetManifest",
        "EpisodeData",
        "EpisodeRecord",
        "FORMAT_VERSION",
        "FormatError",
        "MissingError",
        "OptionError",
        "ReadSettings",
        "RoboshardError",
        "ShardManifest",
        "ShardedDataset",
        "SourceError",
        "StorageError",
        "VersionError",
        "rebuild",
    ]
    assert sorted(roboshard.converter.__all__) == [
        "ConversionPlan",
        "ConversionReport",
        "ConvertConfig",
        "FindingGroup",
        "ReencodeConfig",
        "SkippedEpisode",
        "convert",
        "finalize",
        "make_plan",
        "survey_videos",
    ]
    assert sorted(roboshard.loader.__all__) == [
        "DatasetMeta",
        "EpisodeInfo",
        "Loader",
        "LoaderSampler",
        "LoaderStats",
        "MapDataset",
        "Part",
        "make_loader",
        "open_dataset",
    ]
    assert sorted(roboshard.tools.upload.__all__) == [
        "UploadConfig",
        "UploadPlan",
        "UploadReport",
        "make_plan",
        "upload",
    ]
    assert sorted(roboshard.tools.verify.__all__) == [
        "Problem",
        "VerifyConfig",
        "VerifyReport",
        "verify",
    ]
    assert sorted(roboshard.tools.bench.__all__) == [
        "BenchConfig",
        "BenchReport",
        "Measurement",
        "bench",
    ]
    assert sorted(roboshard.tools.doctor.__all__) == ["Diagnosis", "DoctorConfig", "diagnose"]
    assert sorted(roboshard.tools.env.__all__) == ["Environment", "describe"]
    assert sorted(roboshard.tools.idle.__all__) == [
        "IdleConfig",
        "IdleEpisode",
        "IdleReport",
        "find_idle",
    ]
    assert sorted(roboshard.tools.inspect.__all__) == ["Summary", "summarize"]
    assert sorted(roboshard.tools.lerobot_storage.__all__) == [
        "FORMAT",
        "create",
        "recover",
        "register",
        "resume",
        "write_meta",
    ]
    assert sorted(roboshard.tools.lerobot_train.__all__) == ["LoaderOptions", "train"]
    assert sorted(roboshard.tools.export.__all__) == ["ExportConfig", "ExportReport", "export"]
    assert sorted(roboshard.tools.preview.__all__) == ["PreviewConfig", "PreviewReport", "preview"]
    assert sorted(roboshard.tools.stats.__all__) == ["StatsConfig", "StatsReport", "find_stats"]
    tools = [getattr(roboshard.tools, name) for name in TOOLS]
    for package in (roboshard.shards, roboshard.converter, roboshard.loader, *tools):
        assert all(getattr(package, name) is not None for name in package.__all__)


def signature(function: Callable[..., Any]) -> str:
    """Names, kinds and defaults, without types."""
    parameters = inspect.signature(function).parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(plain))


def test_signatures() -> None:
    assert signature(make_loader) == (
        "(urls, *, batch_size=64, delta_timestamps=None, episodes=None, exclude_episodes=None, "
        "tasks=None, split=None, snapshot=None, keep_ranges=None, episode_weights=None, "
        "drop_n_first_frames=0, drop_n_last_frames=0, shuffle=True, seed=0, pool_episodes=None, "
        "episode_order='global', frame_order='uniform', image_transforms=None, "
        "batch_transform=None, return_uint8=True, image_size=None, tolerance_s=0.0001, "
        "cameras=None, num_workers=0, decode_threads=None, decode_device='cpu', device=None, "
        "pin_memory=None, rank=None, world_size=None, max_world_size=None, drop_last=False, "
        "memory_bytes=None, frame_cache=None, frame_cache_dir=None, cache_dir=None, "
        "cache_bytes=100000000000, retry_seconds=120.0, on_error='raise', on_missing='error', "
        "pad_to=None, batches='mixed', max_workers=None)"
    )
    assert signature(convert) == signature(finalize) == signature(make_plan) == "(config)"
    assert signature(rebuild) == "(root, *, partial_dataset=False)"
    assert signature(ShardedDataset.open) == "(urls, settings=None, snapshot=None)"
    assert signature(ShardedDataset.read_episode) == "(self, position, cameras=None)"


def public(cls: type) -> dict[str, str]:
    """Public members of a class: properties as "", methods with their signatures."""
    members = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    return {
        name: signature(value) if inspect.isfunction(value) else ""
        for name, value in members.items()
    }


def test_what_a_loader_can_do() -> None:
    assert public(Loader) == {
        "meta": "",
        "metas": "",
        "batch_size": "",
        "epoch": "",
        "num_padded": "",
        "num_episodes": "",
        "episodes": "",
        "draws": "(self)",
        "stats": "(self)",
        "trace": "(self, path, *, steps=20, skip=0)",
        "set_epoch": "(self, epoch)",
        "state_dict": "(self)",
        "state_at": "(self, step, *, world_size, batch_size)",
        "cursor": "(self)",
        "load_state_dict": "(self, state, *, strict=True)",
        "close": "(self)",
    }
    assert {"__iter__", "__len__"} <= set(vars(Loader))
    assert set(public(DatasetMeta)) == {
        "camera_keys",
        "depth_keys",
        "exact_stats",
        "features",
        "fps",
        "has_language_columns",
        "image_keys",
        "info",
        "relative_stats",
        "robot_type",
        "stats",
        "tasks",
        "total_episodes",
        "total_frames",
        "total_tasks",
        "video_keys",
    }
    assert not public(MapMeta)
    assert set(public(MapDataset)) == {
        "absolute_to_relative_idx",
        "close",
        "episode",
        "episodes",
        "meta",
        "num_episodes",
        "num_frames",
        "rows",
    }
    assert {field.name for field in fields(LoaderStats)} == {
        "assembly_seconds",
        "batches",
        "bytes_read",
        "cache_hits",
        "cached_bytes_read",
        "decode_seconds",
        "episode_hits",
        "episodes_evicted",
        "episodes_read",
        "episodes_read_again",
        "episodes_shared",
        "fetch_seconds",
        "frame_cache_bytes_read",
        "frame_cache_bytes_written",
        "frame_cache_damaged",
        "frame_cache_hits",
        "frames_decoded",
        "frames_requested",
        "frames_used",
        "network_bytes_read",
        "packet_bytes_read",
        "reads",
        "resident_bytes",
        "samples",
        "step_seconds",
        "steps_ahead",
        "substituted_episodes",
        "wait_seconds",
    }


def test_conversion_options_and_report() -> None:
    assert signature(ConvertConfig) == (
        "(*, source, destination, shard_size='256MB', workers=None, engine='processes', "
        "address=None, shards=None, append=False, compare='video', episodes=None, "
        "exclude_episodes=None, tasks=(), shuffle_episodes=None, on_error='fail', "
        "tolerance_s=0.0001, video='copy', reencode=ReencodeConfig(codec='libsvtav1', gop=2, "
        "crf=30, size=None, cameras=None), scratch=None, scratch_size='20GB', dry_run=False, "
        "video_report=False)"
    )
    assert (
        signature(ReencodeConfig)
        == "(*, codec='libsvtav1', gop=2, crf=30, size=None, cameras=None)"
    )
    assert signature(survey_videos) == "(config)"
    assert [field.name for field in fields(ConversionReport)] == [
        "destination",
        "episodes",
        "frames",
        "shards",
        "bytes_written",
        "reused_shards",
        "kept_episodes",
        "skipped",
        "video",
        "random_frame_costs",
        "findings",
    ]


def test_upload_options_and_report() -> None:
    assert signature(roboshard.tools.upload.UploadConfig) == (
        "(*, source, destination, jobs=4, private=False, replace=False, card=True, dry_run=False)"
    )
    assert (
        signature(roboshard.tools.upload.upload)
        == signature(roboshard.tools.upload.make_plan)
        == "(config)"
    )
    assert [field.name for field in fields(roboshard.tools.upload.UploadReport)] == [
        "destination",
        "files_sent",
        "bytes_sent",
        "files_kept",
        "removed",
        "unlisted",
        "notes",
    ]


def test_export_options_and_report() -> None:
    assert (
        signature(roboshard.tools.export.ExportConfig)
        == "(*, source, destination, snapshot=None, episodes=None, exclude_episodes=None, tasks=())"
    )
    assert [field.name for field in fields(roboshard.tools.export.ExportReport)] == [
        "destination",
        "episodes",
        "frames",
        "data_files",
        "video_files",
        "renumbered",
    ]


def test_bench_options_and_report() -> None:
    assert signature(roboshard.tools.bench.BenchConfig) == (
        "(*, url, step_ms=None, seconds=60.0, alone=False, batch_size=64, frame_order='uniform', "
        "episode_order='global', pool_episodes=None, num_workers=0, decode_threads=None, "
        "cameras=None, image_size=None, float32=False, delta_timestamps=(), decode_device='cpu', "
        "device=None, memory_bytes=None, cache_dir=None, json=False)"
    )
    assert [field.name for field in fields(roboshard.tools.bench.BenchReport)] == [
        "url",
        "episodes",
        "frames",
        "batch_size",
        "cores",
        "step_ms",
        "given",
        "tried",
        "first_epoch",
        "perfect",
    ]


def test_idle_options_and_report() -> None:
    assert signature(roboshard.tools.idle.IdleConfig) == (
        "(*, url, feature=(), seconds=1.0, threshold=0.001, absolute=False, "
        "output=PosixPath('keep_ranges.json'), dry_run=False)"
    )
    assert signature(roboshard.tools.idle.find_idle) == "(config, on_episode=None)"


def test_preview_options_and_report() -> None:
    assert signature(roboshard.tools.preview.PreviewConfig) == (
        "(*, url, episode=None, cameras=None, frames=8, output=None, rerun=None)"
    )
    assert signature(roboshard.tools.preview.preview) == "(config, on_progress=None)"
    assert [field.name for field in fields(roboshard.tools.preview.PreviewReport)] == [
        "dataset",
        "episode_index",
        "length",
        "output",
        "rerun",
        "not_drawn",
    ]


def test_a_sharded_dataset_shows_manifest_index_and_episodes() -> None:
    assert [field.name for field in fields(ShardedDataset)] == [
        "root",
        "manifest",
        "index",
        "settings",
    ]
    reading = {"read_episode", "read_episodes", "sample"}
    assert {"open", "camera_keys", "shard_manifest", *reading} == set(public(ShardedDataset))


def test_errors_subclass_the_builtin_that_a_caller_would_catch() -> None:
    bases = {
        name: tuple(base.__name__ for base in cls.__bases__)
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, Exception)
    }
    assert bases == {
        "RoboshardError": ("Exception",),
        "OptionError": ("RoboshardError", "ValueError"),
        "SourceError": ("RoboshardError", "ValueError"),
        "FormatError": ("RoboshardError", "ValueError"),
        "VersionError": ("FormatError",),
        "DamageError": ("RoboshardError", "OSError"),
        "MissingError": ("RoboshardError", "FileNotFoundError"),
        "StorageError": ("RoboshardError", "OSError"),
    }
    assert set(bases) <= set(roboshard.shards.__all__)
