"""The commands. The only module that prints: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from .service import Summary
    from .settings import Settings

app = typer.Typer(
    name="sweep",
    help="Hyperparameter sweeps for entropy-guided networks: Optuna decides, Ray executes, MLflow remembers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

# -- options that several commands share -----------------------------------------------------------------------------

StudyArg = Annotated[str, typer.Argument(help="A study file, a study in the storage, or a built-in name.")]
NameArg = Annotated[str, typer.Argument(help="Name of a study in the storage.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study, or fix a hyperparameter."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Data on stdout, everything else on stderr.")]
Workspace = Annotated[Path | None, typer.Option(help="Folder for all that a study writes (SWEEP_WORKSPACE; results).")]
Storage = Annotated[str | None, typer.Option(help="Optuna storage URL (SWEEP_STORAGE).")]
Tracking = Annotated[str | None, typer.Option(help="MLflow tracking URI (MLFLOW_TRACKING_URI).")]
Data = Annotated[Path | None, typer.Option(help="Root of the data sets (SWEEP_DATA; .data).")]
Address = Annotated[str | None, typer.Option(help="Ray: local, auto, or HOST:PORT (RAY_ADDRESS; local).")]


def _settings(**options: Any) -> Settings:
    from .settings import Settings

    return Settings(**{name: value for name, value in options.items() if value is not None})


def _console(*, to_stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 120)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


# -- commands --------------------------------------------------------------------------------------------------------


@app.command()
def run(
    study: StudyArg,
    sets: Sets = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in total.")] = None,
    design: Annotated[int, typer.Option(min=0, help="Add this many uniform, unpruned trials to the total.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the estimated time; run nothing.")
    ] = False,
    address: Address = None,
    workspace: Workspace = None,
    storage: Storage = None,
    tracking: Tracking = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Run a study, or go on with it: every run is a resume.

    Example: `python -m sweep run digits --trials 100 --set training.max_epochs=30`
    """
    from . import service

    settings = _settings(workspace=workspace, storage=storage, tracking_uri=tracking, data=data, address=address)
    config, warnings = service.load(study, settings, sets=sets or [], trials=trials, design=design)
    console = _console(to_stderr=as_json)
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
    if dry_run:
        _show_plan(service.planned(config, settings), config, console, as_json=as_json)
    else:
        _run(config, settings, console, as_json=as_json)


