"""One function for each command: what the command line and a notebook call.

May import every folder but ``cli``. Face: the functions below and `Summary`.
"""

from ..analysis.summary import Summary, export, finished_rows, summarise
from ..study.storages.catalog import continued, stored, studies
from .analyse import importances, publish, report, sensitivity
from .enqueue import enqueue
from .preflight.dry_run import planned
from .preflight.load import load
from .run import run
from .single_trial import test, train, trial_config
from .ui import run_links, ui

__all__ = [
    "Summary",
    "continued",
    "enqueue",
    "export",
    "finished_rows",
    "importances",
    "load",
    "planned",
    "publish",
    "report",
    "run",
    "run_links",
    "sensitivity",
    "stored",
    "studies",
    "summarise",
    "test",
    "train",
    "trial_config",
    "ui",
]
