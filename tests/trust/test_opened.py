"""Loading and verifying hostile datasets opens the dataset and nothing else: no socket, process or
other file.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support.damage import Forgery
from support.fuzz import FAMILIES, Bases

WATCHED = """
import os, sys, threading
import roboshard.loader, roboshard.tools.verify
from roboshard.tools.verify import VerifyConfig, verify
from roboshard.loader import open_dataset
from roboshard.shards import RoboshardError
from support.fuzz import samples

honest, roots = sys.argv[1], sys.argv[2:]
samples(honest)  # what libraries open once, as they are first used, they open now
verify(VerifyConfig(url=honest))
allowed = tuple(os.path.realpath(root) + "/" for root in roots)
modules = [os.path.realpath(path) for path in (*sys.path[1:], sys.prefix, sys.base_prefix) if path]
system = ("/proc/", "/dev/null", "/dev/urandom", "/sys/", *modules)
broken = []

def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.system", "os.fork", "urllib.",
                         "ctypes.dlopen", "pty.", "ftplib.", "http.client")):
        if args != (None,):  # a look into this very process
            broken.append(f"{event} {args!r}")
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(args[0]))
        if not (path + "/").startswith(allowed) and not path.startswith(system):
            broken.append(f"open {path}")
    if event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"):
        broken.append(f"{event} {args!r}")

# Libraries in C raise no audit events: what they hold open is looked at meanwhile.
done = threading.Event()
def look():
    while not done.wait(0.002):
        for name in os.listdir("/proc/self/fd"):
            try:
                path = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue
            if path.startswith("socket:") and path not in before:
                broken.append(path)
            elif path.startswith("/") and not (path + "/").startswith(allowed) and not path.startswith(system):
                if path not in before:
                    broken.append(f"held open: {path}")
before = set()
for name in os.listdir("/proc/self/fd"):
    if os.path.exists(f"/proc/self/fd/{name}"):
        before.add(os.readlink(f"/proc/self/fd/{name}"))
sys.addaudithook(watch)
looker = threading.Thread(target=look)
looker.start()
outcomes = []
for root in roots:
    for act in (samples, lambda root: verify(VerifyConfig(url=root, frames=1))):
        try:
            act(root)
            outcomes.append("read")
        except RoboshardError as error:
            outcomes.append(type(error).__name__)
        except Exception as error:
            outcomes.append(f"raw {type(error).__name__}")
done.set()
looker.join()
print(len(outcomes), sorted(set(broken)))
"""


def watched(honest: Path, roots: list[Path]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED, str(honest), *map(str, roots)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases.make(tmp_path_factory.mktemp("opened"))


def test_hostile_datasets_open_nothing_but_themselves(bases: Bases, tmp_path: Path) -> None:
    roots = []
    for family in ("damaged", "forged", "images", "manifests", "mp4"):
        for seed in range(12):
            folder = tmp_path / family / str(seed)
            folder.mkdir(parents=True)
            roots.append(FAMILIES[family](random.Random(f"{family} {seed}"), bases, folder)[0])
    assert watched(bases.shards, roots) == f"{2 * len(roots)} []"


def test_the_watch_sees_what_it_forbids(bases: Bases, tmp_path: Path) -> None:
    """A shard that is a link to a file elsewhere: the dataset's user put it there, and the watch
    must see it.
    """
    forgery = Forgery(bases.shards, tmp_path / "linked")
    root = Path(forgery.seal())
    shard = root / "shards/shard-000000.tar"
    shard.rename(tmp_path / "elsewhere.tar")
    shard.symlink_to(tmp_path / "elsewhere.tar")
    assert "elsewhere.tar" in watched(bases.shards, [root])
    assert json.loads((root / "dataset.json").read_bytes())["total_episodes"] == 2
