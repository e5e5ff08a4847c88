"""Runs one trial on a worker: assembles it, resumes it from its checkpoint, trains, and reports after checkpoints.

`assemble_run` alone knows the kinds of trials: the built-in loop on a model, a function or a script of the user's own.

The same generator runs in-process (``sweep train``, tests), under Ray on this machine, and on a cluster.
"""

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Collection, Generator
from typing import Any, Protocol

import torch
from torch import nn

from ..config.filesystem import AnyPath, parse_path
from ..config.sections import TaskConfig
from ..config.trial_config import TrialConfig
from ..config.user_code import import_object, is_import_path
from ..data.datasets import DatasetInfo
from ..data.loading import load_dataset
from ..losses import EntropyGuidance, GuidanceWarning
from ..losses.task import TASKS, Task, customise
from ..models import build_model
from . import checkpoint
from .collapse import collapse, constant_metrics
from .distributed import Ranks, device_of, number_of_ranks, start_ranks
from .initialisation import initialise
from .loop import Diverged, TrainingState, has_batch_norm, input_batches
from .optimizers import build_optimizer
from .reports import REPORT_EVERY, EndOutcome, EpochMetrics, TrialPaths, TrialReport, is_due

logger = logging.getLogger(__name__)

INITIALISATION_IMAGES = 256  # training images that an initialisation may use
CHECKPOINT_SHARE = 0.03  # a checkpoint may cost this share of the training time
FOLLOW = f"{__name__}:follow"
BATCH_NORM = (
    "resources.workers: batch norm takes its statistics over the share that each of the {} processes has of a batch; "
    "the results differ from those of one process"
)


class TrialRun(Protocol):
    """A trial between two epochs, of whichever kind: what `run_trial` advances and a checkpoint holds."""

    config: TrialConfig
    history: list[EpochMetrics]
    constants: dict[str, float]  # metrics of the best constant output, as far as they are known
    ended: bool  # of its own accord, maybe before the last epoch

    @property
    def saves_every_epoch(self) -> bool:
        """True if no epoch may be lost, whatever a checkpoint of it costs."""

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""

    def fit(self) -> Generator[EpochMetrics]:
        """Trains on, and yields each epoch once it has ended; raises `Diverged`."""

    def state_dicts(self) -> dict[str, Any]:
        """Returns what a checkpoint holds beside the history; of tensors and plain containers."""

    def diverged(self, epoch: int) -> Diverged:
        """Returns the error of a run that was lost in an epoch."""


def assemble_run(
    config: TrialConfig, paths: TrialPaths, attempt: str, warn: Callable[[str], object], ranks: Ranks | None = None
) -> tuple[TrialRun, checkpoint.Checkpoint | None]:
    """Builds a trial of the config's kind as its newest checkpoint left it; returns that, too.

    Args:
        config: The trial.
        paths: Its places.
        attempt: The name of the folder of this attempt.
        warn: Receives sentences for the user, now or while it trains.
        ranks: The processes that train it together; None: this one alone.
    """
    match config.kind:
        case "model":
            run, saved = assemble(config, paths, warn, ranks)
            if ranks is not None and run.device.type == "cpu" and has_batch_norm(run.model):
                warn(BATCH_NORM.format(ranks.size))
            return run, saved
        case "function":
            from .user_function import FunctionRun

            saved = _newest(paths.folder, warn, ranks)
            device = device_of(config, paths) if ranks is None else ranks.device
            return FunctionRun(config, paths.folder / attempt, saved, warn, device, ranks), saved
        case "command":
            from .user_script import ScriptRun

            script = ScriptRun(config, paths, attempt, checkpoint.load_latest(paths.folder, warn), warn)
            return script, script.saved


def run_trial(
    config: TrialConfig,
    paths: TrialPaths,
    *,
    attempt: int = 1,
    moves: int = 0,
    pruning_epochs: Collection[int] | None = None,
    interval: float = REPORT_EVERY,
) -> Generator[TrialReport]:
    """Trains one trial, from its newest checkpoint if there is one, and yields a report after every checkpoint.

    A resumed trial first reports its whole history, so that the study and the tracker miss nothing. Its checkpoints are
    in the folder of ``checkpoint.attempt(attempt, moves)``.

    Args:
        pruning_epochs: The epochs at which it may be stopped, so that it reports them soon; None: any epoch.
        interval: Seconds between two reports, at least; more if a checkpoint takes long to write.

    Raises:
        ValueError: Sizes that the model family refuses, or guidance without a layer to guide.
        DataError: The data set is missing.
        RankLostError: A process of the trial was killed.
    """
    torch.set_num_threads(config.threads)
    folder = checkpoint.attempt(attempt, moves)
    several = number_of_ranks(config, paths) > 1
    with start_ranks(config, paths, FOLLOW) if several else contextlib.nullcontext() as ranks:
        notices: list[str] = []
        if ranks is not None:
            ranks.agree(folder)
        run, saved = assemble_run(config, paths, folder, notices.append, ranks)
        yield from _reports(run, saved, paths.folder / folder, notices, pruning_epochs, interval)


