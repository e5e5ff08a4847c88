"""Runs one trial on a worker: assembles it, resumes it from its checkpoint, trains, and reports after checkpoints.

The same generator runs in-process (``sweep train``, tests), under Ray on this machine, and on a cluster.
"""

import logging
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
from torch import nn

from ..config.sections import TaskConfig
from ..config.study_config import TrialConfig
from ..config.user_code import import_object, is_import_path
from ..data.datasets import DatasetInfo
from ..data.loading import load_dataset
from ..losses import EntropyGuidance, GuidanceWarning
from ..losses.task import TASKS, Task, customise
from ..models import build_model
from . import checkpoint
from .collapse import collapse, constant_metrics
from .initialisation import initialise
from .loop import Diverged, TrainingState, fit, input_batches
from .optimizers import build_optimizer
from .reports import REPORT_EVERY, TrialPaths, TrialReport, is_due

logger = logging.getLogger(__name__)

INITIALISATION_IMAGES = 256  # training images that an initialisation may use
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

    A resumed trial first reports its whole history, so that the study and the tracker miss nothing. Its checkpoints are
    in the folder of ``checkpoint.attempt(attempt, moves)``.

    Args:
        pruning_epochs: The epochs at which it may be stopped, so that it reports them soon; None: any epoch.
        interval: Seconds between two reports, at least; more if a checkpoint takes long to write.

    Raises:
        ValueError: Sizes that the model family refuses, or guidance without a layer to guide.
        DataError: The data set is missing.
    """
    torch.set_num_threads(config.threads)
    notices: list[str] = []
    run, saved = assemble(config, paths, warn=notices.append)
    if notices:
        yield TrialReport([], notices=tuple(notices))
    if saved is not None:
        logger.info("resumes from %s after epoch %d", saved.path, run.epoch)
        if saved.diverged:
            yield TrialReport(run.history[:], str(saved.path), "diverged", str(Diverged(saved.diverged)))
            return
        outcome, reason = _end(run)
        yield TrialReport(run.history[:], str(saved.path), outcome, reason)
        if outcome:
            return
    folder, pending, cost = paths.folder / checkpoint.attempt(attempt, moves), [], 0.0
    last = time.perf_counter()
    try:
        for metrics in fit(run):
            pending.append(metrics)
            outcome, reason = _end(run)
            every = max(interval, cost / CHECKPOINT_SHARE)
            if outcome or is_due((m.epoch for m in pending), time.perf_counter() - last, pruning_epochs, every=every):
                before = time.perf_counter()
                path = checkpoint.save(folder, run.history, _state_dicts(run))
                last = time.perf_counter()
                cost = last - before
                logger.debug("saved %s in %.3f s", path, cost)
                yield TrialReport(pending, str(path), outcome, reason)
                pending = []
    except Diverged as end:
        path = checkpoint.save(folder, run.history, _state_dicts(run), diverged=end.epoch)
        yield TrialReport(pending, str(path), "diverged", str(end))


def assemble(
    config: TrialConfig, paths: TrialPaths, warn: Callable[[str], object] = warnings.warn
) -> tuple[TrainingState, checkpoint.Checkpoint | None]:
    """Builds model, data, optimizer and guidance; loads the newest checkpoint, if there is one, and returns it too.

    Raises as `run_trial` does.
    """
    device = torch.device("cuda" if paths.gpus and torch.cuda.is_available() else "cpu")
    dataset = load_dataset(config.data, root=paths.data, cache=paths.cache)
    torch.manual_seed(config.training.seed)
    model = build(config, dataset.info)
    task = task_of(config.task, model)
    images = None
    if config.training.init == "lsuv":  # the first images in stored order, which is balanced over the classes
        first = dataset.train.first(INITIALISATION_IMAGES)
        images, _ = next(input_batches(config, dataset.info, task, first))
    initialise(model, config.training.init, images)
    model.to(device)
    warnings.simplefilter("ignore", GuidanceWarning)  # the driver warns once a trial, from the metric `guidance/ratio`
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
        constants=constant_metrics(config, task_kind(config.task, model), dataset),
    )
    saved = checkpoint.load_latest(paths.folder, warn)
    if saved is not None:
        run.model.load_state_dict(saved.state["model"])
        run.optimizer.load_state_dict(saved.state["optimizer"])
        run.history = saved.history
    return run, saved


def build(config: TrialConfig, info: DatasetInfo) -> nn.Module:
    """Builds the model of one trial, with PyTorch's own initialisation.

    Raises:
        ValueError: Sizes or options that the family refuses.
        ImportPathError: A model of the user's own cannot be imported.
    """
    own = is_import_path(config.model["name"])
    if own:
        import_object(config.model["name"])  # also finds modules beside the study file, and explains its errors
    model = build_model(**config.model, in_shape=info.in_shape, num_outputs=info.num_classes)
    if own and isinstance(model, nn.Module):
        with torch.no_grad():  # lazy layers get their weights in the first pass
            model.eval()(torch.zeros(2, *info.in_shape))
        model.train()
    return model


def task_kind(config: TaskConfig, model: object) -> str:
    """Returns the kind of task of a model (or its class): the study's, else the model's, else classification."""
    return str(config.kind or getattr(model, "task", "classification"))


def task_of(config: TaskConfig, model: object) -> Task:
    """Returns the task of a model (or its class), with the user's own loss and metrics.

    Raises:
        ImportPathError: The loss or a metric cannot be imported.
    """
    task = TASKS[task_kind(config, model)]
    metrics = {name: import_object(path) for name, path in config.metrics.items()}
    return customise(task, import_object(config.loss) if config.loss else None, metrics)


def _end(run: TrainingState) -> tuple[Literal["completed", "collapsed"] | None, str | None]:
    """Returns the outcome of a run and the reason of a collapse; nothing before the last epoch."""
    if run.epoch < run.config.training.max_epochs:
        return None, None
    reason = collapse(run.config, run.history[-1].values, run.constants)
    return ("collapsed", reason) if reason else ("completed", None)


def _state_dicts(run: TrainingState) -> dict[str, Any]:
    return {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
