"""A folder of a run's own for what is on its way, which no killed run leaves for long."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from roboshard.common import interrupts
from roboshard.common.errors import StorageError
from roboshard.storage.held_folder import make_held_folder

WORK_PREFIX = "roboshard-shards-"


@contextmanager
def work_folder(base: str | None) -> Iterator[Path]:
    """A folder for the shards on their way, removed at the end; what killed runs left of theirs is
    removed first.

    Held by a lock that goes with the process, which is how a killed run's is told.
    """
    root = Path(base or tempfile.gettempdir())
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder, descriptor = make_held_folder(root, WORK_PREFIX)
    except OSError as error:
        raise StorageError(
            f"{root}: no folder for shards can be made there: {error.strerror}"
        ) from error
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    try:
        with interrupts.removed_at_exit(remove):
            yield folder
    finally:
        remove()
        os.close(descriptor)
