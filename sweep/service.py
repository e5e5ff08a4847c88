"""What the command line and a notebook call: `load` a study, `run` it, `train` a trial, `summarise` what was found."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .conclusions import conclude, importances, publish, report, sensitivity
from .config import Scalar, StudyConfig, TrialConfig
from .errors import ConfigError, DivergenceError, SweepError, nearest
from .finding import OWN_CODE, agree, connect, continued, load, stored, studies
from .links import describe, experiment_tags
from .own import modules_to_send, packages, search_folders
from .results import Summary, export, finished_rows, run_links, summarise, ui
from .settings import Settings
from .studyfile import read_yaml, to_yaml

if TYPE_CHECKING:
    from .driver import Listener
    from .metrics import EpochMetrics
    from .plan import Plan
    from .sensitivity import Analysis
    from .storage import Storage
    from .study import Study
    from .tracking import Tracker

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


def run(
    config: StudyConfig,
    settings: Settings,
    listener: Listener,
    *,
    forerunners: Sequence[StudyConfig] = (),
    stop: threading.Event | None = None,
    offline_ok: bool = False,
    insecure: bool = False,
) -> Summary:
    """Runs a study, or goes on with it: every run is a resume.

    Args:
        config: from `load`, so checked.
        listener: told of every step.
        forerunners: from `continued`: studies of another search space, whose trials the sampler is shown.
        stop: when set, running trials checkpoint and the run ends early.
        offline_ok: go on without a tracking server that is out of reach; it is sent everything when it is back.
        insecure: use a cluster that asks for no token, too.

    Raises:
        SweepError: storage, tracking server or cluster out of reach, or the cluster cannot run it, before any trial.
    """
    began, interrupted = time.monotonic(), False
    concluding: Future[Analysis | None] | None = None
    agree(config, settings)
    complete = _complete(config, settings)
    if complete:
        listener.noticed(
            f"{config.name} is finished: nothing is left to train; --trials with a larger number extends it"
        )
    with ThreadPoolExecutor(max_workers=2) as pool:
        # MLflow and Ray take seconds each to start; Ray's are mostly spent waiting for its processes.
        preparing = pool.submit(_prepare, config, settings, offline_ok=offline_ok)
        with contextlib.nullcontext() if complete else _ray(settings.address, config):
            tracker = preparing.result()

            from .driver import Driver
            from .executor import execute
            from .nodes import check_nodes
            from .study import Study

            if not complete and (problems := check_nodes(config, settings, insecure=insecure)):
                raise ConfigError(f"address {settings.address}", problems)  # before anything is written
            try:
                storage, workspace = connect(settings.storage), settings.workspace
                search, controls = (Study(config, storage, workspace=workspace, sister=s) for s in (False, True))
                tags = {**_budget(config), **_learn(search, forerunners, storage, listener)}
                tracker.open(
                    description=describe(config),
                    params=config.identity(),
                    tags=tags,
                    experiment_tags={
                        **experiment_tags(config, settings.experiment(config.name)),
                        **_whose(search, settings),
                    },
                    taken=lambda: {
                        (s.name, r.number) for s in (search, controls) for r in s.rows() if r.state != "waiting"
                    },
                    offline_ok=offline_ok,
                )
                if config.import_paths:
                    search.note(OWN_CODE, search_folders())
                if (budget := search.fill()) > config.search.trials and not complete:
                    listener.noticed(f"{config.name} has {budget} trials: its budget grows, and never shrinks")
                with Driver(config, settings, search, controls, tracker, listener) as driver:
                    driver.repair()
                    recording = pool.submit(driver.record, to_yaml(config))  # at the end, while Ray cleans up
                    if not complete:
                        driver.note_code()
                        execute(driver, config.resources, stop=stop or threading.Event())
                        interrupted = not driver.finished()
                        if not interrupted:
                            driver.repair()
                    if not interrupted:
                        page = settings.reports(config.name) / "report.html"
                        wanted = settings.report and not (complete and page.exists())
                        concluding = pool.submit(conclude, config.name, settings, tracker, listener, report=wanted)
            except BaseException:
                tracker.close(status="KILLED", timeout=5)
                raise
            summary = Summary.of(config, search.rows(), controls.rows(), interrupted=interrupted)
        if (error := recording.exception()) is not None:
            listener.noticed(f"the best model was not recorded: {error}; the next run of {config.name} tries again")
        analysis = concluding.result() if concluding else None
    # A server that is away already has had its time: the next run sends what it lacks.
    whole = tracker.close(status="KILLED" if interrupted else "FINISHED", timeout=5 if tracker.away else 60)
    for notice in tracker.notices:
        listener.noticed(notice)
    if tracker.problem or not whole:
        listener.noticed(f"tracking: {tracker.problem}; the next run of {config.name} sends what is missing")
    return replace(summary, seconds=time.monotonic() - began, analysis=analysis)


def _learn(search: Study, forerunners: Sequence[StudyConfig], storage: Storage, listener: Listener) -> dict[str, str]:
    """Shows the sampler of a new study what its forerunners have found; returns MLflow tags that say so."""
    from .knowledge import gather

    config = search.config
    if forerunners and search.noted("knowledge") is None:
        search.know({r["trial"]: r for before in forerunners for r in gather(config, before, storage)}.values())
        before, sampler = ", ".join(study.name for study in forerunners), config.search.sampler
        idle = f", but the sampler {sampler} learns from no trial" if sampler in ("random", "qmc") else ""
        listener.noticed(
            f"{config.name} goes on from {before} with another space and a budget of its own; its sampler is shown the "
            f"{search.knows} trials that fit{idle}"
        )
    return {"sweep.knows": str(search.knows)} if search.knows else {}


def _whose(search: Study, settings: Settings) -> dict[str, str]:
    """Tags by which studies of one name on a shared server are told apart."""
    return {"sweep.id": str(search.noted("id")), **({"sweep.owner": settings.owner} if settings.owner else {})}


def _budget(config: StudyConfig) -> dict[str, str]:
    """What may change between two runs of a study: tags, since MLflow's params never change."""
    return {f"sweep.search.{k}": str(v) for k, v in config.search.model_dump(mode="json").items() if k != "finalists"}


