"""Episodes come out of the shards as other tar readers find them, and only those that were asked
for.
"""

from __future__ import annotations

import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.lerobot_source import FURTHER_CASES, HARD_CASES, build
from support.servers import RangeServer

from roboshard.common import jsonio
from roboshard.converter import ConvertConfig, convert
from roboshard.shards import (
    DamageError,
    EpisodeData,
    FormatError,
    MissingError,
    OptionError,
    RoboshardError,
    ShardedDataset,
    StorageError,
)
from roboshard.shards.names import member_name, sample_key
from roboshard.shards.rows import as_stored, decode_rows, read_episode_row
from roboshard.shards.schema import document_bytes

pytest_plugins = ["support.servers.fixtures"]

IMAGE = "observation.image"
CASES = HARD_CASES | FURTHER_CASES


@pytest.fixture(scope="module")
def pusht(pusht_shards: Path) -> ShardedDataset:
    return ShardedDataset.open(str(pusht_shards))


@pytest.fixture(scope="module")
def two_cameras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two cameras whose names differ by case alone."""
    root = tmp_path_factory.mktemp("cameras")
    build(root / "source", CASES["case_colliding_cameras"])
    convert(ConvertConfig(source=str(root / "source"), destination=str(root / "shards"), workers=1))
    return root / "shards"


def content(episode: EpisodeData) -> tuple[bytes, bytes, dict[str, bytes]]:
    videos = {key: bytes(video) for key, video in episode.videos.items()}
    return document_bytes(episode.record), bytes(episode.rows), videos


def extracted(root: Path) -> dict[str, bytes]:
    """Member name -> payload over all shards, by Python's tarfile."""
    members: dict[str, bytes] = {}
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                assert info.name not in members
                members[info.name] = file.read()
    return members


@pytest.mark.parametrize("dataset", ["pusht_shards", "two_cameras"])
def test_every_byte_is_the_one_that_tarfile_extracts(
    dataset: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(dataset)
    members, opened = extracted(root), ShardedDataset.open(str(root))
    for position, episode_index in enumerate(opened.index.episode_index.tolist()):
        episode, key = opened.read_episode(position), sample_key(episode_index)
        assert document_bytes(episode.record) == members.pop(member_name(key, "json"))
        assert episode.rows == members.pop(member_name(key, "parquet"))
        for camera in episode.record.cameras:
            assert episode.videos[camera.key] == members.pop(member_name(key, camera.member))
        assert list(episode.videos) == list(opened.camera_keys)
        assert episode.num_bytes == sum(
            map(len, [document_bytes(episode.record), episode.rows, *episode.videos.values()])
        )
    assert members == {}


@pytest.mark.parametrize("dataset", ["pusht_shards", "two_cameras"])
def test_some_cameras_are_read_as_they_are_in_the_whole(
    dataset: str, request: pytest.FixtureRequest
) -> None:
    opened = ShardedDataset.open(str(request.getfixturevalue(dataset)))
    for position in range(len(opened.index)):
        record, rows, videos = content(opened.read_episode(position))
        for cameras in (
            [],
            *([key] for key in opened.camera_keys),
            opened.camera_keys,
            opened.camera_keys[::-1],
        ):
            part = opened.read_episode(position, cameras)
            assert content(part) == (
                record,
                rows,
                {key: videos[key] for key in videos if key in cameras},
            )
            if not cameras:
                assert part.num_bytes == len(record) + len(rows)


def test_a_camera_that_is_not_there_is_never_silently_missing(pusht: ShardedDataset) -> None:
    for cameras in (["observation.images.top"], [IMAGE.upper()], [""]):
        with pytest.raises(RoboshardError, match="holds no video of camera"):
            pusht.read_episode(0, cameras)


def test_rows_and_the_source_episode_row_are_in_the_parquet_file(
    pusht: ShardedDataset, pusht_source: Path
) -> None:
    paths = sorted((pusht_source / "data").glob("*/*.parquet"))
    source = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
    start = 0
    for position, length in enumerate(pusht.index.length.tolist()):
        episode = pusht.read_episode(position)
        rows = decode_rows(episode.rows, episode.where, episode.record.length)
        assert rows.to_pydict() == source.slice(start, length).to_pydict()
        assert decode_rows(episode.rows, "x", length, ["action", "none"]).column_names == ["action"]
        assert read_episode_row(episode.rows, "x")["episode_index"] == position
        start += length
    assert start == len(source) == pusht.manifest.total_frames


def test_features_info_and_cameras_keep_the_order_of_the_source(
    pusht: ShardedDataset, pusht_source: Path
) -> None:
    info = jsonio.load((pusht_source / "meta/info.json").read_bytes(), "info.json", 1 << 20)
    assert jsonio.dump(pusht.manifest.info) == jsonio.dump(info)
    assert jsonio.dump(pusht.manifest.features) == jsonio.dump(info["features"])
    stats = jsonio.load((pusht_source / "meta/stats.json").read_bytes(), "stats.json", 1 << 20)
    assert jsonio.dump(pusht.manifest.stats) == jsonio.dump(stats)


def test_a_dataset_travels_to_workers(pusht: ShardedDataset) -> None:
    before = content(pusht.read_episode(3))
    assert pusht.camera_keys == (IMAGE,)
    data = pickle.dumps(pusht)
    assert len(data) < 100_000
    again: ShardedDataset = pickle.loads(data)
    assert content(again.read_episode(3)) == before
    assert (again.root, again.camera_keys) == (pusht.root, pusht.camera_keys)
    assert content(pickle.loads(pickle.dumps(again)).read_episode(3)) == before


def test_a_shard_manifest_is_read_once(pusht_shards: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pusht_shards, tmp_path / "copy"))
    dataset = ShardedDataset.open(str(root))
    dataset.read_episode(0)
    (root / dataset.manifest.shards[0].manifest.name).unlink()
    dataset.read_episode(0)
    with pytest.raises(MissingError):
        pickle.loads(pickle.dumps(dataset)).read_episode(0)


