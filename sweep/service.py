"""What the command line and a notebook call: run, plan, train, and look at what a study has found."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import FinalistsConfig, Scalar, SearchConfig, StudyConfig, TrialConfig
from .errors import ConfigError, SweepError, nearest
from .preflight import check, check_names
from .settings import Settings
from .studyfile import built_in, built_in_names, override, parse, read_yaml

if TYPE_CHECKING:
    from .driver import Listener
    from .finalists import Comparison
    from .metrics import EpochMetrics
    from .plan import Plan
    from .storage import Storage
    from .study import Row
    from .tracking import Tracker


@dataclass(frozen=True)
class Summary:
    """What a study has come to.

    Attributes:
        rows: all trials of the search, by number.
        best: its completed trials, best first.
        comparison: the finalists beside their controls; empty before that stage.
        controls: all rows of the sister study.
        interrupted: whether this run was stopped before the budget was met.
        seconds: what the run took.
    """

    config: StudyConfig
    rows: list[Row]
    best: list[Row]
    controls: list[Row]
    comparison: Comparison
    interrupted: bool = False
    seconds: float = 0.0


@functools.cache
def _storage(url: str) -> Storage:
    """One connection to a storage per process: opening one reads a whole journal, or checks a whole schema."""
    from .storage import open_storage

    return open_storage(url)


# -- finding and checking a study ------------------------------------------------------------------------------------


def load(
    study: str,
    settings: Settings,
    *,
    sets: Sequence[str] = (),
    trials: int | None = None,
    design: int = 0,
) -> tuple[StudyConfig, list[str]]:
    """Finds a study (a path, then a study in the storage, then a built-in name), applies options, checks everything.

    Returns:
        The config, and warnings: what is allowed but cannot do what it seems to.

    Raises:
        ConfigError: all that is wrong with it, at once.
        StorageError: the storage is out of reach.
    """
    raw, source = _find(study, settings)
    raw = override(raw, list(sets))
    search = raw.setdefault("search", {})
    if isinstance(search, dict):
        if trials is not None:
            search["trials"] = trials
        if design:
            search["design"] = search.get("design", 0) + design
            search["trials"] = search.get("trials", 50) + design
    config, problems = parse(raw)
    found, warnings = check(config, settings) if config else (check_names(raw), [])
    if problems + found or config is None:
        raise ConfigError(source, problems + found)
    return config, warnings


def _find(study: str, settings: Settings) -> tuple[dict[str, Any], str]:
    path = Path(study)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise SweepError(f"{study}: no such file. Built-in studies: {', '.join(built_in_names())}.")
        return read_yaml(path.read_text(), study), study
    from .storage import stored_config, study_names

    storage = _storage(settings.storage)
    stored = stored_config(study, storage)
    if stored is not None:
        return stored.model_dump(mode="json"), f"study {study}"
    shipped = built_in(study)
    if shipped is None:
        known = study_names(storage)
        raise SweepError(
            f"{study}: neither a file, nor a study in the storage ({', '.join(known) or 'which has none'}), nor a "
            f"built-in one ({', '.join(built_in_names())}){nearest(study, known + built_in_names())}."
        )
    return read_yaml(shipped.read_text(), study), study


def stored(name: str, settings: Settings) -> StudyConfig:
    """The config of a study that was started before.

    Raises:
        SweepError: there is none of this name; lists the known ones.
    """
    from .storage import stored_config, study_names

    storage = _storage(settings.storage)
    config = stored_config(name, storage)
    if config is None:
        known = study_names(storage)
        raise SweepError(
            f"{name}: no such study in the storage{nearest(name, known)}; there "
            f"{'are ' + ', '.join(known) if known else 'is none yet: start one with python -m sweep run digits'}."
        )
    return config


def _agree(config: StudyConfig, settings: Settings) -> None:
    """Refuses to go on with a study of the same name that asks another question."""
    from .storage import stored_config

    before = stored_config(config.name, _storage(settings.storage))
    if before is None or before.identity() == config.identity():
        return
    old, new = before.identity(), config.identity()
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    raise ConfigError(
        f"study {config.name} exists and differs",
        [f"{k}: was {old.get(k, 'absent')}, now {new.get(k, 'absent')}" for k in changed]
        + [f"its trials would not compare: start a new study, for instance with --set name={config.name}-2"],
    )


# -- running ---------------------------------------------------------------------------------------------------------


def run(config: StudyConfig, settings: Settings, listener: Listener, *, stop: threading.Event | None = None) -> Summary:
    """Runs a study, or goes on with it: every run is a resume.

    Args:
        config: from `load`, so checked.
        listener: told of every step.
        stop: when set, running trials checkpoint and the run ends early.

    Raises:
        SweepError: storage, tracking server or cluster out of reach, before any trial starts.
    """
    began, interrupted = time.monotonic(), False
    _agree(config, settings)
    complete = _complete(config, settings)
    with ThreadPoolExecutor(max_workers=1) as pool:
        # MLflow and Ray take seconds each to start; Ray's are mostly spent waiting for its processes.
        preparing = pool.submit(_prepare, config, settings)
        with contextlib.nullcontext() if complete else _ray(settings.address):
            tracker = preparing.result()

            from .driver import Driver
            from .executor import execute, parallelism
            from .study import Study

            if not complete:
                parallelism(config.resources)  # refuses what no node has room for, before anything is written
            tracker.open(description=describe(config), params=config.identity(), tags=_budget(config))
            try:
                storage, workspace = _storage(settings.storage), settings.workspace
                search, controls = (Study(config, storage, workspace=workspace, sister=s) for s in (False, True))
                search.fill()
                with Driver(config, settings, search, controls, tracker, listener) as driver:
                    driver.repair()
                    recording = pool.submit(driver.record, to_yaml(config))  # at the end, while Ray cleans up
                    if not complete:
                        execute(driver, config.resources, stop=stop or threading.Event())
                        interrupted = not driver.finished()
            except BaseException:
                tracker.close(status="KILLED", timeout=5)
                raise
            summary = _summary(config, search.rows(), controls.rows(), interrupted=interrupted)
        if (error := recording.exception()) is not None:
            listener.noticed(f"the best model was not recorded: {error}; the next run of {config.name} tries again")
    whole = tracker.close(status="KILLED" if interrupted else "FINISHED", timeout=60)
    if tracker.problem or not whole:
        listener.noticed(f"tracking: {tracker.problem}; the next run of {config.name} sends what is missing")
    return replace(summary, seconds=time.monotonic() - began)


def _budget(config: StudyConfig) -> dict[str, str]:
    """What may change between two runs of a study: tags, since MLflow's params never change."""
    return {f"sweep.search.{k}": str(v) for k, v in config.search.model_dump(mode="json").items() if k != "finalists"}


