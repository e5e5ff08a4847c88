"""A finished study that was never trained: written into a storage as a run leaves it, its results a known function."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.analysis.report.report import Report
from sweep.config.search_space import Scalar
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.service.analyse import report
from sweep.study.distributions import distributions, sobol_points
from sweep.study.finalists import unguided
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics

EPOCHS = 9
COMPLETED = 40
SECONDS = 10.0  # of each completed trial
BEGAN = 1_700_000_000.0
HOSTILE = "<script>window.hacked=1</script>"
HOSTILE_LAYER = "<img src=x onerror=window.hacked=1>"
HOSTILE_ERROR = f"Traceback (most recent call last):\n  line 1\nValueError: </script>{HOSTILE}<b>bold</b> $x^2$ &amp;"


def study(choices: tuple[str, ...] = ("<b>relu</b>", HOSTILE, "$a_b$"), **search: object) -> StudyConfig:
    """A study of five hyperparameters; one has choices of the user's own."""
    return StudyConfig.model_validate(
        {
            "name": "made",
            "model": {"name": "mypkg:<i>Net</i>", "width": 16},
            "data": {"name": "digits"},
            "objective": {"metric": "val_loss", "direction": "minimize"},
            "space": {
                "lambda1": {"low": 1e-5, "high": 1e-1, "log": True},
                "lambda2": {"low": 1e-5, "high": 1e-1, "log": True},
                "epsilon": {"low": 1e-3, "high": 10, "log": True},
                "depth": {"low": 2, "high": 6},
                "model.activation": {"choices": list(choices)},
            },
            "training": {"max_epochs": EPOCHS},
            "search": {"trials": 1, "pruner": "median", "finalists": {"top": 1, "seeds": 2, "tuned": 1}, **search},
        }
    )


def value(params: dict[str, Any], config: StudyConfig) -> float:
    """Returns a trial's final value: lambda1 and depth interact, lambda2 and epsilon do nothing."""
    u = (np.log10(params["lambda1"]) + 5) / 4 if params["lambda1"] else 1.0
    choices: Any = config.searched["model.activation"]
    nth = choices.choices.index(params["model.activation"])
    return float(0.5 + 0.3 * (u - 0.5) + 1.2 * (u - 0.5) * ((params["depth"] - 2) / 4 - 0.5) + 0.1 * nth)


def make(
    workspace: Path,
    config: StudyConfig,
    *,
    completed: int,
    uniform: int | None = None,
    bad: bool = True,
    saved: bool = True,
) -> Settings:
    """Leaves in a workspace what a study leaves, MLflow aside.

    Args:
        completed: trials at full budget.
        uniform: how many of them are marked as design trials; default: all.
        bad: four pruned at epoch 3, one diverged and two failed besides.
        saved: with checkpoints.
    """
    settings = Settings(workspace=workspace)
    space, storage = distributions(config.searched), open_storage(settings.storage)
    search = Study(config, storage, workspace=workspace)
    sister = Study(config, storage, workspace=workspace, sister=True)
    points = sobol_points(space, count=completed + 7 * bad, skip=0, seed=0)
    marked = completed if uniform is None else uniform
    rows = [
        _trial(config, space, params, "completed", EPOCHS, {"design": number < marked})
        for number, params in enumerate(points[:completed])
    ]
    for params, outcome in zip(points[completed:], ["pruned"] * 4 + ["diverged"] + ["failed"] * 2, strict=False):
        error = {"diverged": "the loss was not finite in epoch 3", "failed": HOSTILE_ERROR}.get(outcome)
        rows.append(_trial(config, space, params, outcome, 3, {"design": False, "error": error}))
    search._study.add_trials(rows)
    best = min(rows[:completed], key=lambda t: t.value or 0.0)
    twin = unguided({**config.constants, **best.params})
    chosen = {**twin, "training.lr": 1e-3, "training.init": "he"}
    wanted: list[tuple[str, int, dict[str, Scalar]]] = [("finalist", seed, best.params) for seed in (1, 2)]
    wanted += [("control", seed, twin) for seed in (1, 2)] + [("tuned", seed, chosen) for seed in (0, 1, 2)]
    controls = [
        _trial(config, {}, values, "completed", EPOCHS, {"kind": kind, "of": rows.index(best), "seed": seed})
        for kind, seed, values in wanted
    ]
    sister._study.add_trials(controls)
    if saved:
        for name, trials in ((config.name, rows), (f"{config.name}.controls", controls)):
            for number, trial in enumerate(trials):
                last = trial.user_attrs["epochs"]
                checkpoint.save(settings.checkpoints(name, number) / "attempt-01", _history(trial, config, last), {})
    return settings


def reported(folder: Path) -> tuple[Settings, Report]:
    """A study with hostile texts and its report, made in this folder."""
    settings = make(folder / "made", study(), completed=COMPLETED)
    return settings, report("made", settings)


def _trial(
    config: StudyConfig, space: Any, params: dict[str, Any], outcome: str, epochs: int, attrs: dict[str, Any]
) -> FrozenTrial:
    states = {"completed": TrialState.COMPLETE, "failed": TrialState.FAIL}
    seconds = SECONDS * epochs / EPOCHS
    said = {k: v for k, v in attrs.items() if v is not None}
    trial = create_trial(
        state=states.get(outcome, TrialState.PRUNED),
        params=dict(params) if space else {},
        distributions=dict(space),
        value=_final(params, config, attrs) if outcome == "completed" else None,
        user_attrs={
            "seed": 0, "epochs": epochs, "outcome": outcome, "tags": {"sweep.device": "cpu"},
            **({} if space else {"hyperparameters": dict(params)}), **said,
        },
    )  # fmt: skip
    trial.datetime_start = datetime.fromtimestamp(BEGAN)
    trial.datetime_complete = datetime.fromtimestamp(BEGAN + seconds)
    return trial


def _final(params: dict[str, Any], config: StudyConfig, attrs: dict[str, Any]) -> float:
    """The control of a trial is a tenth worse for each fresh seed, the tuned one as good."""
    penalty = {"control": 0.1, "finalist": 0.01}.get(attrs.get("kind", "trial"), 0.0)
    return value(params, config) + penalty * attrs.get("seed", 0)


def _history(trial: FrozenTrial, config: StudyConfig, last: int) -> list[EpochMetrics]:
    final = trial.value if trial.value is not None else 1.0
    return [
        EpochMetrics(
            epoch,
            {
                "val_loss": final * EPOCHS / epoch,
                "seconds": SECONDS / EPOCHS,
                "entropy/layers.0": -1 + 0.1 * epoch,
                f"entropy/{HOSTILE_LAYER}": -0.5,
            },
            int(1000 * BEGAN) + epoch,
        )
        for epoch in range(1, last + 1)
    ]
