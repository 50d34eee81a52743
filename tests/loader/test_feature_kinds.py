"""Every kind of feature that a LeRobot dataset can have, from its files to batches."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import language, tables
from support.lerobot_source import EVERY_KIND, Built, Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader, open_dataset
from roboshard.loader.batches.buffers import ReusedBuffers
from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.decoding import codec
from roboshard.loader.decoding.colors import reformatted
from roboshard.loader.decoding.decode import open_decoder
from roboshard.loader.decoding.depth import millimetres
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import InMemory
from roboshard.loader.meta import DatasetMeta
from roboshard.loader.samples.rows import PictureKey, WindowedStep
from roboshard.shards import FormatError, OptionError, ShardedDataset
from roboshard.shards.features import DepthScale
from roboshard.shards.rows import decode_rows
from roboshard.tools.verify import VerifyConfig, verify

STILL = EVERY_KIND.image_keys[0]
METRES, MILLIMETRES, NO_UNIT = EVERY_KIND.depth_images
DEPTH_VIDEO: dict[str, Any] = {
    camera.key: camera.depth for camera in EVERY_KIND.cameras if camera.depth is not None
}
Batch = dict[str, Any]
TASKS = Path("/proc/self/task")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("kinds") / "source", EVERY_KIND)


@pytest.fixture(scope="module")
def shards(built: Built) -> str:
    root = str(built.root.with_name("shards"))
    convert(ConvertConfig(source=str(built.root), destination=root, shard_size="64KB", workers=1))
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset without any of it."""
    root = tmp_path_factory.mktemp("plain")
    build(root / "source", Source(lengths=(5,)))
    convert(ConvertConfig(source=str(root / "source"), destination=str(root / "shards"), workers=1))
    return str(root / "shards")


def in_order(shards: Any, **options: Any) -> Batch:
    """All samples in one batch."""
    (batch,) = make_loader(shards, batch_size=sum(EVERY_KIND.lengths), shuffle=False, **options)
    return batch


def places() -> Iterator[tuple[int, int, int]]:
    """(number, episode, row) of every sample in order."""
    rows = [
        (episode, row) for episode, length in enumerate(EVERY_KIND.lengths) for row in range(length)
    ]
    yield from ((number, *place) for number, place in enumerate(rows))


def stored_depth(key: str) -> NDArray[Any]:
    """Of all samples, float32 (samples, 1, H, W) in millimetres."""
    depth = [
        tables.depth_images(EVERY_KIND, key, episode) for episode in range(len(EVERY_KIND.lengths))
    ]
    factor = np.float32(1000 if EVERY_KIND.depth_images[key] == "m" else 1)
    return np.concatenate(depth)[:, None].astype(np.float32) * factor


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def test_everything_is_verified_against_the_source(built: Built, shards: str) -> None:
    report = verify(VerifyConfig(url=shards, against=str(built.root), frames=3))
    assert not report.problems


def test_all_ways_to_a_sample_give_the_same(shards: str) -> None:
    windows = {
        METRES: [-0.1, 0.0],
        next(iter(DEPTH_VIDEO)): [-0.1, 0.0],
        STILL: [0.0],
        "action": [0.0, 0.1],
    }
    batch = in_order(shards, delta_timestamps=windows)
    singles = list(make_loader(shards, batch_size=None, shuffle=False, delta_timestamps=windows))
    dataset = open_dataset(shards, delta_timestamps=windows)
    for number, *_ in places():
        for sample in (singles[number], dataset[number]):
            assert sample.keys() == batch.keys()
            assert all(equal(sample[key], batch[key][number]) for key in batch), number
    dataset.close()


@pytest.mark.slow
def test_worker_processes_give_the_same(shards: str) -> None:
    loader = make_loader(shards, batch_size=8, shuffle=False, num_workers=1)
    expected = list(make_loader(shards, batch_size=8, shuffle=False))
    for found, batch in zip(loader, expected, strict=True):
        assert found.keys() == batch.keys()
        assert all(equal(found[key], batch[key]) for key in batch)
    loader.close()


# -- Language --------------------------------------------------------------------------------------


def test_messages_are_lists_of_dicts(shards: str) -> None:
    batch = in_order(shards)
    for number, episode, row in places():
        expected = language.samples(episode, EVERY_KIND.lengths[episode], EVERY_KIND.fps)
        for key in language.KEYS:
            assert [_rounded(message) for message in batch[key][number]] == [
                _rounded(message) for message in expected[key][row]
            ]


