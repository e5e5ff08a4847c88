"""One run of a study, or of a part of it: brings the executor, the tracker and the driver together, and ends them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from ..analysis.summary import Summary, summarise
from ..config.errors import ConfigError, SweepError
from ..config.filesystem import check_object_store, is_remote
from ..config.search_methods import SAMPLERS
from ..config.settings import NO_DATABASE, Settings
from ..config.study_config import StudyConfig
from ..config.study_file import to_yaml
from ..config.user_code import search_folders
from ..execution.session import ray_session
from ..study.records import ARMS
from ..study.storages.catalog import OWN_CODE, get_storage, require_same_study, study_names_of_ours
from ..tracking.ui_links import describe, experiment_tags
from .analyse import analyse_finished

if TYPE_CHECKING:
    from ..analysis.sensitivity import Analysis
    from ..config.search_space import Scalar
    from ..study.records import PlannedTrial, TrialRecord
    from ..study.storages.storage import Storage
    from ..study.study import Study
    from ..tracking.tracker import Tracker
    from .driver import RunCallback


def run(
    config: StudyConfig,
    settings: Settings,
    listener: RunCallback,
    *,
    forerunners: Sequence[StudyConfig] = (),
    pairs: Sequence[PlannedTrial] | None = None,
    first: Sequence[Mapping[str, Scalar]] = (),
    concluded: bool = True,
    stop: threading.Event | None = None,
    offline_ok: bool = False,
    insecure: bool = False,
) -> Summary:
    """Runs a study, or goes on with it: every run is a resume.

    Args:
        config: from `load`, so checked.
        listener: told of every step.
        forerunners: from `continued`: studies of another search space, whose trials the sampler is shown.
        pairs: rows of the sister study that are trained in place of all that the study itself would train.
        first: values of points that must be among the trials of the search.
        concluded: whether at the end the best model is kept, what matters is analysed and the report written.
        stop: when set, running trials checkpoint and the run ends early.
        offline_ok: go on without a tracking server that is out of reach; it is sent everything when it is back.
        insecure: use a cluster that asks for no token, too.

    Raises:
        SweepError: storage, tracking server or cluster out of reach, or the cluster cannot run it, before any trial.
    """
    began, interrupted, stop = time.monotonic(), False, stop or threading.Event()
    keeping: Future[None] | None = None
    concluding: Future[Analysis | None] | None = None
    require_same_study(config, settings)
    if is_remote(settings.workspace):
        if not settings.tracking_uri:
            raise SweepError(NO_DATABASE)
        check_object_store(settings.workspace)
    complete = is_complete(config, settings, pairs, first)
    if complete and concluded:
        listener.on_message(
            f"{config.name} is finished: nothing is left to train; --trials with a larger number extends it"
        )
    with ThreadPoolExecutor(max_workers=2) as pool:
        # MLflow and Ray take seconds each to start; Ray's are mostly spent waiting for its processes.
        preparing = pool.submit(_prepare, config, settings, offline_ok=offline_ok)
        with contextlib.nullcontext() if complete else ray_session(settings.address, config):
            tracker = preparing.result()

            from ..execution.cluster_checks import check_nodes
            from ..execution.executor import execute
            from ..study.storages.storage import UNREACHABLE
            from ..study.study import Study
            from .driver import Driver
            from .recorder import Recorder

            if not complete:
                problems = check_nodes(config, settings, insecure=insecure, on_message=listener.on_message)
                if problems:
                    raise ConfigError(f"address {settings.address}", problems)  # before anything is written
            try:
                storage, workspace = get_storage(settings.storage), settings.workspace
                search = Study(config, storage, workspace=workspace)
                controls = Study(config, storage, workspace=workspace, sister=True, pairs=pairs)
                tags = {**_budget(config), **_learn(search, forerunners, storage, listener)}
                tracker.open(
                    description=describe(config),
                    params=config.identity(),
                    tags=tags,
                    experiment_tags={
                        **experiment_tags(config, settings.experiment(config.name)),
                        **_whose(search, settings),
                    },
                    taken=lambda: search.started_trials() | controls.started_trials(),
                    offline_ok=offline_ok,
                )
                if config.import_paths:
                    search.set_user_attr(OWN_CODE, search_folders())
                if pairs is not None:
                    controls.add(pairs)
                elif (budget := search.enqueue_budget(first)) > config.search.trials and not complete:
                    listener.on_message(f"{config.name} has {budget} trials: its budget grows, and never shrinks")
                recording = Recorder(config, settings, search, controls, tracker, listener.on_message)
                parts = config, settings, search, controls, recording, listener
                with Driver(*parts, stage="search" if pairs is None else "tuned") as driver:
                    if concluded:
                        keeping = pool.submit(
                            driver.log_best_when_done, to_yaml(config)
                        )  # at the end, while Ray cleans up
                    if not complete:
                        recording.repair()
                        recording.note_code()
                        execute(driver, config.resources, stop=stop)
                        interrupted = not driver.is_finished()
                    interrupted = interrupted or not recording.complete(stop)
                    if concluded and not interrupted:
                        page = settings.reports(config.name) / "report.html"
                        wanted = settings.report and not (complete and page.exists())
                        concluding = pool.submit(
                            analyse_finished, config.name, settings, tracker, listener, report=wanted
                        )
                rows = [_rows(study, interrupted=interrupted) for study in (search, controls)]
                summary = Summary.of(config, *rows, interrupted=interrupted)
            except BaseException:
                tracker.close(status="KILLED", timeout=5)
                raise
        if keeping and (error := keeping.exception()) is not None:
            listener.on_message(f"the best model was not recorded: {error}; the next run of {config.name} tries again")
        try:
            analysis = concluding.result() if concluding else None
            # Pairs leave the study's own run as it was: they neither end nor interrupt a search.
            over = not interrupted if pairs is None else tracker.was_finished or is_complete(config, settings)
            another = pairs is not None and search.is_busy()  # whose end will be that of the study's own run
        except BaseException:
            tracker.close(status="KILLED", timeout=5)
            raise
    # A server that is away already has had its time: the next run sends what it lacks.
    tracker.close(status="FINISHED" if over else None if another else "KILLED", timeout=5 if tracker.away else 60)
    with contextlib.suppress(*UNREACHABLE):  # another host then finds out in a minute
        for study in (search, controls):
            study.end_lease()
    for notice in tracker.notices:
        listener.on_message(notice)
    if tracker.problem:
        listener.on_message(f"tracking: {tracker.problem}; the next run of {config.name} sends what is missing")
    return replace(summary, seconds=time.monotonic() - began, analysis=analysis)


def _rows(study: Study, *, interrupted: bool) -> list[TrialRecord]:
    """All trials of a study; of a run that was interrupted while the storage is away, those that were known last."""
    from ..study.storages.storage import UNREACHABLE

    try:
        return study.rows()
    except UNREACHABLE:
        if not interrupted:
            raise
        return study.rows(latest=False)


def _learn(
    search: Study, forerunners: Sequence[StudyConfig], storage: Storage, listener: RunCallback
) -> dict[str, str]:
    """Shows the sampler of a new study what its forerunners have found; returns MLflow tags that say so."""
    from ..study.warm_start import gather_prior_trials

    config = search.config
    if forerunners and search.get_user_attr("knowledge") is None:
        search.add_prior_trials(
            {r["trial"]: r for before in forerunners for r in gather_prior_trials(config, before, storage)}.values()
        )
        before, sampler = ", ".join(study.name for study in forerunners), config.search.sampler
        idle = f", but the sampler {sampler} learns from no trial" if not SAMPLERS[sampler].learns else ""
        listener.on_message(
            f"{config.name} goes on from {before} with another space and a budget of its own; its sampler is shown the "
            f"{search.n_prior_trials} trials that fit{idle}"
        )
    return {"sweep.knows": str(search.n_prior_trials)} if search.n_prior_trials else {}


def _whose(search: Study, settings: Settings) -> dict[str, str]:
    """Tags by which studies of one name on a shared server are told apart."""
    return {"sweep.id": str(search.get_user_attr("id")), **({"sweep.owner": settings.owner} if settings.owner else {})}


def _budget(config: StudyConfig) -> dict[str, str]:
    """What may change between two runs of a study: tags, since MLflow's params never change."""
    return {f"sweep.search.{k}": str(v) for k, v in config.search.model_dump(mode="json").items() if k != "finalists"}


