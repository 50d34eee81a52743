"""A verification from start to end: the file to read first.

manifest   dataset.json, its fingerprint and consistency       here
files      what lies there and is not listed                   here
index      episodes.parquet, row by row against the manifests  index.py
snapshots  of a dataset that has grown: what it was            snapshots.py
shards     in threads: manifest, size, SHA-256, every sample   shard.py -> layout.py
↳ bytes    CRC32C of ranges and members, tar headers           checksums.py
↳ episode  record                                              episode.py
           rows, slices, decoded frames                        rows.py, slices.py, frames.py
↳ source   every row and packet, where a source is given       source.py -> packets.py, tables.py

Nothing that is found ends the run: problems.py collects it. A thread holds one sample at a time.
"""

import json
import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.common.errors import (
    DamageError,
    MissingError,
    OptionError,
    RoboshardError,
    StorageError,
)
from roboshard.common.progress import progress_of
from roboshard.common.selection import some
from roboshard.shards.index import MAX_INDEX_BYTES
from roboshard.shards.locate import locate
from roboshard.shards.manifest import load_dataset_manifest, load_index
from roboshard.shards.misplaced import what_instead
from roboshard.shards.names import (
    DATASET_MANIFEST,
    LEROBOT_FOLDER,
    SHARD_FOLDER,
    SKIPPED_REPORT,
)
from roboshard.shards.problems import name_problems
from roboshard.shards.schema import MAX_MANIFEST_BYTES, DatasetManifest, parse
from roboshard.tools.verify.config import VerifyConfig
from roboshard.tools.verify.episode import Expected
from roboshard.tools.verify.index import IndexRows
from roboshard.tools.verify.problems import (
    COPY_AGAIN,
    READ_AGAIN,
    REBUILD,
    Place,
    Problem,
    Problems,
)
from roboshard.tools.verify.shard import Checked, Dataset, ShardCheck, ShardTask
from roboshard.tools.verify.snapshots import expected_of, generation_of

if TYPE_CHECKING:
    from roboshard.tools.verify.source import SourceComparison


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a verification found."""

    url: str
    fingerprint: str | None
    """Fingerprint of the dataset; None where dataset.json cannot be read."""
    shards: int
    episodes: int
    """How many episodes were read and checked."""
    total_episodes: int
    num_bytes: int
    """How many bytes of shards were read."""
    num_problems: int
    problems: tuple[Problem, ...]
    """The first ten thousand problems."""
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with the dataset."""
        return not self.num_problems

    def as_json(self) -> bytes:
        """Return the report as a JSON document."""
        return (
            json.dumps({"ok": self.ok, **asdict(self)}, ensure_ascii=False, indent=2) + "\n"
        ).encode()


@interrupts.interruptible
def verify(config: VerifyConfig) -> VerifyReport:
    """Find everything that is wrong with a dataset.

    Args:
        config: the dataset, how closely to look, and the source to compare it with.

    Returns:
        What is wrong; `report.ok` says whether anything is.

    Raises:
        OptionError: options that cannot be used.
        StorageError: the place cannot be reached at all.
        MissingError, SourceError: the source to compare with cannot be opened.

    Example:
        >>> verify(VerifyConfig(url="my_dataset_shards", against="my_dataset")).ok
        True
    """
    report = _verify(config)
    if config.report is not None:
        storage.write_bytes(config.report, report.as_json())
    return report


def _verify(config: VerifyConfig) -> VerifyReport:
    root, names = locate(config.url)
    root = storage.pinned(root)
    problems, notes = Problems(), list[str]()
    manifest = _dataset_manifest(root, problems)
    if manifest is None:
        return _report(root, None, [], problems, notes)
    _check_names(manifest, names)
    _check_files(root, manifest, problems, notes)
    dataset = Dataset(root=root, index=_index(root, manifest, problems), problems=problems)
    tasks = list(_tasks(manifest, names, config, expected_of(root, manifest, config, problems)))
    if config.against is None:
        checked = _check_shards(tasks, dataset, None, config.jobs)
    else:
        from roboshard.tools.verify.source import SourceComparison  # noqa: PLC0415 - brings the converter

        with closing(SourceComparison(config.against, manifest)) as source:
            source.check_dataset(Place(problems=problems, file=DATASET_MANIFEST))
            checked = _check_shards(tasks, dataset, source, config.jobs if source.is_local else 1)
            if names is None:
                _check_complete(root, manifest, source, checked, problems)
    notes += _of_missing(problems.missing, manifest)
    return _report(root, manifest, checked, problems, notes)


