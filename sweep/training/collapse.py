"""Finds networks that have learned nothing: those no better at their last epoch than an output that is constant."""

import contextlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..config.filesystem import write_atomically
from ..config.sections import SHARES
from ..config.trial_config import TrialConfig
from ..data.loading import Dataset
from ..losses.task import TASKS
from .loop import input_batches
from .meter import Meter

# The least improvement that counts: a share of the constant's value, for `SHARES` of 1 minus it. Of 256 autoencoders on
# MNIST, five were 0.6 % better than the mean image or worse; the next was 6 % better.
MARGIN = 0.02


def constant_metrics(config: TrialConfig, kind: str, dataset: Dataset) -> dict[str, float]:
    """Returns the validation metrics of the best constant output of a task, by name.

    That is the class frequencies, or the mean image, of the validation images themselves. It is measured once for each
    prepared data set, or with ``data.val_seed: trial`` for each seed, and kept beside it.
    """
    size = "x".join(map(str, (dataset.val.size, *dataset.info.in_shape)))
    size += f"-{dataset.cut}" if dataset.cut else ""
    path = dataset.cache / dataset.reader.key / f"constant-{kind}-{size}.json"
    with contextlib.suppress(OSError, ValueError):
        return {name: float(value) for name, value in json.loads(path.read_text()).items()}
    found = _measure(config, kind, dataset)
    with contextlib.suppress(OSError), write_atomically(path) as beside:  # the cache may be read-only
        beside.write_text(json.dumps(found))
    return found


def _measure(config: TrialConfig, kind: str, dataset: Dataset) -> dict[str, float]:
    task, info, val = TASKS[kind], dataset.info, dataset.val

    def epoch() -> Iterable[tuple[Tensor, Tensor]]:
        if task.targets == "labels":  # the images need not be read
            labels = torch.as_tensor(val.labels)
            return [(labels, labels)]
        return input_batches(config, info, task, val)

    output = task.constant(epoch(), info.num_classes)
    meter = Meter(task)
    for x, y in epoch():
        constant = output.expand(task.output_shape(len(x), info.in_shape, info.num_classes))
        meter.update(task.loss(constant, x, y, 0.0), constant, y)
    return meter.compute("val")


def collapse(config: TrialConfig, values: Mapping[str, float], constants: Mapping[str, float]) -> str | None:
    """Returns the reason why a network with these metrics has collapsed; None if it has not, or cannot be judged.

    A network has collapsed if no metric improves on the constant output's by more than ``MARGIN``. A loss of the user's
    own has no known constant, nor has a metric of theirs; then `objective.constant` alone is compared.
    """
    objective = config.objective
    if objective.constant is not None:
        levels = {objective.metric: objective.constant}
    else:
        levels = {name: level for name, level in constants.items() if config.task.loss is None or name in SHARES}
    # An output that is constant and perfect leaves nothing to learn: all validation images are alike.
    alike = objective.constant is None and not constants.get("val_loss", 0.0) > 0
    if alike or objective.metric not in levels:
        return None
    minimised = {name: name == "val_loss" for name in levels} | {objective.metric: objective.direction == "minimize"}
    if not all(is_no_better(name, values[name], level, minimised=minimised[name]) for name, level in levels.items()):
        return None
    ends = [f"{name} {values[name]:.4g} (constant {level:.4g})" for name, level in levels.items()]
    return f"no better at the last epoch than a constant output: {', '.join(ends)}"


def is_no_better(name: str, value: float, level: float, *, minimised: bool) -> bool:
    """Returns True if a metric improves on a constant output's ``level`` by ``MARGIN`` at most."""
    margin = MARGIN * (1 - level if name in SHARES else abs(level))
    return value >= level - margin if minimised else value <= level + margin
