"""The executor without Ray: trains one trial after the other in the driver's own process.

For debugging, notebooks, tests and machines without Ray; either executor can go on with the other's study.
"""

import contextlib
import logging
import os
import pkgutil
import threading
from collections.abc import Callable, Generator

from ..config.errors import ConfigError
from ..config.resources import Resources
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..training.reports import RankLostError, TrialPaths, TrialReport
from .executor import TrialRequest, TrialSource
from .out_of_memory import gpu_memory_limit
from .worker import RUN_TRIAL, end_trial, halted, next_report

ASK_AGAIN = 0.1  # seconds after which a source that had no trial is asked again: another driver may have ended one

logger = logging.getLogger(__name__)


class LocalExecutor:
    """Runs trials in this process; see `Executor`."""

    def preload(self) -> None:
        """Imports the training code, and with it torch."""
        pkgutil.resolve_name(RUN_TRIAL)

    def connect(self, config: StudyConfig, settings: Settings) -> contextlib.nullcontext[None]:
        """Returns a context that does nothing: there is no other process."""
        return contextlib.nullcontext()

    def check(
        self, config: StudyConfig, settings: Settings, *, insecure: bool, on_message: Callable[[str], None]
    ) -> None:
        """Checks that this machine has the GPUs of a trial; names the options that have no effect here."""
        import torch

        gpus, there = _gpus(config.resources), torch.cuda.device_count()
        asked, cores = config.resources.total_cpus, os.cpu_count() or 1
        problems = []
        if gpus > there:
            problems.append(f"resources.gpus: a trial asks for {gpus:g} GPUs, there are {there}: lower it")
        if config.resources.workers > 1 and asked > cores:
            problems.append(f"resources.workers: a trial asks for {asked:g} CPUs, there are {cores}: lower it, or cpus")
        if problems:
            raise ConfigError("executor local", problems)
        unused = [f"--address {settings.address}"] if settings.address != "local" else []
        harmless = {"memory": None, "accelerator_type": None, "max_concurrent": 1}
        unused += [f"resources.{n}" for n, v in harmless.items() if getattr(config.resources, n) not in (None, v)]
        if unused:
            on_message(f"executor local: one trial at a time, in this process; no effect: {', '.join(unused)}")

    def execute(
        self, source: TrialSource, resources: Resources, *, stop: threading.Event, run_trial: str = RUN_TRIAL
    ) -> None:
        """Runs the source's trials one after the other, each with the generator function ``run_trial``."""
        import torch

        threads = torch.get_num_threads()  # each trial sets its own
        try:
            while not stop.is_set():
                request = source.ask()
                if request is not None:
                    self._train(source, request, _gpus(resources, exclusive=request.exclusive), stop, run_trial)
                elif source.is_finished():
                    return
                else:
                    stop.wait(ASK_AGAIN)
        finally:
            torch.set_num_threads(threads)

    def _train(
        self, source: TrialSource, request: TrialRequest, gpus: float, stop: threading.Event, run_trial: str
    ) -> None:
        """Trains a trial until it ends, the source stops it, or ``stop`` is set; each report follows a checkpoint."""
        source.on_trial_start(request.key)
        reports = _reports(request, gpus, run_trial)
        with gpu_memory_limit(gpus):
            try:
                ended = False
                while not ended and not stop.is_set():
                    try:
                        report = next_report(reports)
                    except RankLostError as lost:
                        source.on_trial_lost(request.key, str(lost), None)
                        return
                    if error := halted(report):
                        raise error
                    ended = source.report(request.key, report) or report.outcome is not None
            finally:
                if unfit := end_trial(reports):
                    source.on_message(unfit)


def _reports(request: TrialRequest, gpus: float, run_trial: str) -> Generator[TrialReport]:
    """Yields the reports of a trial. A generator, so that an import error is the trial's, too."""
    paths = TrialPaths(request.paths.folder, request.paths.data, request.paths.cache, gpus)
    yield from pkgutil.resolve_name(run_trial)(
        request.config, paths, attempt=request.attempt, moves=0, pruning_epochs=request.pruning_epochs
    )


def _gpus(resources: Resources, *, exclusive: bool = False) -> float:
    """Returns the GPUs of one trial; ``auto`` is one if there is any, and ``exclusive`` replaces a share by one."""
    import torch

    gpus = resources.gpus_per_trial(torch.cuda.device_count())
    return 1.0 if exclusive and 0 < gpus < 1 else gpus