def _of_missing(missing: dict[str, int], manifest: DatasetManifest) -> list[str]:
    """Return a note on values that rows lack: loading asks what to do about them."""
    if not missing:
        return []
    told = some([f"{key!r} in {count} rows" for key, count in missing.items()], 10)
    known = missing.keys() <= manifest.missing.keys()
    rebuild = (
        "" if known else "; dataset.json does not say so yet: `roboshard rebuild` writes it there"
    )
    remedy = 'load with on_missing="drop" or "fill", or by number, where None stands for them'
    return [f"values are missing: {told}; {remedy}{rebuild}"]


def _report(
    root: str,
    manifest: DatasetManifest | None,
    checked: list[Checked],
    problems: Problems,
    notes: list[str],
) -> VerifyReport:
    return VerifyReport(
        url=storage.redacted(root),
        fingerprint=None if manifest is None else manifest.fingerprint,
        shards=len(checked),
        episodes=sum(shard.read for shard in checked),
        total_episodes=manifest.total_episodes if manifest else 0,
        num_bytes=sum(shard.num_bytes for shard in checked),
        num_problems=problems.count,
        problems=problems.sorted(),
        notes=tuple(notes),
    )


def _dataset_manifest(root: str, problems: Problems) -> DatasetManifest | None:
    """Return dataset.json, even one that was altered, as long as it can be parsed and names no file
    that it may not.
    """
    place = Place(problems=problems, file=DATASET_MANIFEST)
    try:
        return load_dataset_manifest(root)
    except StorageError:
        raise
    except MissingError:
        place.report("no such file", what_instead(root))
        return None
    except RoboshardError as error:
        place.report_error(error, REBUILD)
    try:
        data = storage.read_all(storage.join(root, DATASET_MANIFEST), MAX_MANIFEST_BYTES)
        manifest = parse(DatasetManifest, data, DATASET_MANIFEST, MAX_MANIFEST_BYTES)
    except RoboshardError:
        return None
    return None if name_problems(manifest) else manifest


def _check_names(manifest: DatasetManifest, names: Collection[str] | None) -> None:
    unknown = sorted(set(names or ()) - {shard.name for shard in manifest.shards})
    if unknown:
        raise OptionError(f"{DATASET_MANIFEST} does not list {some(unknown)}")


def _check_files(
    root: str, manifest: DatasetManifest, problems: Problems, notes: list[str]
) -> None:
    """Report files that nothing lists: among the shards others would read them; beside them they do
    no harm.
    """
    try:
        there = storage.list_files(root)
    except RoboshardError as error:
        notes.append(f"files that dataset.json does not list could not be looked for: {error}")
        return
    listed = {DATASET_MANIFEST, manifest.index.name, SKIPPED_REPORT, "README.md"}
    for snapshot in manifest.snapshots:
        listed |= {snapshot.manifest.name, snapshot.index.name}
    listed |= {name for shard in manifest.shards for name in (shard.name, shard.manifest.name)}
    others = sorted(there.keys() - listed)
    for path in others:
        if path.startswith(f"{SHARD_FOLDER}/"):
            remedy = "remove it: readers that take every file in shards/ would read it"
            Place(problems=problems, file=path).report("not listed in dataset.json", remedy)
    known = (f"{SHARD_FOLDER}/", f"{LEROBOT_FOLDER}/")
    beside = [path for path in others if not path.startswith(known)]
    if beside:
        notes.append(f"{len(beside)} files are not of the dataset: {some(beside)}")


