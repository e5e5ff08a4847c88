"""Commands that train: run, resume, enqueue, train; and simulate, whose trials sleep."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.text import Text
from typer import Argument, Exit, Option

from ..config.errors import ConfigError, DivergenceError
from ..config.search_methods import PrunerName, SamplerName
from ..config.secrets import without_secrets
from . import options as opt
from .output import make_console, make_notes, print_json
from .run_study import announce_job, exit_code, graceful, make_view, run_study

if TYPE_CHECKING:
    from ..config.study_config import StudyConfig
    from ..service.preflight.dry_run import DryRun
    from ..service.simulation import Capacity, Spread


def run(
    settings: opt.RunSettings,
    study: opt.StudyArg,
    sets: opt.Sets = None,
    trials: Annotated[int | None, Option(min=1, help="Trials in total.")] = None,
    design: Annotated[int, Option(min=0, help="Add this many uniform, unpruned trials to the total.")] = 0,
    new_space: Annotated[
        bool,
        Option(
            "--new-space",
            help="If the search space differs from the study's, go on as NAME-2, with a budget of its own; the sampler "
            "is shown the old trials that fit.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show the plan and the estimated time; run and write nothing.")
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

    announce_job(settings, as_json=as_json)
    notes = make_notes(to_stderr=as_json or settings.log == "json")
    with contextlib.ExitStack() as stack:
        if dry_run:
            settings = stack.enter_context(service.scratch_settings(settings))
        with waiting(notes, f"checking {study} and preparing its data"):
            config, warnings = service.load_study(study, settings, sets=sets or [], trials=trials, design=design)
        for warning in warnings:
            notes.print(Text.assemble(("warning:", "yellow"), f" {warning}"), soft_wrap=not notes.is_terminal)
        config, predecessors = service.derive_study(config, settings) if new_space else (config, [])
        if not dry_run:
            options = service.RunOptions(predecessors, offline_ok=offline_ok, insecure=insecure, executor=executor)
            run_study(config, settings, options, as_json=as_json)
            return
        if executor == "local":  # one trial at a time
            resources = config.resources.model_copy(update={"max_concurrent": 1})
            config = config.model_copy(update={"resources": resources})
        with waiting(notes, "measuring an epoch"):
            plan = service.plan_run(config, settings)
        _print_plan(plan, config, make_console(to_stderr=as_json), as_json=as_json)


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


def retry(
    settings: opt.StudySettings,
    name: opt.NameArg,
    trials: Annotated[
        list[str] | None, Argument(help="Numbers, or names as in `sweep status`: digits.controls-0003. Default: all.")
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Queue failed trials once more, those of pairs too; the next run trains them, and each counts once.

    Example: `sweep retry digits 17`
    """
    from .. import service

    found, console = service.retry(name, settings, trials or []), make_console(to_stderr=as_json)
    if as_json:
        print_json([each._asdict() for each in found])
    if not found:
        console.print(f"{name}: no trial has failed.")
    for each in found:
        console.print(f"Queued {each.failed} again, as {each.again}", soft_wrap=True, markup=False)
    for command in {("run", "confirm")[each.of_pair]: None for each in found}:
        console.print(f"Train with: {opt.command_line(settings, command, name)}", soft_wrap=True, markup=False)


