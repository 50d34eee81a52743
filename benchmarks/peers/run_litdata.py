"""Contender: litData's chunks of episodes (make_litdata.py), frames decoded by torchcodec in
DataLoader workers.

litData hands out items, here a whole episode's video: for a random frame, a worker gets the episode
of it and decodes what is wanted. "fetch" is getting the item, "decode" all that torchcodec does.
Batches hold pictures alone.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from litdata import StreamingDataset
from torchcodec.decoders import VideoDecoder

from random_frames import Stopwatch, padded, window_of
from roboshard.shards.reader import ShardedDataset
from window import measure_batches, read_case


def main() -> None:
    """Make the loader and measure it."""
    case, timing = read_case()
    started = time.perf_counter()
    frames = Frames(case)
    sampler = torch.utils.data.RandomSampler(frames, num_samples=len(frames) * 1_000_000)
    loader = torch.utils.data.DataLoader(
        frames, batch_size=case["batch_size"], sampler=sampler, num_workers=case["num_workers"]
    )
    watch = Stopwatch()
    measure_batches(timed(iter(loader), watch), case["cameras"], timing, started, watch)


def timed(batches: Iterator[dict[str, Any]], watch: Stopwatch) -> Iterator[dict[str, Any]]:
    """Add up what the workers measured."""
    for batch in batches:
        for name in ("fetch", "decode"):
            watch.add(name, batch.pop(name).sum().item())
        yield batch


class Frames(torch.utils.data.Dataset[dict[str, Any]]):
    """All frames of a dataset, by number."""

    def __init__(self, case: dict[str, Any]) -> None:
        """Open nothing yet: workers do that."""
        lengths = ShardedDataset.open(case["shards"]).index.length.tolist()
        self._places = [
            (episode, n) for episode, length in enumerate(lengths) for n in range(length)
        ]
        self._folder, self._cameras = case["litdata"], case["cameras"]
        self._window = case["window"]
        self._episodes: Any = None

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Camera -> (C, H, W) or (T, C, H, W) uint8; seconds of both parts."""
        if self._episodes is None:
            self._episodes = StreamingDataset(self._folder)
        episode, frame = self._places[number]
        begun = time.perf_counter()
        item = self._episodes[episode]
        fetched = time.perf_counter()
        window, found = window_of(frame, self._window), {}
        for camera in self._cameras:
            wanted = [item[f"first/{camera}"] + each for each in window]
            pictures = VideoDecoder(item[camera]).get_frames_at(wanted).data
            found[camera] = (
                pictures[0] if self._window == 1 else pictures[padded(len(window), self._window)]
            )
        decoded = time.perf_counter()
        return found | {"fetch": fetched - begun, "decode": decoded - fetched}


if __name__ == "__main__":
    main()
