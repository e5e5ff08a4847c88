"""Commands that analyse a study: sensitivity, report."""

import gc
from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, NameArg, ResultSettings, StudySettings
from .output import make_console, print_json


def sensitivity(
    settings: StudySettings,
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
    as_json: AsJson = False,
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
    settings: ResultSettings,
    name: NameArg,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: WORKSPACE/NAME/report.")] = None,
    as_json: AsJson = False,
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
    console.print(f"Written: {written.page}, with {beside}; {where}", markup=False, soft_wrap=not console.is_terminal)
