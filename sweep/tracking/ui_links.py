"""Links into the MLflow UI, the columns that they show, and how to query. Text alone: MLflow is not imported."""

import json
import re
import time
from urllib.parse import quote

from ..config.search_space import ALIASES
from ..config.study_config import StudyConfig

TRIALS = "tags.`sweep.kind`='trial'"
OBJECTIVE = "metrics.`objective`"
FRESH = "metrics.`fresh_objective`"
VIEW = "mlflow.sharedViewState.objective"  # tag: the table that `view_url` opens, in MLflow's undocumented format


def experiment_url(uri: str, experiment_id: str, *, ascending: bool) -> str:
    """Returns the link to an experiment's trials, sorted by the objective, with MLflow's own columns.

    Example:
        >>> experiment_url("http://me@host:5000/", "7", ascending=True).partition("?")[0]
        'http://host:5000/#/experiments/7/runs'
    """
    order = f"orderByKey={quote(OBJECTIVE)}&orderByAsc={str(ascending).lower()}"
    runs = f"{_host(uri)}/#/experiments/{experiment_id}/runs"
    return f"{runs}?searchFilter={quote(TRIALS)}&{order}&startTime=ALL&lifecycleFilter=Active"


def view_url(uri: str, experiment_id: str) -> str:
    """Returns the link to the same with objective, hyperparameters and outcome as columns; needs the tag `VIEW`."""
    return f"{_host(uri)}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW.rpartition('.')[2]}"


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """Returns the link to one run."""
    return f"{_host(uri)}/#/experiments/{experiment_id}/runs/{run_id}"


def experiment_tags(config: StudyConfig, experiment: str) -> dict[str, str]:
    """Returns the tags of a study's experiment: its description, and the table that `view_url` opens."""
    names = dict.fromkeys([*ALIASES, *config.searched])
    columns = [OBJECTIVE, FRESH, "tags.`sweep.outcome`", *(f"params.`{name}`" for name in names)]
    state = {
        "searchFilter": TRIALS,
        "orderByKey": OBJECTIVE,
        "orderByAsc": config.objective.direction == "minimize",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *columns],
        "columnWidths": dict.fromkeys(columns, 120),  # pixels
    }
    now = time.time_ns() // 1_000_000
    view = {"name": f"by {config.objective.metric}", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return {VIEW: json.dumps(view), "mlflow.note.content": _how_to_query(config, experiment)}


def describe_study(config: StudyConfig) -> str:
    """Returns the description of a study's own run (Markdown)."""
    return (
        f"**{config.name}**: {config.subject}, searching "
        f"{', '.join(config.searched) or 'nothing'}.\n\nObjective: {config.objective.direction} "
        f"`{config.objective.metric}`, the metric `objective` of completed search trials."
    )


def _how_to_query(config: StudyConfig, experiment: str) -> str:
    return (
        f"- Best first: filter ``{TRIALS}``, sort by the metric `objective` ({config.objective.direction} "
        f"{config.objective.metric}); only completed search trials have it, pruned and "
        "collapsed ones have `last_objective`. Finalists have `fresh_objective`, their mean on fresh seeds: what to "
        "expect of them, since the best of a search was lucky too.\n"
        "- Hyperparameters that are numbers are metrics too: ``metrics.lambda1 < 0.01 and metrics.depth >= 4``; "
        "choices are params: ``params.`training.init` = 'he'``.\n"
        "- The outcome of a trial: ``tags.`sweep.outcome` = 'pruned'``, or completed, diverged, collapsed, failed; "
        "``tags.`sweep.guidance` = 'inert'``, or dominant.\n"
        "- After the search, on fresh seeds: ``tags.`sweep.kind` = 'finalist'`` or ``'control'``, sort by "
        "`final_objective`; ``'confirm'`` for the pairs of sweep confirm; `sweep.of` is the trial's number.\n"
        f"- The study itself is the run `{config.name}` (``tags.`sweep.kind` = 'study'``), the report is among its "
        "artifacts. From Python: "
        f'`mlflow.search_runs(experiment_names=["{experiment}"], filter_string=..., order_by=["metrics.objective"])`.'
    )


def _host(uri: str) -> str:
    return re.sub(r"//[^/]*@", "//", re.split("[?#]", uri)[0].rstrip("/"))
