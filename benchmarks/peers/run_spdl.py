"""Contender: SPDL decodes random frames of our slices in threads, by `sample_decode_video`.

Slices lie in memory after their first use, demuxed, as a program would keep a small dataset;
reading and demuxing is "fetch". SPDL has no order, no rows and no windows of its own: frames come
from a permutation of all of them, batches hold pictures alone. Frames of a batch that lie in one
slice are asked for at once.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from random_frames import Stopwatch, padded, shuffled, window_of
from window import measure_batches, read_case


def main() -> None:
    """Make the loader and measure it."""
    case, timing = read_case()
    started = time.perf_counter()
    loader = Loader(case)
    measure_batches(loader.batches(), case["cameras"], timing, started, loader.watch)


class Loader:
    """Batches ahead of their consumer, decoded by threads."""

    def __init__(self, case: dict[str, Any]) -> None:
        """Open the dataset; nothing is read yet."""
        from roboshard.shards.reader import ShardedDataset  # noqa: PLC0415 - importing is part of starting

        self._dataset = ShardedDataset.open(case["shards"])
        self._cameras, self._window = case["cameras"], case["window"]
        self._batch_size, self._threads = case["batch_size"], case["threads"]
        self._packets: dict[tuple[int, str], tuple[Any, int]] = {}
        self.watch = Stopwatch()

    def batches(self) -> Iterator[dict[str, Any]]:
        """Camera -> (B, H, W, 3) or (B, T, H, W, 3) uint8, as SPDL makes pictures, seen as channels
        first.
        """
        frames = shuffled(self._dataset.index.length.tolist())
        with ThreadPoolExecutor(self._threads) as pool:
            ahead = [self._begin(pool, frames) for _ in range(2)]
            while True:
                batch, pending = ahead.pop(0)
                ahead.append(self._begin(pool, frames))
                for each in pending:
                    each.result()
                yield {camera: pictures.movedim(-1, -3) for camera, pictures in batch.items()}

    def _begin(self, pool: ThreadPoolExecutor, frames: Iterator[tuple[int, int]]) -> Any:
        import torch  # noqa: PLC0415

        wanted: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, (episode, frame) in enumerate(islice(frames, self._batch_size)):
            wanted[episode].append((place, frame))
        batch: dict[str, Any] = {}
        pending = []
        for camera in self._cameras:
            height, width, channels = self._dataset.manifest.features[camera]["shape"]
            times = (self._window,) if self._window > 1 else ()
            shape = (self._batch_size, *times, height, width, channels)
            batch[camera] = torch.empty(shape, dtype=torch.uint8)
            pending += [
                pool.submit(self._decode, episode, camera, places, batch[camera])
                for episode, places in wanted.items()
            ]
        return batch, pending

    def _decode(self, episode: int, camera: str, places: list[tuple[int, int]], into: Any) -> None:
        import spdl.io  # noqa: PLC0415

        packets, first = self._fetch(episode, camera)
        windows = {place: window_of(frame, self._window) for place, frame in places}
        frames = sorted({first + frame for window in windows.values() for frame in window})
        with self.watch.measure("decode"):
            decoded = spdl.io.sample_decode_video(packets.clone(), frames)  # it uses them up
            pictures = spdl.io.to_torch(spdl.io.convert_frames(decoded))
            where = {frame - first: number for number, frame in enumerate(frames)}
            for place, window in windows.items():
                if self._window == 1:
                    into[place] = pictures[where[window[0]]]
                    continue
                for step, position in enumerate(padded(len(window), self._window)):
                    into[place, step] = pictures[where[window[position]]]

    def _fetch(self, episode: int, camera: str) -> tuple[Any, int]:
        """Packets of a slice, and which of its frames the first row shows."""
        import spdl.io  # noqa: PLC0415

        if (episode, camera) not in self._packets:
            with self.watch.measure("fetch"):
                data = self._dataset.read_episode(episode, [camera])
                record = next(each for each in data.record.cameras if each.key == camera)
                packets = spdl.io.demux_video(bytes(data.videos[camera]))
                self._packets[episode, camera] = (packets, record.rows[0][1])
        return self._packets[episode, camera]


if __name__ == "__main__":
    main()
