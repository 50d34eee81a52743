"""Runs in LeRobot's environment: its trainer, with the losses and samples of every step written to
a file.

python lerobot_training.py RECORD shards [ARGUMENT ...]    from shards, by `roboshard lerobot-train`
python lerobot_training.py RECORD SHARDS [ARGUMENT ...]    from LeRobot's own dataset and DataLoader, in the order
                                                           that a loader of these shards has for two
                                                           ranks

`--kill-at N` before the other arguments ends the process, as by `kill -9`, once step N has been
made.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lerobot.scripts import lerobot_train

from roboshard.cli.main import dispatch
from roboshard.loader import LoaderSampler, make_loader, open_dataset


def main() -> None:
    """Train."""
    record, what, *arguments = sys.argv[1:]
    kill_at = 0
    if arguments[:1] == ["--kill-at"]:
        kill_at, arguments = int(arguments[1]), arguments[2:]
    rank = os.environ.get("RANK", "0")
    lerobot_train.update_policy = recorded(
        lerobot_train.update_policy, Path(f"{record}-{rank}.jsonl"), kill_at
    )
    if what == "shards":
        if failed := dispatch(["lerobot-train", *arguments]):
            sys.exit(failed)
        return
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    order = loader_order(what, int(options["batch_size"]), int(options["seed"]))
    lerobot_train.EpisodeAwareSampler = lambda *_, **__: order
    lerobot_train.cycle = without_draws(lerobot_train.cycle)
    sys.argv = ["lerobot-train", *arguments]
    lerobot_train.main()


def recorded(update: Callable[..., Any], file: Path, kill_at: int) -> Callable[..., Any]:
    """Return the trainer's step, which notes its loss to the last bit."""
    steps = 0

    def step(metrics: Any, policy: Any, batch: Any, *args: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        # Convolutions round otherwise where channels lie innermost, as in pictures of our batches.
        batch = {key: plain(value) for key, value in batch.items()}
        found = update(metrics, policy, batch, *args, **options)
        noted = {"loss": found[0].loss.val, "index": batch["index"].tolist()}
        with file.open("a") as lines:
            lines.write(json.dumps(noted) + "\n")
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return step


def plain(value: Any) -> Any:
    """Return a tensor laid out row by row."""
    return value.contiguous() if torch.is_tensor(value) else value


class Order:
    """A sampler of single numbers, as LeRobot's is."""

    def __init__(self, batches: LoaderSampler, num_samples: int) -> None:
        self._batches = batches
        self._num_samples = num_samples

    def __iter__(self) -> Iterator[int]:
        for batch in self._batches:
            yield from batch

    def __len__(self) -> int:
        return self._num_samples


def loader_order(shards: str, batch_size: int, seed: int) -> Order:
    """Return the order of the loader that roboshard makes for these options."""
    dataset = open_dataset(shards)
    loader = make_loader(shards, batch_size=batch_size, seed=seed, max_world_size=2)
    return Order(LoaderSampler(loader, dataset), len(dataset))


def without_draws(cycle: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """Return the trainer's `cycle` over a DataLoader, which draws a seed for its workers from
    torch's generator.

    Ours does not, and dropout would differ from there on.
    """

    def batches(dataloader: Any) -> Iterator[Any]:
        found = cycle(dataloader)
        while True:
            with torch.random.fork_rng(devices=[]):
                batch = next(found)
            yield batch

    return batches


if __name__ == "__main__":
    main()
