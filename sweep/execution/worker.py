"""A trial in the process that trains it, whichever executor started that process. Imports neither Ray nor torch."""

import errno
import logging
import socket
import sys
import traceback
from collections.abc import Generator
from dataclasses import replace

from ..config.errors import FunctionError, ScriptError, StopIgnoredError, SweepError, printable
from ..config.filesystem import ObjectStoreUnavailableError
from ..config.secrets import redact
from ..training.reports import RankLostError, TrialReport
from .out_of_memory import hint, oom_kind

RUN_TRIAL = "sweep.training.trial:run_trial"
logger = logging.getLogger(__name__)

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def next_report(reports: Generator[TrialReport]) -> TrialReport:
    """Trains until the next report is due; an exception in the trial becomes a report with outcome ``failed``.

    Raises:
        RankLostError: A process of the trial was killed: the executor treats the trial as one that lost its worker.
    """
    tags = {"sweep.host": socket.gethostname(), "sweep.device": _device()}
    try:
        return replace(next(reports), tags=tags)
    except RankLostError:
        raise
    except Exception as problem:  # noqa: BLE001 (a trial must not end the worker, or the study)
        error, oom, halt = printable(redact(traceback.format_exc())), oom_kind(problem), None
        if oom is not None:
            error = f"{error}{hint(oom)}"
        if isinstance(problem, ScriptError):
            error = printable(str(problem))
        elif isinstance(problem, FunctionError):
            halt = f"{problem}. Nothing is lost: mend that"
        elif isinstance(problem, ObjectStoreUnavailableError):
            halt = f"{socket.gethostname()}: {problem}. Nothing is lost: mend that"
        elif isinstance(problem, OSError) and problem.errno in DISK_ERRORS:
            halt = f"{socket.gethostname()}: {problem}. Nothing is lost: make room"
        return TrialReport([], outcome="failed", error=error, tags=tags, oom=oom, halt=halt)


def end_trial(reports: Generator[TrialReport]) -> str | None:
    """Ends a trial that was stopped, and what it has open; returns the reason if its process is fit for no other."""
    try:
        reports.close()
    except StopIgnoredError as error:
        return f"{error}: its worker is replaced. Let what trial.report raises pass, and a closed generator return"
    except Exception:  # of the user's own code, which the stopped trial must not fail by
        logger.warning("the end of a trial raised", exc_info=True)
    return None


def halted(report: TrialReport) -> SweepError | None:
    """Returns the error that ends the run if no trial can go on where this report comes from, or None."""
    return None if report.halt is None else SweepError(f"{report.halt}, then resume the study.")


def _device() -> str:
    torch = sys.modules.get("torch")  # None in a worker that trains something else
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "cpu"
