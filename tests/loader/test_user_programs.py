"""Programs as people write them: no guard around their main part, functions of their own, standard
input.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.lerobot_source import Camera, Source, build
from torch.utils.data import DataLoader

from roboshard.loader import make_loader

LOADS = """
import sys

import torch

from roboshard.loader import make_loader


class Inverted(torch.nn.Module):
    def forward(self, picture):
        assert "pandas" not in sys.modules
        return 255 - picture


class Refused(Exception):
    pass


def refuse(picture):
    raise Refused("no picture is good enough")


def keys_and_sums(**options):
    loader = make_loader(sys.argv[1], episodes=[0, 1, 2], batch_size=4, seed=1, **options)
    found = [(batch["index"].tolist(), int(batch["observation.image"].sum())) for batch in loader]
    loader.close()
    return found


factor = 2
for transform in (Inverted(), lambda picture: picture // factor):
    expected = keys_and_sums(image_transforms=transform)
    assert keys_and_sums(image_transforms=transform, num_workers=1) == expected
try:
    keys_and_sums(image_transforms=refuse, num_workers=1)
except RuntimeError as error:
    assert str(error) == "Refused: no picture is good enough", error
    assert "in refuse" in error.__notes__[0], "the worker's traceback"
else:
    raise AssertionError("it was not raised")
assert "pandas" not in sys.modules, "which takes a third of a second, in workers too"
print("whole")
"""
PLAYS = """
import sys

from roboshard.loader import make_loader


def played():
    loader = make_loader(
        sys.argv[1],
        batch_size=128,
        num_workers=2,
        decode_threads=2,
        frame_order="sweep",
        return_uint8=False,
    )
    for _ in range(2):
        for batch in loader:
            pass
    return loader


played().close()
left = played()
print("whole")
"""
ENDS = """
import sys
from threading import Event, Thread

from roboshard.loader import make_loader

if __name__ == "__main__":
    loader = make_loader(sys.argv[1], batch_size=4, num_workers=int(sys.argv[2]))
    begun = Event()

    def play():
        while True:
            for _ in loader:
                begun.set()

    Thread(target=play, daemon=True).start()
    begun.wait()
    print("whole")
"""
ENDS_AS_WORKERS_START = """
import sys
from operator import methodcaller
from threading import Event, Thread

from roboshard.loader import make_loader


class Cloned:
    def __call__(self, picture):
        return picture.clone()

    def __reduce__(self):  # for a worker that is being started
        is_sent.set()
        return methodcaller, ("clone",)


is_sent = Event()
if __name__ == "__main__":
    loader = make_loader(sys.argv[1], batch_size=4, num_workers=2, image_transforms=Cloned())
    Thread(target=list, args=(loader,), daemon=True).start()
    is_sent.wait()
    print("whole")
"""
CONVERTS = """
import sys

from roboshard.converter import ConvertConfig, convert

config = ConvertConfig(source=sys.argv[1], destination=sys.argv[2], shard_size="64KB", workers=2)
print(convert(config).shards)
"""


def said_by(program: Path | None, text: str, *args: Path | str) -> str:
    """Run a program, from its file or from standard input, to its good end."""
    command = [sys.executable, "-" if program is None else str(program), *map(str, args)]
    if program is not None:
        program.write_text(text)
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    return done.stdout


def test_workers_do_not_run_the_program_again(pusht_shards: Path) -> None:
    """And have what it defines: classes, functions, a lambda with what it refers to."""
    assert said_by(None, LOADS, pusht_shards) == "whole\n"


def test_workers_that_have_begun_the_next_epoch_end_quietly(
    pusht_shards: Path, tmp_path: Path
) -> None:
    """Which they do after two in a row: with `close`, and with the program."""
    assert said_by(tmp_path / "program.py", PLAYS, pusht_shards) == "whole\n"


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_a_program_ends_quietly_while_a_daemon_thread_loads(
    pusht_shards: Path, tmp_path: Path, num_workers: str
) -> None:
    assert said_by(tmp_path / "program.py", ENDS, pusht_shards, num_workers) == "whole\n"


def test_a_program_ends_quietly_while_a_daemon_thread_starts_workers(
    pusht_shards: Path, tmp_path: Path
) -> None:
    assert said_by(tmp_path / "program.py", ENDS_AS_WORKERS_START, pusht_shards) == "whole\n"


def test_a_conversion_needs_no_guard_either(tmp_path: Path) -> None:
    cameras = (Camera(key="observation.images.top"),)
    build(tmp_path / "source", Source(lengths=(5, 5, 5), cameras=cameras, state_dim=160))
    args = tmp_path / "source", tmp_path / "shards"
    assert said_by(tmp_path / "program.py", CONVERTS, *args) == "3\n"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_data_loader_around_the_loader_is_told_what_to_do_instead(
    pusht_shards: Path, num_workers: int
) -> None:
    around = DataLoader(make_loader(str(pusht_shards)), batch_size=None, num_workers=num_workers)
    with pytest.raises(TypeError, match=r"for batch in loader.*num_workers.*open_dataset"):
        next(iter(around))
