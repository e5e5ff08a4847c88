"""One run of a study: prepares the study, executes its trials and finishes what they leave."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..analysis.summary import Summary
from ..config.errors import SweepError
from ..config.filesystem import check_object_store, is_remote
from ..config.search_methods import get_sampler
from ..config.search_space import Scalar
from ..config.settings import NO_DATABASE, Settings
from ..config.study_config import StudyConfig
from ..config.study_file import to_yaml
from ..config.user_code import search_folders
from ..execution.executor import Executor, get_executor
from ..study.records import ARMS, PlannedTrial, TrialRecord
from ..study.storages.catalog import OWN_CODE, get_storage
from ..tracking.tracker import Tracker
from ..tracking.ui_links import describe_study, experiment_tags
from .analyse import analyse_finished
from .callback import RunCallback
from .preflight.data_agreement import DATA, describe_data, require_same_data

if TYPE_CHECKING:
    from ..analysis.sensitivity import Analysis
    from ..study.study import Study

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """Options of one run."""

    predecessors: Sequence[StudyConfig] = ()  # from `derive_study`; the sampler is shown their trials
    pairs: Sequence[PlannedTrial] | None = None  # rows of the sister study to train in place of everything else
    first: Sequence[Mapping[str, Scalar]] = ()  # points that must be among the trials of the search
    conclude: bool = True  # a finished run logs the best model, analyses the study and writes the report
    stop: threading.Event = field(default_factory=threading.Event)  # ends the run early, after checkpoints
    offline_ok: bool = False  # goes on without an unreachable tracking server, which gets everything later
    insecure: bool = False  # accepts a cluster without a token
    executor: str = "ray"  # name in `sweep.execution.EXECUTORS`


def run(
    config: StudyConfig, settings: Settings, callback: RunCallback | None = None, options: RunOptions | None = None
) -> Summary:
    """Runs a checked study, or resumes it: every run is a resume. Without a callback, events are logged.

    Raises:
        SweepError: storage, tracking server or cluster unreachable, or unfit for the study; before any trial.
    """
    began, callback, options = time.monotonic(), callback or RunCallback(), options or RunOptions()
    executor, complete = get_executor(options.executor), check_run(config, settings, options)
    if complete and options.conclude:
        done = f"{config.name} is finished: nothing is left to train"
        callback.on_message(f"{done}; --trials with a larger number extends it")
    with ThreadPoolExecutor(max_workers=2) as pool:
        # MLflow and Ray take seconds each to start; Ray's are mostly spent waiting for its processes.
        needed = None if complete else executor
        connecting = pool.submit(_connect_tracker, config, settings, needed, offline_ok=options.offline_ok)
        if not complete and options.executor == "ray":
            callback.on_phase("starting Ray" if settings.address == "local" else f"connecting to {settings.address}")
        with contextlib.nullcontext() if complete else executor.connect(config, settings):
            tracker = connecting.result()
            if not complete:
                executor.check(config, settings, insecure=options.insecure, on_message=callback.on_message)
            with _killed_on_error(tracker):
                current = _Run(config, settings, callback, options, tracker)
                current.prepare(complete=complete)
                summary = current.execute(executor, pool, complete=complete)
        with _killed_on_error(tracker):
            summary, status = current.conclude(summary)
    current.finish(status)
    return replace(summary, seconds=time.monotonic() - began)


class _Run:
    """A run whose tracker is connected; its methods are called in the order in which they stand."""

    def __init__(
        self, config: StudyConfig, settings: Settings, callback: RunCallback, options: RunOptions, tracker: Tracker
    ):
        from ..study.study import Study
        from .recorder import Recorder

        self._config, self._settings, self._callback, self._options = config, settings, callback, options
        self._tracker = tracker
        self._storage, workspace = get_storage(settings.storage, create=True), settings.workspace
        self._search = Study(config, self._storage, workspace=workspace)
        self._controls = Study(config, self._storage, workspace=workspace, sister=True, pairs=options.pairs)
        self._recorder = Recorder(settings, self._search, self._controls, tracker, callback)
        self._logging_best: Future[None] | None = None
        self._analysing: Future[Analysis | None] | None = None

    def prepare(self, *, complete: bool) -> None:
        config, options = self._config, self._options
        budget_tags = config.search.model_dump(mode="json", exclude={"finalists"})  # MLflow's params never change
        experiment, owner = self._settings.experiment(config.name), self._settings.owner
        self._tracker.store.exclusive = self._search.exclusive
        self._tracker.open(
            description=describe_study(config),
            params=config.identity(),
            tags={**{f"sweep.search.{k}": str(v) for k, v in budget_tags.items()}, **self._add_prior_trials()},
            experiment_tags={  # the last two distinguish studies of one name on a shared server
                **experiment_tags(config, experiment),
                "sweep.id": str(self._search.get_user_attr("id")),
                **({"sweep.owner": owner} if owner else {}),
            },
            started_trials=lambda: self._search.started_trials() | self._controls.started_trials(),
            offline_ok=options.offline_ok,
        )
        if config.kind == "model" and self._search.get_user_attr(DATA) is None:
            self._search.set_user_attr(DATA, describe_data(config, self._settings))
        if config.import_paths or config.command:
            self._search.set_user_attr(OWN_CODE, search_folders())
        if options.pairs is not None:
            self._controls.add(options.pairs)
        elif (budget := self._search.enqueue_budget(options.first)) > config.search.trials and not complete:
            self._callback.on_message(f"{config.name} has {budget} trials: its budget grows, and never shrinks")

    def execute(self, executor: Executor, pool: ThreadPoolExecutor, *, complete: bool) -> Summary:
        """Trains the trials, and returns what the study has come to."""
        from .driver import Driver

        options, recorder, interrupted = self._options, self._recorder, False
        with Driver(recorder, stage="search" if options.pairs is None else "tuned") as driver:
            if options.conclude:  # at the end, while Ray cleans up
                self._logging_best = pool.submit(driver.log_best_when_done, to_yaml(self._config))
            if not complete:
                recorder.repair()
                recorder.note_code()
                self._callback.on_phase("starting workers")
                executor.execute(driver, self._config.resources, stop=options.stop)
                interrupted = not driver.is_finished()
            interrupted = interrupted or not recorder.complete(options.stop)
            if options.conclude and not interrupted:
                page = self._settings.reports(self._config.name) / "report.html"
                report = self._settings.report and not (complete and page.exists())
                arguments = self._config.name, self._settings, self._tracker, self._callback
                self._analysing = pool.submit(analyse_finished, *arguments, report=report)
        rows = [_rows(study, interrupted=interrupted) for study in (self._search, self._controls)]
        return Summary.of(self._config, *rows, interrupted=interrupted)

    def conclude(self, summary: Summary) -> tuple[Summary, str | None]:
        """Waits for the best model and the analysis; returns the summary with it, and the status of the MLflow run."""
        if self._logging_best and (error := self._logging_best.exception()) is not None:
            again = f"the next run of {self._config.name} tries again"
            self._callback.on_message(f"the best model was not recorded: {error}; {again}")
        summary = replace(summary, analysis=self._analysing.result() if self._analysing else None)
        finished = not summary.interrupted
        if self._options.pairs is not None:  # pairs neither end nor interrupt the study's own run
            rows, controls = self._search.rows(), self._controls.rows()
            finished = self._tracker.store.was_finished or all_trained(self._config, rows, controls, RunOptions())
            if not finished and self._search.is_busy():  # the end of that driver is the end of the study's own run
                return summary, None
        return summary, "FINISHED" if finished else "KILLED"

    def finish(self, status: str | None) -> None:
        from ..study.storages.storage import UNREACHABLE

        tracker, callback = self._tracker, self._callback
        # An unreachable server has had its time: the next run sends what it lacks.
        tracker.close(status=status, timeout=5 if tracker.behind else 60)  # type: ignore[arg-type]
        with contextlib.suppress(*UNREACHABLE):  # the lease then expires within a minute
            for study in (self._search, self._controls):
                study.end_lease()
        for notice in tracker.notices:
            callback.on_message(notice)
        if tracker.error:
            callback.on_message(f"tracking: {tracker.error}; the next run of {self._config.name} sends what is missing")

    def _add_prior_trials(self) -> dict[str, str]:
        """Shows the sampler of a new study the trials of its predecessors; returns MLflow tags that count them."""
        from ..study.warm_start import gather_prior_trials

        config, search, predecessors = self._config, self._search, self._options.predecessors
        if predecessors and search.get_user_attr("knowledge") is None:
            found = [record for before in predecessors for record in gather_prior_trials(config, before, self._storage)]
            search.add_prior_trials({record["trial"]: record for record in found}.values())
            names, sampler = ", ".join(study.name for study in predecessors), config.search.sampler
            idle = f", but the sampler {sampler} learns from no trial" if not get_sampler(sampler).learns else ""
            self._callback.on_message(
                f"{config.name} goes on from {names} with another space and a budget of its own; its sampler is shown "
                f"the {search.n_prior_trials} trials that fit{idle}"
            )
        return {"sweep.knows": str(search.n_prior_trials)} if search.n_prior_trials else {}


@contextlib.contextmanager
def _killed_on_error(tracker: Tracker) -> Iterator[None]:
    """Closes the study's MLflow run as KILLED if the block raises."""
    try:
        yield
    except BaseException:
        tracker.close(status="KILLED", timeout=5)
        raise


