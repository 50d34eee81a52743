"""What benchmarks/loading.py measures: every case is one line of a list."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Contender = Literal[
    "torchcodec", "roboshard", "lerobot", "lerobot_0.6", "webdataset", "spdl", "energon", "litdata"
]
Videos = Literal["source", "long_gop"]

ROBOSHARD_KEYWORDS = (
    "batch_size",
    "frame_order",
    "num_workers",
    "decode_threads",
    "return_uint8",
    "pool_episodes",
    "image_size",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One contender with its settings.

    Those of roboshard are keywords of `make_loader`; None: its default.
    """

    name: str
    contender: Contender
    videos: Videos = "source"
    """The dataset as it is, or its long-GOP version."""
    batch_size: int = 64
    num_workers: int | None = None
    threads: int = 2
    """Threads of the limit."""
    frame_order: Literal["uniform", "sweep"] | None = None
    decode_threads: int | None = None
    return_uint8: bool | None = None
    pool_episodes: int | None = None
    image_size: tuple[int, int] | None = None
    """Pictures are resized to (height, width); None: as stored."""
    tuned: bool | None = None
    """Whether WebDataset decodes and batches by hand, faster than what its documentation shows."""
    window: int = 1
    """Frames of each camera in a sample: its own and those before it."""
    over: tuple[str, ...] = ()
    """Cases of the same run that it is divided by, beside the limit."""

    @property
    def limit(self) -> str:
        """The case that bounds this one: decoding the same videos in order and doing nothing
        else.
        """
        return LIMITS[self.videos]

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of `make_loader` that the case sets."""
        settings = asdict(self)
        return {key: settings[key] for key in ROBOSHARD_KEYWORDS if settings[key] is not None}

    @property
    def settings(self) -> dict[str, Any]:
        """What the case sets, for the report."""
        return {
            key: value
            for key, value in asdict(self).items()
            if value is not None and key not in ("name", "over") and (key, value) != ("window", 1)
        }


LIMITS: dict[Videos, str] = {
    "source": "torchcodec_sequential",
    "long_gop": "long_gop_torchcodec_sequential",
}


def roboshard(name: str, **settings: Any) -> Case:
    """Return a case of our loader."""
    return Case(name=name, contender="roboshard", **settings)


PEERS: tuple[Case, ...] = (
    Case(name="lerobot", contender="lerobot", num_workers=2),
    Case(name="webdataset_jpeg", contender="webdataset", num_workers=2),
    Case(name="webdataset_jpeg_tuned", contender="webdataset", num_workers=2, tuned=True),
    Case(name="long_gop_lerobot", contender="lerobot", num_workers=2, videos="long_gop"),
)

JPEG = ("webdataset_jpeg", "webdataset_jpeg_tuned")

DEFAULT: tuple[Case, ...] = (
    Case(name=LIMITS["source"], contender="torchcodec"),
    roboshard("roboshard_sweep", frame_order="sweep", over=JPEG),
    roboshard("roboshard_uniform", frame_order="uniform", over=JPEG),
    roboshard(
        "roboshard_sweep_workers_2", frame_order="sweep", num_workers=2, over=("roboshard_sweep",)
    ),
    roboshard(
        "roboshard_uniform_workers_2",
        frame_order="uniform",
        num_workers=2,
        over=("roboshard_uniform",),
    ),
    roboshard(
        "roboshard_sweep_float32", frame_order="sweep", return_uint8=False, over=("lerobot",)
    ),
    roboshard(
        "roboshard_uniform_float32", frame_order="uniform", return_uint8=False, over=("lerobot",)
    ),
    *PEERS[:-1],
    Case(name=LIMITS["long_gop"], contender="torchcodec", videos="long_gop"),
    roboshard(
        "long_gop_roboshard_sweep_float32",
        frame_order="sweep",
        return_uint8=False,
        videos="long_gop",
        over=("long_gop_lerobot",),
    ),
    roboshard(
        "long_gop_roboshard_uniform_float32",
        frame_order="uniform",
        return_uint8=False,
        videos="long_gop",
        over=("long_gop_lerobot",),
    ),
    PEERS[-1],
)

ORDERS: tuple[Literal["uniform", "sweep"], ...] = ("sweep", "uniform")
VIDEOS: tuple[Videos, ...] = ("source", "long_gop")

MATRIX: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"workers_{n}": {"num_workers": n} for n in (1, 2, 4, 8)},
    **{f"threads_{n}": {"decode_threads": n} for n in (1, 2, 4, 8, 16)},
    **{f"batch_{n}": {"batch_size": n} for n in (8, 16, 128, 256)},
    **{f"pool_{n}": {"pool_episodes": n} for n in (1, 4, 8, 16)},
    **{f"size_{n}": {"image_size": (n, n)} for n in (96, 224, 256)},
    "float32": {"return_uint8": False},
    "float32_size_224": {"return_uint8": False, "image_size": (224, 224)},
}
"""What a case is called -> the settings in which it differs from the default."""


def matrix_case(videos: Videos, order: str, setting: str) -> str:
    """The name of a case of the matrix."""
    return f"matrix_{videos}_{order}_{setting}"


def variations() -> tuple[Case, ...]:
    """Return the matrix, for both orders and both kinds of video."""
    return tuple(
        roboshard(matrix_case(videos, order, setting), videos=videos, frame_order=order, **changes)
        for videos in VIDEOS
        for order in ORDERS
        for setting, changes in MATRIX.items()
    )


WINDOW = 9
OTHERS: dict[str, dict[str, Any]] = {
    "roboshard_sweep": {"contender": "roboshard", "frame_order": "sweep"},
    "roboshard_uniform": {"contender": "roboshard", "frame_order": "uniform"},
    "roboshard_uniform_float32": {
        "contender": "roboshard",
        "frame_order": "uniform",
        "return_uint8": False,
    },
    "lerobot_0.6": {"contender": "lerobot_0.6", "num_workers": 2},
    "lerobot_0.4_float32": {"contender": "lerobot", "num_workers": 2},
    "spdl": {"contender": "spdl", "threads": 2},
    "energon": {"contender": "energon", "num_workers": 2},
    "litdata": {"contender": "litdata", "num_workers": 2},
}
"""Ways to load the same frames from the same video, with two threads or workers each."""


def peer_case(videos: Videos, name: str, window: int) -> str:
    """Return the name of a case of `OTHERS`."""
    return f"peers_{videos}_{name}{f'_window_{window}' if window > 1 else ''}"


def beside_each_other() -> tuple[Case, ...]:
    """Return cases of all `OTHERS` on both kinds of video, with single frames and with windows."""
    return tuple(
        Case(
            name=peer_case(videos, name, window),
            videos=videos,
            window=window,
            over=(
                peer_case(videos, "roboshard_uniform" + "_float32" * ("float32" in name), window),
            ),
            **settings,
        )
        for videos in VIDEOS
        for window in (1, WINDOW)
        for name, settings in OTHERS.items()
    )


ALL: tuple[Case, ...] = (*DEFAULT, *variations(), *beside_each_other())
