"""Runs in the environment of LeRobot 0.6.1: its normalisers take statistics of ours, and its own
agree with them.
"""

import json
import sys
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Print how many statistics were normalised with."""
    with open(sys.argv[1], encoding="utf-8") as file:
        cases: dict[str, Any] = json.load(file)
    for case in cases["stats"].values():
        normalise(case["stats"], {key: np.asarray(rows) for key, rows in case["rows"].items()})
    compare_relative(cases["relative"])
    sys.stdout.write(f"{len(cases['stats'])}\n")


def normalise(stats: Any, rows: Any) -> None:
    """pi05's own normaliser, which is by quantiles, and the same by each other mode, there and
    back.
    """
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature  # noqa: PLC0415
    from lerobot.policies.pi05.configuration_pi05 import PI05Config  # noqa: PLC0415
    from lerobot.processor.factory import make_default_policy_processor_steps  # noqa: PLC0415

    arrays = {key: {name: np.asarray(own) for name, own in it.items()} for key, it in stats.items()}
    state, action = (
        torch.tensor(rows[key], dtype=torch.float32) for key in ("observation.state", "action")
    )
    config = PI05Config(device="cpu")
    config.input_features = {
        "observation.state": PolicyFeature(FeatureType.STATE, tuple(state.shape[1:]))
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, tuple(action.shape[1:]))}
    assert config.normalization_mapping["STATE"] == NormalizationMode.QUANTILES
    modes = (
        NormalizationMode.QUANTILES,
        NormalizationMode.QUANTILE10,
        NormalizationMode.MEAN_STD,
        NormalizationMode.MIN_MAX,
    )
    for mode in modes:
        config.normalization_mapping = config.normalization_mapping | {
            "STATE": mode,
            "ACTION": mode,
        }
        steps = make_default_policy_processor_steps(config, arrays)
        found = steps.normalize({"observation": {"observation.state": state}, "action": action})
        for values in (found["observation"]["observation.state"], found["action"]):
            assert torch.isfinite(values).all()
            if mode == NormalizationMode.MEAN_STD:
                assert values.mean(dim=0).abs().max() < 1e-4
                assert (values.std(dim=0, unbiased=False) - 1).abs().max() < 1e-3
            if mode == NormalizationMode.MIN_MAX:
                assert values.abs().max() <= 1 + 1e-5
            if mode == NormalizationMode.QUANTILES:
                assert (values.abs() > 1 + 1e-5).float().mean() <= 0.02 + 4 / len(values)
        back = steps.unnormalize({"action": found["action"]})["action"]
        torch.testing.assert_close(back, action, rtol=1e-4, atol=1e-4)


def compare_relative(case: Any) -> None:
    """LeRobot's own statistics of relative actions, of the same rows."""
    from lerobot.datasets.compute_stats import compute_relative_action_stats  # noqa: PLC0415

    theirs = compute_relative_action_stats(
        case["rows"], case["features"], case["window"], exclude_joints=case["exclude"]
    )
    ours = {name: np.asarray(own) for name, own in case["stats"].items()}
    assert theirs["count"].tolist() == ours["count"].tolist()
    spread = ours["max"] - ours["min"]
    for name in ("min", "max", "mean", "std"):
        assert np.abs(theirs[name] - ours[name]).max() < 1e-4 * spread.max(), name
    for name in ("q01", "q10", "q50", "q90", "q99"):  # theirs are estimates from histograms
        assert (np.abs(theirs[name] - ours[name]) < 0.01 * spread).all(), name


if __name__ == "__main__":
    main()
