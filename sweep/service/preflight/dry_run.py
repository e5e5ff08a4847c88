"""Plans a run without starting it: its trials, and their duration estimated from a few batches."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...analysis.summary import finished_rows
from ...config.filesystem import local_path
from ...config.grid import count_points
from ...config.settings import Settings
from ...config.study_config import StudyConfig
from ...study.records import TrialRecord
from ...study.storages.catalog import require_same_study
from ...training.reports import TrialPaths
from ..run import RunOptions, all_trained
from .data_agreement import require_same_data


@dataclasses.dataclass(frozen=True)
class DryRun:
    """The trials that a run has left to train, and their duration."""

    trials: int
    trainings: int  # of these, at most; the others take the numbers of an equal one
    controls: int  # finalists, controls and tuning trials, at most
    epoch_seconds: float | None  # in the middle of the space, measured on this machine; None: of a function
    slots: int  # trials at once on this machine
    hours: float | None  # estimated duration of all of them without pruning


@contextlib.contextmanager
def scratch_settings(settings: Settings) -> Iterator[Settings]:
    """Gives a ``with`` block settings of a dry run, whose data are prepared and downloaded in a temporary folder.

    What the workspace has of prepared data is linked there.
    """
    with tempfile.TemporaryDirectory(prefix="sweep-plan-") as folder:
        found = settings.model_copy(update={"scratch": Path(folder)})
        if (prepared := local_path(settings.cache)).is_dir():
            without = shutil.ignore_patterns("*.lock", "*.tmp")
            shutil.copytree(prepared, local_path(found.cache), copy_function=os.symlink, ignore=without)
        yield found


def plan_run(config: StudyConfig, settings: Settings) -> DryRun:
    """Returns the plan of a run, its duration estimated from a few batches in the middle of the space."""
    import torch

    require_same_study(config, settings)
    require_same_data(config, settings)
    rows = finished_rows(config, settings)
    searched, others = [r for r in rows if r.kind == "trial"], [r for r in rows if r.kind != "trial"]
    present, resources = torch.cuda.device_count(), config.resources
    gpus = resources.gpus_per_trial(present)
    seconds = _epoch_seconds(config, settings, gpus) if config.kind == "model" else None
    # 1 if this machine has room for none, since a cluster is meant.
    room = max(1, resources.room(os.cpu_count() or 1, present, gpus))
    slots = min(room, resources.max_concurrent or room)
    trials = max(0, config.search.trials - len(searched))
    # An extension may replace the present finalists.
    controls = max(0, config.search.afterwards(guided=config.guided) - (0 if trials else len(others)))
    if all_trained(config, searched, others, RunOptions()):  # fewer rows than announced, as finalists share controls
        trials = controls = 0
    trainings = _trainings(config, searched, trials)
    epochs = (trainings + controls) * config.training.max_epochs
    hours = None if seconds is None else epochs * seconds / slots / 3600
    return DryRun(trials, trainings, controls, seconds, slots, hours)


def _trainings(config: StudyConfig, ended: Sequence[TrialRecord], trials: int) -> int:
    """Returns how many of the trials that are left are trained, given those that have ended."""
    points = count_points(config.searched)
    if points is None or config.search.duplicates != "reuse":
        return trials
    known = {repr(sorted(row.hyperparameters.items())) for row in ended if row.outcome != "failed"}
    compared = config.kind != "model" or bool(config.import_paths)  # one twin is trained before others are reused
    return min(trials, (max(0, points - len(known)) + compared) * config.search.seeds)


def _epoch_seconds(config: StudyConfig, settings: Settings, gpus: float) -> float:
    """Measures an epoch in the middle of the space, on a part of the training set, and scales it up."""
    import torch

    from ...study.distributions import distributions, from_unit
    from ...training.loop import Diverged, fit
    from ...training.trial import assemble

    middle = {name: from_unit(d, 0.5) for name, d in distributions(config.searched).items()}
    with tempfile.TemporaryDirectory(prefix="sweep-plan-") as scratch:
        run, _ = assemble(config.trial(middle), TrialPaths(Path(scratch), settings.data, settings.cache, gpus=gpus))
    whole, part = run.train.size, 24 * run.config.training.batch_size
    if whole > part:
        run = dataclasses.replace(run, train=run.train.first(part))
    epochs, started, threads = fit(run), time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(run.config.threads)  # as a trial's
    try:
        next(epochs)  # the first one warms up
        started = time.perf_counter()
        next(epochs)
    except StopIteration:
        return run.history[-1].values["seconds"] * max(1.0, whole / part)
    except Diverged:  # at the end of an epoch
        pass
    finally:
        torch.set_num_threads(threads)
    return (time.perf_counter() - started) * max(1.0, whole / part)
