"""Commands that analyse a study: sensitivity, report, confirm."""

import gc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as opt
from .cluster import submit_confirmation
from .output import make_console, make_notes, print_json
from .run_study import announce_job, exit_code, graceful, make_view, webhook_at_end

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.confirmation import Confirmation
    from ..config.settings import Settings
    from ..config.study_config import StudyConfig
    from .progress import Progress

METHODS = "dropout,weight_decay,batch_norm,he,orthogonal,lsuv"


def sensitivity(
    settings: opt.StudySettings,
    name: Annotated[str, typer.Argument(help="A study in the storage: one of sweep's, or any other of Optuna's.")],
    metric: Annotated[str | None, typer.Option(help="Analyse this metric instead of the objective.")] = None,
    epoch: Annotated[int | None, typer.Option(help="Analyse this epoch instead of the last one.")] = None,
    against_control: Annotated[
        bool, typer.Option("--against-control", help="Analyse the gain over the unguided control.")
    ] = False,
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="Analyse a part of the space: 'depth >= 4 and lambda1 < 1e-3'."),
    ] = None,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Show Optuna's importances too, which answer another question.")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Show which hyperparameters matter, alone and together, and how reliable that is; or why it is unknown.

    Sobol indices: shares of the objective's variance over the search space. They need uniform trials: `run --design`.

    Example: `sweep sensitivity digits --where "depth >= 4"`
    """
    from .. import service
    from ..analysis.sensitivity_text import as_data
    from . import tables as display

    console = make_console(to_stderr=as_json)
    analyses = service.sensitivity(
        name, settings, metric=metric, epoch=epoch, against_control=against_control, where=where
    )
    importances = service.importances(name, settings) if optuna else {}
    if as_json:
        data = [as_data(each) for each in analyses]
        if optuna:
            data = [{**each, "optuna": importances.get(each["objective"])} for each in data]
        print_json(data[0] if len(data) == 1 else data)
        return
    for analysis in analyses:
        display.print_analysis(analysis, console, settings)
    for objective, values in importances.items():
        console.print(display.importances_table(objective, values))


def report(
    settings: opt.ResultSettings,
    name: opt.NameArg,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: WORKSPACE/NAME/report.")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write the report of a study: one HTML page for any browser, its figures as PNG, its numbers as JSON and CSV.

    They are added to the study's own run in MLflow if that is reachable. Example: `sweep report digits`
    """
    from .. import service

    console = make_console(to_stderr=as_json)
    gc.disable()  # saves a seventh of the time
    try:
        written = service.report(name, settings, out)
    finally:
        gc.enable()
    problem = service.log_report(name, written, settings)
    if as_json:
        files = [str(path) for path in written.files]
        print_json({"study": name, "files": files, "metrics": written.metrics, "in_mlflow": problem is None})
    beside = f"{len(written.files) - 1} pictures and tables beside it"
    where = f"not in MLflow: {problem}" if problem else f"in MLflow as artifacts of the run {name}"
    console.print(f"Written: {written.page}, with {beside}; {where}", soft_wrap=not console.is_terminal)


def confirm(
    settings: opt.ConfirmSettings,
    name: opt.NameArg,
    top: Annotated[int, typer.Option(min=1, help="How many of the best configurations.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Pairs of each of them: fresh seeds.")] = 8,
    against: Annotated[str, typer.Option(help=f"Other methods in guidance's place: {METHODS}.")] = "",
    placebo: Annotated[bool, typer.Option("--placebo", help="Train a placebo of the same size too.")] = False,
    executor: opt.Executor = "ray",
    submit: Annotated[
        bool,
        typer.Option("--submit", help="Run it on the cluster at --address http://HOST:8265, like sweep submit."),
    ] = False,
    offline_ok: opt.OfflineOk = False,
    insecure: opt.Insecure = False,
    as_json: opt.AsJson = False,
) -> None:
    """Test whether guidance helped: pairs on fresh seeds and the test set, against tuned controls, with intervals.

    The best configurations of the search are trained beside their plain controls and the strongest control. A search
    with as many trials finds the strongest control first. After an interruption, the same command goes on.

    Example: `sweep confirm digits --top 2 --seeds 8 --placebo`
    """
    from .. import service
    from ..service import webhook

    methods = list(dict.fromkeys(method.strip() for method in against.split(",") if method.strip()))
    words = [f"--top {top}", f"--seeds {seeds}", *([f"--against {','.join(methods)}"] if methods else [])]
    words += [*(["--placebo"] if placebo else []), *([f"--executor {executor}"] if executor != "ray" else [])]
    if submit:
        flags = [word for word, given in (("--offline-ok", offline_ok), ("--insecure", insecure)) if given]
        submit_confirmation(name, " ".join([*words, *flags]).split(), settings, as_json=as_json)
        return
    announce_job(settings, as_json=as_json)
    webhook.check_webhooks(settings)
    to_stderr = as_json or settings.log == "json"
    console, notes = make_console(to_stderr=to_stderr), make_notes(to_stderr=to_stderr)
    view = make_view(settings, console, as_json=as_json, executor=executor)
    views = list["Progress"]()  # one for each study that is run
    with (
        graceful(console) as (stop, caught),
        webhook_at_end(settings, views, partial(webhook.describe_confirmation, name)) as results,
    ):

        def listen(config: "StudyConfig", left: int | None) -> "Progress":
            views.append(view(config, notes, service.finished_rows(config, settings), left, stop=stop))
            return views[-1]

        options = service.RunOptions(stop=stop, offline_ok=offline_ok, insecure=insecure, executor=executor)
        plan = partial(service.confirm, name, settings, listen, top=top, seeds=seeds, against=methods, placebo=placebo)
        results.append(confirmation := plan(options=options))
    if confirmation is None:
        command = opt.command_line(settings, "confirm", name, *words)
        console.print(f"Interrupted; nothing is lost. Go on with:\n  {command}", soft_wrap=True)
        raise typer.Exit(exit_code(caught))
    _print_confirmation(confirmation, settings, console, as_json=as_json)


def _print_confirmation(
    confirmation: "Confirmation", settings: "Settings", console: "Console", *, as_json: bool
) -> None:
    """Prints the result; exits with 1 if members of pairs are missing."""
    from . import tables

    if as_json:
        print_json(confirmation.as_data())
    elif settings.log == "text":
        tables.print_confirmation(confirmation, console)
    if confirmation.missing:
        pairs = f"{len(confirmation.missing)} member{'s' * (len(confirmation.missing) > 1)} of pairs failed"
        again = f"{opt.command_line(settings, 'retry', confirmation.study)}; then confirm again"
        console.print(f"Incomplete: {pairs} ({', '.join(confirmation.missing)}). Go on with: {again}", soft_wrap=True)
        raise typer.Exit(1)
