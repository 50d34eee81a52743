"""The shards stay plain: other readers of WebDataset tars find every episode, bit for bit."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from support import containers
from support.containers import Video
from support.lerobot_source import HARD_CASES, build
from support.slowly import slowly

from roboshard.common import jsonio
from roboshard.converter import ConvertConfig, convert
from roboshard.shards import ShardedDataset
from roboshard.shards.names import sample_key

KNOWS_VIDEO = Version(version("datasets")) >= Version("4.8")
"""Whether files of video are that to its builder; before, bytes."""
CASES = ("pusht", "mid_gop_starts", "tasks_in_any_script", "case_colliding_cameras", "matroska")
Sample = dict[str, Any]


@pytest.fixture(scope="module")
def converted(pusht_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Case -> its dataset.

    In those that are not pusht, episodes differ in length, tasks or frames to skip.
    """
    roots = {"pusht": pusht_shards}
    for case in CASES[1:]:
        folder = tmp_path_factory.mktemp(case)
        if case == "matroska":
            containers.build(folder / "source", Video(encoder="libvpx", extension="webm"))
        else:
            build(folder / "source", HARD_CASES[case])
        roots[case] = folder / "shards"
        source, target = str(folder / "source"), str(roots[case])
        convert(
            ConvertConfig(
                source=source, destination=target, shard_size="64KB", shuffle_episodes=3, workers=1
            )
        )
    return roots


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def root(case: str, converted: dict[str, Path]) -> Path:
    return converted[case]


def ours(root: Path) -> dict[str, Sample]:
    """Sample key -> fields as WebDataset names them, by our own reader."""
    dataset, samples = ShardedDataset.open(str(root)), {}
    for position in range(len(dataset.index)):
        episode = dataset.read_episode(position)
        fields: Sample = {
            "json": json.loads(jsonio.dump(episode.record.model_dump(mode="json"))),
            "parquet": bytes(episode.rows),
        }
        fields |= {
            camera.member.lower(): bytes(episode.videos[camera.key])
            for camera in episode.record.cameras
        }
        samples[sample_key(episode.record.episode_index)] = fields
    return samples


def tars(root: Path) -> list[str]:
    return [str(path) for path in sorted((root / "shards").glob("*.tar"))]


def names_in(path: str) -> Iterator[str]:
    with tarfile.open(path) as tar:
        yield from tar.getnames()


# The other readers run in processes of their own: one leaves files open, the other warns, reads its
# settings when it is imported, and registers Arrow types for good.

HEAD = "import json, pickle, sys\nrequest, answer = json.loads(sys.argv[1]), {}\n"
TAIL = "\nwith open(request['answer'], 'wb') as file:\n    pickle.dump(answer, file)\n"

READ_BY_WEBDATASET = """
import webdataset as wds
for case, files in request["cases"].items():
    decoded = wds.WebDataset(files, shardshuffle=False).decode().to_tuple("__key__", "json")
    answer[case] = (list(wds.WebDataset(files, shardshuffle=False)), list(decoded))
"""

READ_BY_DATASETS = """
import datasets
for case, files in request["cases"].items():
    for streaming in (False, True):
        dataset = datasets.load_dataset(
            "webdataset", data_files={"train": files}, split="train", streaming=streaming, cache_dir=request["cache"]
        )
        videos = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Video)]
        for name in videos:
            dataset = dataset.cast_column(name, datasets.Video(decode=False))
        answer[case, streaming] = (videos, list(dataset))
"""


def answer_of(code: str, converted: dict[str, Path], folder: Path) -> Any:
    """What the code leaves in `answer`, run offline over the shards of every case."""
    request = {
        "cases": {case: tars(root) for case, root in converted.items()},
        "cache": str(folder / "cache"),
        "answer": str(folder / "answer.pickle"),
    }
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", HEAD + code + TAIL, json.dumps(request)]
    subprocess.run(command, check=True, env=os.environ | offline | quiet)
    return pickle.loads((folder / "answer.pickle").read_bytes())


