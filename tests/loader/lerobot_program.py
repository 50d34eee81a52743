"""Runs in LeRobot's environment: what LeRobot reads of its dataset and of ours must be equal, and
so must samples.
"""

import sys
from typing import Any

WINDOWS = {
    "observation.image": [-0.2, 0.0, 0.1],
    "observation.state": [-0.1, 0.0],
    "next.reward": [0.0],
}
INDICES = (0, 1, 45, 46, 200, 643)


def main() -> None:
    """Print how many samples were compared."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata  # noqa: PLC0415

    from roboshard.loader import make_loader, open_dataset  # noqa: PLC0415

    source, shards = sys.argv[1:]
    theirs, ours = LeRobotDatasetMetadata("local/it", root=source), open_dataset(shards).meta
    compare_metadata(theirs, ours)
    compare_metadata(theirs, make_loader(shards).meta)
    assert list(theirs.episodes["dataset_from_index"]) == ours.episodes["dataset_from_index"]
    assert list(theirs.episodes["dataset_to_index"]) == ours.episodes["dataset_to_index"]
    compare_samplers(theirs, ours)
    compare_policies(theirs, ours)
    compared = 0
    for windows in (None, WINDOWS, deltas_of_act(ours)):
        dataset = LeRobotDataset(
            "local/it", root=source, delta_timestamps=windows, video_backend="torchcodec"
        )
        again = open_dataset(shards, delta_timestamps=windows, return_uint8=False)
        assert (len(dataset), dataset.num_frames, dataset.num_episodes) == (
            644,
            again.num_frames,
            again.num_episodes,
        )
        for i in INDICES:
            compare_samples(dataset[i], again[i])
            compared += 1
    sys.stdout.write(str(compared))


def compare_metadata(theirs: Any, ours: Any) -> None:
    """Everything that policies are built from."""
    for name in ("features", "fps", "total_frames", "total_episodes", "total_tasks", "robot_type"):
        assert getattr(theirs, name) == getattr(ours, name), name
    for name in ("camera_keys", "video_keys", "image_keys"):
        assert getattr(theirs, name) == list(getattr(ours, name)), name
    assert list(theirs.tasks.index) == list(ours.tasks)
    assert theirs.stats.keys() == ours.stats.keys()
    for key, values in theirs.stats.items():
        assert values.keys() == ours.stats[key].keys()
        for name, value in values.items():
            other = ours.stats[key][name]
            assert (value.dtype, value.shape) == (other.dtype, other.shape), (key, name)
            assert (value == other).all(), (key, name)


def compare_samplers(theirs: Any, ours: Any) -> None:
    """The rows that the trainer would draw for a policy that drops an episode's last frames."""
    from lerobot.datasets.sampler import EpisodeAwareSampler  # noqa: PLC0415

    both = [
        EpisodeAwareSampler(
            meta.episodes["dataset_from_index"],
            meta.episodes["dataset_to_index"],
            [1, 3],
            drop_n_last_frames=7,
        )
        for meta in (theirs, ours)
    ]
    assert both[0].indices == both[1].indices


def act() -> Any:
    """A small policy."""
    from lerobot.policies.act.configuration_act import ACTConfig  # noqa: PLC0415

    return ACTConfig(
        device="cpu",
        pretrained_backbone_weights=None,
        dim_model=32,
        n_heads=2,
        chunk_size=8,
        n_action_steps=8,
    )


def deltas_of_act(meta: Any) -> Any:
    """Its windows."""
    from lerobot.datasets.factory import resolve_delta_timestamps  # noqa: PLC0415

    return resolve_delta_timestamps(act(), meta)


def compare_policies(theirs: Any, ours: Any) -> None:
    """The policies that are made, their features, processors and windows."""
    import torch  # noqa: PLC0415
    from lerobot.datasets.factory import resolve_delta_timestamps  # noqa: PLC0415
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig  # noqa: PLC0415
    from lerobot.policies.factory import make_policy, make_pre_post_processors  # noqa: PLC0415

    for config in (act(), DiffusionConfig(device="cpu")):
        windows = resolve_delta_timestamps(config, theirs)
        assert windows
        assert windows == resolve_delta_timestamps(config, ours)
    made = []
    for meta in (theirs, ours):
        config = act()
        torch.manual_seed(0)
        policy = make_policy(config, ds_meta=meta)
        processors = make_pre_post_processors(config, dataset_stats=meta.stats)
        tensors = {f"policy.{key}": value for key, value in policy.state_dict().items()}
        for side, processor in zip("io", processors, strict=True):
            for step in processor.steps:
                tensors |= {
                    f"{side}.{type(step).__name__}.{key}": v for key, v in step.state_dict().items()
                }
        made.append((config.input_features, config.output_features, tensors))
    (inputs, outputs, tensors), (our_inputs, our_outputs, our_tensors) = made
    assert inputs == our_inputs
    assert outputs == our_outputs
    assert {"observation.image", "observation.state"} == set(inputs)
    assert any("NormalizerProcessorStep.action.mean" in key for key in tensors)
    assert tensors.keys() == our_tensors.keys()
    assert all(torch.equal(value, our_tensors[key]) for key, value in tensors.items())


def compare_samples(theirs: Any, ours: Any) -> None:
    """Keys, dtypes, shapes, values."""
    import torch  # noqa: PLC0415

    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert (value.dtype, value.shape) == (ours[key].dtype, ours[key].shape), key
            assert torch.equal(value, ours[key]), key
        else:
            assert value == ours[key]


if __name__ == "__main__":
    main()
