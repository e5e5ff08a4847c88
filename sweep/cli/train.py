"""The command that trains one trial in this process: train."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..config.errors import ConfigError, DivergenceError
from .options import AsJson, Sets, StudyArg, TrainSettings
from .output import make_console, make_notes, print_json


def train(
    settings: TrainSettings,
    study: StudyArg,
    sets: Sets = None,
    trial: Annotated[int | None, typer.Option(help="Replay this trial of the study.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Measure the test set at the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one configuration in this process, without Ray, Optuna or MLflow.

    Examples: `sweep train best.yaml --test`, `sweep train digits --trial 17`
    """
    from .. import service
    from .progress import waiting

    if trial is not None and sets:
        raise ConfigError("options", ["--trial replays a trial as it was; --set would change it: give one of them"])
    console, notes = make_console(to_stderr=as_json), make_notes(to_stderr=as_json)
    with waiting(notes, f"checking {study} and preparing its data"):
        config, _ = service.load_study(study, settings, sets=sets or [])
    epochs, end = list[dict[str, float]](), ""
    with tempfile.TemporaryDirectory(prefix="sweep-train-") as scratch:
        configured = service.trial_config(config, settings, trial)
        try:
            for metrics in service.train(configured, settings, Path(scratch)):
                epochs.append({"epoch": metrics.epoch, **metrics.values})
                notes.print(epoch_line(metrics.epoch, metrics.values, config.objective.metric, notes.width))
        except DivergenceError as error:
            end = str(error)
            console.print(end)
        measured = service.test(configured, settings, Path(scratch)) if test and not end else {}
    if measured:
        console.print("test       " + "  ".join(f"{n} {v:.5g}" for n, v in measured.items()))
    if as_json:
        outcome = "diverged" if end else "completed"
        config_json = configured.model_dump(mode="json")
        print_json({"config": config_json, "outcome": outcome, "epochs": epochs, "test": measured})
    if end:
        raise typer.Exit(1)


def epoch_line(epoch: int, metrics: Mapping[str, float], objective: str, width: int) -> str:
    """Returns an epoch's metrics in columns: the objective first, then as many others as fit."""
    from ..analysis.formats import format_duration

    line, seconds = f"epoch {epoch:3d}", f"  {format_duration(metrics['seconds'])}" if "seconds" in metrics else ""
    names = sorted((n for n in metrics if n.startswith(("train_", "val_"))), key=lambda name: name != objective)
    for name in names:
        column = f"  {name} {metrics[name]:<9.5g}"
        if len(line) + len(column) + len(seconds) <= width:
            line += column
    return f"{line}{seconds.removeprefix(' ')}"
