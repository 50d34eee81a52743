"""Contender: Megatron Energon over our own shards, prepared by `energon prepare`, frames by its
AVDecoder.

A sample of Energon's is one of the tar file's, an episode: its cooker takes a random frame, or
window, of it, each time that it comes. Two worker processes, a shuffle buffer of episodes; batches
hold pictures alone.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    SampleDecoder,
    WorkerConfig,
    basic_sample_keys,
    get_loader,
    get_train_dataset,
    stateless,
)

from random_frames import Stopwatch, padded, window_of
from roboshard.shards.names import sample_key
from roboshard.shards.reader import ShardedDataset
from window import measure_batches, read_case

SHUFFLE_BUFFER = 64


@dataclass
class Pictures(Sample):
    """Camera -> (C, H, W) or (T, C, H, W) uint8, and how long decoding took."""

    pictures: dict[str, torch.Tensor]
    decode_s: float


def main() -> None:
    """Make the loader and measure it."""
    case, timing = read_case()
    started = time.perf_counter()
    dataset = get_train_dataset(
        case["energon"],
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=case["num_workers"]),
        task_encoder=Encoder(case),
        batch_size=case["batch_size"],
        shuffle_buffer_size=SHUFFLE_BUFFER,
        max_samples_per_sequence=None,
        repeat=True,
    )
    watch = Stopwatch()
    batches = timed(iter(get_loader(dataset)), watch)
    measure_batches(batches, case["cameras"], timing, started, watch)


def timed(batches: Iterator[dict[str, Any]], watch: Stopwatch) -> Iterator[dict[str, Any]]:
    """Add up what the workers measured."""
    for batch in batches:
        watch.add("decode", batch.pop("decode_s"))
        yield batch


class Encoder(DefaultTaskEncoder):  # type: ignore[misc]
    """Makes batches of pictures from episodes."""

    decoder = SampleDecoder(av_decode="AVDecoder")

    def __init__(self, case: dict[str, Any]) -> None:
        """Find out which frames of each slice rows show."""
        super().__init__()
        self.cookers = (Cooker(self.cook),)
        self._window, self._cameras = case["window"], case["cameras"]
        self._shown: dict[str, dict[str, tuple[str, int, int]]] = {}
        dataset = ShardedDataset.open(case["shards"])
        for position in range(len(dataset.index)):
            record = dataset.read_episode(position, []).record
            self._shown[sample_key(record.episode_index)] = {
                camera.key: (camera.member.lower(), camera.rows[0][1], record.length)
                for camera in record.cameras
            }

    @stateless(restore_seeds=True)  # random numbers depend on the sample's place in the stream
    def cook(self, sample: dict[str, Any]) -> Pictures:
        """Decode a random frame of an episode."""
        cameras = self._shown[sample["__key__"].rpartition("/")[2]]
        length = next(iter(cameras.values()))[2]
        window = window_of(random.randrange(length), self._window)  # noqa: S311
        begun = time.perf_counter()
        found = {}
        for key in self._cameras:
            member, first, _ = cameras[key]
            span = (first + window[0], first + window[-1])
            (clip,), _ = sample[member].get_video_clips([span], video_unit="frames")
            found[key] = clip[0] if self._window == 1 else clip[padded(len(clip), self._window)]
        seconds = time.perf_counter() - begun
        return Pictures(**basic_sample_keys(sample), pictures=found, decode_s=seconds)

    def batch(self, samples: list[Pictures]) -> dict[str, Any]:
        """Stack the pictures of samples to a batch."""
        stacked: dict[str, Any] = {
            key: torch.stack([sample.pictures[key] for sample in samples]) for key in self._cameras
        }
        return stacked | {"decode_s": sum(sample.decode_s for sample in samples)}


if __name__ == "__main__":
    main()
