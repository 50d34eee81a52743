"""An upload from start to end: the file to read first.

plan       verify the source, list the destination, decide         plan.py
create     the bucket or repository, where it is missing           storage.targets
withdraw   dataset.json, where what it lists is not or will not be there
send       shards with their manifests, in parallel, each seen to be there before it counts
finish     index, snapshots, card and picture; then dataset.json, last of all

Where a snapshot of the dataset is (growth.py), only what is new is sent, and its dataset.json stays
until the new one replaces it. At every moment the destination holds no dataset.json, or one whose
files are all there. So a run that was killed, at any moment, is continued by running it again: what
is there with the right content is not sent again.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from roboshard.common import interrupts
from roboshard.common.errors import OptionError
from roboshard.common.progress import Progress, progress_of
from roboshard.shards.names import DATASET_MANIFEST
from roboshard.storage import Upload, WritableStore
from roboshard.tools.upload.config import UploadConfig
from roboshard.tools.upload.plan import UploadPlan, check_shard, make_plan


@dataclass(frozen=True, kw_only=True)
class UploadReport:
    """What an upload did."""

    destination: str
    files_sent: int
    bytes_sent: int
    files_kept: int
    """How many files were there already, whole and right."""
    removed: tuple[str, ...]
    """Files of the dataset that was replaced."""
    unlisted: tuple[str, ...]
    """Files that are not the dataset's and were left alone."""
    notes: tuple[str, ...]


@interrupts.interruptible
def upload(config: UploadConfig) -> UploadReport:
    """Publish a finished local dataset. A killed run is continued by running it again.

    Args:
        config: the dataset, where it goes, and how.

    Returns:
        What was sent, what was there already, and what was removed.

    Raises:
        OptionError: options that cannot be used, or another dataset is there.
        MissingError, DamageError, FormatError: the source is not a whole, undamaged dataset.
        StorageError: the destination cannot be written; with URL, cause and remedy.

    Example:
        >>> config = UploadConfig(source="my_dataset_shards", destination="copy", card=False)
        >>> upload(config).files_sent > 0, upload(config).files_sent
        (True, 0)
    """
    if config.dry_run:
        raise OptionError("dry_run: `upload` sends; `make_plan` says what it would send")
    plan = make_plan(config)
    uploads = plan.uploads
    target = plan.target
    if uploads:
        target.create(private=config.private)
    if plan.withdraw:
        target.remove([DATASET_MANIFEST])
    target.remove(plan.remove)
    with progress_of(
        "sending", items=len(uploads), what="files", num_bytes=_num_bytes(uploads)
    ) as progress:
        _send_shards(plan, config.jobs, progress)
        for part in (plan.last, (plan.manifest,) if plan.manifest else ()):
            if part:
                interrupts.check()
                target.put(part)
                progress.add(_num_bytes(part), items=len(part))
    return UploadReport(
        destination=target.url,
        files_sent=len(uploads),
        bytes_sent=_num_bytes(uploads),
        files_kept=len(plan.kept),
        removed=plan.remove,
        unlisted=plan.unlisted,
        notes=plan.notes,
    )


def _send_shards(plan: UploadPlan, jobs: int, progress: Progress) -> None:
    """Check and send all shards; the first error stops what has not begun."""
    entries = {shard.name: shard for shard in plan.dataset.shards}

    def send(batch: Sequence[Upload]) -> Sequence[Upload]:
        checked = [
            check_shard(upload, entries[upload.path]) if upload.path in entries else upload
            for upload in batch
        ]
        plan.target.put(checked)
        return batch

    executor = interrupts.thread_pool(min(jobs, plan.target.max_jobs), "upload")
    try:
        futures: list[Future[Sequence[Upload]]] = [
            executor.submit(send, batch) for batch in _batches(plan)
        ]
        for future in interrupts.as_completed(futures):
            sent = future.result()
            progress.add(_num_bytes(sent), items=len(sent))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _batches(plan: UploadPlan) -> Iterator[list[Upload]]:
    """Yield shards with their manifests, as many together as the target gains from."""
    target: WritableStore = plan.target
    batch: list[Upload] = []
    for shard in plan.shards:
        files, size = len(batch) + len(shard), _num_bytes([*batch, *shard])
        if batch and (files > target.max_batch_files or size > target.max_batch_bytes):
            yield batch
            batch = []
        batch = [*batch, *shard]
    if batch:
        yield batch


def _num_bytes(uploads: Sequence[Upload]) -> int:
    return sum(upload.size for upload in uploads)
