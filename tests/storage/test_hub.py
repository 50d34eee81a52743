"""hf:// URLs: what the Hub is asked for, with whose token, and what is made of its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.servers import LocalHub

from roboshard import storage
from roboshard.common.errors import MissingError, StorageError
from roboshard.shards import ShardedDataset
from roboshard.storage import RetryPolicy
from roboshard.storage.hub.paths import HubPath

pytest_plugins = ["support.servers.fixtures"]

CONTENT = bytes(range(256)) * 1000
BRIEF = RetryPolicy(connect_s=1, stall_s=1, retry_s=0.3)
ODD = "shards/ä b#%20?.tar"


@pytest.fixture
def roots(this_hub: LocalHub, tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """The same private files in a bucket, on a dataset's main branch, on another one, and at a
    commit.
    """
    folder, name = tmp_path / "files", f"x{abs(hash(request.node.name))}"
    for path, data in {
        "dataset.json": b"{}",
        ODD: CONTENT,
        ".gitattributes": b"*",
        "more/y": b"y",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    this_hub.add_bucket(f"me/{name}", private=True)
    this_hub.add_bucket_folder(f"me/{name}", folder, "sub/folder")
    this_hub.add_dataset(f"me/{name}", folder, private=True)
    commit = this_hub.add_dataset(f"me/{name}", folder, "other", private=True)
    return [
        f"hf://buckets/me/{name}/sub/folder",
        f"hf://datasets/me/{name}",
        f"hf://datasets/me/{name}@other",
        f"hf://datasets/me/{name}@{commit}",
    ]


def test_ranges_files_sizes_and_listings_of_buckets_and_datasets(
    this_hub: LocalHub, roots: list[str]
) -> None:
    this_hub.configure(page_size=1)
    for root in roots:
        url = storage.join(root, ODD)
        assert storage.read_range(url, 1000, 5000, total=len(CONTENT)) == CONTENT[1000:6000]
        assert storage.read_all(storage.join(root, "dataset.json"), 10) == b"{}"
        assert storage.size(url) == len(CONTENT)
        assert storage.list_files(root) == {"dataset.json": 2, "more/y": 1, ODD: len(CONTENT)}
        assert storage.list_files(f"{root}/more/") == {"y": 1}
    assert not this_hub.token_leaks
    assert all(
        request.authorized for request in this_hub.requests if not request.path.startswith("/cdn/")
    )


def test_a_url_is_resolved_once_and_again_when_its_link_expires(
    this_hub: LocalHub, roots: list[str]
) -> None:
    this_hub.configure(link_uses=3)
    for _ in range(5):
        assert storage.read_range(f"{roots[0]}/{ODD}", 7, 70) == CONTENT[7:77]
    assert [request.status for request in this_hub.requests] == [
        302,
        206,
        206,
        206,
        403,
        302,
        206,
        206,
    ]
    assert not this_hub.token_leaks


@pytest.mark.parametrize("pattern", ["/resolve/", "^/cdn/"])
@pytest.mark.parametrize(
    ("kind", "args"), [("status", {"code": 429}), ("drop", {}), ("truncate", {})]
)
def test_faults_of_both_hosts_are_survived(
    this_hub: LocalHub, roots: list[str], pattern: str, kind: str, args: dict[str, int]
) -> None:
    this_hub.fault(kind, pattern, **args)
    assert storage.read_range(f"{roots[0]}/{ODD}", 0, len(CONTENT)) == CONTENT
    assert not this_hub.token_leaks


def test_links_that_are_expired_as_they_come_end_in_an_error(
    this_hub: LocalHub, roots: list[str]
) -> None:
    this_hub.configure(link_seconds=-1)
    with pytest.raises(StorageError, match=r"access is refused \(HTTP 403\)"):
        storage.read_range(f"{roots[0]}/{ODD}", 0, 10, policy=BRIEF)


def test_a_branch_is_pinned_to_its_commit(
    this_hub: LocalHub, roots: list[str], tmp_path: Path
) -> None:
    bucket, main, branch, commit = roots
    for same in (bucket, commit, str(tmp_path), "http://h/x", "s3://b/x"):
        assert storage.pinned(same) == same
    assert storage.pinned(branch) == commit
    pinned = storage.pinned(f"{main}/more")
    assert pinned.endswith("/more")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/z").write_bytes(b"z")
    this_hub.add_dataset(main.removeprefix("hf://datasets/"), tmp_path / "new")
    assert storage.list_files(pinned) == {"y": 1}
    assert storage.list_files(main) == {"z": 1}


def test_a_dataset_is_opened_at_one_commit(
    this_hub: LocalHub, pusht_shards: Path, tmp_path: Path
) -> None:
    commit = this_hub.add_dataset("me/pusht", pusht_shards)
    dataset = ShardedDataset.open("hf://datasets/me/pusht")
    assert dataset.root == f"hf://datasets/me/pusht@{commit}"
    (tmp_path / "other").write_bytes(b"")
    this_hub.add_dataset("me/pusht", tmp_path)
    here = ShardedDataset.open(str(pusht_shards))
    assert dataset.read_episode(3).videos == here.read_episode(3).videos


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "hf://datasets/me/nothing/x",
            r"me/nothing/x: no such repository \(HTTP 404, RepoNotFound\)",
        ),
        ("{main}@none/x", r"@none/x: no such revision \(HTTP 404, RevisionNotFound\)"),
        ("{main}/none", r"/none: no such file \(HTTP 404, EntryNotFound\)"),
        ("{bucket}/none", "/none: no such"),
    ],
)
def test_what_is_not_there_is_missing(roots: list[str], url: str, message: str) -> None:
    place = url.format(bucket=roots[0], main=roots[1])
    for ask in (storage.size, storage.list_files):
        with pytest.raises(MissingError, match=message if ask is storage.size else "no such"):
            ask(place)


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), (LocalHub.strangers_token, 403), ("hf_hunter2", 401)]
)
def test_a_token_that_may_not_read_is_said_and_never_shown(
    this_hub: LocalHub,
    roots: list[str],
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    status: int,
) -> None:
    this_hub.use(monkeypatch, token=token)
    for root in roots[:2]:
        for ask in (storage.size, storage.list_files, lambda url: storage.read_range(url, 0, 1)):
            with pytest.raises(
                StorageError, match=rf"\(HTTP {status}.*hf auth login.*HF_TOKEN"
            ) as caught:
                ask(f"{root}/dataset.json")
            assert token is None or token not in repr(caught.value)


@pytest.mark.parametrize(
    "url", ["hf://o/n/x", "hf://models/o/n", "hf://datasets/o", "hf://buckets/o", "hf://"]
)
def test_other_forms_are_refused_with_the_right_ones(url: str) -> None:
    with pytest.raises(
        StorageError, match=r"expected hf://buckets/OWNER/NAME\[/PATH\] or hf://datasets"
    ):
        storage.size(url)


NAMES = st.text("abz09-_.", min_size=1, max_size=9)


@given(
    NAMES,
    NAMES,
    st.none() | NAMES | st.sampled_from(["refs/pr/7", "refs/convert/parquet"]),
    st.lists(NAMES, max_size=3),
)
def test_a_dataset_url_is_taken_apart(
    owner: str, name: str, revision: str | None, path: list[str]
) -> None:
    url = "/".join([f"hf://datasets/{owner}/{name}" + (f"@{revision}" if revision else ""), *path])
    assert HubPath.of(url) == HubPath("datasets", f"{owner}/{name}", revision, "/".join(path))
    assert HubPath.of("hf://datasets/o/n@a%2Fb/x").resolve == "/datasets/o/n/resolve/a%2Fb/x"
    assert HubPath.of(f"hf://buckets/{owner}/{name}/x@y").path == "x@y"