def _prepare(config: StudyConfig, settings: Settings, *, offline_ok: bool) -> Tracker:
    """Imports what the run needs and reaches the tracking server; in a thread."""
    from . import driver, executor  # noqa: F401
    from .tracking import Tracker

    tracker = Tracker.of(config.name, settings)
    if not offline_ok:
        tracker.check(create=True)
    return tracker


@contextlib.contextmanager
def _ray(address: str, config: StudyConfig) -> Iterator[None]:
    from cluster.connect import ClusterError, connected

    modules = modules_to_send() if config.import_paths else []
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(connected(address, modules if address == "local" else [*packages(), *modules]))
        except ClusterError as error:
            raise SweepError("\n".join(error.problems)) from None
        yield


def _complete(config: StudyConfig, settings: Settings) -> bool:
    """Whether nothing is left to train, as far as the storage knows."""
    from .finalists import missing, wanted_rows, wanted_tuned

    if config.name not in studies(settings):
        return False
    summary = summarise(config.name, settings)
    rows, controls = summary.rows, summary.controls
    wanted = [*wanted_rows(config, rows), *wanted_tuned(config, rows, controls)]
    done = all(r.state == "finished" for r in [*rows, *controls])
    return done and len(rows) >= config.search.trials and not missing(wanted, controls)


def enqueue(name: str, settings: Settings, sets: Sequence[str]) -> tuple[int, dict[str, Scalar]]:
    """Queues one configuration of the user's own; the next run trains it. The budget grows by one.

    Raises:
        ConfigError: hyperparameters that the space lacks or does not contain, or that are not given a value.
    """
    from .space import contains, distributions
    from .study import Study

    config = stored(name, settings)
    space, values, problems = distributions(config.searched), {}, []
    for assignment in sets:
        key, sign, text = assignment.partition("=")
        value = read_yaml(f"value: {text}", f"--set {key}")["value"] if sign else None
        if key not in space:
            problems.append(f"{key}: not searched in {name}{nearest(key, list(space))}; searched: {', '.join(space)}")
        elif not contains(space[key], value):
            problems.append(f"{key}: {value!r} is not in {config.searched[key]}")
        else:
            values[key] = value
    if not values and not problems:
        problems.append(f"--set: give at least one of {', '.join(space)}; the sampler chooses the rest")
    if problems:
        raise ConfigError("options", problems)
    search = config.search.model_copy(update={"trials": config.search.trials + 1})
    study = Study(config.model_copy(update={"search": search}), connect(settings.storage), workspace=settings.workspace)
    number = study.enqueue(values)
    return number, values


def planned(config: StudyConfig, settings: Settings) -> Plan:
    """What a run would do, and how long it would take."""
    from .plan import plan

    agree(config, settings)
    return plan(config, settings, done=len(finished_rows(config, settings)))


# -- one trial, in this process --------------------------------------------------------------------------------------


def trial_config(config: StudyConfig, settings: Settings, number: int | None) -> TrialConfig:
    """The config of one trial: that of trial ``number``, or the constants of a study that searches nothing.

    Raises:
        SweepError: no such trial, or hyperparameters without a value.
    """
    if number is None:
        missing = list(config.searched)
        if missing:
            raise ConfigError("train", [f"{n}: give it a value, --set {n}=..." for n in missing])
        return config.trial({})
    rows = {row.number: row for row in summarise(config.name, settings).rows}
    row = rows.get(number)
    if row is None or not row.hyperparameters:
        raise SweepError(f"trial {number}: {config.name} has no such trial that was started (0 to {len(rows) - 1})")
    return config.trial(row.hyperparameters, seed=row.seed)


def train(trial: TrialConfig, settings: Settings, folder: Path) -> Iterator[EpochMetrics]:
    """Trains one trial in this process, from scratch, and yields its epochs.

    Raises:
        DivergenceError: it diverges; says in which epoch.
    """
    from .trial import Place, run_trial

    place = Place(folder=folder, data=settings.data, cache=settings.cache, gpu=True)
    for said in run_trial(trial, place, interval=0.0):
        yield from said.epochs
        if said.outcome == "diverged":
            raise DivergenceError(f"diverged: {said.error}")


def test(trial: TrialConfig, settings: Settings, folder: Path) -> dict[str, float]:
    """Metrics of a trained trial on the test set."""
    from .data import load as load_data
    from .training import evaluate
    from .trial import Place, assemble

    run, _ = assemble(trial, Place(folder=folder, data=settings.data, cache=settings.cache, gpu=True))
    dataset = load_data(trial.data, root=settings.data, cache=settings.cache)
    return evaluate(run, dataset.test.to(run.device), "test")
