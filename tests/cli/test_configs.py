"""The files of configs/ as they stand: each runs the job that it is an example of."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from roboshard.cli.convert import parse_config
from roboshard.cli.main import dispatch
from roboshard.loader import make_loader

CONFIGS = Path(__file__).parents[2] / "configs"
COMMANDS = {"convert-to-shards": "convert", "upload-shards": "upload"}


@pytest.fixture
def here(
    tmp_path: Path, pusht_source: Path, pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with what the files name."""
    (tmp_path / "my_dataset").symlink_to(pusht_source)
    (tmp_path / "configs").symlink_to(CONFIGS)
    for name in ("my_dataset_shards", "my_other_shards"):
        (tmp_path / name).symlink_to(pusht_shards)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, *more: str) -> int:
    """The command of a file's first line."""
    first = (CONFIGS / name).read_text().splitlines()[0].removeprefix("# ")
    command, *arguments = shlex.split(first)
    return dispatch([COMMANDS[command], *arguments, *more])


def test_every_file_is_tried_here() -> None:
    tried = re.findall(r'(?:run\("|configs/)(\w+\.yaml)', Path(__file__).read_text())
    assert {path.name for path in CONFIGS.glob("*.yaml")} == set(tried)


def test_convert(here: Path) -> None:
    (here / "my_dataset_shards").unlink()
    assert run("convert.yaml") == 0
    assert json.loads((here / "my_dataset_shards/dataset.json").read_text())["total_episodes"] == 14


def test_reencode(here: Path) -> None:
    assert run("reencode.yaml", "--episodes", "0,1") == 0
    loader = make_loader("my_dataset_small_shards", batch_size=4)
    assert next(iter(loader))["observation.image"].shape == (4, 3, 64, 64)
    loader.close()


def test_upload(here: Path) -> None:
    assert run("upload.yaml") == 0
    assert (here / "published/my_dataset/dataset.json").exists()


@pytest.mark.usefixtures("here")
def test_train() -> None:
    loader = make_loader(**yaml.safe_load(Path("configs/train.yaml").read_text()))
    batch = next(iter(loader))
    assert batch["action"].shape == (16, 4, 2)
    assert batch["observation.image"].shape == (16, 3, 64, 64)
    assert loader.num_episodes == 13
    loader.close()


@pytest.mark.usefixtures("here")
def test_mixture() -> None:
    loader = make_loader(**yaml.safe_load(Path("configs/mixture.yaml").read_text()))
    assert sorted(set(next(iter(loader))["dataset_index"].tolist())) == [0, 1]
    loader.close()


def test_upload_refuses_what_is_no_option(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "odd.yaml").write_text("source: here\nthreads: 3\n")
    assert dispatch(["upload", "--config", "odd.yaml"]) == 2
    assert "no such option: threads" in capsys.readouterr().err


def test_a_list_in_a_file_does_not_take_the_arguments_after_it(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text("source: here\ngop: 2\nvideo: reencode\nsize: [64, 48]\n")
    config = parse_config(["there", "--config", str(path)])
    assert (config.source, config.destination, config.reencode.size) == ("here", "there", (64, 48))
