"""The dataset card: what it says, that it is safe to show, and that nobody else's is
overwritten.
"""

from __future__ import annotations

import ast
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support.lerobot_source import Camera, Source, build
from support.publishing import contents
from support.servers import LocalHub

from roboshard import loader
from roboshard.converter import ConvertConfig, ReencodeConfig, convert
from roboshard.shards import DatasetManifest, ShardedDataset, StorageError
from roboshard.tools.upload import UploadConfig, UploadReport, upload
from roboshard.tools.upload.card import CARD, PREVIEW, _code, _plain, is_ours, make_card

pytest_plugins = ["support.servers.fixtures"]

URL = "hf://buckets/me/pusht/shards"


@pytest.fixture(scope="module")
def card(pusht_shards: Path) -> str:
    return make_card(str(pusht_shards), URL).text


def send(source: Path, destination: str | Path) -> UploadReport:
    return upload(UploadConfig(source=str(source), destination=str(destination)))


def front_matter(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    values: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return values


def test_what_the_card_says(card: str, pusht_shards: Path) -> None:
    assert front_matter(card) == {
        "pretty_name": "pusht_sim",
        "task_categories": ["robotics"],
        "tags": ["LeRobot", "robotics", "webdataset", "roboshard"],
        "size_categories": ["n<1K"],
    }
    manifest = ShardedDataset.open(str(pusht_shards)).manifest
    for row in (
        "| episodes | 14 |",
        "| frames | 644 |",
        "| fps | 10 |",
        "| shards | 11 |",
        manifest.fingerprint,
    ):
        assert row in card
    assert re.search(r"\| `observation.image` \| av1 \| 96×96 \| yuv420p \| \d+\.\d \|", card)
    for name, feature in manifest.features.items():
        assert f"| `{name}` | {feature['dtype']} |" in card
    assert "- Push the T-shaped block onto the T-shaped target." in card
    assert f"]({PREVIEW})" in card
    assert "license" not in card


def test_the_line_that_loads_it_is_python_and_names_the_place(card: str) -> None:
    code = card.split("```python\n")[1].split("```", maxsplit=1)[0]
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert ast.unparse(call.args[0]) == repr(URL)
    name = ast.unparse(call.func)
    assert hasattr(loader, name)


def test_it_calls_lossless_what_is(card: str, pusht_source: Path, tmp_path: Path) -> None:
    assert "converted losslessly" in card
    config: dict[str, Any] = {
        "source": str(pusht_source),
        "destination": str(tmp_path / "shards"),
        "workers": 1,
        "episodes": "0",
    }
    convert(ConvertConfig(**config, video="reencode", reencode=ReencodeConfig(codec="libx264")))
    other = make_card(str(tmp_path / "shards"), URL).text
    assert "lossless" not in other
    assert "Video of `observation.image` is encoded again (see `conversion.options.video`" in other
    assert "the rest is copied" not in other


def test_it_names_the_cameras_that_were_encoded_again(tmp_path: Path) -> None:
    cameras = tuple(Camera(key=f"observation.images.{name}") for name in ("top", "left", "right"))
    built = build(tmp_path / "source", Source(lengths=(3,), cameras=cameras))
    options = ReencodeConfig(
        codec="libx264", cameras="observation.images.right,observation.images.top"
    )
    config = {"source": str(built.root), "destination": str(tmp_path / "shards")}
    convert(ConvertConfig(**config, workers=1, video="reencode", reencode=options))
    text = make_card(str(tmp_path / "shards"), URL).text
    assert "Video of `observation.images.top`, `observation.images.right` is encoded again" in text
    assert (
        "in dataset.json), the rest is copied packet by packet; every row keeps its frame." in text
    )


def test_a_repository_tells_the_viewer_where_the_shards_are(pusht_shards: Path) -> None:
    configs = [{"config_name": "default", "data_files": "shards/*.tar"}]
    assert (
        front_matter(make_card(str(pusht_shards), "hf://datasets/me/x").text)["configs"] == configs
    )
    assert "configs" not in front_matter(
        make_card(str(pusht_shards), "hf://datasets/me/x/below").text
    )


def test_the_card_is_a_function_of_dataset_and_place(
    pusht_shards: Path, card: str, tmp_path: Path
) -> None:
    elsewhere = Path(shutil.copytree(pusht_shards, tmp_path / "elsewhere"))
    first, second = make_card(str(pusht_shards), URL), make_card(str(elsewhere), URL)
    assert first.text == second.text == card
    assert first.picture == second.picture


def test_the_picture_shows_first_frames(pusht_shards: Path) -> None:
    picture = make_card(str(pusht_shards), URL).picture
    assert picture is not None
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.format, image.size) == ("PNG", (4 * 228 + 4, 172 + 4))
        colors = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (np.ptp(colors, axis=0) > 100).all()


