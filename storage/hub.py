"""The Hugging Face Hub by `hf://` URLs: buckets, and datasets at a revision, read by plain HTTP ranges.

    hf://buckets/owner/name/path
    hf://datasets/owner/name[@revision]/path

The token is the one that huggingface_hub finds (`hf auth login`, HF_TOKEN), the endpoint too (HF_ENDPOINT).
"""

import json
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin

from roboshard.common.errors import MissingError, StorageError
from roboshard.storage.http import HttpStorage, fetch
from roboshard.storage.redirects import Address, origin
from roboshard.storage.retry import Patience
from roboshard.storage.urls import redacted

MAX_PAGE_BYTES = 64 << 20
MAX_INFO_BYTES = 64 << 20
MAX_PAGES = 100_000
_ID = r"[\w.-]{1,200}/[\w.-]{1,200}"
_BUCKET = re.compile(rf"hf://buckets/({_ID})(?:/(.*))?", re.ASCII | re.DOTALL)
_DATASET = re.compile(
    rf"hf://datasets/({_ID})(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(.*))?", re.ASCII | re.DOTALL
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="?next"?')


@dataclass(frozen=True)
class HubPath:
    """What an `hf://` URL names."""

    kind: str
    """`buckets` or `datasets`."""
    id: str
    revision: str | None
    """Of a dataset; None where the URL has none."""
    path: str

    @classmethod
    def of(cls, url: str) -> "HubPath":
        """Raises StorageError for what is neither in a bucket nor in a dataset."""
        if match := _BUCKET.fullmatch(url):
            return cls("buckets", match[1], None, (match[2] or "").strip("/"))
        if match := _DATASET.fullmatch(url):
            revision = unquote(match[2]) if match[2] else None
            return cls("datasets", match[1], revision, (match[3] or "").strip("/"))
        raise StorageError(
            f"{redacted(url)}: expected hf://buckets/OWNER/NAME[/PATH] or hf://datasets/OWNER/NAME[@REVISION][/PATH]"
        )

    @property
    def resolve(self) -> str:
        """Where the endpoint has the file."""
        revision = "" if self.kind == "buckets" else f"/{_quoted(self.revision or 'main')}"
        return f"/{self.kind}/{self.id}/resolve{revision}/{quote(self.path)}"

    @property
    def tree(self) -> str:
        """Where the endpoint lists what is below."""
        path = f"/{_quoted(self.path)}" if self.kind == "buckets" else f"/{quote(self.path)}"
        revision = "" if self.kind == "buckets" else f"/{_quoted(self.revision or 'main')}"
        return (
            f"/api/{self.kind}/{self.id}/tree{revision}{path if self.path else ''}?recursive=true"
        )


class HubStorage(HttpStorage):
    """Files of the Hub. The token goes to the endpoint alone, never to the storage host it redirects to."""

    def address(self, url: str) -> Address:
        """Where the endpoint resolves a file."""
        _refuse_offline(url)
        return _at_endpoint(HubPath.of(url).resolve)

    def list_files(self, url: str, *, patience: Patience) -> dict[str, int]:
        """Size in bytes of every file under a folder, by path relative to it; hidden files do not count."""
        _refuse_offline(url)
        place = HubPath.of(url)
        address = _at_endpoint(place.tree)
        files: dict[str, int] = {}
        for _ in range(MAX_PAGES):
            data, headers = fetch(url, address, MAX_PAGE_BYTES, patience)
            files |= _files_of(url, data, f"{place.path}/" if place.path else "")
            link = _NEXT.search(
                {name.lower(): value for name, value in headers.items()}.get("link", "")
            )
            following = "" if link is None else urljoin(address.url, link[1])
            if origin(following) != origin(address.url) or following == address.url:
                break
            address = Address(following, address.authorization, address.remedy)
        if not files and place.path:
            raise MissingError(f"{redacted(url)}: no such folder")
        return dict(sorted(files.items()))


def pinned(url: str, *, patience: Patience) -> str:
    """The URL with the commit that its revision means now, so that it cannot change while it is read.

    URLs of anything else than Hub datasets, and those that name a commit, are returned as they are.
    """
    if not url.startswith("hf://datasets/"):
        return url
    place = HubPath.of(url)
    if place.revision is not None and _COMMIT.fullmatch(place.revision):
        return url
    _refuse_offline(url)
    api = _at_endpoint(f"/api/datasets/{place.id}/revision/{_quoted(place.revision or 'main')}")
    data, _ = fetch(url, api, MAX_INFO_BYTES, patience)
    answer = _json(url, data)
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise StorageError(f"{redacted(url)}: the Hub does not say which commit that is")
    return f"hf://datasets/{place.id}@{commit}" + (f"/{place.path}" if place.path else "")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the Hub."""
    from huggingface_hub import constants  # noqa: PLC0415 - only where the Hub is used

    return bool(constants.HF_HUB_OFFLINE)


def _refuse_offline(url: str) -> None:
    """Raise StorageError at once where no reply would ever come."""
    if is_offline():
        raise StorageError(
            f"{redacted(url)}: HF_HUB_OFFLINE is set, so that the Hub is not asked; unset it, or give the path of a "
            "copy on this machine"
        )


def place_of(url: str) -> str:
    """Return what an `hf://` URL names: endpoint, repository, revision and path."""
    place = HubPath.of(url)
    return _at_endpoint(place.resolve).url


def _at_endpoint(path: str) -> Address:
    import huggingface_hub  # noqa: PLC0415 - only where the Hub is used
    from huggingface_hub import constants  # noqa: PLC0415

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else huggingface_hub.get_token()
    return Address(
        constants.ENDPOINT.rstrip("/") + path,
        f"Bearer {token}" if token else None,
        "it is private or does not exist: check the name, log in by `hf auth login` or set HF_TOKEN to a token that "
        "may read it",
    )


def _files_of(url: str, data: bytes, prefix: str) -> dict[str, int]:
    """The files on one page of a listing."""
    page = _json(url, data)
    if not isinstance(page, list):
        raise StorageError(f"{redacted(url)}: the Hub's listing is none")
    files = {}
    for entry in page:
        kind, path, size = (entry.get(name) for name in ("type", "path", "size"))
        if (
            kind == "file"
            and isinstance(path, str)
            and isinstance(size, int)
            and path.startswith(prefix)
        ):
            name = path.removeprefix(prefix)
            if not name.rpartition("/")[2].startswith("."):
                files[name] = size
    return files


def _json(url: str, data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise StorageError(f"{redacted(url)}: the Hub's answer is not JSON") from None


def _quoted(text: str) -> str:
    return quote(text, safe="")