def _prepare(config: StudyConfig, settings: Settings) -> Tracker:
    """Imports what the run needs and reaches the tracking server; in a thread."""
    from . import driver, executor  # noqa: F401
    from .tracking import Tracker

    tracker = Tracker(settings.tracking_uri, config.name, artifacts=settings.artifacts)
    tracker.check()
    return tracker


@contextlib.contextmanager
def _ray(address: str) -> Iterator[None]:
    from cluster.connect import connected

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(connected(address))
        except ConnectionError as error:
            raise SweepError(str(error)) from None
        yield


def _complete(config: StudyConfig, settings: Settings) -> bool:
    """Whether nothing is left to train, as far as the storage knows."""
    from .finalists import wanted_rows, wanted_tuned

    if config.name not in studies(settings):
        return False
    summary = summarise(config.name, settings)
    rows, controls = summary.rows, summary.controls
    wanted = [*wanted_rows(config, rows), *wanted_tuned(config, controls)]
    present = [(r.kind, r.of, r.seed, r.hyperparameters) for r in controls]
    done = all(r.state == "finished" for r in [*rows, *controls])
    return done and len(rows) >= config.search.trials and all(row in present for row in wanted)


def _summary(config: StudyConfig, rows: list[Row], controls: list[Row], *, interrupted: bool = False) -> Summary:
    from .finalists import best_rows, compare

    return Summary(config, rows, best_rows(config, rows), controls, compare(config, rows, controls), interrupted)


def summarise(name: str, settings: Settings) -> Summary:
    """What a study has come to so far; reads the storage alone.

    Raises:
        SweepError: no such study.
    """
    from .study import read_rows

    config, storage = stored(name, settings), _storage(settings.storage)
    return _summary(config, read_rows(name, storage), read_rows(f"{name}.controls", storage))


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
    study = Study(
        config.model_copy(update={"search": search}), _storage(settings.storage), workspace=settings.workspace
    )
    number = study.enqueue(values)
    return number, values


