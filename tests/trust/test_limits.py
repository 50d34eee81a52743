"""Small hostile files stay cheap: what they would become is known before it is made."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.damage import Forgery

from roboshard.common import jsonio
from roboshard.converter import ConvertConfig, convert
from roboshard.loader.episode_table import EpisodeTable
from roboshard.shards import FormatError, OptionError, ShardedDataset, SourceError
from roboshard.shards.parquet_limits import check_decoded, check_source, decoded_limit
from roboshard.shards.rows import decode_rows
from roboshard.tools.verify import VerifyConfig, shard, verify

MEGABYTES, SECONDS = 1000, 20
"""What reading any of these may take, Python and its libraries included."""

PROBE = """
import re, sys
from roboshard.shards import RoboshardError, ShardedDataset
from roboshard.shards.rows import decode_rows
what, path = sys.argv[1:]
try:
    if what == "rows":
        with open(path, "rb") as file:
            decode_rows(file.read(), "rows", 10)
    elif what == "source":
        from roboshard.converter import ConvertConfig, convert
        convert(ConvertConfig(source=path, destination=path + "-out", workers=1))
    else:
        ShardedDataset.open(path)
    said = "read"
except RoboshardError as error:
    said = f"{type(error).__name__}: {error}"
with open("/proc/self/status") as file:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1]
print(int(peak) // 1024, said)
"""


def refused_cheaply(what: str, path: Path, problem: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, what, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    peak, _, said = done.stdout.partition(" ")
    assert int(peak) < MEGABYTES, done.stdout
    assert problem in said, said


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


LONG = "x" * 40_000_000


def dictionary_bomb() -> bytes:
    """Ten rows that name one long text."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 10, pa.int32()), pa.array([LONG]))
    options = {"dictionary_pagesize_limit": 1 << 30, "store_schema": False}
    return written(pa.table({"a": texts}), compression="zstd", **options)


def list_bomb() -> bytes:
    values = pa.nulls(80_000_000, pa.bool_())
    offsets = pa.array([0, *[len(values)] * 10], pa.int32())
    return written(pa.table({"a": pa.ListArray.from_arrays(offsets, values)}), compression="zstd")


def prefix_bomb() -> bytes:
    """Ten texts, each of which is the one before."""
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}
    return written(pa.table({"a": [LONG] * 10}), compression="zstd", **options)


def page_bomb() -> bytes:
    return written(pa.table({"a": [LONG] * 10}), compression="zstd", use_dictionary=False)