def train(
    settings: opt.TrainSettings,
    study: opt.StudyArg,
    sets: opt.Sets = None,
    trial: Annotated[int | None, Option(help="Replay this trial of the study.")] = None,
    test: Annotated[bool, Option("--test", help="Measure the test set at the end.")] = False,
    out: Annotated[
        Path | None, Option(help="Write the model to this new file, model.pt2: an exported program that takes images.")
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Train one configuration in this process, without Ray, Optuna or MLflow.

    Examples: `sweep train best.yaml --test`, `sweep train digits --trial 17 --out model.pt2`
    """
    from .. import service
    from .progress import waiting

    if trial is not None and sets:
        raise ConfigError("options", ["--trial replays a trial as it was; --set would change it: give one of them"])
    console, notes = make_console(to_stderr=as_json), make_notes(to_stderr=as_json)
    with waiting(notes, f"checking {study} and preparing its data"):
        config, _ = service.load_study(study, settings, sets=sets or [])
    epochs, end, outcome = list[dict[str, float]](), "", "completed"
    with tempfile.TemporaryDirectory(prefix="sweep-train-") as scratch:
        configured = service.trial_config(config, settings, trial, test=test)
        if out is not None:
            service.check_out(configured, settings, out)
        try:
            for report in service.train(configured, settings, Path(scratch)):
                for notice in report.notices:
                    notes.print(f"note: {notice}", soft_wrap=not notes.is_terminal, markup=False)
                for metrics in report.epochs:
                    epochs.append({"epoch": metrics.epoch, **metrics.values})
                    notes.print(epoch_line(metrics.epoch, metrics.values, config.objective.metric, notes.width))
                if report.outcome in ("collapsed", "failed"):
                    outcome, end = report.outcome, f"{report.outcome}: {report.error}"
        except DivergenceError as error:
            outcome, end = "diverged", str(error)
        if end:
            console.print(end)
        measured = service.test(configured, settings, Path(scratch)) if test and outcome != "diverged" else {}
        if out is not None and outcome != "diverged":
            service.write_model(configured, settings, Path(scratch), out, study=config.name, number=trial)
    if measured:
        console.print("test       " + "  ".join(f"{n} {v:.5g}" for n, v in measured.items()))
    if out is not None and outcome != "diverged":
        console.print(f"Wrote {out}; torch.export.load takes it", soft_wrap=True)
    if as_json:
        config_json = configured.model_dump(mode="json")
        print_json({"config": config_json, "outcome": outcome, "epochs": epochs, "test": measured})
    if outcome in ("diverged", "failed"):
        raise Exit(1)


def simulate(
    trials: Annotated[int, Option(min=1, help="Trials to run.")] = 500,
    slots: Annotated[int, Option(min=1, help="Trials at once.")] = 64,
    epochs: Annotated[int, Option(min=1, help="Epochs of a trial that is not pruned.")] = 20,
    epoch_seconds: Annotated[float, Option(min=0.001, help="Seconds of an epoch.")] = 1.0,
    finished: Annotated[int, Option(min=0, help="Finished trials that the study begins with.")] = 0,
    sampler: Annotated[SamplerName, Option(help="As in a study file.")] = "tpe",
    pruner: Annotated[PrunerName, Option(help="As in a study file.")] = "median",
    address: opt.Address = None,
    storage: opt.Storage = None,
    tracking: opt.Tracking = None,
    as_json: opt.AsJson = False,
) -> None:
    """Run a study whose trials sleep, to measure the capacity of driver, storage and tracking server.

    Its files go to a temporary folder, storage and tracking included unless they are set.
    Example: `sweep simulate --trials 500 --slots 64 --epochs 20 --epoch-seconds 1`
    """
    from ..service import simulation

    console, notes = make_console(to_stderr=as_json), make_notes(to_stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="sweep-simulation-") as scratch:
        settings = opt.make_settings(workspace=Path(scratch), storage=storage, tracking_uri=tracking, address=address)
        load = simulation.Load(trials, slots, epochs, epoch_seconds, finished, sampler, pruner)
        config = simulation.study_of(load)
        notes.print(f"{config.name}: storage {without_secrets(settings.storage)}", soft_wrap=True)
        notes.print(f"tracking {without_secrets(settings.tracking_uri)}", soft_wrap=True)
        view = make_view(settings, console, as_json=False, executor="ray")
        with graceful(console) as (stop, caught), view(config, console, left=trials) as progress:
            found = simulation.simulate(load, config, settings, progress, stop=stop)
    if as_json:
        load_json, found_json = dataclasses.asdict(load), dataclasses.asdict(found)
        print_json({"study": config.name, **load_json, "outcomes": progress.counts, **found_json})
    else:
        _print_capacity(found, slots, progress.counts, console)
    if stop.is_set():
        raise Exit(exit_code(caught))


def epoch_line(epoch: int, metrics: Mapping[str, float], objective: str, width: int) -> str:
    """Returns an epoch's metrics in columns: the objective first, then as many others as fit."""
    from ..analysis.formats import format_duration

    line, seconds = f"epoch {epoch:3d}", f"  {format_duration(metrics['seconds'])}" if "seconds" in metrics else ""
    shown = (name for name in metrics if "/" not in name and name not in ("seconds", "epochs_to_target"))
    names = sorted(shown, key=lambda name: name != objective)
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
    known = plan.hours is not None and plan.epoch_seconds is not None
    hours = format_duration(3600 * (plan.hours or 0)) if known else "unknown"
    duration = f"{hours} with {plan.slots} trials at a time, nothing pruned"
    estimated = duration if plan.trials or plan.controls else "nothing is left to train"
    subject = f": {config.subject}, searching {searched}"
    console.print(Text.assemble((config.name, "bold"), subject))
    twins = f"; {plan.trainings} of them are trained at most" if plan.trainings < plan.trials else ""
    console.print(f"  trials      {plan.trials} still to run, of {search.trials} ({search.design} design){twins}")
    console.print(f"  afterwards  up to {plan.controls} finalists, controls and tuning trials")
    if plan.epoch_seconds is not None:
        epoch = format_duration(plan.epoch_seconds)
        console.print(f"  one epoch   {epoch} in the middle of the space, measured on this machine")
    console.print(f"  estimated   {estimated}")


def _print_capacity(found: "Capacity", slots: int, outcomes: Mapping[str, int], console: Console) -> None:
    steady = "unknown" if found.steady is None else f"{found.steady:.1%} of {found.steady_seconds:.0f} s of slot time"
    whole = f"{found.whole:.1%} of all {slots} slots over {found.whole_seconds:.0f} s"
    lines = {
        "trials": ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count) or "none",
        "utilisation": f"{steady} (each slot from its first trial on, until the last trial was handed out)",
        "": f"{whole} (start of workers and tail included)",
        "results": f"{found.results:.1f} a second",
        "suggestion": f"{_milliseconds(found.suggestion)}, asked ahead of need",
        "report": _milliseconds(found.report),
        "turnover": f"{_milliseconds(found.turnover)}: a slot without a trial between two",
        "memory": f"driver {found.driver_mb:.0f} MB, all workers {found.worker_mb:.0f} MB",
    }
    for name, line in lines.items():
        console.print(f"  {name:12s} {line}", soft_wrap=True)


def _milliseconds(spread: "Spread") -> str:
    return f"median {spread.median:.0f} ms, 95 % within {spread.p95:.0f} ms, at most {spread.most:.0f} ms"
