"""Runs in Energon's own environment: what it reads of a prepared dataset, member by member."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def main() -> None:
    """Print key -> member -> SHA-256 of every sample of the dataset at `sys.argv[1]`."""
    from megatron.energon import (  # type: ignore[import-not-found] # noqa: PLC0415
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @dataclass
    class Episode(Sample):  # type: ignore[misc]
        members: dict[str, str]

    @stateless  # type: ignore[untyped-decorator]
    def digest(sample: Mapping[str, Any]) -> Episode:
        members = {name: value for name, value in sample.items() if not name.startswith("__")}
        return Episode(
            **basic_sample_keys(sample),
            members={name: hashlib.sha256(value).hexdigest() for name, value in members.items()},
        )

    class AsTheyAre(DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (Cooker(digest),)
        decoder = None

        def batch(self, samples: list[Any]) -> list[Any]:
            return samples

    dataset = get_train_dataset(
        sys.argv[1],
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        task_encoder=AsTheyAre(),
        batch_size=2,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        repeat=False,
    )
    found = {episode.__key__: episode.members for batch in get_loader(dataset) for episode in batch}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