def check_run(config: StudyConfig, settings: Settings, options: RunOptions) -> bool:
    """Checks what needs neither Ray nor MLflow, or raises a SweepError; returns True if nothing is left to train."""
    from ..study.storages.storage import read_config

    storage = get_storage(settings.storage)
    stored = read_config(config.name, storage)
    if stored is not None:
        stored.require_agreement(config)
    if is_remote(settings.workspace):
        if not settings.tracking_uri:
            raise SweepError(NO_DATABASE)
        check_object_store(settings.workspace)
    if stored is None:  # without the imports below, Ray starts sooner
        return False
    from ..study.stored_trials import read_rows

    rows, controls = (read_rows(name, storage) for name in (config.name, f"{config.name}.controls"))
    if all_trained(config, rows, controls, options):
        return True
    require_same_data(config, settings)
    return False


def _connect_tracker(
    config: StudyConfig, settings: Settings, executor: Executor | None, *, offline_ok: bool
) -> Tracker:
    """Imports what the run needs and connects to the tracking server; runs in a thread."""
    from . import driver  # noqa: F401

    if executor is not None:
        executor.preload()
    tracker = Tracker.of(config.name, settings)
    if not offline_ok:
        tracker.store.find_experiment(create=True)
    return tracker


def _rows(study: "Study", *, interrupted: bool) -> list[TrialRecord]:
    """Returns all trials; the cached ones if the run was interrupted during a storage outage."""
    from ..study.storages.storage import UNREACHABLE

    try:
        return study.rows()
    except UNREACHABLE:
        if not interrupted:
            raise
        logger.info("the storage is unreachable: the summary of %s is made from cached trials", study.name)
        return study.rows(latest=False)


def all_trained(
    config: StudyConfig, rows: Sequence[TrialRecord], controls: Sequence[TrialRecord], options: RunOptions
) -> bool:
    """Returns True if nothing is left to train of a study, or of the pairs if options name them."""
    from ..study.finalists import has_tuned_control, missing_trials, wanted_rows, wanted_tuned, wanted_tuning

    if options.pairs is not None:
        return not missing_trials(options.pairs, [row for row in controls if row.state == "finished"])
    own = [row for row in controls if row.kind not in ARMS]
    if len(rows) < config.search.trials or any(row.state != "finished" for row in [*rows, *own]):
        return False
    if not all(any(point.items() <= row.hyperparameters.items() for row in rows) for point in options.first):
        return False
    wanted = [*wanted_rows(config, rows), *wanted_tuning(config, rows, own), *wanted_tuned(config, rows, own)]
    tuned = has_tuned_control(config, own)
    return not missing_trials([row for row in wanted if not (tuned and row.kind == "tuned")], own)