def _index(root: str, manifest: DatasetManifest, problems: Problems) -> IndexRows | None:
    name = manifest.index.name
    place = Place(problems=problems, file=name)
    try:
        return IndexRows(load_index(root, manifest, MAX_INDEX_BYTES), manifest, name)
    except RoboshardError as error:
        unread = isinstance(error, StorageError)
        lost = isinstance(error, MissingError | DamageError)
        place.report_error(error, READ_AGAIN if unread else COPY_AGAIN if lost else REBUILD)
        return None


def _tasks(
    manifest: DatasetManifest,
    names: Collection[str] | None,
    config: VerifyConfig,
    generations: Sequence[Expected],
) -> Iterator[ShardTask]:
    """Yield a task per shard, with the samples of it that were drawn if not all are wanted."""
    shards = [
        (i, entry)
        for i, entry in enumerate(manifest.shards)
        if names is None or entry.name in names
    ]
    drawn = (
        None if config.sample is None else _draw([entry.episodes for _, entry in shards], config)
    )
    for position, (number, entry) in enumerate(shards):
        yield ShardTask(
            number=number,
            entry=entry,
            chosen=None if drawn is None else drawn[position],
            expected=generations[generation_of(manifest, number)],
        )


def _draw(counts: list[int], config: VerifyConfig) -> defaultdict[int, set[int]]:
    """Return shard -> its drawn samples, by their places: as many as wanted over all shards."""
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if counts else 0
    chosen = random.Random(config.seed).sample(range(total), min(total, config.sample or 0))  # noqa: S311 - no secret
    drawn: defaultdict[int, set[int]] = defaultdict(set)
    for number in chosen:
        shard = int(np.searchsorted(ends, number, side="right"))
        drawn[shard].add(number - int(ends[shard]) + counts[shard])
    return drawn


def _check_shards(
    tasks: list[ShardTask], dataset: Dataset, source: "SourceComparison | None", jobs: int
) -> list[Checked]:
    def check(task: ShardTask) -> Checked:
        with source.reader() if source else nullcontext() as reader:
            return ShardCheck(task, dataset, reader, count).run()

    def count(num_bytes: int) -> None:
        interrupts.check()
        progress.add(num_bytes)

    share = [
        1.0 if task.chosen is None else len(task.chosen) / task.entry.episodes for task in tasks
    ]
    num_bytes = int(sum(part * task.entry.size for part, task in zip(share, tasks, strict=True)))
    with (
        progress_of("verifying", items=len(tasks), what="shards", num_bytes=num_bytes) as progress,
        interrupts.thread_pool(jobs, "verify") as threads,
    ):
        futures = [threads.submit(check, task) for task in tasks]
        try:
            for future in interrupts.as_completed(futures):
                future.result()
                progress.add(items=1)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _check_complete(
    root: str,
    manifest: DatasetManifest,
    source: "SourceComparison",
    checked: list[Checked],
    problems: Problems,
) -> None:
    """Report episodes of the source that are not here, unless some were chosen or skipped."""
    options = manifest.conversion.options
    if any(options.get(name) is not None for name in ("episodes", "exclude_episodes", "tasks")):
        return
    here = {episode for shard in checked for episode in shard.episodes}
    missing = [episode for episode in source.missing(here) if episode not in _skipped(root)]
    if missing:
        Place(problems=problems, file=DATASET_MANIFEST).report(
            f"{len(missing)} episodes of the source are not here: {some(missing)}",
            "convert the source again",
        )


def _skipped(root: str) -> set[int]:
    """Return the episodes that the conversion left out, as it reported."""
    try:
        data = storage.read_all(storage.join(root, SKIPPED_REPORT), MAX_MANIFEST_BYTES)
        listed = jsonio.load(data, SKIPPED_REPORT, MAX_MANIFEST_BYTES).get("skipped")
    except RoboshardError:
        return set()
    entries = listed if isinstance(listed, list) else []
    return {
        entry["episode_index"]
        for entry in entries
        if isinstance(entry, dict) and "episode_index" in entry
    }
