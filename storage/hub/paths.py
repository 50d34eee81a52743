"""What an `hf://` URL names, and where the endpoint has it.

    hf://buckets/owner/name/path
    hf://datasets/owner/name[@revision]/path

The token is the one that huggingface_hub finds (`hf auth login`, HF_TOKEN), the endpoint too
(HF_ENDPOINT).
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from roboshard.common.errors import StorageError
from roboshard.storage.http.redirects import Address
from roboshard.storage.urls import redacted

_ID = r"[\w.-]{1,200}/[\w.-]{1,200}"
_BUCKET = re.compile(rf"hf://buckets/({_ID})(?:/(.*))?", re.ASCII | re.DOTALL)
_DATASET = re.compile(
    rf"hf://datasets/({_ID})(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(.*))?", re.ASCII | re.DOTALL
)


@dataclass(frozen=True)
class HubPath:
    """What an `hf://` URL names."""

    kind: str
    """Kind of the place: `buckets` or `datasets`."""
    id: str
    revision: str | None
    """Revision of a dataset; None where the URL has none."""
    path: str

    @classmethod
    def of(cls, url: str) -> "HubPath":
        """Parse an `hf://` URL. Raises StorageError for what is neither in a bucket nor in a
        dataset.
        """
        if match := _BUCKET.fullmatch(url):
            return cls("buckets", match[1], None, (match[2] or "").strip("/"))
        if match := _DATASET.fullmatch(url):
            revision = unquote(match[2]) if match[2] else None
            return cls("datasets", match[1], revision, (match[3] or "").strip("/"))
        raise StorageError(
            f"{redacted(url)}: expected hf://buckets/OWNER/NAME[/PATH] or "
            "hf://datasets/OWNER/NAME[@REVISION][/PATH]"
        )

    @property
    def is_bucket(self) -> bool:
        """Whether the place is in a bucket; else it is in a dataset."""
        return self.kind == "buckets"

    @property
    def resolve(self) -> str:
        """Path at which the endpoint has the file."""
        revision = "" if self.is_bucket else f"/{quoted(self.revision or 'main')}"
        return f"/{self.kind}/{self.id}/resolve{revision}/{quote(self.path)}"

    @property
    def tree(self) -> str:
        """Path and query at which the endpoint lists what is below the place."""
        path = f"/{quoted(self.path)}" if self.is_bucket else f"/{quote(self.path)}"
        revision = "" if self.is_bucket else f"/{quoted(self.revision or 'main')}"
        return (
            f"/api/{self.kind}/{self.id}/tree{revision}{path if self.path else ''}?recursive=true"
        )


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the Hub."""
    from huggingface_hub import constants  # noqa: PLC0415 - only where the Hub is used

    return bool(constants.HF_HUB_OFFLINE)


def refuse_offline(url: str) -> None:
    """Raise StorageError at once where no reply would ever come."""
    if is_offline():
        raise StorageError(
            f"{redacted(url)}: HF_HUB_OFFLINE is set, so that the Hub is not asked; unset it, or "
            "give the path of a copy on this machine"
        )


def at_endpoint(path: str) -> Address:
    """What to ask of the endpoint, with the token that goes there and nowhere else."""
    import huggingface_hub  # noqa: PLC0415 - only where the Hub is used
    from huggingface_hub import constants  # noqa: PLC0415

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else huggingface_hub.get_token()
    return Address(
        constants.ENDPOINT.rstrip("/") + path,
        f"Bearer {token}" if token else None,
        "it is private or does not exist: check the name, log in by `hf auth login` or set "
        "HF_TOKEN to a token that may read it",
    )


def quoted(text: str) -> str:
    """A revision or a path as one part of a URL's path."""
    return quote(text, safe="")
