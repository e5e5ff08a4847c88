"""One trial on a worker: assemble it, take it up from its checkpoint, train, and hand out what is safe on disk.

The same generator runs in-process (``sweep train``, tests), under Ray on this machine, and on a cluster.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..config.sections import TaskConfig
from ..config.study_config import TrialConfig
from ..config.user_code import import_object, is_import_path
from ..data.datasets import DatasetInfo
from ..data.loading import Dataset, load_dataset
from ..losses import EntropyGuidance, GuidanceWarning
from ..losses.task import TASKS, Task, customised
from ..models import build_model
from . import checkpoint
from .initialisation import initialise
from .loop import Diverged, TrainingState, fit, input_batches
from .optimizers import build_optimizer
from .reports import REPORT_EVERY, TrialPaths, TrialReport, is_due

LOOKED_AT = 256  # training images that an initialisation may look at
CHECKPOINT_SHARE = 0.03  # a checkpoint may cost this share of the training time


def run_trial(
    config: TrialConfig,
    paths: TrialPaths,
    *,
    attempt: int = 1,
    moves: int = 0,
    pruning_epochs: Collection[int] | None = None,
    interval: float = REPORT_EVERY,
) -> Iterator[TrialReport]:
    """Trains one trial, from its newest checkpoint if there is one, and yields a report after every checkpoint.

    A trial that is taken up first reports its whole history, so that nothing is missing where the reports go.

    Args:
        attempt: names the folder of this attempt's checkpoints, together with ``moves`` (see `checkpoint.attempt`).
        judged: the epochs at which it may be stopped, so that it reports them soon; None: any.
        interval: seconds between two reports, at least; more where a checkpoint is expensive.
    """
    torch.set_num_threads(config.threads)
    notices: list[str] = []
    run, saved = assemble(config, paths, say=notices.append)
    if notices:
        yield TrialReport([], notices=tuple(notices))
    if saved is not None:
        outcome: Literal["completed", "diverged"] | None = "diverged" if saved.diverged else None
        outcome = "completed" if not outcome and run.epoch == config.training.max_epochs else outcome
        yield TrialReport(
            run.history[:], str(saved.path), outcome, str(Diverged(saved.diverged)) if saved.diverged else None
        )
        if outcome:
            return
    folder, pending, cost = paths.folder / checkpoint.attempt(attempt, moves), [], 0.0
    last = time.perf_counter()
    try:
        for metrics in fit(run):
            pending.append(metrics)
            done = metrics.epoch == config.training.max_epochs
            every = max(interval, cost / CHECKPOINT_SHARE)
            if done or is_due((m.epoch for m in pending), time.perf_counter() - last, pruning_epochs, every=every):
                before = time.perf_counter()
                path = checkpoint.save(folder, run.history, _state(run))
                last = time.perf_counter()
                cost = last - before
                yield TrialReport(pending, str(path), "completed" if done else None)
                pending = []
    except Diverged as end:
        path = checkpoint.save(folder, run.history, _state(run), diverged=end.epoch)
        yield TrialReport(pending, str(path), "diverged", str(end))


def assemble(
    config: TrialConfig, paths: TrialPaths, say: Callable[[str], object] = warnings.warn
) -> tuple[TrainingState, checkpoint.Checkpoint | None]:
    """Builds model, data, optimizer and guidance, and puts the newest checkpoint into them.

    Args:
        say: told of checkpoints that are damaged.

    Raises:
        ValueError: sizes that the model family refuses, or guidance without a layer to guide.
        DataError: the data set is missing.
    """
    device = torch.device("cuda" if paths.gpus and torch.cuda.is_available() else "cpu")
    dataset = load_dataset(config.data, root=paths.data, cache=paths.cache)
    torch.manual_seed(config.training.seed)
    model = build(config, dataset.info)
    task = task_of(config.task, model)
    images = _first_images(config, dataset, task) if config.training.init == "lsuv" else None
    initialise(model, config.training.init, images)
    model.to(device)
    warnings.simplefilter("ignore", GuidanceWarning)  # `guidance/ratio` is a metric; the driver says it once a trial
    run = TrainingState(
        config=config,
        model=model,
        optimizer=build_optimizer(model, config.training),
        guidance=EntropyGuidance(model, batch_size=config.training.batch_size, **config.guidance.model_dump()),
        task=task,
        info=dataset.info,
        train=dataset.train.to(device),
        val=dataset.val.to(device),
        device=device,
        test=dataset.test.to(device) if config.test else None,
    )
    saved = checkpoint.load_latest(paths.folder, say)
    if saved is not None:
        run.model.load_state_dict(saved.state["model"])
        run.optimizer.load_state_dict(saved.state["optimizer"])
        run.history = saved.history
    return run, saved


def _first_images(config: TrialConfig, dataset: Dataset, task: Task) -> Tensor:
    """The first training images in stored order, which is balanced over the classes."""
    return next(input_batches(config, dataset.info, task, dataset.train.first(LOOKED_AT)))[0]


def trained_model(
    config: TrialConfig, paths: TrialPaths, saved: checkpoint.Checkpoint
) -> tuple[nn.Module, np.ndarray[Any, Any]]:
    """The network of a checkpoint, on the CPU, and a batch [4, C, H, W] of what it takes."""
    dataset = load_dataset(config.data, root=paths.data, cache=paths.cache)
    model = build(config, dataset.info)
    model.load_state_dict(saved.state["model"])
    task = task_of(config.task, model)
    x, _ = next(input_batches(config, dataset.info, task, dataset.val))
    return model, x[:4].numpy()


def build(config: TrialConfig, info: DatasetInfo) -> nn.Module:
    """Builds the model of one trial, with PyTorch's own initialisation."""
    own = is_import_path(config.model["name"])
    if own:
        import_object(config.model["name"])  # from the study's folders too, and with its own errors
    model = build_model(**config.model, in_shape=info.in_shape, num_outputs=info.num_classes)
    if own and isinstance(model, nn.Module):
        with torch.no_grad():  # a network that builds layers in its first pass, lazy ones say, has them from here on
            model.eval()(torch.zeros(2, *info.in_shape))
        model.train()
    return model


def task_kind(config: TaskConfig, model: object) -> str:
    """What a model (or its class) is trained for: as the study says, or the model, or else classification."""
    return str(config.kind or getattr(model, "task", "classification"))


def task_of(config: TaskConfig, model: object) -> Task:
    """What a model (or its class) is trained for, with the user's own loss and metrics.

    Raises:
        ImportPathError: one of them cannot be imported.
    """
    task = TASKS[task_kind(config, model)]
    metrics = {name: import_object(path) for name, path in config.metrics.items()}
    return customised(task, import_object(config.loss) if config.loss else None, metrics)


def _state(run: TrainingState) -> dict[str, Any]:
    return {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