# -- Some shards -----------------------------------------------------------------------------------


def episodes_of(dataset: ShardedDataset, *shards: int) -> list[int]:
    chosen: list[int] = dataset.index.episode_index[np.isin(dataset.index.shard, shards)].tolist()
    return chosen


@pytest.mark.parametrize(
    ("pattern", "shards"),
    [
        ("shards/shard-{000000..000002}.tar", (0, 1, 2)),
        ("shards/shard-{000004,000001}.tar", (1, 4)),
        ("shards/shard-00000{0,5}.tar", (0, 5)),
        ("shards/shard-000003.tar", (3,)),
    ],
)
def test_a_pattern_opens_those_shards(
    pattern: str, shards: tuple[int, ...], pusht: ShardedDataset, pusht_shards: Path
) -> None:
    part = ShardedDataset.open(f"{pusht_shards}/{pattern}")
    urls = [f"{pusht_shards}/{pusht.manifest.shards[number].name}" for number in reversed(shards)]
    for some in (
        part,
        ShardedDataset.open(urls),
        ShardedDataset.open([f"file://{url}" for url in urls]),
    ):
        assert some.index.episode_index.tolist() == episodes_of(pusht, *shards)
        assert some.manifest == pusht.manifest
        for position, episode in enumerate(some.index.episode_index.tolist()):
            assert content(some.read_episode(position)) == content(pusht.read_episode(episode))


def test_the_other_shards_need_not_be_there(
    pusht: ShardedDataset, pusht_shards: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(pusht_shards, tmp_path / "copy"))
    for path in sorted((root / "shards").iterdir())[2:]:
        path.unlink()
    part = ShardedDataset.open(f"{root}/shards/shard-000000.tar")
    assert [
        part.read_episode(i).record.episode_index for i in range(len(part.index))
    ] == episodes_of(pusht, 0)


def test_a_shard_that_the_dataset_does_not_list_is_refused(pusht_shards: Path) -> None:
    for name in ("shard-000099.tar", "shard-0.tar", "other.tar"):
        with pytest.raises(OptionError, match=f"dataset.json does not list shards/{name}"):
            ShardedDataset.open(
                [f"{pusht_shards}/shards/shard-000000.tar", f"{pusht_shards}/shards/{name}"]
            )


