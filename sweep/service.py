"""What the command line and a notebook call: `load` a study, `run` it, `train` a trial, `summarise` what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .conclusions import importances, publish, report, sensitivity
from .config import StudyConfig, TrialConfig
from .dimensions import Scalar
from .errors import ConfigError, DivergenceError, SweepError, nearest
from .finding import agree, connect, continued, load, stored, studies
from .results import Summary, export, finished_rows, run_links, summarise, ui
from .running import run
from .settings import Settings
from .studyfile import read_yaml

if TYPE_CHECKING:
    from .metrics import EpochMetrics
    from .plan import Plan

__all__ = [
    "Summary",
    "continued",
    "enqueue",
    "export",
    "finished_rows",
    "importances",
    "load",
    "planned",
    "publish",
    "report",
    "run",
    "run_links",
    "sensitivity",
    "stored",
    "studies",
    "summarise",
    "test",
    "train",
    "trial_config",
    "ui",
]


def enqueue(name: str, settings: Settings, sets: Sequence[str]) -> tuple[int, dict[str, Scalar]]:
    """Queues one configuration of the user's own; the next run trains it. The budget grows by one.

    Raises:
        ConfigError: hyperparameters that the space lacks or does not contain, or that are not given a value.
    """
    from .space import contains, distributions
    from .study import Study

    config = stored(name, settings)
    space, values, problems = distributions(config.searched), {}, []
    for assignment in sets:
        key, sign, text = assignment.partition("=")
        value = read_yaml(f"value: {text}", f"--set {key}")["value"] if sign else None
        if key not in space:
            problems.append(f"{key}: not searched in {name}{nearest(key, list(space))}; searched: {', '.join(space)}")
        elif not contains(space[key], value):
            problems.append(f"{key}: {value!r} is not in {config.searched[key]}")
        else:
            values[key] = value
    if not values and not problems:
        problems.append(f"--set: give at least one of {', '.join(space)}; the sampler chooses the rest")
    if problems:
        raise ConfigError("options", problems)
    search = config.search.model_copy(update={"trials": config.search.trials + 1})
    study = Study(config.model_copy(update={"search": search}), connect(settings.storage), workspace=settings.workspace)
    number = study.enqueue(values)
    return number, values


def planned(config: StudyConfig, settings: Settings) -> Plan:
    """What a run would do, and how long it would take."""
    from .plan import plan

    agree(config, settings)
    rows = finished_rows(config, settings)
    done = sum(row.kind == "trial" for row in rows)
    return plan(config, settings, done=done, beside=len(rows) - done)


# -- one trial, in this process --------------------------------------------------------------------------------------


def trial_config(config: StudyConfig, settings: Settings, number: int | None) -> TrialConfig:
    """The config of one trial: that of trial ``number``, or the constants of a study that searches nothing.

    Raises:
        SweepError: no such trial, or hyperparameters without a value.
    """
    if number is None:
        missing = list(config.searched)
        if missing:
            raise ConfigError("train", [f"{n}: give it a value, --set {n}=..." for n in missing])
        return config.trial({})
    rows = {row.number: row for row in summarise(config.name, settings).rows}
    row = rows.get(number)
    if row is None or not row.hyperparameters:
        raise SweepError(f"trial {number}: {config.name} has no such trial that was started (0 to {len(rows) - 1})")
    return config.trial(row.hyperparameters, seed=row.seed)


def train(trial: TrialConfig, settings: Settings, folder: Path) -> Iterator[EpochMetrics]:
    """Trains one trial in this process, from scratch, and yields its epochs.

    Raises:
        DivergenceError: it diverges; says in which epoch.
    """
    from .places import Place
    from .trial import run_trial

    place = Place(folder=folder, data=settings.data, cache=settings.cache, gpus=1.0)
    for said in run_trial(trial, place, interval=0.0):
        yield from said.epochs
        if said.outcome == "diverged":
            raise DivergenceError(f"diverged: {said.error}")


def test(trial: TrialConfig, settings: Settings, folder: Path) -> dict[str, float]:
    """Metrics of a trained trial on the test set."""
    from .data import load as load_data
    from .places import Place
    from .training import evaluate
    from .trial import assemble

    run, _ = assemble(trial, Place(folder=folder, data=settings.data, cache=settings.cache, gpus=1.0))
    dataset = load_data(trial.data, root=settings.data, cache=settings.cache)
    return evaluate(run, dataset.test.to(run.device), "test")
