"""Stage: the pictures of the coming steps, decoded by threads straight into the memory of their batches.

What the steps within the look-ahead need of one slice is decoded together, in ascending order, each frame once.
A slice is served by one thread at a time; slices are served in the order in which steps need them.
"""

import itertools
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Condition, Lock
from typing import Any, NamedTuple

import numpy as np
import torch

from roboshard.loader.buffers import Buffers
from roboshard.loader.episode import Episode
from roboshard.loader.pictures import Picture, Pictures, is_brightness
from roboshard.loader.rows import Batch, PictureKey, WindowedStep, check_shapes
from roboshard.loader.stats import Counter

LOOK_AHEAD_BYTES = 512 << 20
"""Of batches that are being decoded at once; two steps at least, so that no thread waits for a step's last frame."""
LOOK_AHEAD_STEPS = (2, 8)
CHUNK_FRAMES = 8
"""Frames asked of a decoder at once: few enough to be still in the cores' caches when they are copied."""

UNIT = np.float32(255)


class Slice(NamedTuple):
    """One camera or image feature of one episode in memory: what one decoder serves."""

    episode: Episode
    key: str


class PendingStep:
    """A step whose pictures are on their way."""

    def __init__(self, step: WindowedStep, pictures: Sequence[PictureKey], as_float: bool) -> None:
        self.values = step.values
        self.left = sum(frames.size for frames in step.frames.values())
        self.error: BaseException | None = None
        self._shapes = {
            picture.key: step.frames[picture.key].shape[: 1 + picture.has_time_axis] for picture in pictures
        }
        self._as_float = {picture.key: as_float or not picture.is_video for picture in pictures}
        self._tensors: dict[str, torch.Tensor] = {}
        self._memory: dict[str, Any] = {}  # the same, one picture after the other
        self._lending = Lock()

    def put(self, key: str, places: list[int], pictures: Pictures, buffers: Buffers) -> None:
        """Copy pictures to their places. The first one of a key says how large they are, and of which kind."""
        memory = self._memory.get(key)
        if memory is None:
            memory = self._lend(key, pictures[0], buffers)
        if isinstance(pictures, np.ndarray) and (pictures.dtype, pictures.shape[1:]) == (
            memory.dtype,
            memory.shape[1:],
        ):
            memory[places] = pictures  # at once: NumPy asks for the interpreter's lock again after each call
            return
        for place, picture in zip(places, pictures, strict=True):
            _put_one(key, memory[place], picture)

    def _lend(self, key: str, picture: Picture, buffers: Buffers) -> Any:
        with self._lending:
            if key not in self._memory:
                dtype = torch.uint8 if is_brightness(picture) and not self._as_float[key] else torch.float32
                tensor = buffers.lend((*self._shapes[key], *picture.shape), dtype)
                memory = tensor.view(-1, *picture.shape)
                self._tensors[key] = tensor
                self._memory[key] = memory if isinstance(picture, torch.Tensor) else memory.numpy()
            return self._memory[key]

    @property
    def num_bytes(self) -> int:
        """Of its pictures so far."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def batch(self) -> Batch:
        """Rows and pictures (n, C, H, W) or (n, T, C, H, W); in memory the channels stay last, as decoded."""
        return self.values | {key: self._tensors[key].movedim(-1, -3) for key in self._shapes}


def _put_one(key: str, target: Any, picture: Picture) -> None:
    """Copy a picture to its place: the images of one feature may differ in kind."""
    if target.shape != picture.shape:
        check_shapes(key, {tuple(target.shape), tuple(picture.shape)})
    is_scaled = is_brightness(picture) and target.dtype.itemsize > 1
    if isinstance(picture, torch.Tensor):
        target.copy_(picture / 255 if is_scaled else picture)
    elif is_scaled:
        np.divide(picture, UNIT, out=target, dtype=np.float32)
    else:
        target[...] = picture


class _Target(NamedTuple):
    """Where a frame is needed."""

    step: PendingStep
    place: int


_Requests = dict[int, list[_Target]]
"""Frame -> where it is needed."""


class DecodeThreads:
    """Threads that serve the requests of several steps."""

    def __init__(
        self, num_threads: int, pictures: Sequence[PictureKey], as_float: bool, buffers: Buffers, counter: Counter
    ) -> None:
        self._pictures = pictures
        self._as_float = as_float
        self._buffers = buffers
        self._counter = counter
        self._num_threads = num_threads
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="roboshard-decode")
        self._changed = Condition()
        self._waiting: dict[Slice, _Requests] = {}  # in the order in which steps need them
        self._served: dict[Slice, _Requests] = {}
        self._num_serving = 0
        self._stopped = False

    def submit(self, step: WindowedStep) -> PendingStep:
        """Begin with a step's pictures."""
        pending = PendingStep(step, self._pictures, self._as_float)
        requests = _requests(step, pending)
        with self._changed:
            for slot, frames in requests.items():
                waiting = self._waiting.setdefault(slot, {})
                for frame, targets in frames.items():
                    waiting.setdefault(frame, []).extend(targets)
            self._start_serving()
        return pending

    def wait_for(self, pending: PendingStep) -> Batch:
        """The step's batch, when it is complete. Raises what went wrong with one of its slices."""
        with self._changed:
            self._changed.wait_for(lambda: not pending.left or pending.error)
        if pending.error:
            raise pending.error
        return pending.batch()

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        with self._changed:
            self._stopped = True
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start_serving(self) -> None:
        """As many threads as there are slices that nobody serves; one task serves slice after slice."""
        idle = len(self._waiting.keys() - self._served.keys())
        for _ in range(min(idle, self._num_threads - self._num_serving)):
            self._num_serving += 1
            now: list[Slice] = []
            self._executor.submit(self._serve, now).add_done_callback(partial(self._after, now))

    def _serve(self, now: list[Slice]) -> None:
        """Decode until there is nothing left to do; `now` holds the slice at hand."""
        while (slot := self._next()) is not None:
            now[:] = [slot]
            requests = self._served[slot]
            for frames in slot.episode.ways(slot.key, sorted(requests)):
                for first in range(0, len(frames), CHUNK_FRAMES):
                    if self._stopped:
                        return
                    self._decode(slot, {frame: requests[frame] for frame in frames[first : first + CHUNK_FRAMES]})
            now.clear()
            with self._changed:
                del self._served[slot]

    def _next(self) -> Slice | None:
        """The slice that is needed first of those that no other thread serves; None: there is none for now."""
        with self._changed:
            slot = next((slot for slot in self._waiting if slot not in self._served), None)
            if slot is None or self._stopped:
                self._num_serving -= 1
                return None
            self._served[slot] = self._waiting.pop(slot)
            return slot

    def _decode(self, slot: Slice, requests: Mapping[int, Sequence[_Target]]) -> None:
        started, is_video = time.perf_counter(), slot.episode.is_video(slot.key)
        pictures, num_decoded = slot.episode.decode(slot.key, list(requests))
        for step, places, wanted in _by_step(requests, pictures):
            step.put(slot.key, places, wanted, self._buffers)
        self._counter.add(
            decode_seconds=time.perf_counter() - started,
            frames_used=sum(map(len, requests.values())) if is_video else 0,
            frames_requested=len(requests) if is_video else 0,
            frames_decoded=num_decoded,
        )
        with self._changed:
            for frame, targets in requests.items():
                del self._served[slot][frame]  # an error of a later one is none of its steps'
                for target in targets:
                    target.step.left -= 1
                    if not target.step.left:
                        self._changed.notify_all()

    def _after(self, now: list[Slice], future: Future[None]) -> None:
        """Tell the steps that need a slice what went wrong with it."""
        error = None if future.cancelled() else future.exception()
        if error is None:
            return
        with self._changed:
            self._num_serving -= 1
            for slot in now:
                for targets in self._served.pop(slot, {}).values():
                    for target in targets:
                        target.step.error = error
            self._changed.notify_all()
            if not self._stopped:
                self._start_serving()


