"""The limit: threads that decode whole slices in order with torchcodec and throw the frames away.

Slices are read (and verified) from the shards before the warm-up and held in memory, at most
`max_bytes` of them, so that the window holds no read; opening a decoder, which scans the slice, is
inside. A thread has one (episode, camera) at a time and decodes it in chunks of 32 frames; threads
take slices from one endless round over the dataset. A chunk counts when it is complete; its "batch"
latency is how long it took.

Only frames that rows show are counted: where an episode begins between keyframes, those on the way
to its first one are work of the limit too, but no output.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from window import Turns, read_case, report, summary

CHUNK = 32

Slice = tuple[bytes, set[int]]  # MP4 file, its frames that rows show
Chunk = tuple[float, float, int]  # from, to, such frames


def main() -> None:
    """Decode for the window and report."""
    case, timing = read_case()
    started = time.perf_counter()
    slices = read_slices(case["shards"], case["cameras"], case["max_bytes"])
    work, lock = itertools.cycle(slices), threading.Lock()
    chunks: list[list[Chunk]] = [[] for _ in range(case["threads"])]
    done = threading.Event()
    with ThreadPoolExecutor(len(chunks)) as pool:
        running = [pool.submit(decode, work, lock, mine, done) for mine in chunks]
        while not all(chunks) and not any(thread.done() for thread in running):
            time.sleep(0.01)
        first_s = min(mine[0][1] for mine in chunks) - started
        time.sleep(timing.warmup_s)
        turns, waits, frames, elapsed_s = Turns(timing.turn_s), [], 0, 0.0
        while elapsed_s < timing.window_s:
            turns.pass_on_if_due(frames, elapsed_s)
            begin = time.perf_counter()
            time.sleep(min(timing.turn_s or timing.window_s, timing.window_s - elapsed_s))
            inside, elapsed_s = taken(chunks, begin), turns.now()
            frames += sum(number for _, _, number in inside)
            waits += [late - early for early, late, _ in inside if early > begin]
        done.set()
        for thread in running:
            thread.result()  # raises what it raised
    report(
        {
            "samples": frames / len(case["cameras"]),
            "frames": frames,
            "time_to_first_batch_s": round(first_s, 3),
            **summary(waits),
            "elapsed_s": elapsed_s,
            "batch": {"chunk": f"({CHUNK}, H, W, 3) uint8"},
        }
    )


def taken(chunks: list[list[Chunk]], begin: float) -> list[Chunk]:
    """Take out what is there; those of it that were complete after `begin`."""
    found = []
    for mine in chunks:
        there = len(mine)  # its thread adds to it
        found += [chunk for chunk in mine[:there] if chunk[1] > begin]
        del mine[:there]
    return found


def read_slices(shards: str, cameras: list[str], max_bytes: int) -> list[Slice]:
    """Episode by episode and camera by camera."""
    from roboshard.shards.reader import ShardedDataset  # noqa: PLC0415 - importing is part of starting

    dataset = ShardedDataset.open(shards)
    slices: list[Slice] = []
    for position in range(len(dataset.index)):
        data = dataset.read_episode(position, cameras)
        for camera in data.record.cameras:
            if camera.key in cameras:
                shown = {
                    frame
                    for _, first, count in camera.rows
                    for frame in range(first, first + count)
                }
                slices.append((bytes(data.videos[camera.key]), shown))
        if sum(len(file) for file, _ in slices) > max_bytes:
            break
    return slices


def decode(
    work: Iterator[Slice], lock: threading.Lock, chunks: list[Chunk], done: threading.Event
) -> None:
    """Decode slices in one thread until told to stop."""
    while not done.is_set():
        with lock:
            data, shown = next(work)
        decoder = open_decoder(data)
        for start in range(0, len(decoder), CHUNK):
            begin, stop = time.perf_counter(), min(start + CHUNK, len(decoder))
            decoder.get_frames_in_range(start, stop)
            chunks.append((begin, time.perf_counter(), len(shown.intersection(range(start, stop)))))
            if done.is_set():
                return


def open_decoder(data: bytes) -> Any:
    """torchcodec as the loader uses it."""
    from torchcodec.decoders import VideoDecoder  # noqa: PLC0415 - importing is part of starting

    return VideoDecoder(data, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")


if __name__ == "__main__":
    main()
