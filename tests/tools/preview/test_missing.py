"""Episodes whose rows lack values are shown: gaps in curves, black pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from support.missing_values import REWARD, build_missing
from support.null_lists import NEEDS_NULL_LISTS

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset
from roboshard.tools.preview import PreviewConfig, preview
from roboshard.tools.preview.content import make_content
from roboshard.tools.preview.thumbnails import as_picture


@NEEDS_NULL_LISTS
def test_an_episode_that_lacks_values_is_drawn(tmp_path: Path) -> None:
    source = build_missing(tmp_path / "source")
    root = str(tmp_path / "shards")
    convert(ConvertConfig(source=str(source), destination=root, shard_size="64KB", workers=1))
    report = preview(PreviewConfig(url=root, output=tmp_path / "sheet.png"))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 100
    assert set(report.not_drawn) == {"hint"}
    dataset = open_dataset(root, on_missing="fill")
    rows = dataset.rows(range(6))
    content = make_content(rows, dataset.meta.features, dataset="d", episode_index=0, fps=10)
    (reward,) = (curves for curves in content.curves if curves.key == "reward")
    gone = [value is None or np.isnan(value) for value in REWARD[:6]]
    assert np.isnan(reward.values[:, 0]).tolist() == gone


def test_grey_with_opacity_is_grey() -> None:
    grey = np.stack([np.full((4, 4), 9), np.zeros((4, 4))]).astype(np.uint8)
    assert (as_picture(grey) == 9).all()
    assert as_picture(grey).shape == (4, 4, 3)