@pytest.mark.parametrize(
    "url", ["pipe:cat {}/dataset.json", "pipe:cat {}/shards/shard-000000.tar", "ftp://host{}"]
)
def test_pipes_and_schemes_that_are_not_served_are_refused(url: str, pusht_shards: Path) -> None:
    with pytest.raises(StorageError, match=r"refused|not served"):
        ShardedDataset.open(url.format(pusht_shards))
    with pytest.raises((StorageError, OptionError)):
        ShardedDataset.open([f"{pusht_shards}/shards/shard-000000.tar", url.format(pusht_shards)])


# -- What is missing -------------------------------------------------------------------------------


def test_no_dataset_json_is_no_dataset_and_says_what_to_do(
    tmp_path: Path, pusht_source: Path
) -> None:
    unfinished = r"Not a roboshard dataset.*run convert-to-shards again"
    for root, remedy in (
        (tmp_path, unfinished),
        (tmp_path / "nowhere", unfinished),
        (pusht_source, r"This is a LeRobot dataset.*`convert-to-shards .*pusht_sim DST`"),
    ):
        with pytest.raises(MissingError, match=remedy) as error:
            ShardedDataset.open(str(root))
        assert f"{root}/dataset.json" in str(error.value)


@pytest.mark.parametrize("ending", ["", "/"])
def test_the_folder_of_the_shards_is_called_so(
    pusht_shards: Path, range_server: RangeServer, ending: str
) -> None:
    range_server.serve(pusht_shards)
    for root in (str(pusht_shards), range_server.url):
        with pytest.raises(MissingError) as error:
            ShardedDataset.open(f"{root}/shards{ending}")
        told = "These are the shards of a dataset: give the folder that holds dataset.json, "
        assert str(error.value).endswith(told + root)


def test_a_missing_index_is_named(pusht_shards: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pusht_shards, tmp_path / "copy"))
    (root / "episodes.parquet").unlink()
    with pytest.raises(MissingError, match=r"copy/episodes\.parquet: missing.*`roboshard rebuild`"):
        ShardedDataset.open(str(root))


@pytest.mark.parametrize("suffix", ["tar", "json"])
def test_a_missing_shard_or_manifest_is_named_and_the_others_are_read(
    suffix: str, pusht: ShardedDataset, pusht_shards: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(pusht_shards, tmp_path / "copy"))
    (root / f"shards/shard-000003.{suffix}").unlink()
    dataset = ShardedDataset.open(str(root))
    for position, shard in enumerate(dataset.index.shard.tolist()):
        if shard == 3:
            with pytest.raises(
                MissingError,
                match=rf"shard-000003\.{suffix}: missing, though dataset\.json lists it",
            ):
                dataset.read_episode(position)
        else:
            assert content(dataset.read_episode(position)) == content(pusht.read_episode(position))


def test_shards_of_another_conversion_are_not_mixed_in(
    pusht_source: Path, pusht_shards: Path, tmp_path: Path
) -> None:
    options = {
        "source": str(pusht_source),
        "destination": str(tmp_path / "other"),
        "shard_size": "64KB",
        "workers": 1,
    }
    convert(ConvertConfig(**options, tolerance_s=2e-4))  # type: ignore[arg-type]
    root = Path(shutil.copytree(pusht_shards, tmp_path / "copy"))
    for suffix in ("tar", "json"):
        shutil.copy(
            tmp_path / f"other/shards/shard-000000.{suffix}", root / f"shards/shard-000000.{suffix}"
        )
    with pytest.raises((DamageError, FormatError), match="shard-000000"):
        ShardedDataset.open(str(root)).read_episode(0)


def test_rows_that_are_the_same_to_every_process_are_not_made_again(pusht: ShardedDataset) -> None:
    episode = pusht.read_episode(0)
    table = decode_rows(episode.rows, "x", episode.record.length)
    assert as_stored(table) is table
    described = table.schema.field(0).with_metadata({"b": "2", "a": "1"})
    table = table.cast(table.schema.set(0, described))
    again = as_stored(table)
    assert again is not table
    assert list(again.schema.field(0).metadata) == [b"a", b"b"]