@app.command()
def resume(
    name: NameArg,
    address: Address = None,
    workspace: Workspace = None,
    storage: Storage = None,
    tracking: Tracking = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a study that was interrupted, exactly as it was started.

    Example: `python -m sweep resume digits`
    """
    from . import service

    settings = _settings(workspace=workspace, storage=storage, tracking_uri=tracking, data=data, address=address)
    service.stored(name, settings)
    config, _ = service.load(name, settings)
    _run(config, settings, _console(to_stderr=as_json), as_json=as_json)


def _run(config: Any, settings: Settings, console: Console, *, as_json: bool) -> None:
    from . import display, service

    view = display.LiveView if console.is_terminal else display.LogLines
    before = service.finished_rows(config, settings)
    # Ray prints to stdout when a worker dies; with --json that is for the data alone.
    out = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    with out, _graceful(console) as (stop, caught), view(config, console, before) as progress:
        summary = service.run(config, settings, progress, stop=stop)
    if as_json:
        _print_json(_summary_json(summary))
    if summary.interrupted:
        done = sum(row.state == "finished" for row in summary.rows)
        console.print(f"Interrupted after {done} of {len(summary.rows)} trials; nothing is lost. Go on with:")
        console.print(f"  {_command(settings, 'resume', config.name)}", soft_wrap=True)
        raise typer.Exit(128 + (caught[0] if caught else signal.SIGINT))
    if not as_json:
        display.print_summary(summary, console)
        _print_next(summary, settings, console)
    if not summary.best:
        console.print("No trial has completed.")
        raise typer.Exit(1)


def _print_next(summary: Summary, settings: Settings, console: Console) -> None:
    """Where the results are, and the commands that go on from here."""
    name = summary.config.name
    more = summary.config.search.trials * 2
    lines = [
        ("look", _command(settings, "ui", name) + "   (or make ui)"),
        ("best", _command(settings, "best", name, "--export best.yaml")),
        ("extend", _command(settings, "run", name, f"--trials {more}")),
        ("resume", _command(settings, "resume", name)),
        ("confirm", _command(settings, "run", name, "--set search.finalists.seeds=20")),
    ]
    console.print(f"\nResults in {settings.workspace}: storage, tracking, checkpoints, artifacts.")
    for what, command in lines:
        console.print(f"  {what:8s} {command}", soft_wrap=True)


def _command(settings: Settings, *words: str) -> str:
    """A command, with the options without which it would look elsewhere."""
    from .errors import without_password

    options = {"workspace": "--workspace", "storage": "--storage"}
    options |= {"tracking_uri": "--tracking"} if words[0] in ("run", "resume", "ui") else {}
    options |= {"data": "--data", "address": "--address"} if words[0] in ("run", "resume") else {}
    known = {**dict(_settings(workspace=settings.workspace)), "workspace": Path("results").absolute()}
    place = [
        f"{option} {shlex.quote(without_password(str(value)))}"
        for name, option in options.items()
        if (value := getattr(settings, name)) != known[name]
    ]
    return " ".join(["python -m sweep", *words, *place])


@contextlib.contextmanager
def _graceful(console: Console) -> Iterator[tuple[threading.Event, list[int]]]:
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
        _print_json({"study": config.name, **dataclasses.asdict(plan)})
        return
    searched = ", ".join(config.searched)
    console.print(f"[bold]{config.name}[/]: {config.model.name} on {config.data.name}, searching {searched}")
    console.print(
        f"  trials      {plan.trials} still to run, of {config.search.trials} ({config.search.design} design)"
    )
    console.print(f"  afterwards  up to {plan.controls} finalists, controls and tuning trials")
    console.print(f"  one epoch   {plan.epoch_seconds:.2g} s in the middle of the space, measured on this machine")
    console.print(f"  estimated   {plan.hours:.2g} hours with {plan.slots} trials at a time, nothing pruned")


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="Name of a study; without it, all studies.")] = None,
    workspace: Workspace = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a study is: counts, running trials and their owners, failures.

    Example: `python -m sweep status digits`
    """
    from . import display, service

    settings, console = _settings(workspace=workspace, storage=storage), _console()
    names = [name] if name else service.studies(settings)
    summaries = [service.summarise(each, settings) for each in names]
    if as_json:
        _print_json([_summary_json(s) for s in summaries])
        return
    if not summaries:
        console.print("No study yet. Start one: python -m sweep run digits")
    for summary in summaries:
        console.print(display.status_table(summary))
        for row in [r for r in [*summary.rows, *summary.controls] if r.state == "running"]:
            state = "orphan: its driver is dead, the next run goes on with it" if row.orphan else "running"
            console.print(f"  trial {row.number} ({row.kind}): {state} (owner {row.owner})")
        for row in [r for r in [*summary.rows, *summary.controls] if r.outcome in ("failed", "diverged")]:
            reason = (row.error or "").strip()
            console.print(f"  trial {row.number} ({row.kind}) {row.outcome}: {reason}", markup=False)


@app.command()
def best(
    name: NameArg,
    top: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
    export: Annotated[Path | None, typer.Option(help="Write the best one as a study file.")] = None,
    workspace: Workspace = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show the best configurations of a study; read from the storage, no server needed.

    Example: `python -m sweep best digits --top 3 --export best.yaml`
    """
    from . import display, service

    settings = _settings(workspace=workspace, storage=storage)
    summary, console = service.summarise(name, settings), _console(to_stderr=as_json)
    if as_json:
        _print_json([_row_json(row) for row in summary.best[:top]])
    elif summary.best:
        console.print(display.best_table(summary.config, summary.best[:top]))
        if summary.comparison.finalists:
            console.print(display.comparison_table(summary.config, summary.comparison))
    if not summary.best:
        console.print(f"{name}: no trial has completed yet.")
        raise typer.Exit(1)
    if export is not None:
        export.write_text(service.export(summary.config, summary.best[0]))
        console.print(f"Wrote {export}; train it with: python -m sweep train {export}", soft_wrap=True)


@app.command()
def enqueue(
    name: NameArg,
    sets: Sets = None,
    workspace: Workspace = None,
    storage: Storage = None,
) -> None:
    """Queue a configuration of your own; the next run trains it, and the budget grows by one.

    What is not set is chosen by the sampler. Example: `python -m sweep enqueue digits --set lambda1=1e-3 --set depth=4`
    """
    from . import service

    settings = _settings(workspace=workspace, storage=storage)
    number, values = service.enqueue(name, settings, sets or [])
    command = _command(settings, "run", name)
    _console().print(f"Queued as trial {number}: {values}. Run it with: {command}", soft_wrap=True)


@app.command()
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

    Examples: `python -m sweep train best.yaml --test`, `python -m sweep train digits --trial 17`
    """
    import tempfile

    from . import service
    from .errors import ConfigError

    settings = _settings(workspace=workspace, storage=storage, data=data)
    if trial is not None and sets:
        raise ConfigError("options", ["--trial replays a trial as it was; --set would change it: give one of them"])
    config, _ = service.load(study, settings, sets=sets or [])
    console, epochs = _console(to_stderr=as_json), []
    with tempfile.TemporaryDirectory(prefix="sweep-train-") as scratch:
        configured = service.trial_config(config, settings, trial)
        for metrics in service.train(configured, settings, Path(scratch)):
            epochs.append({"epoch": metrics.epoch, **metrics.values})
            shown = [(n, v) for n, v in metrics.values.items() if n.startswith(("train_", "val_", "seconds"))]
            console.print(f"epoch {metrics.epoch:3d}  " + "  ".join(f"{n} {v:.5g}" for n, v in shown), soft_wrap=True)
        measured = service.test(configured, settings, Path(scratch)) if test else {}
    if measured:
        console.print("test       " + "  ".join(f"{n} {v:.5g}" for n, v in measured.items()))
    if as_json:
        _print_json({"config": configured.model_dump(mode="json"), "epochs": epochs, "test": measured})


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(help="Study to open, sorted by its objective.")] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    workspace: Workspace = None,
    tracking: Tracking = None,
    storage: Storage = None,
) -> None:
    """Serve the MLflow UI on this machine and print the link to a study, best trials first. Ctrl-C ends it.

    Example: `python -m sweep ui digits`
    """
    import subprocess

    from . import service

    settings = _settings(workspace=workspace, tracking_uri=tracking, storage=storage)
    command, environment, url = service.ui(name, settings, port=port)
    print(url, flush=True)
    if command:
        with contextlib.suppress(KeyboardInterrupt):
            raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors: every key with its meaning.

    Example: `python -m sweep schema > study.schema.json`
    """
    from .studyfile import json_schema

    _print_json(json_schema())


@app.command()
def doctor(
    workspace: Workspace = None,
    storage: Storage = None,
    tracking: Tracking = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine and the settings: versions, folders, storage, tracking, data. Exit code 1 if a check fails.

    Example: `python -m sweep doctor`
    """
    from .doctor import examine

    settings = _settings(workspace=workspace, storage=storage, tracking_uri=tracking, data=data)
    checks = examine(settings)
    console = _console()
    if as_json:
        _print_json([{"check": n, "ok": ok, "detail": d} for n, ok, d in checks])
    else:
        for what, ok, detail in checks:
            mark = "[green]ok  [/]" if ok else "[red]FAIL[/]"
            console.print(f"{mark} {what:10s}", end=" ")
            console.print(detail, markup=False, soft_wrap=True)
    if not all(ok for _, ok, _ in checks):
        raise typer.Exit(1)


# -- output ----------------------------------------------------------------------------------------------------------


def _row_json(row: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(row)


def _summary_json(summary: Summary) -> dict[str, Any]:
    return {
        "study": summary.config.name,
        "objective": summary.config.objective.model_dump(),
        "interrupted": summary.interrupted,
        "seconds": summary.seconds,
        "trials": [_row_json(r) for r in summary.rows],
        "best": [r.number for r in summary.best],
        "controls": [_row_json(r) for r in summary.controls],
        "finalists": [
            {
                "trial": f.number,
                "guided": f.guided.values,
                "plain": f.plain.values,
                "tuned": f.tuned.values,
            }
            for f in summary.comparison.finalists
        ],
    }


def main() -> NoReturn:
    """Entry point: the caller's mistakes are one message and exit code 2."""
    from .errors import SweepError

    try:
        app()
    except SweepError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(0)