def _rounded(message: dict[str, Any]) -> dict[str, Any]:
    """Times as float32 holds them."""
    time = message.get("timestamp")
    return message if time is None else message | {"timestamp": float(np.float32(time))}


@pytest.mark.skipif(
    not hasattr(datasets, "Json"), reason="this release of datasets knows no JSON columns"
)
def test_messages_are_what_the_datasets_library_gives_lerobot(
    built: Built, shards: str, tmp_path: Path
) -> None:
    batch = in_order(shards)
    files = sorted(map(str, (built.root / "data").rglob("*.parquet")))
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path)).select_columns(
        list(language.KEYS)
    )
    assert list(found[language.EVENTS]) == batch[language.EVENTS]
    assert list(found[language.PERSISTENT]) == batch[language.PERSISTENT]


def test_metadata_says_whether_there_are_messages(shards: str, plain: str) -> None:
    for dataset, expected in ((shards, True), (plain, False)):
        assert make_loader(dataset).meta.has_language_columns is expected
        assert open_dataset(dataset).meta.has_language_columns is expected


def test_messages_are_stored_with_their_types(built: Built, shards: str) -> None:
    data = ShardedDataset.open(shards).read_episode(1)
    rows = decode_rows(data.rows, "rows", data.record.length)
    for key, kind in language.TYPES.items():
        assert rows.schema.field(key).type == kind
        assert rows.column(key).equals(built.rows(1).column(key))


def test_messages_have_no_window(shards: str) -> None:
    with pytest.raises(
        OptionError, match="'language_events' is a language feature, which has no window"
    ):
        make_loader(shards, delta_timestamps={"language_events": [0.0]})


# -- Depth images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("return_uint8", [True, False])
@pytest.mark.parametrize("key", [METRES, MILLIMETRES, NO_UNIT])
def test_depth_images_are_millimetres(shards: str, key: str, return_uint8: bool) -> None:
    found = in_order(shards, return_uint8=return_uint8)[key]
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), stored_depth(key))


def test_depth_images_in_a_window(shards: str) -> None:
    batch = in_order(shards, delta_timestamps={METRES: [-0.1, 0.0]})
    expected = stored_depth(METRES)
    for number, _, row in places():
        assert np.array_equal(batch[METRES][number], expected[[number - (row > 0), number]])
        assert batch[f"{METRES}_is_pad"][number].tolist() == [row == 0, False]