def test_without_a_decoder_there_is_a_card_without_a_picture(
    pusht_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise StorageError("no decoder here")

    monkeypatch.setattr(loader, "make_loader", fail)
    report = send(pusht_shards, tmp_path / "out")
    assert report.notes == ("the card has no sample picture: no decoder here",)
    text = (tmp_path / "out" / CARD).read_text()
    assert PREVIEW not in text
    assert not (tmp_path / "out" / PREVIEW).exists()


def test_names_and_tasks_are_text_and_nothing_else() -> None:
    assert _plain("a|b\n# <script>x</script> [y](z) `w` *v* _u_") == (
        r"a\|b # \<script\>x\</script\> \[y\]\(z\) \`w\` \*v\* \_u\_"
    )
    assert [_plain(text) for text in ("# h", "1. x", "- y", "+ z")] == [
        r"\# h",
        r"1\. x",
        r"\- y",
        r"\+ z",
    ]
    assert _code("a`b|c\nd") == r"`a'b\|c d`"


def test_front_matter_survives_any_name(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "x: [---]\n---\n# \"quoted\" 'name' 😀"
    source = ShardedDataset.open(str(pusht_shards)).manifest.source.model_copy(
        update={"name": name}
    )
    monkeypatch.setattr(DatasetManifest, "source", property(lambda _self: source), raising=False)
    text = make_card(str(pusht_shards), URL).text
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))["pretty_name"] == name


# -- At the destination ----------------------------------------------------------------------------


def test_the_card_goes_with_the_dataset_and_again_when_it_changes(
    pusht_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = send(pusht_shards, out)
    assert set(contents(out)) == {*contents(pusht_shards), CARD, PREVIEW}
    assert report.notes == report.unlisted == ()
    assert is_ours((out / CARD).read_bytes())
    (out / CARD).write_bytes((out / CARD).read_bytes() + b"edited\n")
    assert send(pusht_shards, out).files_sent == 1
    assert b"edited" not in (out / CARD).read_bytes()
    assert send(pusht_shards, out).files_sent == 0


@pytest.mark.parametrize("readme", [b"# Mine\n", b"", b"\xff\xfe\x00"])
def test_a_readme_of_somebody_else_is_never_overwritten(
    pusht_shards: Path, tmp_path: Path, readme: bytes
) -> None:
    (tmp_path / CARD).write_bytes(readme)
    report = send(pusht_shards, tmp_path)
    assert report.notes == ("README.md is not roboshard's and stays as it is",)
    assert (tmp_path / CARD).read_bytes() == readme
    assert set(contents(tmp_path)) == {*contents(pusht_shards), CARD}


def test_a_card_in_a_repository(pusht_shards: Path, this_hub: LocalHub) -> None:
    send(pusht_shards, "hf://datasets/me/with-card")
    text = this_hub.read_dataset("me/with-card", CARD).decode()
    assert 'make_loader("hf://datasets/me/with-card", batch_size=64)' in text
    assert this_hub.read_dataset("me/with-card", PREVIEW).startswith(b"\x89PNG")
