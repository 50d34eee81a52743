"""Datasets of the Hub as its own client keeps them on this machine: what is read where
HF_HUB_OFFLINE is set.
"""

from dataclasses import dataclass
from pathlib import Path

from roboshard.common.errors import MissingError
from roboshard.converter.source.files import LocalFiles
from roboshard.storage.hub.paths import HubPath, is_offline


@dataclass(frozen=True)
class CachedFiles(LocalFiles):
    """A snapshot in the cache of huggingface_hub; known by name and commit, as when it is read from
    the Hub.
    """

    dataset: str = ""
    """Owner, name, and the path inside the repository if there is one."""

    @property
    def name(self) -> str:
        """The dataset's name on the Hub."""
        return self.dataset

    def where(self, path: str = "") -> str:
        """The path in the cache, and why it is looked for there."""
        return f"{self.folder / path} (the Hub's cache, because HF_HUB_OFFLINE is set)"


def files_in_cache(url: str) -> CachedFiles | None:
    """The files of a Hub dataset as they lie in the cache, if nothing but the cache may be asked.

    Args:
        url: of any kind; None is returned for all but Hub datasets, and where HF_HUB_OFFLINE is not
            set.

    Raises:
        MissingError: the cache has nothing of the dataset.
    """
    if not url.startswith("hf://datasets/") or not is_offline():
        return None
    import huggingface_hub  # noqa: PLC0415 - only where the Hub is used
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    place = HubPath.of(url)
    try:
        snapshot = huggingface_hub.snapshot_download(
            place.id, repo_type="dataset", revision=place.revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        wanted = place.id + (f"@{place.revision}" if place.revision else "")
        raise MissingError(
            f"{wanted}: HF_HUB_OFFLINE is set, and the Hub's cache on this machine does not have "
            "this dataset; unset it, or fetch the dataset where there is a network: `hf download "
            f"--repo-type dataset {place.id}`"
        ) from None
    dataset = "/".join(filter(None, (place.id, place.path)))
    folder = Path(snapshot)
    return CachedFiles(folder=folder / place.path, revision=folder.name, dataset=dataset)