def to_yaml(config: StudyConfig) -> str:
    """The study file that gives this config."""
    import io

    from ruamel.yaml import YAML

    raw = config.model_dump(mode="json", exclude_defaults=True)
    raw["space"] = {n: d if not isinstance(d, dict) else {k: v for k, v in d.items() if v} | _ends(d)
                    for n, d in config.model_dump(mode="json")["space"].items()}  # fmt: skip
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = None, False  # type: ignore[assignment]
    yaml.dump(raw, text)
    return text.getvalue()


def _ends(dimension: dict[str, Any]) -> dict[str, Any]:
    return {k: dimension[k] for k in ("low", "high") if k in dimension}


def export(config: StudyConfig, row: Row) -> str:
    """A study file of one configuration: every hyperparameter is a constant."""
    space = {**config.constants, **row.hyperparameters}
    search = SearchConfig(trials=1, finalists=FinalistsConfig(top=0))
    return to_yaml(
        config.model_copy(update={"name": f"{config.name}-{row.number:04d}", "space": space, "search": search})
    )


def describe(config: StudyConfig) -> str:
    """What is shown on top of the study in the MLflow UI (Markdown)."""
    searched = ", ".join(config.searched) or "nothing"
    return (
        f"**{config.name}**: {config.model.name} on {config.data.name}, searching {searched}.\n\n"
        f"Objective: {config.objective.direction} `{config.objective.metric}`, the metric `objective` of completed "
        f"search trials.\n\nBest first: filter ``tags.`sweep.kind` = 'trial'`` and sort by `objective`. Controls and "
        "finalists: ``tags.`sweep.kind` = 'control'`` or ``'finalist'``, metric `final_objective`."
    )


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
        SweepError: it diverges; says in which epoch.
    """
    from .trial import Place, run_trial

    place = Place(folder=folder, data=settings.data, cache=settings.cache, gpu=True)
    for report in run_trial(trial, place, interval=0.0):
        yield from report.epochs
        if report.outcome == "diverged":
            raise SweepError(f"diverged: {report.error}")


def test(trial: TrialConfig, settings: Settings, folder: Path) -> dict[str, float]:
    """Metrics of a trained trial on the test set."""
    from .data import load as load_data
    from .training import evaluate
    from .trial import Place, assemble

    run, _ = assemble(trial, Place(folder=folder, data=settings.data, cache=settings.cache, gpu=True))
    dataset = load_data(trial.data, root=settings.data, cache=settings.cache)
    return evaluate(run, dataset.test.to(run.device), "test")


# -- looking around --------------------------------------------------------------------------------------------------


def studies(settings: Settings) -> list[str]:
    """Names of our studies in the storage."""
    from .storage import stored_config, study_names

    storage = _storage(settings.storage)
    return [name for name in study_names(storage) if stored_config(name, storage)]


def finished_rows(config: StudyConfig, settings: Settings) -> list[Row]:
    """The trials of the search that have ended; none of a study that was not started."""
    if config.name not in studies(settings):
        return []
    return [row for row in summarise(config.name, settings).rows if row.state == "finished"]


def planned(config: StudyConfig, settings: Settings) -> Plan:
    """What a run would do, and how long it would take."""
    from .plan import plan

    _agree(config, settings)
    return plan(config, settings, done=len(finished_rows(config, settings)))


def ui(name: str | None, settings: Settings, *, port: int) -> tuple[list[str], dict[str, str], str]:
    """What `sweep ui` needs: the command that serves (empty for a server that runs already), its environment, the link.

    Raises:
        SweepError: no such study, or a tracking server out of reach.
    """
    from .tracking import Tracker, experiment_url, serve

    remote = settings.tracking_uri.startswith("http")
    url = settings.tracking_uri if remote else f"http://127.0.0.1:{port}"
    if name is not None:
        config = stored(name, settings)
        experiment = Tracker(settings.tracking_uri, name, artifacts=settings.artifacts).check()
        if experiment is not None:
            url = experiment_url(url, experiment, ascending=config.objective.direction == "minimize")
    command, environment = ([], {}) if remote else serve(settings.tracking_uri, settings.artifacts, port=port)
    return command, environment, url
