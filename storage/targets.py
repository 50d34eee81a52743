"""Writing by URL: which kind of target serves one.

A target lists what is there, sends files and says that they are there only after it has seen them: see
`targets_base`. Hub buckets and dataset repositories are in `targets_hub`, all others in `targets_files`.
"""

from roboshard.common.errors import OptionError
from roboshard.storage.targets_base import (
    RemoteFile,
    Target,
    TransientError,
    Upload,
    sha256_of,
)
from roboshard.storage.targets_files import FsspecTarget, LocalTarget
from roboshard.storage.urls import is_local, redacted

__all__ = ["RemoteFile", "Target", "TransientError", "Upload", "sha256_of", "target_of"]


def target_of(url: str) -> Target:
    """The target behind a URL; nothing is connected to. Raises OptionError for what cannot be written to."""
    if is_local(url):
        return LocalTarget(url)
    if url.startswith("hf://"):
        from roboshard.storage.targets_hub import BucketTarget, DatasetRepoTarget  # noqa: PLC0415 - slow

        return DatasetRepoTarget(url) if url.startswith("hf://datasets/") else BucketTarget(url)
    if url.startswith(("http://", "https://", "pipe:")) or "?" in url or "#" in url:
        raise OptionError(
            f"{redacted(url)}: cannot be written to; give a folder, hf://, s3://, gs:// or such a URL"
        )
    return FsspecTarget(url)