@pytest.fixture(scope="module")
def by_webdataset(converted: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Case -> (samples, (key, decoded record) of each)."""
    return answer_of(READ_BY_WEBDATASET, converted, tmp_path_factory.mktemp("webdataset"))


@pytest.fixture(scope="module")
def by_datasets(converted: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(case, streaming) -> (video columns, samples), by Hugging Face datasets."""
    return answer_of(READ_BY_DATASETS, converted, tmp_path_factory.mktemp("datasets"))


def test_cases_have_several_shards_or_cameras(converted: dict[str, Path]) -> None:
    assert len(tars(converted["pusht"])) > 3
    fields = next(iter(ours(converted["case_colliding_cameras"]).values()))
    assert sorted(fields) == [
        "json",
        "observation.images.top-2.mp4",
        "observation.images.top.mp4",
        "parquet",
    ]


def test_webdataset_yields_every_episode_with_all_its_files(
    case: str, converted: dict[str, Path], by_webdataset: dict[str, Any]
) -> None:
    expected, (samples, _) = ours(converted[case]), by_webdataset[case]
    found = {sample["__key__"]: sample for sample in samples}
    assert found.keys() == expected.keys()
    assert len(samples) == len(found)
    for key, fields in expected.items():
        sample = {name: value for name, value in found[key].items() if not name.startswith("__")}
        assert sample.keys() == fields.keys()
        assert json.loads(sample.pop("json")) == fields["json"]
        assert sample == {name: value for name, value in fields.items() if name != "json"}


def test_webdataset_decodes_records_and_keeps_the_order_of_the_tars(
    case: str, converted: dict[str, Path], by_webdataset: dict[str, Any]
) -> None:
    root, (_, decoded) = converted[case], by_webdataset[case]
    keys = [
        key
        for path in tars(root)
        for key in dict.fromkeys(name.split(".")[0] for name in names_in(path))
    ]
    assert [key for key, _ in decoded] == keys
    assert dict(decoded) == {key: fields["json"] for key, fields in ours(root).items()}


def test_the_record_is_the_first_member_of_every_sample(root: Path) -> None:
    for path in tars(root):
        names = list(names_in(path))
        keys = [name.split(".")[0] for name in names]
        firsts = [name for i, name in enumerate(names) if i == 0 or keys[i - 1] != keys[i]]
        assert [name.partition(".")[2] for name in firsts] == ["json"] * len(set(keys))


def test_gnu_tar_lists_and_extracts_the_same(root: Path, tmp_path: Path) -> None:
    for path in tars(root):
        done = subprocess.run(
            ["tar", "-xvf", path], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert done.stderr == ""
        assert done.stdout.splitlines() == list(names_in(path))
    dataset = ShardedDataset.open(str(root))
    for position in range(len(dataset.index)):
        episode = dataset.read_episode(position)
        key = sample_key(episode.record.episode_index)
        assert (tmp_path / f"{key}.parquet").read_bytes() == episode.rows
        for camera in episode.record.cameras:
            assert (tmp_path / f"{key}.{camera.member}").read_bytes() == episode.videos[camera.key]
    assert len(list(tmp_path.iterdir())) == sum(len(list(names_in(path))) for path in tars(root))


@pytest.mark.parametrize("streaming", [slowly(False), True])
def test_hugging_face_datasets_reads_every_episode(
    case: str, streaming: bool, converted: dict[str, Path], by_datasets: dict[tuple[str, bool], Any]
) -> None:
    expected = ours(converted[case])
    videos, samples = by_datasets[case, streaming]
    found = {sample["__key__"]: sample for sample in samples}
    assert found.keys() == expected.keys()
    assert len(samples) == len(found)
    for key, fields in expected.items():
        sample = {name: value for name, value in found[key].items() if not name.startswith("__")}
        assert {name.lower() for name in sample} == fields.keys()
        files = [name for name in sample if name.endswith((".mp4", ".mkv"))]
        assert sorted(videos) == (sorted(files) if KNOWS_VIDEO else [])
        for name, value in sample.items():
            assert (value["bytes"] if name in videos else value) == fields[name.lower()], name
