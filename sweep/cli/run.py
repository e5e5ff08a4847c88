"""Commands that train: run, resume, enqueue, train."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    Address,
    AsJson,
    Data,
    Insecure,
    Log,
    NameArg,
    OfflineOk,
    Report,
    Sets,
    Storage,
    StudyArg,
    Tracking,
    Workspace,
    command_line,
    make_settings,
)
from .output import make_console, print_json, summary_json

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.summary import Summary
    from ..config.settings import Settings
    from ..config.study_config import StudyConfig
    from .progress import Progress


def run(
    study: StudyArg,
    sets: Sets = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in total.")] = None,
    design: Annotated[int, typer.Option(min=0, help="Add this many uniform, unpruned trials to the total.")] = 0,
    new_space: Annotated[
        bool,
        typer.Option(
            "--new-space",
            help="Where the search space differs from the study's, go on as NAME-2, with a budget of its own and a "
            "sampler that is shown the old trials that fit.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the estimated time; run nothing.")
    ] = False,
    address: Address = None,
    workspace: Workspace = None,
    storage: Storage = None,
    tracking: Tracking = None,
    data: Data = None,
    offline_ok: OfflineOk = False,
    report: Report = None,
    insecure: Insecure = False,
    log: Log = None,
    as_json: AsJson = False,
) -> None:
    """Run a study, or go on with it: every run is a resume.

    Example: `sweep run digits --trials 100 --set training.max_epochs=30`
    """
    from .. import service

    settings = make_settings(
        workspace=workspace, storage=storage, tracking_uri=tracking, data=data, address=address, report=report, log=log
    )
    if settings.job and settings.log == "text" and not as_json:  # whoever follows it sees that the code has arrived
        print(f"{settings.job}: driver on {socket.gethostname()}, pid {os.getpid()}; checking the study", flush=True)
    config, warnings = service.load_study(study, settings, sets=sets or [], trials=trials, design=design)
    console = make_console(to_stderr=as_json or settings.log == "json")
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
    config, predecessors = service.derive_study(config, settings) if new_space else (config, [])
    if dry_run:
        _show_plan(service.plan_run(config, settings), config, console, as_json=as_json)
    else:
        _run(config, settings, console, predecessors, as_json=as_json, offline_ok=offline_ok, insecure=insecure)


def resume(
    name: NameArg,
    address: Address = None,
    workspace: Workspace = None,
    storage: Storage = None,
    tracking: Tracking = None,
    data: Data = None,
    offline_ok: OfflineOk = False,
    report: Report = None,
    insecure: Insecure = False,
    log: Log = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a study that was interrupted, exactly as it was started.

    Example: `sweep resume digits`
    """
    from .. import service

    settings = make_settings(
        workspace=workspace, storage=storage, tracking_uri=tracking, data=data, address=address, report=report, log=log
    )
    service.load_stored_config(name, settings)
    config, _ = service.load_study(name, settings)
    console = make_console(to_stderr=as_json or settings.log == "json")
    _run(config, settings, console, as_json=as_json, offline_ok=offline_ok, insecure=insecure)


def _run(
    config: StudyConfig,
    settings: Settings,
    console: Console,
    predecessors: Sequence[StudyConfig] = (),
    *,
    as_json: bool,
    offline_ok: bool,
    insecure: bool,
) -> None:
    from .. import service
    from ..service import webhook as ending
    from . import tables as display

    ending.check_webhooks(settings)
    view = make_view(settings, console, as_json=as_json)
    before = service.finished_rows(config, settings)
    # Ray prints to stdout when a worker dies; that may be for data alone.
    out = contextlib.redirect_stdout(sys.stderr) if as_json or settings.log == "json" else contextlib.nullcontext()
    with (
        out,
        graceful(console) as (stop, caught),
        view(config, console, before) as progress,
        told(settings, [progress], partial(ending.describe, config.name)) as ended,
    ):
        summary = service.run(
            config,
            settings,
            progress,
            service.RunOptions(predecessors=predecessors, stop=stop, offline_ok=offline_ok, insecure=insecure),
        )
        ended.append(summary)
    if as_json:
        print_json(summary_json(summary))
    if summary.interrupted:
        done = sum(row.state == "finished" for row in summary.rows)
        console.print(f"Interrupted after {done} of {len(summary.rows)} trials; nothing is lost. Go on with:")
        console.print(f"  {command_line(settings, 'resume', config.name)}", soft_wrap=True)
        raise typer.Exit(interrupted(caught))
    if not as_json and settings.log == "text":
        display.print_summary(summary, console)
        if summary.analysis is not None and config.searched:
            display.print_analysis(summary.analysis, console, brief=True)
        _print_next(summary, settings, console)
    if not summary.best:
        console.print("No trial has completed.")
        raise typer.Exit(1)


def make_view(settings: Settings, console: Console, *, as_json: bool) -> Callable[..., Progress]:
    """What shows a run's progress, of its config, the console, the rows that have ended and how many are left."""
    from . import progress

    if settings.log == "json":
        return partial(progress.JsonLines, stream=sys.stderr if as_json else sys.stdout)
    return progress.LiveView if console.is_terminal else progress.LogLines


