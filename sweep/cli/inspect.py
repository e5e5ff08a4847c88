"""Commands that inspect a study, its results, the keys of a study file, and this machine."""

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..config.errors import ConfigError, SweepError, TrackingError
from ..config.secrets import without_secrets
from .options import AsJson, MachineSettings, NameArg, ResultSettings, StudySettings, command_line, complete_commands
from .output import make_console, print_json, profile_json, summary_json


def status(
    settings: StudySettings,
    name: Annotated[str | None, typer.Argument(help="Name of a study; without it, all studies.")] = None,
    log: Annotated[
        str | None, typer.Option(help="Print what this trial of your own code printed: a number, or a run's name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the progress of a study: counts, drivers, alive or dead, their trials, and failures with tracebacks.

    Examples: `sweep status digits`, `sweep status mine --log 17`
    """
    from .. import service
    from . import tables as display

    if log is not None:
        if name is None:
            raise ConfigError("options", ["--log is of one study: sweep status NAME --log N"])
        print(service.trial_log(name, settings, log), end="")
        return
    console = make_console(to_stderr=as_json)
    summaries = []
    for each in [name] if name else service.study_names_of_ours(settings):
        try:
            summaries.append(service.summarise(each, settings))
        except SweepError as error:
            if name:
                raise
            console.print(str(error), soft_wrap=not console.is_terminal)  # the other studies are shown
    if as_json:
        print_json([summary_json(s) for s in summaries])
        return
    if not summaries:
        place = without_secrets(settings.storage)
        console.print(f"No study yet in {place}. Start one: sweep run digits", markup=False, soft_wrap=True)
    for summary in summaries:
        console.print(display.status_table(summary))
        for line in display.status_lines(summary, tracebacks=name is not None):
            line = complete_commands(line, settings, summary.config.name)
            console.print(line, soft_wrap=not console.is_terminal)
        display.print_health(summary, console, settings, checks=("lost",))


def best(
    settings: ResultSettings,
    name: NameArg,
    top: Annotated[int, typer.Option(min=1, help="Number of configurations.")] = 5,
    export: Annotated[Path | None, typer.Option(help="Write the best one as a study file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the best configurations of a study, with links to their runs if the MLflow UI is reachable.

    The order is that of the mean on fresh seeds where there is one.

    Example: `sweep best digits --top 3 --export best.yaml`
    """
    from .. import service
    from ..service.ui import PORT
    from . import tables as display

    summary, console = service.summarise(name, settings), make_console(to_stderr=as_json)
    links: dict[int, str] = {}
    try:
        links = service.run_links(name, summary.best[:top], settings)
    except TrackingError as error:
        console.print(f"No links to runs: {error}", soft_wrap=not console.is_terminal)
    if as_json:
        fresh = {number: each._asdict() for number, each in summary.expected.items()}
        rows = [(row, {"fresh_seeds": fresh.get(row.number)}) for row in summary.best[:top]]
        print_json([{**asdict(row), **expected, "link": links.get(row.number)} for row, expected in rows])
    elif summary.best:
        console.print(display.best_table(summary.config, summary.best[:top], summary.expected))
        if summary.comparison.finalists:
            console.print(display.comparison_table(summary.config, summary.comparison))
        display.print_health(summary, console, settings, checks=("edge", "noise"))
    if links and not as_json:
        served = f", served by {command_line(settings, 'ui', name)} --port {PORT}"
        where = "" if settings.tracking_uri.startswith("http") else served
        console.print(f"Their runs in the MLflow UI{where}:", soft_wrap=not console.is_terminal)
        for row in [row for row in summary.best[:top] if row.number in links]:
            console.print(f"{row.number:>7}   {links[row.number]}", soft_wrap=True)
    if not summary.best:
        console.print(f"{name}: no trial has completed yet.")
        raise typer.Exit(1)
    if export is not None:
        export.write_text(service.export_config(summary.config, summary.best[0]))
        console.print(f"Wrote {export}; train it with: sweep train {export}", soft_wrap=True)


def ui(
    settings: ResultSettings,
    name: Annotated[str | None, typer.Argument(help="Study to open, sorted by its objective.")] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Serve the MLflow UI on this machine and print the link to a study, best trials first. Ctrl-C ends it.

    Example: `sweep ui digits`
    """
    from .. import service

    command, environment, links = service.ui(name, settings, port=port)
    print(links[0], flush=True)
    if len(links) > 1:
        print(f"If this MLflow does not open that view: {links[-1]}", file=sys.stderr)
    if command:
        with contextlib.suppress(KeyboardInterrupt), service.running(command, environment) as server:
            code = server.wait()
            raise typer.Exit(code if code >= 0 else 128 - code)


def profile(
    settings: StudySettings,
    source: Annotated[str, typer.Argument(help="A run (digits-0017), a checkpoint file, or package.module:Net.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = Path("profile.png"),
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Argument of Net, such as depth=4.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a network's weights as guidance sees them: entropy by layer and epoch, corner taps, singular values.

    A run is drawn beside its control, if it has one.

    Example: `sweep profile digits-0017 --out profile.png`
    """
    import gc

    from ..config.study_file import assigned
    from . import tables as display

    console = make_console(to_stderr=as_json)
    keywords, problems = assigned(sets or [])
    if problems:
        raise ConfigError("options", problems)
    gc.disable()  # saves a sixth of the time: the imports of torch and matplotlib leave no garbage
    try:
        from ..analysis.weight_profile import load_profile
        from ..analysis.weight_profile_figure import draw_profile

        profiles = load_profile(source, settings, dict(keywords))
        draw_profile(profiles, out)
    finally:
        gc.enable()
    if as_json:
        print_json([profile_json(each) for each in profiles])
    for each in [] if as_json else profiles:
        console.print(display.profile_table(each))
    console.print(f"Drawn to {out}", soft_wrap=True, highlight=False)


def schema(
    write: Annotated[
        Path | None,
        typer.Option(metavar="STUDY.yaml", help="Write it beside this study file, with the editor's line on top."),
    ] = None,
) -> None:
    """Print the JSON Schema of study files, for editors: every key and its meaning.

    Examples: `sweep schema --write first.yaml`, `sweep schema > study.schema.json`
    """
    from ..config.study_file import attach_schema, json_schema

    if write is None:
        print_json(json_schema())
        return
    written = attach_schema(write)
    make_console().print(f"Wrote {written}, which the first line of {write} names for editors.", soft_wrap=True)


def doctor(
    settings: MachineSettings,
    study: Annotated[
        str | None,
        typer.Argument(help="A study to check too, and to bundle; without one, all are bundled."),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Write a file for a bug report, without secrets.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, the settings, and a study as before its run. Exit code 1 if a check fails.

    The bundle is text: versions, settings without secrets, the study's trials, and the last logs.

    Example: `sweep doctor`, `sweep doctor first.yaml`, `sweep doctor digits --bundle bundle.json`
    """
    from ..service.maintenance.doctor import run_checks

    checks = run_checks(settings, study)
    console = make_console(to_stderr=as_json)
    if bundle is not None:
        from ..service.maintenance.bundle import write_bundle

        write_bundle(bundle, checks, settings, study)
        console.print(f"Wrote {bundle}: read it before you attach it to a bug report.", soft_wrap=True)
    if as_json:
        print_json([{"check": n, "ok": ok, "detail": d} for n, ok, d in checks])
    for what, ok, detail in [] if as_json else checks:
        mark = ("ok  ", "green") if ok else ("FAIL", "red")
        console.print(Text.assemble(mark, f" {what:10s} {detail}"), soft_wrap=not console.is_terminal)
    if not all(ok for _, ok, _ in checks):
        raise typer.Exit(1)