def _requests(step: WindowedStep, pending: PendingStep) -> dict[Slice, _Requests]:
    requests: dict[Slice, _Requests] = defaultdict(lambda: defaultdict(list))
    episode_of = step.episode_of.tolist()
    for key, frames in step.frames.items():
        per_sample = frames.shape[1]
        for place, frame in enumerate(frames.ravel().tolist()):
            slot = Slice(step.episodes[episode_of[place // per_sample]], key)
            requests[slot][frame].append(_Target(pending, place))
    return requests


def _by_step(
    requests: Mapping[int, Sequence[_Target]], pictures: Pictures
) -> Iterator[tuple[PendingStep, list[int], Pictures]]:
    """Which places of which step the pictures of the requests go to."""
    found: dict[PendingStep, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for number, targets in enumerate(requests.values()):
        for target in targets:
            places, numbers = found[target.step]
            places.append(target.place)
            numbers.append(number)
    for step, (places, numbers) in found.items():
        first, end = numbers[0], numbers[0] + len(numbers)
        is_stretch = numbers == list(range(first, end))
        yield step, places, pictures[first:end] if is_stretch else [pictures[number] for number in numbers]


def decode_video(steps: Iterable[WindowedStep], threads: DecodeThreads, counter: Counter) -> Iterator[Batch]:
    """Add the pictures: (n, C, H, W), or (n, T, C, H, W) under a window."""
    pending: deque[PendingStep] = deque()
    most = look_ahead_steps(LOOK_AHEAD_BYTES)  # until the first batch shows how large one is
    try:
        for step in itertools.chain(steps, [None]):
            if step is not None:
                pending.append(threads.submit(step))
            while pending and (step is None or len(pending) >= most):
                counter.set(steps_ahead=len(pending))
                complete = threads.wait_for(pending[0])
                most = look_ahead_steps(pending.popleft().num_bytes)
                yield complete
    finally:
        threads.close()


def look_ahead_steps(bytes_per_step: int) -> int:
    """How many steps are decoded at once."""
    least, most = LOOK_AHEAD_STEPS
    return min(most, max(least, LOOK_AHEAD_BYTES // max(1, bytes_per_step)))
