"""Episodes for training and for evaluation, as LeRobot's trainer splits them."""

import math
from collections.abc import Mapping

from roboshard.common.errors import OptionError


def hold_out(task_of: Mapping[int, str], fraction: float) -> tuple[list[int], list[int]]:
    """Split episodes in two: of each task, the last ones are held out for evaluation.

    Args:
        task_of: Episode index -> its first task, in the order that makes some of them the last.
        fraction: Share of each task's episodes that is held out, rounded up to whole episodes.

    Returns:
        (training, evaluation): Episode indices, task by task.

    Raises:
        OptionError: No episode is left for training.
    """
    by_task: dict[str, list[int]] = {}
    for episode, task in task_of.items():
        by_task.setdefault(task, []).append(episode)
    training: list[int] = []
    evaluation: list[int] = []
    for episodes in by_task.values():
        kept = len(episodes) - math.ceil(len(episodes) * fraction)
        training += episodes[:kept]
        evaluation += episodes[kept:]
    if not training:
        raise OptionError(
            f"--dataset.eval_split={fraction} leaves none of {len(task_of)} episodes for training: "
            "it is rounded up to whole episodes for each task"
        )
    return training, evaluation


def first_of_each(task_index: list[int], most: int) -> list[int]:
    """Return the numbers of the first samples of each task, the same number of each.

    Args:
        task_index: The task index of every sample.
        most: How many samples there may be in all; each task has at least one of them.
    """
    tasks = sorted(set(task_index))
    share = max(1, most // max(1, len(tasks)))
    numbers: dict[int, list[int]] = {task: [] for task in tasks}
    for number, task in enumerate(task_index):
        if len(numbers[task]) < share:
            numbers[task].append(number)
    return [number for own in numbers.values() for number in own]
