"""Commands that run a study, or one trial of it: run, resume, enqueue, train."""

import dataclasses
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..config.errors import ConfigError, DivergenceError
from . import options as opt
from .output import make_console, make_notes, print_json
from .run_study import run_study

if TYPE_CHECKING:
    from ..config.study_config import StudyConfig
    from ..service.preflight.dry_run import DryRun


def run(
    settings: opt.RunSettings,
    study: opt.StudyArg,
    sets: opt.Sets = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in total.")] = None,
    design: Annotated[int, typer.Option(min=0, help="Add this many uniform, unpruned trials to the total.")] = 0,
    new_space: Annotated[
        bool,
        typer.Option(
            "--new-space",
            help="If the search space differs from the study's, go on as NAME-2, with a budget of its own; the sampler "
            "is shown the old trials that fit.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the estimated time; run nothing.")
    ] = False,
    executor: opt.Executor = "ray",
    offline_ok: opt.OfflineOk = False,
    insecure: opt.Insecure = False,
    as_json: opt.AsJson = False,
) -> None:
    """Run a study, or resume it: every run is a resume.

    Example: `sweep run digits --trials 100 --set training.max_epochs=30`
    """
    from .. import service
    from .progress import waiting

    if settings.job and settings.log == "text" and not as_json:
        # The first line of the job's log: the code has arrived.
        print(f"{settings.job}: driver on {socket.gethostname()}, pid {os.getpid()}; checking the study", flush=True)
    notes = make_notes(to_stderr=as_json or settings.log == "json")
    with waiting(notes, f"checking {study} and preparing its data"):
        config, warnings = service.load_study(study, settings, sets=sets or [], trials=trials, design=design)
    for warning in warnings:
        notes.print(f"[yellow]warning:[/] {warning}", soft_wrap=not notes.is_terminal)
    config, predecessors = service.derive_study(config, settings) if new_space else (config, [])
    if dry_run:
        if executor == "local":  # one trial at a time
            resources = config.resources.model_copy(update={"max_concurrent": 1})
            config = config.model_copy(update={"resources": resources})
        with waiting(notes, "measuring an epoch"):
            plan = service.plan_run(config, settings)
        _print_plan(plan, config, make_console(to_stderr=as_json), as_json=as_json)
    else:
        options = service.RunOptions(
            predecessors=predecessors, offline_ok=offline_ok, insecure=insecure, executor=executor
        )
        run_study(config, settings, options, as_json=as_json)


def resume(
    settings: opt.RunSettings,
    name: opt.NameArg,
    executor: opt.Executor = "ray",
    offline_ok: opt.OfflineOk = False,
    insecure: opt.Insecure = False,
    as_json: opt.AsJson = False,
) -> None:
    """Resume an interrupted study, exactly as it was started.

    Example: `sweep resume digits`
    """
    from .. import service
    from .progress import waiting

    with waiting(make_notes(to_stderr=as_json or settings.log == "json"), f"checking {name} and preparing its data"):
        service.load_stored_config(name, settings)
        config, _ = service.load_study(name, settings)
    options = service.RunOptions(offline_ok=offline_ok, insecure=insecure, executor=executor)
    run_study(config, settings, options, as_json=as_json)


def enqueue(settings: opt.StudySettings, name: opt.NameArg, sets: opt.Sets = None, as_json: opt.AsJson = False) -> None:
    """Queue a configuration of your own; the next run trains it, and the budget grows by one.

    The sampler chooses what is not set. Example: `sweep enqueue digits --set lambda1=1e-3 --set depth=4`
    """
    from .. import service

    number, values = service.enqueue(name, settings, sets or [])
    if as_json:
        print_json({"study": name, "trial": number, "hyperparameters": values})
        return
    command = opt.command_line(settings, "run", name)
    make_console().print(f"Queued as trial {number}: {values}. Run it with: {command}", soft_wrap=True)


def train(
    settings: opt.TrainSettings,
    study: opt.StudyArg,
    sets: opt.Sets = None,
    trial: Annotated[int | None, typer.Option(help="Replay this trial of the study.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Measure the test set at the end.")] = False,
    as_json: opt.AsJson = False,
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


def _print_plan(plan: "DryRun", config: "StudyConfig", console: Console, *, as_json: bool) -> None:
    from ..analysis.formats import format_duration

    if as_json:
        print_json({"study": config.name, **dataclasses.asdict(plan)})
        return
    searched, search = ", ".join(config.searched), config.search
    duration = f"{format_duration(3600 * plan.hours)} with {plan.slots} trials at a time, nothing pruned"
    estimated = duration if plan.trials or plan.controls else "nothing is left to train"
    console.print(f"[bold]{config.name}[/]: {config.model.name} on {config.data.name}, searching {searched}")
    console.print(f"  trials      {plan.trials} still to run, of {search.trials} ({search.design} design)")
    console.print(f"  afterwards  up to {plan.controls} finalists, controls and tuning trials")
    epoch = format_duration(plan.epoch_seconds)
    console.print(f"  one epoch   {epoch} in the middle of the space, measured on this machine")
    console.print(f"  estimated   {estimated}")
