"""The command that simulates a study: simulate."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config.search_methods import PrunerName, SamplerName
from .options import Address, AsJson, Storage, Tracking, make_settings
from .output import make_console, make_notes, print_json
from .run_study import data_on_stdout, exit_code, graceful, make_view

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from ..service.simulation import Capacity, Spread


def simulate(
    trials: Annotated[int, typer.Option(min=1, help="Trials to run.")] = 500,
    slots: Annotated[int, typer.Option(min=1, help="Trials at once.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of a trial that is not pruned.")] = 20,
    epoch_seconds: Annotated[float, typer.Option(min=0.001, help="Seconds of an epoch.")] = 1.0,
    finished: Annotated[int, typer.Option(min=0, help="Finished trials that the study begins with.")] = 0,
    sampler: Annotated[SamplerName, typer.Option(help="As in a study file.")] = "tpe",
    pruner: Annotated[PrunerName, typer.Option(help="As in a study file.")] = "median",
    address: Address = None,
    storage: Storage = None,
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Run a study whose trials sleep, to measure the capacity of driver, storage and tracking server.

    Its files go to a temporary folder, storage and tracking included unless they are set.
    Example: `sweep simulate --trials 500 --slots 64 --epochs 20 --epoch-seconds 1`
    """
    from ..config.errors import without_password
    from ..service import simulation

    console, notes = make_console(to_stderr=as_json), make_notes(to_stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="sweep-simulation-") as scratch:
        settings = make_settings(workspace=Path(scratch), storage=storage, tracking_uri=tracking, address=address)
        load = simulation.Load(trials, slots, epochs, epoch_seconds, finished, sampler, pruner)
        config = simulation.study_of(load)
        notes.print(f"{config.name}: storage {without_password(settings.storage)}", soft_wrap=True)
        notes.print(f"tracking {without_password(settings.tracking_uri)}", soft_wrap=True)
        view = make_view(settings, console, as_json=False, executor="ray")
        with (
            data_on_stdout(as_json),
            graceful(console) as (stop, caught),
            view(config, console, left=trials) as progress,
        ):
            found = simulation.simulate(load, config, settings, progress, stop=stop)
    if as_json:
        load_json, found_json = dataclasses.asdict(load), dataclasses.asdict(found)
        print_json({"study": config.name, **load_json, "outcomes": progress.counts, **found_json})
    else:
        _show(found, slots, progress.counts, console)
    if stop.is_set():
        raise typer.Exit(exit_code(caught))


def _show(found: Capacity, slots: int, outcomes: Mapping[str, int], console: Console) -> None:
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


def _milliseconds(spread: Spread) -> str:
    return f"median {spread.median:.0f} ms, 95 % within {spread.p95:.0f} ms, at most {spread.most:.0f} ms"