BOMBS: dict[str, Callable[[], bytes]] = {
    "dictionary": dictionary_bomb,
    "list": list_bomb,
    "prefix": prefix_bomb,
    "page": page_bomb,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_rows_that_decode_to_gigabytes_are_refused_before(kind: str, tmp_path: Path) -> None:
    data = BOMBS[kind]()
    assert len(data) < 1 << 20
    (tmp_path / "rows.parquet").write_bytes(data)
    refused_cheaply("rows", tmp_path / "rows.parquet", "more than the 2")


def test_a_source_of_constant_rows_is_refused_before(pusht_source: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pusht_source, tmp_path / "source"))
    path = next((root / "data").rglob("*.parquet"))
    schema = pq.read_schema(path)
    rows = 40_000_000
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        arrays = [pa.nulls(rows // 10, field.type) for field in schema]
        for _ in range(10):
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), rows // 10)
    assert path.stat().st_size < 1 << 20
    refused_cheaply("source", root, f"{rows} rows, more than")


def test_dataset_json_of_empty_lists_is_refused_before(pusht_shards: Path, tmp_path: Path) -> None:
    forgery = Forgery(pusht_shards, tmp_path / "forged")
    root = Path(forgery.seal())
    text = (root / "dataset.json").read_text().rstrip()[:-1]
    (root / "dataset.json").write_text(f'{text},"later":[{",".join(["[]"] * 5_000_000)}]}}\n')
    refused_cheaply("dataset", root, "objects and arrays or so, more than")
    (root / "dataset.json").write_text(f'{text},"later":[{"0," * 9_000_000}0]}}\n')
    refused_cheaply("dataset", root, "values or so, more than")


def test_json_at_the_limits_is_read() -> None:
    value = {"a": [[]] * (jsonio.MAX_CONTAINERS - 2)}
    assert len(jsonio.load(jsonio.dump(value), "x", 1 << 30)["a"]) == len(value["a"])
    with pytest.raises(FormatError, match="objects and arrays"):
        jsonio.load(jsonio.dump({"a": [[]] * (jsonio.MAX_CONTAINERS - 1)}), "x", 1 << 30)


# -- Honest files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_honest_parquet_of_all_kinds_is_read(
    compression: str, version: str, tmp_path: Path
) -> None:
    rows = 20_000
    table = pa.table(
        {
            "number": np.arange(rows),
            "state": pa.array([[0.0] * 14] * rows, pa.list_(pa.float32())),
            "text": [
                f"a task of {i % 1000} among a thousand that are all told" for i in range(rows)
            ],
            "fixed": pa.array([b"12345678"] * rows, pa.binary(8)),
            "yes": pa.array([True, None] * (rows // 2)),
            "talk": pa.array([[{"who": "me", "says": "x" * 40}]] * rows),
        }
    )
    path = tmp_path / "x.parquet"
    options = {"compression": compression, "data_page_version": version}
    for more in ({}, {"use_dictionary": False}, {"row_group_size": 1000}):
        pq.write_table(table, path, **options, **more)
        check_source(pq.ParquetFile(path), path, "x")
        assert decode_rows(path.read_bytes(), "x", rows).num_rows == rows


def test_the_bound_is_no_smaller_than_what_arrow_makes(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([["x" * 1000] * 100] * 100)})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    assert table.nbytes < decoded_limit(path.stat().st_size)
    check_decoded(pq.ParquetFile(path), path.read_bytes(), "x")


def test_a_file_whose_pages_lie_elsewhere_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": range(1000)}), path)
    data = bytearray(path.read_bytes())
    for at in range(4, 60):
        broken = bytes(data[:at]) + b"\xff" + bytes(data[at + 1 :])
        path.write_bytes(broken)
        for read in (
            lambda: decode_rows(broken, "x", 1000),  # noqa: B023 - called at once
            lambda: check_source(pq.ParquetFile(path), path, "x"),
        ):
            try:
                read()
            except (FormatError, SourceError):
                continue


# -- What scales with the largest number -----------------------------------------------------------


def test_a_table_of_few_episodes_with_large_numbers_is_small() -> None:
    table = EpisodeTable(np.array([3, 999_999_999]), np.array([5, 7]))
    assert len(table) == 10**9
    assert table[3] == {
        "episode_index": 3, "length": 5, "dataset_from_index": 0, "dataset_to_index": 5,
    }  # fmt: skip
    assert table[500] == {
        "episode_index": 500, "length": 0, "dataset_from_index": 5, "dataset_to_index": 5,
    }  # fmt: skip
    assert table[-1]["dataset_to_index"] == 12
    with pytest.raises(OptionError, match="numbered up to 999999999"):
        table["length"]


def test_verifying_asks_whose_a_checksum_is_only_where_one_is_wrong(
    pusht_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "shards"
    convert(ConvertConfig(source=str(pusht_source), destination=str(root), workers=1))
    asked: list[str] = []
    real = shard.ShardCheck._owner_of
    monkeypatch.setattr(
        shard.ShardCheck, "_owner_of", lambda self, crc: asked.append(crc) or real(self, crc)
    )
    assert verify(VerifyConfig(url=str(root))).ok
    assert not asked
    manifest = json.loads((root / "shards/shard-000000.json").read_bytes())
    data = bytearray((root / "shards/shard-000000.tar").read_bytes())
    for sample in manifest["samples"]:
        data[sample["members"][1]["offset"] + 8] ^= 1
    (root / "shards/shard-000000.tar").write_bytes(data)
    assert not verify(VerifyConfig(url=str(root))).ok
    assert len(asked) == len(manifest["samples"])
    assert ShardedDataset.open(str(root)).manifest.total_episodes == 14


FORGED_FOOTERS = """
import sys
import pyarrow as pa, pyarrow.parquet as pq
from roboshard.shards import FormatError
from roboshard.shards.parquet_limits import check_decoded
data, outcomes = open(sys.argv[1], "rb").read(), {"read": 0, "refused": 0}
footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
for place in range(footer, len(data)):
    for value in (0, 1, 9, 21, 63, 128, 255):
        forged = data[:place] + bytes([value]) + data[place + 1 :]
        try:
            file = pq.ParquetFile(pa.BufferReader(forged))
            check_decoded(file, forged, "forged")
            file.read(use_threads=False)
            outcomes["read"] += 1
        except (FormatError, ValueError, OSError, pa.ArrowException):
            outcomes["refused"] += 1
print(outcomes["read"], outcomes["refused"])
"""


def test_no_footer_ends_the_process(tmp_path: Path) -> None:
    """PyArrow calls abort() where it is asked for a column that a footer contradicts."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": ["x", "y"] * 9, "b": range(18)}), path)
    command = [sys.executable, "-c", FORGED_FOOTERS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert read > 100
    assert refused > 1000
