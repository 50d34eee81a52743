"""The whole path on the Hub itself: a dataset repository in, a bucket out, an upload, a loader.

`make test-live`.

Makes a private dataset repository and a private bucket in the account of HF_TOKEN, and removes
both.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader
from roboshard.tools.upload import UploadConfig, upload

pytestmark = pytest.mark.skipif(
    os.environ.get("ROBOSHARD_LIVE") != "1", reason="run by `make test-live`"
)


@pytest.fixture
def account() -> str:
    from huggingface_hub import HfApi  # noqa: PLC0415 - only where it is run

    return str(HfApi().whoami()["name"])


@pytest.fixture
def repository(account: str, pusht_source: Path) -> Iterator[str]:
    """A private LeRobot dataset repository with the bundled data."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    api, name = HfApi(), f"{account}/roboshard-test-{secrets.token_hex(4)}"
    api.create_repo(name, repo_type="dataset", private=True)
    try:
        api.upload_folder(repo_id=name, repo_type="dataset", folder_path=str(pusht_source))
        yield name
    finally:
        api.delete_repo(name, repo_type="dataset")


@pytest.fixture
def bucket(account: str) -> Iterator[str]:
    from huggingface_hub import HfApi  # noqa: PLC0415

    api, name = HfApi(), f"{account}/roboshard-test-{secrets.token_hex(4)}"
    api.create_bucket(name, private=True)
    try:
        yield name
    finally:
        api.delete_bucket(name)


def test_from_a_repository_through_a_bucket_to_batches(
    repository: str, bucket: str, pusht_source: Path, tmp_path: Path
) -> None:
    local = tmp_path / "shards"
    convert(ConvertConfig(source=str(pusht_source), destination=str(local), shard_size="200KB"))
    remote = f"hf://buckets/{bucket}/converted"
    convert(ConvertConfig(source=repository, destination=remote, shard_size="200KB"))
    uploaded = f"hf://buckets/{bucket}/uploaded"
    upload(UploadConfig(source=str(local), destination=uploaded))
    assert not upload(UploadConfig(source=str(local), destination=uploaded)).files_sent
    expected = list(make_loader(str(local), batch_size=16, seed=3))
    for url in (remote, uploaded):
        found = list(make_loader(url, batch_size=16, seed=3, cache_dir=tmp_path / "cache"))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            assert all(
                torch.equal(one[key], other[key])
                if isinstance(one[key], torch.Tensor)
                else one[key] == other[key]
                for key in one
            )
