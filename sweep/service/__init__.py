"""One function for each command: what the command line and a notebook call.

May import every folder but ``cli``. Face: the functions below and `Summary`.
"""

from ..analysis.summary import Summary, export_config, finished_rows, summarise
from ..study.storages.catalog import derive_study, load_stored_config, study_names_of_ours
from .analyse import importances, publish, report, sensitivity
from .callback import RunCallback
from .enqueue import enqueue
from .preflight.dry_run import plan_run
from .preflight.load import load_study
from .run import RunOptions, run
from .single_trial import test, train, trial_config
from .ui import run_links, ui

__all__ = [
    "RunCallback",
    "RunOptions",
    "Summary",
    "derive_study",
    "enqueue",
    "export_config",
    "finished_rows",
    "importances",
    "load_stored_config",
    "load_study",
    "plan_run",
    "publish",
    "report",
    "run",
    "run_links",
    "sensitivity",
    "study_names_of_ours",
    "summarise",
    "test",
    "train",
    "trial_config",
    "ui",
]