def follow(config: TrialConfig, paths: TrialPaths, ranks: Ranks) -> None:
    """Trains a trial as one of its other ranks: takes part in the epochs that rank 0 begins."""
    torch.set_num_threads(config.threads)
    run, _ = assemble_run(config, paths, ranks.agree(), lambda _: None, ranks)
    with contextlib.suppress(Diverged):
        for _ in run.fit():
            pass


def _reports(
    run: TrialRun,
    saved: checkpoint.Checkpoint | None,
    folder: AnyPath,
    notices: list[str],
    pruning_epochs: Collection[int] | None,
    interval: float,
) -> Generator[TrialReport]:
    """Trains an assembled run, as `run_trial` says; its checkpoints are in ``folder``."""
    if notices:
        yield TrialReport([], notices=_taken(notices))
    if saved is not None:
        logger.info("resumes from %s after epoch %d", saved.path, run.epoch)
        outcome, reason = ("diverged", str(run.diverged(saved.diverged))) if saved.diverged else _end(run)
        yield TrialReport(run.history[:], str(saved.path), outcome, reason)
        if outcome:
            return
    pending, cost, outcome = list[EpochMetrics](), 0.0, None

    def save(diverged: int | None = None) -> str:
        return str(checkpoint.save(folder, run.history, run.state_dicts(), diverged=diverged))

    last = time.perf_counter()
    try:
        with contextlib.closing(run.fit()) as epochs:  # which ends code of the user's own, too
            for metrics in epochs:
                pending.append(metrics)
                outcome, reason = _end(run)
                every = 0.0 if run.saves_every_epoch else max(interval, cost / CHECKPOINT_SHARE)
                waited, unreported = time.perf_counter() - last, [m.epoch for m in pending]
                if outcome or is_due(unreported, waited, pruning_epochs, every=every):
                    before = time.perf_counter()
                    path = save()
                    last = time.perf_counter()
                    cost = last - before
                    logger.debug("saved %s in %.3f s", path, cost)
                    yield TrialReport(pending, path, outcome, reason, notices=_taken(notices))
                    pending = []
        if run.ended and outcome is None:
            outcome, reason = _end(run)
            yield TrialReport(pending, save(), outcome, reason, notices=_taken(notices))
    except Diverged as end:
        yield TrialReport(pending, save(end.epoch), "diverged", str(end), notices=_taken(notices))


def assemble(
    config: TrialConfig,
    paths: TrialPaths,
    warn: Callable[[str], object] = warnings.warn,
    ranks: Ranks | None = None,
) -> tuple[TrainingState, checkpoint.Checkpoint | None]:
    """Builds model, data, optimizer and guidance; loads the newest checkpoint, if there is one, and returns it too.

    All ranks load the checkpoint that rank 0 finds.

    Raises as `run_trial` does.
    """
    device = device_of(config, paths) if ranks is None else ranks.device
    dataset = load_dataset(config.data, root=paths.data, cache=paths.cache, seed=config.training.seed)
    torch.manual_seed(config.training.seed)
    model = build(config, dataset.info)
    task = task_of(config.task, model)
    images = None
    if config.training.init == "lsuv":  # the first images in stored order, which is balanced over the classes
        first = dataset.train.first(INITIALISATION_IMAGES)
        images, _ = next(input_batches(config, dataset.info, task, first))
    initialise(model, config.training.init, images)
    model.to(device)
    if ranks is not None and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
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
        ranks=ranks,
    )
    saved = _newest(paths.folder, warn, ranks)
    if saved is not None:
        run.model.load_state_dict(saved.state["model"])
        run.optimizer.load_state_dict(saved.state["optimizer"])
        run.history = saved.history
    if ranks is not None:
        own = is_import_path(config.model["name"])  # it may have parameters that the loss does not depend on
        ranks.network = ranks.parallel(model, find_unused_parameters=own)
        run.guidance.distribute(ranks.group)
    return run, saved


def _newest(folder: AnyPath, warn: Callable[[str], object], ranks: Ranks | None) -> checkpoint.Checkpoint | None:
    if ranks is None:
        return checkpoint.load_latest(folder, warn)
    if ranks.rank == 0:
        saved = checkpoint.load_latest(folder, warn)
        ranks.agree("" if saved is None else str(saved.path))
        return saved
    path = ranks.agree()
    return checkpoint.load(parse_path(path)) if path else None


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


def _taken(notices: list[str]) -> tuple[str, ...]:
    """Returns the notices, and empties the list."""
    taken = tuple(notices)
    notices.clear()
    return taken


def _end(run: TrialRun) -> tuple[EndOutcome | None, str | None]:
    """Returns the outcome of a run, and the reason unless it completed; nothing before the end.

    With ``objective.at: best``, one epoch with a finite objective is enough.
    """
    if run.epoch < run.config.training.max_epochs and not run.ended:
        return None, None
    objective = run.config.objective
    values = [epoch.values[objective.metric] for epoch in run.history[0 if objective.at == "best" else -1 :]]
    if not any(map(math.isfinite, values)):
        nan = math.isnan(values[-1])
        where = f"{objective.metric} is {'not a number' if nan else 'infinite'} in epoch {run.epoch}"
        return ("failed" if nan else "diverged"), where
    reason = collapse(run.config, run.history[-1].values, run.constants)
    return ("collapsed", reason) if reason else ("completed", None)
