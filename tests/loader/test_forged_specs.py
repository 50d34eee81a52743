"""Specs and rows that somebody forged, with checksums that fit: right samples, or an error that
names the place.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.cases import CASES
from support.damage import Forgery

from roboshard.common.errors import FormatError, RoboshardError
from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader, open_dataset
from roboshard.shards import ShardedDataset
from roboshard.shards.features import ROW_NUMBERS, DepthScale, spec_problems
from roboshard.shards.rows import EPISODE_METADATA
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.inspect import summarize
from roboshard.tools.verify import VerifyConfig, verify

Json = Any

json_values: st.SearchStrategy[Json] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.just(10**400),
        st.floats(),
        st.sampled_from(
            [
                "float32",
                "int64",
                "bool",
                "string",
                "language",
                "image",
                "video",
                "channels",
                "m",
                "",
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["is_depth_map", "depth_unit", "video.depth_min", "video.use_log", "a"]
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
specs = st.fixed_dictionaries(
    {
        "dtype": st.one_of(
            st.sampled_from(["float32", "int64", "bool", "string", "image"]), json_values
        )
    },
    optional={
        "shape": json_values,
        "names": json_values,
        "info": json_values,
        "video_info": json_values,
    },
)
FEWER = settings(
    max_examples=settings().max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("honest") / "shards"
    convert(
        ConvertConfig(
            source=str(CASES / "image_palette/src"),
            destination=str(root),
            shard_size="64KB",
            workers=1,
        )
    )
    return root


@pytest.fixture
def forgery(honest: Path, tmp_path: Path) -> Forgery:
    return Forgery(honest, tmp_path / "forged")


def use(root: str, tmp_path: Path) -> None:
    """Everything that reads specs and rows; what comes out is samples, or an error of ours."""
    uses: list[Callable[[], object]] = [
        lambda: summarize(root),
        lambda: verify(VerifyConfig(url=root, frames=1)),
        *[
            lambda choice=choice: next(iter(make_loader(root, batch_size=4, on_missing=choice)))
            for choice in ("error", "drop", "fill")
        ],
        lambda: make_loader(root, batch_size=4, on_missing="fill").meta.stats,
        lambda: next(iter(make_loader([(root, 1), (root, 2)], batch_size=4, on_missing="fill"))),
        lambda: open_dataset(root)[3],
        lambda: open_dataset(root, delta_timestamps={"action": [0.0, 0.1]})[3],
        lambda: export(ExportConfig(source=root, destination=f"{tmp_path}/{uuid.uuid4()}")),
        lambda: export(
            ExportConfig(source=root, destination=f"{tmp_path}/{uuid.uuid4()}", episodes="0")
        ),
    ]
    for each in uses:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(RoboshardError):
                each()


# -- Specs -----------------------------------------------------------------------------------------


@FEWER
@given(
    key=st.sampled_from(["action", "image", "observation.state", "task_index", "new"]), spec=specs
)
@example(key="action", spec={"dtype": ["float32"]})
@example(key="action", spec={"dtype": "float32", "shape": 3})
@example(key="action", spec={"dtype": "float32", "shape": [-4]})
@example(key="action", spec={"dtype": "float32", "shape": [10**30]})
@example(key="new", spec={"dtype": "float32", "shape": [2**20, 2**20, 2**20]})
@example(key="image", spec={"dtype": "image", "shape": [64, 96, 3], "info": "depth"})
@example(key="image", spec={"dtype": "image", "shape": [64, 96, 3], "names": 3})
@example(key="image", spec={"dtype": "image", "shape": None, "info": {"is_depth_map": True}})
@example(key="image", spec={"dtype": "video", "shape": [64, 96, 3]})
@example(key="task_index", spec={"dtype": "string", "shape": [1]})
@example(key="task_index", spec={"dtype": "float32", "shape": [1]})
def test_forged_specs(forgery: Forgery, tmp_path: Path, key: str, spec: dict[str, Json]) -> None:
    before = forgery.dataset["features"]
    forgery.dataset["features"] = before | {key: spec}
    try:
        use(forgery.seal(), tmp_path)
    finally:
        forgery.dataset["features"] = before


@FEWER
@given(
    info=st.dictionaries(
        st.sampled_from(["fps", "robot_type", "features", "chunks_size"]), json_values
    ),
    stats=st.dictionaries(st.sampled_from(["action", "image", "x"]), json_values, max_size=2),
)
@example(info={"fps": "ten"}, stats={})
@example(info={"fps": -1}, stats={"action": 3})
@example(info={}, stats={"action": {"mean": [[1], [2, 3]]}})
def test_forged_info_and_statistics(
    forgery: Forgery, tmp_path: Path, info: dict[str, Json], stats: dict[str, Json]
) -> None:
    before = forgery.dataset["info"], forgery.dataset["stats"]
    forgery.dataset["info"], forgery.dataset["stats"] = before[0] | info, stats
    try:
        use(forgery.seal(), tmp_path)
    finally:
        forgery.dataset["info"], forgery.dataset["stats"] = before


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"dtype": 3}, r"features\.action\.dtype: must be a string, not 3"),
        ({"dtype": "float32", "shape": "2"}, r"features\.action\.shape: must be a list, not '2'"),
        (
            {"dtype": "float32", "shape": [-2]},
            r"features\.action\.shape: \[-2\] has a size that is none",
        ),
        ({"dtype": "float32", "shape": [2.5]}, "has a size that is none"),
        ({"dtype": "float32", "shape": [[2]]}, "is not a list of sizes"),
        ({"dtype": "float32", "shape": [2**50]}, "has a size that is none"),
        ({"dtype": "float32", "info": ["x"]}, r"features\.action\.info: must be an object"),
        ({"dtype": "float32", "video_info": 1}, r"features\.action\.video_info: must be an object"),
    ],
    ids=str,
)
def test_specs_are_checked_where_manifests_are_read(
    forgery: Forgery, spec: dict[str, Json], problem: str
) -> None:
    forgery.dataset["features"]["action"] = spec
    root = forgery.seal()
    for open_ in (make_loader, open_dataset, summarize):
        with pytest.raises(
            FormatError, match=rf"dataset\.json: contradicts itself:(.|\n)*{problem}"
        ):
            open_(root)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"dtype": None},
        {"dtype": "float32", "shape": None, "info": None},
        {"dtype": "float32", "shape": [-1], "names": {"motors": ["a"]}},
        {"dtype": "image", "shape": ["height", "width", "channels"], "fps": 3},
        {"dtype": "later", "shape": [480.0, 640.0, 3]},
    ],
    ids=str,
)
def test_specs_that_are_merely_unknown_are_none_of_its_business(spec: dict[str, Json]) -> None:
    assert not list(spec_problems({"x": spec}))


# -- Rows ------------------------------------------------------------------------------------------

CUT = b"\x89PNG\r\n\x1a\n"
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=9),
)
columns = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["bytes", "path"]), inner, max_size=2),
    ),
    max_leaves=5,
)


def with_column(forgery: Forgery, name: str, values: pa.Array) -> None:
    """Put a column, or one more of that name, into the rows of the first episode."""

    def change(members: dict[str, bytes]) -> None:
        table = pq.read_table(pa.BufferReader(members["parquet"]))
        at = table.schema.get_field_index(name)
        table = table.append_column(name, values) if at < 0 else table.set_column(at, name, values)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        members["parquet"] = bytes(sink.getvalue())

    forgery.put_members(0, 0, change)


@FEWER
@given(
    key=st.sampled_from(
        [
            "action",
            "image",
            "observation.state",
            "task_index",
            "index",
            "timestamp",
            "episode_index",
        ]
    ),
    rows=st.lists(columns, min_size=6, max_size=6),
)
@example(key="image", rows=[{"bytes": CUT, "path": None}] * 6)
@example(key="image", rows=[{"bytes": None, "path": "/etc/passwd"}] * 6)
@example(key="image", rows=[[1, 2]] * 6)
@example(key="action", rows=[[1.0, None]] * 6)
@example(key="action", rows=[[[1.0], [2.0, 3.0]]] * 6)
@example(key="task_index", rows=[None, 0, 0, 0, 0, 0])
@example(key="task_index", rows=[[0], [0, 0], [0], [0], [0], [0]])
@example(key="index", rows=[float("nan")] * 6)
@example(key="index", rows=[None] * 6)
@example(key="timestamp", rows=["now"] * 6)
@example(key="episode_index", rows=[float("inf")] * 6)
def test_forged_rows(
    honest: Path, tmp_path_factory: pytest.TempPathFactory, key: str, rows: list[Any]
) -> None:
    try:
        values = pa.array(rows)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return  # no table holds that
    folder = tmp_path_factory.mktemp("forged")
    forgery = Forgery(honest, folder / "shards")
    try:
        with_column(forgery, key, values)
    except (pa.ArrowException, ValueError):
        return  # no parquet file holds that
    use(forgery.seal(), folder)


@pytest.mark.parametrize("key", ["action", "image", "task_index"])
def test_a_column_that_is_there_twice_is_refused(forgery: Forgery, key: str) -> None:
    def change(members: dict[str, bytes]) -> None:
        table = pq.read_table(pa.BufferReader(members["parquet"]))
        sink = pa.BufferOutputStream()
        pq.write_table(table.append_column(key, table.column(key)), sink)
        members["parquet"] = bytes(sink.getvalue())

    forgery.put_members(0, 0, change)
    root = forgery.seal()
    with pytest.raises(FormatError, match=f"episode 0: several columns of the name '{key}'"):
        next(iter(make_loader(root, batch_size=18)))
    (problem,) = [p for p in verify(VerifyConfig(url=root)).problems if "several columns" in p.what]
    assert problem.episode == 0


def test_text_that_is_not_utf8_is_met_as_its_episode_is_read(forgery: Forgery) -> None:
    forgery.dataset["features"]["hint"] = {"dtype": "string", "shape": [1], "names": None}
    broken = pa.array([b"\xff\xfe"] * 6).view(pa.string())
    with_column(forgery, "hint", broken)
    for number, shard in enumerate(forgery.shards):
        for at, sample in enumerate(shard["samples"]):
            if sample["episode_index"]:

                def change(members: dict[str, bytes], length: int = sample["length"]) -> None:
                    table = pq.read_table(pa.BufferReader(members["parquet"]))
                    sink = pa.BufferOutputStream()
                    pq.write_table(table.append_column("hint", pa.array(["a"] * length)), sink)
                    members["parquet"] = bytes(sink.getvalue())

                forgery.put_members(number, at, change)
    root = forgery.seal()
    with pytest.raises(FormatError, match="episode 0, feature 'hint'"):
        list(make_loader(root, batch_size=6))
    with pytest.warns(RuntimeWarning, match="episode 0, feature 'hint'"):
        batches = list(make_loader(root, batch_size=6, on_error="skip"))
    assert len(batches) == 3
    assert not any(np.any(batch["episode_index"].numpy() == 0) for batch in batches)


def test_an_image_that_no_loader_opens_is_met_as_its_episode_is_read(forgery: Forgery) -> None:
    with_column(forgery, "image", pa.array([{"bytes": b"no image", "path": None}] * 6))
    root = forgery.seal()
    with pytest.raises(FormatError, match="episode 0, feature 'image', row"):
        list(make_loader(root, batch_size=6))
    with pytest.warns(RuntimeWarning, match="episode 0, feature 'image', row 0: not a readable"):
        batches = list(make_loader(root, batch_size=6, on_error="skip"))
    assert not any(np.any(batch["episode_index"].numpy() == 0) for batch in batches)


@pytest.mark.filterwarnings("ignore:on_error='skip':RuntimeWarning")
@pytest.mark.parametrize("decode_threads", [1, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_pixels_that_cannot_be_decoded_are_substituted_in_their_step_alone(
    honest: Path, forgery: Forgery, *, shuffle: bool, decode_threads: int
) -> None:
    """The header is right, so that nothing shows before the pixels are wanted."""
    damaged = 4
    rows = first_rows(honest).column("image").to_pylist()
    rows[damaged]["bytes"] = rows[damaged]["bytes"][:-40]
    with_column(forgery, "image", pa.array(rows))
    root = forgery.seal()
    options: dict[str, Any] = {
        "batch_size": 3,
        "shuffle": shuffle,
        "decode_threads": decode_threads,
    }
    with pytest.raises(FormatError, match=rf"episode 0, feature 'image', row {damaged}: not a re"):
        list(make_loader(root, **options))
    loader = make_loader(root, on_error="skip", **options)
    batches, expected = list(loader), list(make_loader(str(honest), **options))
    assert loader.stats().substituted_episodes == 1
    assert len(batches) == len(expected) == 6
    spoiled = 0
    for batch, right in zip(batches, expected, strict=True):
        inside = right["episode_index"] == 0
        is_spoiled = bool((inside & (right["frame_index"] == damaged)).any())
        spoiled += is_spoiled
        kept = ~inside if is_spoiled else torch.ones_like(inside)
        assert all(
            torch.equal(batch[key][kept], right[key][kept]) for key in ("image", "action", "index")
        )
        assert not is_spoiled or (batch["episode_index"][inside] == 1).all()
    assert spoiled == 1


# -- Rows that are stored as something else than their feature says --------------------------------


def first_rows(root: Path) -> pa.Table:
    """The rows of the first episode."""
    data = ShardedDataset.open(str(root)).read_episode(0)
    return pq.read_table(pa.BufferReader(data.rows))


@pytest.mark.parametrize("rows", [[[]] * 6, [[1.0, 1.0]] * 6, [[[0], [1, 2]]] * 6, [[0], []] * 3])
@pytest.mark.parametrize("key", ROW_NUMBERS)
def test_a_column_that_says_which_row_it_is_has_one_number_in_each(
    forgery: Forgery, key: str, rows: list[Any]
) -> None:
    with_column(forgery, key, pa.array(rows))
    dataset = open_dataset(forgery.seal())
    with pytest.raises(FormatError, match=rf"shard-000000\.tar, episode 0, feature '{key}'"):
        dataset[0]
    assert dataset[6]["episode_index"] == 1


@pytest.mark.parametrize("key", ROW_NUMBERS)
def test_lists_of_one_number_say_it_too(honest: Path, forgery: Forgery, key: str) -> None:
    """As LeRobot 0.3 wrote features of shape [1] and reads them."""
    stored = first_rows(honest).column(key).to_pylist()
    with_column(forgery, key, pa.array([[float(number)] for number in stored]))
    found, right = open_dataset(forgery.seal())[4], open_dataset(str(honest))[4]
    assert (found[key].shape, found[key].dtype) == ((1,), right[key].dtype)
    assert found[key] == right[key]
    assert found["task"] == right["task"]


def test_a_batch_of_episodes_stored_with_other_types_has_the_declared_one(
    honest: Path, forgery: Forgery
) -> None:
    """LeRobot casts to the declared type.

    An episode of integers made integers of the others' fractions.
    """
    shape = first_rows(honest).column("action").to_pylist()
    with_column(forgery, "action", pa.array([[2] * len(row) for row in shape]))
    (batch,) = make_loader(forgery.seal(), batch_size=18, shuffle=False)
    (right,) = make_loader(str(honest), batch_size=18, shuffle=False)
    assert batch["action"].dtype == torch.float32
    assert batch["action"][:6].unique().tolist() == [2.0]
    assert torch.equal(batch["action"][6:], right["action"][6:])


def test_a_camera_that_the_features_do_not_know_is_named(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    source = CASES / "odd_420_svtav1/src"
    convert(ConvertConfig(source=str(source), destination=str(root), shard_size="64KB", workers=1))
    forgery = Forgery(root, tmp_path / "forged")
    camera = next(
        key for key, spec in forgery.dataset["features"].items() if spec["dtype"] == "video"
    )
    forgery.dataset["features"][camera] |= {"dtype": "float32"}
    with pytest.raises(RoboshardError):
        next(iter(make_loader(forgery.seal(), batch_size=2, on_missing="fill")))
    del forgery.dataset["features"][camera]
    with pytest.raises(
        FormatError, match=f"has a camera that dataset.json does not know: '{camera}'"
    ):
        next(iter(make_loader(forgery.seal(), batch_size=2)))


@pytest.mark.parametrize(
    "value", [10**400, float("inf"), "near", [1], {}], ids=lambda v: str(v)[:9]
)
def test_a_depth_scale_that_is_no_number_is_refused(value: Json) -> None:
    info = {"is_depth_map": True, "video.depth_min": value}
    with pytest.raises(FormatError, match="depth scale"):
        DepthScale.of({"dtype": "video", "shape": [4, 4, 1], "info": info})


@pytest.mark.parametrize(
    "row",
    [
        {"stats/action/mean": "x", "stats/action/std": [1], "stats/action/min": [1]},
        {"stats/index/mean": [[1], [2, 3]]},
        {"stats/index/mean": {"a": 1}},
        {"stats/action/count": None, "stats/": 3, "meta/x": []},
    ],
    ids=str,
)
def test_forged_metadata_of_an_episode_is_no_raw_error_of_an_export(
    forgery: Forgery, tmp_path: Path, row: dict[str, Json]
) -> None:
    """The row of meta/episodes that travels with the rows is whatever somebody wrote."""

    def change(members: dict[str, bytes]) -> None:
        table = pq.read_table(pa.BufferReader(members["parquet"]))
        kept = json.loads(table.schema.metadata[EPISODE_METADATA])
        names = ("mean", "std", "min", "max", "count")
        base = {f"stats/action/{name}": [1.0, 1.0] for name in names}
        metadata = {
            **table.schema.metadata,
            EPISODE_METADATA: json.dumps(kept | base | row).encode(),
        }
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink)
        members["parquet"] = bytes(sink.getvalue())

    forgery.put_members(0, 0, change)
    use(forgery.seal(), tmp_path)
