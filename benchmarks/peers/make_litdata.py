"""Write a dataset as litData's chunks: an item is an episode, its video and which of its frames
rows show.

.peers/litdata/bin/python benchmarks/peers/make_litdata.py SHARDS FOLDER
"""

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from litdata import optimize

from roboshard.shards.reader import ShardedDataset


def main() -> None:
    """Write all episodes; the folder appears whole."""
    shards, folder = sys.argv[1], Path(sys.argv[2])
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    optimize(
        fn=partial(item, shards),
        inputs=list(range(len(ShardedDataset.open(shards).index))),
        output_dir=str(unfinished),
        chunk_bytes="64MB",
        num_workers=1,
        keep_data_ordered=True,
    )
    unfinished.rename(folder)


def item(shards: str, episode: int) -> dict[str, Any]:
    """Return one episode: camera -> MP4 file, and its first frame that a row shows."""
    data = ShardedDataset.open(shards).read_episode(episode)
    videos = {camera.key: bytes(data.videos[camera.key]) for camera in data.record.cameras}
    first = {f"first/{camera.key}": camera.rows[0][1] for camera in data.record.cameras}
    return videos | first


if __name__ == "__main__":
    main()