def _prepare(config: StudyConfig, settings: Settings, *, offline_ok: bool) -> Tracker:
    """Imports what the run needs and reaches the tracking server; in a thread."""
    from ..execution import executor  # noqa: F401
    from ..tracking.tracker import Tracker
    from . import driver  # noqa: F401

    tracker = Tracker.of(config.name, settings)
    if not offline_ok:
        tracker.check(create=True)
    return tracker


def is_complete(
    config: StudyConfig,
    settings: Settings,
    pairs: Sequence[PlannedTrial] | None = None,
    first: Sequence[Mapping[str, Scalar]] = (),
) -> bool:
    """Whether nothing is left to train, as far as the storage knows; where ``pairs`` are given, of these.

    Args:
        pairs, first: as for `run`.
    """
    from ..study.finalists import missing_trials, wanted_rows, wanted_tuned

    if config.name not in study_names_of_ours(settings):
        return False
    summary = summarise(config.name, settings)
    rows, controls = summary.rows, [row for row in summary.controls if pairs is not None or row.kind not in ARMS]
    if pairs is not None:
        return not missing_trials(pairs, [r for r in controls if r.state == "finished"])
    wanted = [*wanted_rows(config, rows), *wanted_tuned(config, rows, controls)]
    done = all(r.state == "finished" for r in [*rows, *controls])
    done = done and all(any(point.items() <= row.hyperparameters.items() for row in rows) for point in first)
    return done and len(rows) >= config.search.trials and not missing_trials(wanted, controls)
