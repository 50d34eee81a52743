"""Contender: webdataset over shards of JPEG frames (make_jpeg_shards.py).

Shards in random order, a shuffle buffer of 1000 undecoded samples; then as its documentation shows
it: `decode("torchrgb8")` and `batched` in the worker processes. Or `tuned`: PIL straight to views
of uint8 arrays, collated by torch. The stream repeats without an end, so that workers do not start
again at each epoch.
"""

import io
import time
from pathlib import Path
from typing import Any

from window import measure_batches, read_case

SHUFFLE_BUFFER = 1000


def main() -> None:
    """Make the loader and measure it."""
    case, timing = read_case()
    started = time.perf_counter()
    import webdataset as wds  # noqa: PLC0415 - importing is part of starting

    urls = sorted(str(path) for path in Path(case["jpeg_shards"]).glob("*.tar"))
    dataset = wds.WebDataset(urls, shardshuffle=len(urls)).repeat().shuffle(SHUFFLE_BUFFER)
    if case.get("tuned"):
        dataset = dataset.map(Decoder(case["cameras"]))
        loader = wds.WebLoader(
            dataset, batch_size=case["batch_size"], num_workers=case["num_workers"]
        )
    else:
        dataset = (
            dataset.decode("torchrgb8").map(Renamer(case["cameras"])).batched(case["batch_size"])
        )
        loader = wds.WebLoader(dataset, batch_size=None, num_workers=case["num_workers"])
    measure_batches(iter(loader), case["cameras"], timing, started)


class Renamer:
    """A decoded sample's frames under their cameras' names, beside its rows."""

    def __init__(self, cameras: list[str]) -> None:
        """Serve these cameras."""
        self._cameras = cameras

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Rename one sample."""
        frames = {camera: sample[f"{number}.jpg"] for number, camera in enumerate(self._cameras)}
        return sample["json"] | frames


class Decoder:
    """A tar sample to tensors: frames (C, H, W) uint8, as a view of the decoded rows of pixels;
    rows from JSON.
    """

    def __init__(self, cameras: list[str]) -> None:
        """Serve these cameras."""
        self._cameras = cameras

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Decode one sample."""
        import json  # noqa: PLC0415 - in the worker

        import numpy as np  # noqa: PLC0415
        import torch  # noqa: PLC0415
        from PIL import Image  # noqa: PLC0415

        rows = json.loads(sample["json"])
        decoded = {
            key: value if isinstance(value, str) else torch.tensor(value)
            for key, value in rows.items()
        }
        for number, camera in enumerate(self._cameras):
            picture = Image.open(io.BytesIO(sample[f"{number}.jpg"]))
            decoded[camera] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return decoded


if __name__ == "__main__":
    main()
