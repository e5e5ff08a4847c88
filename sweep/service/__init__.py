"""Functions behind the commands, for the command line and for notebooks: one function for each command.

Importing it imports neither torch nor Ray, Optuna or MLflow. ``sweep.service.run`` and ``sweep.service.confirm`` are
the functions; import names of their modules with ``from sweep.service.run import ...``.
"""

from ..analysis.summary import Summary, export_config, finished_rows, summarise
from ..study.storages.catalog import derive_study, load_stored_config, study_names_of_ours
from ..tracking.server import password_server, running
from .analyse import importances, log_report, report, sensitivity
from .callback import RunCallback
from .confirm import confirm
from .preflight.dry_run import plan_run, scratch_settings
from .preflight.load import load_study
from .run import RunOptions, run
from .single_trial import check_out, enqueue, retry, test, train, trial_config, trial_log, write_model
from .starter import write_starter
from .ui import run_links, ui

__all__ = [
    "RunCallback",
    "RunOptions",
    "confirm",
    "enqueue",
    "plan_run",
    "retry",
    "run",
    "scratch_settings",
    "test",
    "train",
    "trial_config",
    "trial_log",
]
__all__ += ["check_out", "write_model"]
__all__ += ["derive_study", "load_stored_config", "load_study", "study_names_of_ours"]
__all__ += ["Summary", "export_config", "finished_rows", "importances", "log_report", "report", "sensitivity"]
__all__ += ["password_server", "run_links", "running", "summarise", "ui", "write_starter"]
