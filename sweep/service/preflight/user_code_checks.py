"""Runs the user's own model, loss and metrics on a few images, before the first trial does."""

from typing import Any

import torch
from torch import Tensor, nn

from ...config.study_config import StudyConfig
from ...config.trial_config import TrialConfig
from ...config.user_code import user_error_location
from ...data.datasets import DatasetInfo
from ...losses.metrics import new_accumulator
from ...losses.task import TASKS
from ...training.trial import build, task_kind, task_of

IMAGES = 4


def check_model(trial: TrialConfig, info: DatasetInfo, *, with_weights: bool) -> nn.Module | None:
    """Builds a model of the user's own and runs images through it, without memory for weights if the model allows.

    Returns None if it fails without weights and may not be built with them; raises a ValueError that is the problem.
    """
    try:
        with torch.device("meta"):
            model, output = _output(trial, info)
    except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
        if not with_weights and not isinstance(error, ValueError):
            return None
        try:
            with torch.device("cpu"):
                model, output = _output(trial, info)
        except Exception as error:
            raise ValueError(user_error_location(error)) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"it must make a torch.nn.Module, not a {type(model).__name__}")  # noqa: TRY004
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("it has no parameters that could be trained")
    expected = TASKS[task_kind(trial.task, model)].output_shape(IMAGES, info.in_shape, info.num_classes)
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != expected:
        raise ValueError(f"for {IMAGES} images its output is {_shape(found)}, expected {_shape(expected)}")
    return model


def _output(trial: TrialConfig, info: DatasetInfo) -> tuple[object, object]:
    model: object = build(trial, info)
    if not isinstance(model, nn.Module):
        return model, None
    model.eval()
    with torch.no_grad():
        output = model(torch.rand(IMAGES, *info.in_shape))
    return model.train(), output


def _shape(shape: tuple[int, ...] | str) -> str:
    return f"a {shape}" if isinstance(shape, str) else f"of the shape {list(shape)}"


def check_task(config: StudyConfig, model: object, info: DatasetInfo) -> list[str]:
    """Calls the user's own loss and metrics on a possible output of a model or class; returns their problems."""
    own = config.task
    if not (own.loss or own.metrics):
        return []
    task = task_of(own, model)
    shape = task.output_shape(IMAGES, info.in_shape, info.num_classes)
    images = torch.rand(IMAGES, *info.in_shape)
    labels = torch.arange(IMAGES * (images[0, 0].numel() if task.targets == "masks" else 1)) % info.num_classes
    if task.targets == "masks":
        labels = labels.view(IMAGES, *info.in_shape[1:])
    output = torch.rand(shape, requires_grad=True)
    problems = []
    if own.loss:
        try:
            loss: Any = task.loss(output, images, labels, 0.0)
        except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
            problems.append(f"task.loss: {own.loss}: {user_error_location(error)}")
        else:
            if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
                given = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
                given += " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
                problems.append(f"task.loss: {own.loss} returned {given}, not one number with a gradient")
    for name, metric in task.custom_metrics.items():
        try:
            with torch.inference_mode():
                accumulator = new_accumulator(metric)
                accumulator.update(output.detach(), task.target(images, labels))
                float(accumulator.compute())
        except Exception as error:  # noqa: BLE001
            problems.append(f"task.metrics.{name}: {own.metrics[name]}: {user_error_location(error)}")
    return problems
