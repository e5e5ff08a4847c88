"""Runs a study for a command: shows its progress, tells webhooks and programs how it ends, prints the result."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from . import output
from .options import command_line
from .output import make_console, make_notes, print_json, summary_json

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.summary import Summary
    from ..config.settings import Settings
    from ..config.study_config import StudyConfig
    from ..service import RunOptions
    from .progress import Progress


def announce_job(settings: Settings, *, as_json: bool) -> None:
    """Prints the first line of a submitted job's log: the code has arrived."""
    if settings.job and settings.log == "text" and not as_json:
        print(f"{settings.job}: driver on {socket.gethostname()}, pid {os.getpid()}; checking the study", flush=True)


def run_study(config: StudyConfig, settings: Settings, options: RunOptions, *, as_json: bool) -> None:
    """Runs a study and prints what it has come to; exits with 1 if no trial completed, 128 + the signal if stopped."""
    from .. import service
    from ..service import webhook

    webhook.check_webhooks(settings)
    to_stderr = as_json or settings.log == "json"
    console, notes = make_console(to_stderr=to_stderr), make_notes(to_stderr=to_stderr)
    view = make_view(settings, console, as_json=as_json, executor=options.executor)
    before = service.finished_rows(config, settings)
    with (
        graceful(console) as (stop, caught),
        view(config, notes, before, stop=stop) as progress,
        webhook_at_end(settings, [progress], partial(webhook.describe_run, config.name)) as results,
    ):
        summary = service.run(config, settings, progress, replace(options, stop=stop))
        results.append(summary)
    if as_json:
        print_json(summary_json(summary))
    if summary.interrupted:
        done = sum(row.state == "finished" for row in summary.rows)
        console.print(f"Interrupted after {done} of {len(summary.rows)} trials; nothing is lost. Go on with:")
        words = [f"--executor {options.executor}"] if options.executor != "ray" else []
        console.print(f"  {command_line(settings, 'resume', config.name, *words)}", soft_wrap=True)
        raise typer.Exit(exit_code(caught))
    if not as_json and settings.log == "text":
        _print_result(summary, settings, console, notes)
    elif not summary.best:
        console.print("No trial has completed.")
    if not summary.best:
        raise typer.Exit(1)


def exit_code(caught: Sequence[int]) -> int:
    """Returns the exit code of a run that was stopped by the signals ``caught``."""
    return 128 + (caught[0] if caught else signal.SIGINT)


@contextlib.contextmanager
def graceful(console: Console) -> Iterator[tuple[threading.Event, list[int]]]:
    """Catches SIGINT and SIGTERM; yields the event that asks trials to write checkpoints, and the caught signals."""
    from ..service.stopping import stopped_by

    stop, caught = threading.Event(), list[int]()

    def tell() -> None:
        if not console.is_terminal:  # a live view shows it, and would be torn by a line in its middle
            # Not through Rich: a handler may interrupt whatever holds its lock.
            os.write(2, b"\nStopping: waiting for the running trials' checkpoints; once more stops at once.\n")

    try:
        with (
            stopped_by((signal.SIGINT, signal.SIGTERM), stop, tell) as caught,
            contextlib.redirect_stdout(console.file),  # stdout may be for data: Ray prints when a worker dies
        ):
            yield stop, caught
    except KeyboardInterrupt:
        console.print("Stopped at once; epochs after the last checkpoint of a trial will be trained again.")
        raise typer.Exit(128 + caught[-1]) from None


def make_view(settings: Settings, console: Console, *, as_json: bool, executor: str) -> Callable[..., Progress]:
    """Returns the function that makes what shows a run's progress, with the arguments of `Progress`."""
    from . import progress

    if settings.log == "json":
        return partial(progress.JsonLines, settings=settings, stream=sys.stderr if as_json else sys.stdout)
    if output.is_quiet:
        return partial(progress.Progress, settings=settings)
    # With the local executor trials may print, or stop in a debugger: nothing is redrawn then.
    view = progress.LiveView if console.is_terminal and executor != "local" else progress.LogLines
    return partial(view, settings=settings)


@contextlib.contextmanager
def webhook_at_end(
    settings: Settings, views: Sequence[Progress], describe: Callable[[Any, BaseException | None], dict[str, Any]]
) -> Iterator[list[Any]]:
    """Posts a block's end, as ``describe`` puts it, to the webhook and the last view; yields a list for the result."""
    from ..service import webhook

    results, error = list[Any](), None
    try:
        yield results
    except BaseException as problem:
        error = problem
        raise
    finally:
        if views:
            end = describe(results[0] if results else None, error)
            if (not_sent := webhook.notify_webhook(settings, end)) is not None:
                views[-1].on_message(not_sent)
            views[-1].on_run_end(end)


def kept_in_workspace(settings: Settings) -> list[str]:
    """Returns what of a study is in files of its workspace, and not on a server.

    Example:
        >>> from sweep.config.settings import Settings
        >>> kept_in_workspace(Settings(workspace="s3://bucket/results", storage="postgresql://db", tracking_uri="http://db"))
        ['checkpoints']
    """
    files = {"storage": settings.storage, "tracking": settings.tracking_uri}
    own = [what for what, url in files.items() if url.startswith(("journal:", "sqlite:"))]
    return [*own, "checkpoints", *([] if settings.tracking_uri.startswith("http") else ["artifacts"])]


def _print_result(summary: Summary, settings: Settings, console: Console, notes: Console) -> None:
    from . import tables

    tables.print_summary(summary, notes)
    if summary.analysis is not None and summary.config.searched:
        tables.print_analysis(summary.analysis, notes, settings, brief=True)
    tables.print_health(summary, notes, settings)
    name = summary.config.name
    lines = {
        "browse": command_line(settings, "ui", name) + "   (or make ui)",
        "best": command_line(settings, "best", name, "--export best.yaml"),
        "why": command_line(settings, "sensitivity", name),
        "extend": command_line(settings, "run", name, f"--trials {2 * len(summary.rows)}"),
        "confirm": command_line(settings, "confirm", name, "--seeds 8"),
    }
    notes.print(
        f"\nResults in {settings.workspace}: {', '.join(kept_in_workspace(settings))}.", soft_wrap=not notes.is_terminal
    )
    for what, command in lines.items():
        notes.print(f"  {what:8s} {command}", soft_wrap=True)
    notes.print()
    page = settings.reports(name) / "report.html"
    found = page if settings.report and page.exists() else command_line(settings, "ui", name)
    where = f"; see {found}" if summary.best else ""
    console.print(f"{tables.best_line(summary)}{where}", soft_wrap=not console.is_terminal)
