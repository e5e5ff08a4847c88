"""Functions behind the commands, for the command line and for notebooks: one function for each command.

May import every folder but ``cli``. The face is `load_study`, `run`, `train`, `report` and `confirm`, with `RunOptions`
and `RunCallback`. Importing it imports neither torch nor Ray, Optuna or MLflow. Note that ``sweep.service.run`` and
``sweep.service.confirm`` are the functions; import names of their modules with ``from sweep.service.run import ...``.
"""

from ..analysis.summary import Summary, export_config, finished_rows, summarise
from ..study.storages.catalog import derive_study, load_stored_config, study_names_of_ours
from .analyse import importances, log_report, report, sensitivity
from .callback import RunCallback
from .confirm import confirm
from .enqueue import enqueue
from .preflight.dry_run import plan_run
from .preflight.load import load_study
from .run import RunOptions, run
from .single_trial import test, train, trial_config
from .ui import password_server, run_links, running, ui

__all__ = [
    "RunCallback",
    "RunOptions",
    "Summary",
    "confirm",
    "derive_study",
    "enqueue",
    "export_config",
    "finished_rows",
    "importances",
    "load_stored_config",
    "load_study",
    "log_report",
    "password_server",
    "plan_run",
    "report",
    "run",
    "run_links",
    "running",
    "sensitivity",
    "study_names_of_ours",
    "summarise",
    "test",
    "train",
    "trial_config",
    "ui",
]