def test_depth_is_resized_to_the_nearest_pixel_and_not_transformed(shards: str) -> None:
    height, width = EVERY_KIND.image_size
    batch = in_order(
        shards,
        image_size=(height // 2, width // 4),
        image_transforms=lambda picture: picture * 0 + 7,
    )
    assert np.array_equal(batch[MILLIMETRES], stored_depth(MILLIMETRES)[:, :, 1::2, 2::4])
    assert batch[STILL].unique().tolist() == [7]


def test_statistics_of_depth_are_in_millimetres(built: Built, shards: str) -> None:
    meta = make_loader(shards).meta
    stored = json.loads((built.root / "meta/stats.json").read_text())
    assert meta.depth_keys == (*DEPTH_VIDEO, METRES, MILLIMETRES, NO_UNIT)
    for key, factor in ((METRES, 1000), (MILLIMETRES, 1), (NO_UNIT, 1), (STILL, 1)):
        assert np.array_equal(meta.stats[key]["mean"], np.asarray(stored[key]["mean"]) * factor)
        assert meta.stats[key]["count"].tolist() == stored[key]["count"]
    assert make_loader([(shards, 1.0)]).meta.stats[METRES]["max"] == pytest.approx(
        meta.stats[METRES]["max"]
    )


def test_statistics_that_are_integers_stay_so_in_millimetres(shards: str) -> None:
    stats = {key: {"max": [3], "count": [1]} for key in (METRES, MILLIMETRES)}
    meta = DatasetMeta(make_loader(shards).meta.manifest.model_copy(update={"stats": stats}))
    found = {
        key: (values["max"].dtype.kind, values["max"].tolist())
        for key, values in meta.stats.items()
    }
    assert found == {METRES: ("f", [3000.0]), MILLIMETRES: ("i", [3])}


# -- Depth video -----------------------------------------------------------------------------------


def stored_codes(built: Built, key: str) -> NDArray[np.uint16]:
    """Of all samples, uint16 (samples, H, W)."""
    return np.concatenate(
        [built.depth_codes(key, episode) for episode in range(len(built.source.lengths))]
    )


def dequantized(
    codes: NDArray[np.uint16],
    depth_min: float = 0.01,
    depth_max: float = 10.0,
    shift: float = 3.5,
    use_log: bool = True,
) -> torch.Tensor:
    """float32 (samples, 1, H, W): LeRobot's `dequantize_depth` for tensors, in millimetres, step by
    step.
    """
    start, end = (
        math.log(end + shift) if use_log else end for end in (float(depth_min), float(depth_max))
    )
    depth = torch.from_numpy(codes.astype(np.float32)) * ((end - start) / 4095) + start
    depth = depth.exp() - shift if use_log else depth
    return (depth.clamp(depth_min, depth_max) * 1000.0).round().clamp(0.0, 65535.0).unsqueeze(-3)


@pytest.mark.parametrize("return_uint8", [True, False])
@pytest.mark.parametrize("key", DEPTH_VIDEO)
def test_depth_video_is_dequantized_as_lerobot_does_to_the_bit(
    built: Built, shards: str, key: str, return_uint8: bool
) -> None:
    found = in_order(shards, return_uint8=return_uint8)[key]
    assert found.dtype == torch.float32
    assert torch.equal(found, dequantized(stored_codes(built, key), **DEPTH_VIDEO[key]))


@pytest.mark.parametrize(
    "scale", [{}, {"depth_min": 0.3, "depth_max": 4.0, "shift": 0.1}, *DEPTH_VIDEO.values()]
)
def test_every_code_is_within_half_a_millimetre_of_its_distance(scale: Batch) -> None:
    chosen = DepthScale.of({"info": {f"video.{name}": value for name, value in scale.items()}})
    ends = np.array([chosen.depth_min, chosen.depth_max], dtype=np.float64)
    metres = np.linspace(*(np.log(ends + chosen.shift) if chosen.use_log else ends), 4096)
    metres = np.exp(metres) - chosen.shift if chosen.use_log else metres
    assert np.abs(millimetres(chosen) - (metres * 1000).clip(0, 65535)).max() < 0.51


def test_no_code_is_off_where_torchs_exponentials_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are now and then where two threads are the first to ask for some."""
    right = millimetres.__wrapped__(DepthScale())
    exp = torch.Tensor.exp
    for name in ("exp", "exp_"):
        monkeypatch.setattr(torch.Tensor, name, lambda exponents: exp(exponents) * (1 + 1e-4))
    assert np.array_equal(millimetres.__wrapped__(DepthScale()), right)


def test_slices_decode_to_the_very_codes_that_were_encoded(built: Built, shards: str) -> None:
    dataset = ShardedDataset.open(shards)
    for episode in range(len(EVERY_KIND.lengths)):
        data = dataset.read_episode(episode)
        for camera in data.record.cameras:
            if camera.key in DEPTH_VIDEO:
                assert (camera.codec, camera.pix_fmt) == ("hevc", "gray12le")
                with av.open(io.BytesIO(data.videos[camera.key])) as container:
                    frames = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
                expected = built.depth_codes(camera.key, episode)
                assert np.array_equal(frames[camera.skip_frames :][: len(expected)], expected)


@pytest.mark.parametrize("frame_order", ["uniform", "sweep"])
def test_depth_video_in_windows_in_any_order(built: Built, shards: str, frame_order: Any) -> None:
    key, other = DEPTH_VIDEO
    windows = {key: [-0.2, 0.0, 0.1], other: [-0.1]}
    expected = {key: dequantized(stored_codes(built, key), **DEPTH_VIDEO[key]) for key in windows}
    first = np.cumsum([0, *EVERY_KIND.lengths])
    for batch in make_loader(
        shards, batch_size=4, delta_timestamps=windows, frame_order=frame_order
    ):
        for i, number in enumerate(batch["index"].tolist()):
            episode = int(batch["episode_index"][i])
            around = np.clip(number + np.array([-2, 0, 1]), first[episode], first[episode + 1] - 1)
            assert torch.equal(batch[key][i], expected[key][around])  # (3, 1, H, W)
            assert torch.equal(
                batch[other][i], expected[other][max(number - 1, first[episode])]
            )  # (1, H, W)


def test_the_depth_scale_of_every_dataset_is_checked(shards: str, tmp_path: Path) -> None:
    """One that says nothing is refused by its dataset and camera, unless that is not loaded."""
    key = next(iter(DEPTH_VIDEO))
    built = build(tmp_path / "source", Source(lengths=(2,), cameras=(EVERY_KIND.cameras[1],)))
    info_file = built.root / "meta/info.json"
    info = json.loads(info_file.read_text())
    info["features"][key]["info"]["video.shift"] = "far"
    info_file.write_text(json.dumps(info))
    bad = str(tmp_path / "shards")
    convert(ConvertConfig(source=str(built.root), destination=bad, workers=1))
    reason = f"camera '{key}' cannot be loaded, leave it out of cameras=: its depth scale"
    with pytest.raises(OptionError, match=f"^{reason}"):
        make_loader(bad)
    for mixture, number in (([(shards, 1.0), (bad, 1.0)], 1), ([(bad, 1.0), (shards, 1.0)], 0)):
        with pytest.raises(OptionError, match=f"dataset {number} .*: {reason}"):
            make_loader(mixture, on_missing="drop")
        make_loader(mixture, on_missing="drop", cameras=[])


@pytest.fixture(scope="module")
def distant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, str, str]:
    """(a source of depth video whose keyframes are 20 frames apart, its shards, the camera)."""
    camera = replace(EVERY_KIND.cameras[1], gop=20)
    root = tmp_path_factory.mktemp("distant")
    built = build(root / "source", Source(lengths=(30, 24), cameras=(camera,)))
    convert(ConvertConfig(source=str(built.root), destination=str(root / "shards"), workers=1))
    return built, str(root / "shards"), camera.key


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Those that are decoded from now on: one for each frame."""
    seen: list[bytes] = []
    feed = codec.Codec.feed

    def noted(
        self: codec.Codec, data: bytes, *arguments: int, **options: bool
    ) -> list[av.VideoFrame]:
        seen.append(bytes(data))
        return feed(self, data, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(codec.Codec, "feed", noted)
    return seen


def test_windows_of_distant_keyframes_keep_depth_that_was_decoded(
    distant: tuple[Built, str, str], packets: list[bytes]
) -> None:
    """The pictures kept from step to step are depth, not bytes; each is decoded once."""
    built, shards, key = distant
    loader = make_loader(
        shards, batch_size=4, shuffle=False, delta_timestamps={key: [-0.2, -0.1, 0.0]}
    )
    found = torch.cat([batch[key] for batch in loader])
    first = np.repeat([0, 30], [30, 24])[:, None]
    around = np.maximum(np.arange(54)[:, None] + np.arange(-2, 1), first)
    assert torch.equal(found, dequantized(stored_codes(built, key), **DEPTH_VIDEO[key])[around])
    assert len(packets) == loader.stats().frames_decoded == 54


@pytest.mark.parametrize("frame_order", ["uniform", "sweep"])
def test_depth_costs_as_many_decoded_frames_as_are_counted(
    distant: tuple[Built, str, str], packets: list[bytes], frame_order: Any
) -> None:
    built, shards, key = distant
    expected = dequantized(stored_codes(built, key), **DEPTH_VIDEO[key])
    loader = make_loader(shards, batch_size=4, frame_order=frame_order, decode_threads=2)
    for batch in loader:
        assert torch.equal(batch[key], expected[batch["index"]])
    assert len(packets) == loader.stats().frames_decoded >= 54


@pytest.mark.skipif(not TASKS.exists(), reason="finds threads in /proc")
def test_open_depth_decoders_have_no_threads_of_their_own(distant: tuple[Built, str, str]) -> None:
    _, shards, key = distant
    data = ShardedDataset.open(shards).read_episode(0)
    (camera,) = data.record.cameras
    before = len(list(TASKS.iterdir()))
    settings, scale = PictureSettings(), DepthScale()
    decoders = [
        open_decoder(InMemory(data.videos[key]), camera, settings, "here", scale) for _ in range(8)
    ]
    assert all(next(decoder.frames([3])).shape == (64, 70, 1) for decoder in decoders)
    assert len(list(TASKS.iterdir())) < before + len(decoders)


@pytest.mark.skipif(not TASKS.exists(), reason="finds threads in /proc")
def test_frames_that_pyav_converts_have_no_threads_of_their_own() -> None:
    frames = [av.VideoFrame(640, 480, "yuv420p") for _ in range(8)]  # each keeps its converter
    before = len(list(TASKS.iterdir()))
    assert all(reformatted(frame, "BICUBIC").shape == (480, 640, 3) for frame in frames)
    assert len(list(TASKS.iterdir())) < before + len(frames)


def test_depth_video_is_resized_to_the_nearest_pixel_and_not_transformed(
    built: Built, shards: str
) -> None:
    key = next(iter(DEPTH_VIDEO))
    batch = in_order(shards, image_size=(32, 35), image_transforms=lambda picture: picture * 0)
    assert torch.equal(
        batch[key], dequantized(stored_codes(built, key)[:, 1::2, 1::2], **DEPTH_VIDEO[key])
    )


@pytest.mark.parametrize(
    ("picture", "as_float", "expected"),
    [
        (torch.full((2, 3, 1), 1234.0), False, torch.tensor(1234.0)),
        (torch.full((2, 3, 3), 51, dtype=torch.uint8), True, torch.tensor(0.2)),
        (torch.full((2, 3, 3), 51, dtype=torch.uint8), False, torch.tensor(51, dtype=torch.uint8)),
    ],
    ids=["depth", "float", "uint8"],
)
@pytest.mark.parametrize("on_gpu", [True, False])
def test_pictures_are_put_into_their_batch_as_what_they_are(
    picture: torch.Tensor, as_float: bool, expected: torch.Tensor, on_gpu: bool
) -> None:
    """Those that a GPU decoded are tensors, others arrays."""
    step = WindowedStep(
        values={}, episodes=(), episode_of=np.zeros(1, int), frames={"x": np.zeros((1, 1), int)}
    )
    pending = PendingBatch(step, [PictureKey(key="x", is_video=True, offsets=None)], as_float)
    pending.put("x", 0, picture if on_gpu else picture.numpy(), ReusedBuffers())
    assert equal(pending.batch()["x"], expected.expand(1, picture.shape[-1], 2, 3))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["brightness first", "depth first"])
def test_each_image_of_a_feature_is_taken_as_what_it_is(order: list[int]) -> None:
    """Files of 8 and of 16 bits may be in one feature: only the former become 0..1."""
    images = [np.full((2, 3, 1), 51, np.uint8), np.full((2, 3, 1), 1234, np.float32)]
    step = WindowedStep(
        values={}, episodes=(), episode_of=np.zeros(2, int), frames={"x": np.zeros((2, 1), int)}
    )
    pending = PendingBatch(
        step, [PictureKey(key="x", is_video=False, offsets=None)], as_float=False
    )
    for number in order:
        pending.put("x", number, images[number], ReusedBuffers())
    assert pending.batch()["x"][:, 0, 0, 0].tolist() == pytest.approx([0.2, 1234])


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (
            {"video.depth_min": 2, "video.depth_max": 1},
            "no distance follows from its DepthScale.*depth_min must be",
        ),
        ({"video.shift": -1.0}, "no distance follows"),
        ({"video.shift": "far"}, "is not made of numbers"),
    ],
)
def test_scales_that_say_nothing_are_refused(scale: Batch, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        DepthScale.of({"info": scale})


# -- Mixtures --------------------------------------------------------------------------------------


def test_a_mixture_of_depth_with_different_scales(
    built: Built, shards: str, tmp_path: Path
) -> None:
    """Each dataset's codes stand for distances of its own."""
    key = next(iter(DEPTH_VIDEO))
    camera = replace(EVERY_KIND.cameras[1], depth={"depth_max": 3.0, "use_log": False})
    other = build(tmp_path / "source", Source(lengths=(5,), cameras=(camera,), seed=1))
    convert(ConvertConfig(source=str(other.root), destination=str(tmp_path / "shards"), workers=1))
    mixture = [(shards, 0.5), (str(tmp_path / "shards"), 0.5)]
    batch = next(iter(make_loader(mixture, batch_size=8, cameras=[key], on_missing="drop")))
    for dataset, (source, scale) in enumerate(((built, DEPTH_VIDEO[key]), (other, camera.depth))):
        mine = batch["dataset_index"] == dataset
        assert mine.sum() == 4
        expected = dequantized(stored_codes(source, key), **scale)
        assert torch.equal(batch[key][mine], expected[batch["index"][mine]])


def test_a_mixture_fills_what_is_missing_with_what_is_empty(shards: str, plain: str) -> None:
    batch = next(iter(make_loader([(shards, 0.5), (plain, 0.5)], batch_size=8, on_missing="fill")))
    is_plain = batch["dataset_index"] == 1
    assert is_plain.sum() == 4
    for key in (METRES, STILL, *DEPTH_VIDEO):
        assert batch[key].dtype == torch.float32
        assert batch[key].flatten(1).any(1).tolist() == (~is_plain).tolist()
        assert batch[f"{key}_is_missing"].equal(is_plain)
    assert [not messages for messages in batch[language.PERSISTENT]] == is_plain.tolist()


def test_a_mixture_drops_or_refuses_what_is_missing(shards: str, plain: str) -> None:
    mixture = [(shards, 0.5), (plain, 0.5)]
    assert language.EVENTS not in make_loader(mixture, on_missing="drop").meta.features
    with pytest.raises(OptionError, match="'language_events' is missing from dataset 1"):
        make_loader(mixture)