@contextlib.contextmanager
def told(
    settings: Settings,
    views: Sequence[Progress],
    describe: Callable[[Any, BaseException | None], dict[str, Any]],
) -> Iterator[list[Any]]:
    """Tells other programs how it ends, once there is a view; the result is appended where there is one."""
    from ..service import webhook as ending

    results, error = list[Any](), None
    try:
        yield results
    except BaseException as problem:
        error = problem
        raise
    finally:
        if views:
            end = describe(results[0] if results else None, error)
            if (untold := ending.notify_webhook(settings, end)) is not None:
                views[-1].on_message(untold)
            views[-1].told(end)


def enqueue(
    name: NameArg,
    sets: Sets = None,
    workspace: Workspace = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Queue a configuration of your own; the next run trains it, and the budget grows by one.

    What is not set is chosen by the sampler. Example: `sweep enqueue digits --set lambda1=1e-3 --set depth=4`
    """
    from .. import service

    settings = make_settings(workspace=workspace, storage=storage)
    number, values = service.enqueue(name, settings, sets or [])
    if as_json:
        print_json({"study": name, "trial": number, "hyperparameters": values})
        return
    command = command_line(settings, "run", name)
    make_console().print(f"Queued as trial {number}: {values}. Run it with: {command}", soft_wrap=True)


def train(
    study: StudyArg,
    sets: Sets = None,
    trial: Annotated[int | None, typer.Option(help="Replay this trial of the study.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Measure the test set at the end.")] = False,
    workspace: Workspace = None,
    storage: Storage = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Train one configuration in this process, without Ray, Optuna or MLflow.

    Examples: `sweep train best.yaml --test`, `sweep train digits --trial 17`
    """
    import tempfile

    from .. import service
    from ..config.errors import ConfigError, DivergenceError

    settings = make_settings(workspace=workspace, storage=storage, data=data)
    if trial is not None and sets:
        raise ConfigError("options", ["--trial replays a trial as it was; --set would change it: give one of them"])
    config, _ = service.load_study(study, settings, sets=sets or [])
    console, epochs, end = make_console(to_stderr=as_json), [], ""
    with tempfile.TemporaryDirectory(prefix="sweep-train-") as scratch:
        configured = service.trial_config(config, settings, trial)
        try:
            for metrics in service.train(configured, settings, Path(scratch)):
                epochs.append({"epoch": metrics.epoch, **metrics.values})
                shown = "  ".join(
                    f"{n} {v:.5g}" for n, v in metrics.values.items() if n.startswith(("train_", "val_", "seconds"))
                )
                console.print(f"epoch {metrics.epoch:3d}  {shown}", soft_wrap=True)
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


def _print_next(summary: Summary, settings: Settings, console: Console) -> None:
    """Where the results are, and the commands that go on from here."""
    from ..config.filesystem import is_remote

    name = summary.config.name
    more = 2 * len(summary.rows)
    page = settings.reports(name) / "report.html"
    lines = [
        *([("report", str(page))] if settings.report and page.exists() else []),
        ("look", command_line(settings, "ui", name) + "   (or make ui)"),
        ("best", command_line(settings, "best", name, "--export best.yaml")),
        ("why", command_line(settings, "sensitivity", name)),
        ("extend", command_line(settings, "run", name, f"--trials {more}")),
        ("resume", command_line(settings, "resume", name)),
        ("confirm", command_line(settings, "confirm", name, "--seeds 8")),
    ]
    held = "checkpoints, artifacts" if is_remote(settings.workspace) else "storage, tracking, checkpoints, artifacts"
    console.print(f"\nResults in {settings.workspace}: {held}.")
    for what, command in lines:
        console.print(f"  {what:8s} {command}", soft_wrap=True)


def interrupted(caught: Sequence[int]) -> int:
    """The exit code of a run that was stopped, after the signals it has caught."""
    return 128 + (caught[0] if caught else signal.SIGINT)


@contextlib.contextmanager
def graceful(console: Console) -> Iterator[tuple[threading.Event, list[int]]]:
    """SIGINT and SIGTERM: the first asks trials to checkpoint, the second ends at once."""
    stop, caught = threading.Event(), list[int]()

    def handle(number: int, _frame: object) -> None:
        caught.append(number)
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Not through rich: a handler may interrupt whatever holds its lock.
        os.write(2, b"\nStopping: waiting for the running trials' checkpoints; once more stops at once.\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, caught
    except KeyboardInterrupt:
        console.print("Stopped at once; what no checkpoint held will be trained again.")
        raise typer.Exit(128 + caught[-1]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_plan(plan: Any, config: Any, console: Console, *, as_json: bool) -> None:
    import dataclasses

    if as_json:
        print_json({"study": config.name, **dataclasses.asdict(plan)})
        return
    searched = ", ".join(config.searched)
    console.print(f"[bold]{config.name}[/]: {config.model.name} on {config.data.name}, searching {searched}")
    console.print(
        f"  trials      {plan.trials} still to run, of {config.search.trials} ({config.search.design} design)"
    )
    console.print(f"  afterwards  up to {plan.controls} finalists, controls and tuning trials")
    console.print(f"  one epoch   {plan.epoch_seconds:.2g} s in the middle of the space, measured on this machine")
    console.print(f"  estimated   {plan.hours:.2g} hours with {plan.slots} trials at a time, nothing pruned")
