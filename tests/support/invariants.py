"""Reads a finished study with Optuna's and MLflow's own clients, and checks what must hold whatever was done to it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial

from sweep.config.filesystem import glob_files
from sweep.config.study_config import StudyConfig
from sweep.study.records import ARMS
from sweep.training import checkpoint
from sweep.training.trial import TrialPaths, run_trial

Checkpointed = dict[str, dict[int, int]]  # run -> epoch -> the time it ended


@dataclass(frozen=True)
class Recorded:
    """An MLflow run, with all values of each metric: (step, value, timestamp)."""

    run: Run
    history: dict[str, list[tuple[int, float, int]]]

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.run.data.tags)

    @property
    def epochs(self) -> dict[str, list[int]]:
        """The steps of each metric that is one of an epoch, in the order they were logged."""
        curves = {name: values for name, values in self.history.items() if name != "fresh_objective"}
        return {name: [step for step, *_ in values] for name, values in curves.items() if values[0][0] > 0}

    @property
    def curve(self) -> dict[str, list[float]]:
        """The values of each such metric by epoch, how long it took left out."""
        values = {name: [value for _, value, _ in sorted(self.history[name])] for name in self.epochs}
        return {name: curve for name, curve in values.items() if name != "seconds"}


@dataclass(frozen=True)
class Left:
    """The traces of a study in its Optuna storage and in MLflow."""

    name: str
    trials: list[FrozenTrial]
    controls: list[FrozenTrial]
    parent: Recorded
    runs: dict[str, Recorded]
    """By name; a name that is there twice fails the reading."""

    @property
    def by_name(self) -> dict[str, FrozenTrial]:
        """The trials by the names that their runs must have."""
        both = [(self.name, self.trials), (f"{self.name}.controls", self.controls)]
        return {f"{study}-{t.number:04d}": t for study, trials in both for t in trials}


def journal(workspace: Path) -> JournalStorage:
    """The journal file of a workspace, for reading."""
    path = str(workspace / "optuna.journal")
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def trials_of(name: str, storage: BaseStorage) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """The trials of a study and of its sister; none of a study that is not there."""
    known = set(optuna.get_all_study_names(storage))
    search, sister = (
        storage.get_all_trials(storage.get_study_id_from_name(each)) if each in known else []
        for each in (name, f"{name}.controls")
    )
    return search, sister


def left_by(workspace: Path, name: str, storage: BaseStorage | None = None) -> Left:
    """Reads a study with the clients of Optuna and MLflow alone; a server's store must be the workspace's too."""
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    recorded = []
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        recorded.append(Recorded(run, {k: [(m.step, m.value, m.timestamp) for m in v] for k, v in history.items()}))
    names = Counter(each.run.info.run_name for each in recorded)
    assert set(names.values()) == {1}, f"runs that are there twice: {names - Counter(set(names))}"
    runs = {str(each.run.info.run_name): each for each in recorded}
    parent = runs.pop(name)
    return Left(name, *trials_of(name, storage or journal(workspace)), parent, runs)


def flaws(left: Left, *, trials: int, controls: int) -> list[str]:
    """Returns the flaws of a study that is over: the budget, one run each, one value for each metric and epoch."""
    found = []

    def expect(what: str, got: object, wanted: object) -> None:
        if got != wanted:
            found.append(f"{what}: {got!r}, not {wanted!r}")

    expect("numbers of the search's trials", [t.number for t in left.trials], list(range(trials)))
    expect("numbers of the controls", [t.number for t in left.controls], list(range(controls)))
    expect("names of the runs", sorted(left.runs), sorted(left.by_name))
    expect("the parent's status", left.parent.run.info.status, "FINISHED")
    expect("the parent's kind", left.parent.tags.get("sweep.kind"), "study")
    for name, frozen in left.by_name.items():
        expect(f"{name} is over", frozen.state.is_finished(), True)
        record, outcome = left.runs.get(name), frozen.user_attrs.get("outcome")
        if record is None:
            continue
        expect(f"{name}'s outcome", record.tags.get("sweep.outcome"), outcome)
        expect(f"{name}'s study", record.tags.get("sweep.study"), name[:-5])
        expect(f"{name}'s trial", record.tags.get("sweep.trial"), str(frozen.number))
        expect(f"{name}'s status", record.run.info.status, "FAILED" if outcome == "failed" else "FINISHED")
        expect(f"{name}'s parent", record.tags.get("mlflow.parentRunId"), left.parent.run.info.run_id)
        wanted = list(range(1, frozen.user_attrs.get("epochs", 0) + 1))
        for metric, values in record.history.items():
            steps = sorted(step for step, *_ in values)
            once = steps[:1] if metric == "fresh_objective" else [0]  # its step is the number of seeds
            expect(f"{name}'s steps of {metric}", steps, wanted if metric in record.epochs else once)
    return found


def assert_whole(left: Left, name: str, *, trials: int, controls: int) -> None:
    """Holds for every study that is not running."""
    assert left.name == name
    found = flaws(left, trials=trials, controls=controls)
    assert not found, "\n".join(found)


def differences(left: Left, other: Left) -> list[str]:
    """Returns where two studies, but for their names, are not the same bit for bit."""
    found = []
    asked = ("kind", "seed", "hyperparameters", "outcome", "epochs")
    for what, ours, theirs in (("trial", left.trials, other.trials), ("control", left.controls, other.controls)):
        for mine, twin in zip(ours, theirs, strict=True):
            both = [(t.params, t.value, [t.user_attrs.get(name) for name in asked]) for t in (mine, twin)]
            found += [f"{what} {mine.number}: {both[0]}, not {both[1]}"] if both[0] != both[1] else []
    for name, twin in zip(sorted(left.runs), sorted(other.runs), strict=True):
        record, calm = left.runs[name], other.runs[twin]
        for what, mine, theirs in (
            ("curve", record.curve, calm.curve),
            ("params", record.run.data.params, calm.run.data.params),
            ("tags", record.tags.keys(), calm.tags.keys()),
        ):
            found += [f"{name}: another {what}: {mine}, not {theirs}"] if mine != theirs else []
    return found


# -- what training gives -----------------------------------------------------------------------------------------------


class Curves:
    """Curves of trials trained here from the start, as `sweep train` does; each is trained once."""

    def __init__(self, config: StudyConfig, data: Path, scratch: Path):
        self._config, self._data, self._scratch = config, data, scratch
        self._known: dict[str, dict[str, list[float]]] = {}

    def of(self, trial: FrozenTrial) -> dict[str, list[float]]:
        """Returns the values of each metric by epoch; the seconds are left out."""
        values = {**trial.params, **trial.user_attrs.get("hyperparameters", {})}
        config = self._config.trial(values, seed=trial.user_attrs["seed"])
        if trial.user_attrs.get("kind") in ARMS:
            config = config.model_copy(update={"test": True})
        key = config.model_dump_json()
        if key not in self._known:
            place = TrialPaths(self._scratch / str(len(self._known)), self._data, self._scratch / "cache")
            reports = run_trial(config, place, interval=math.inf)
            epochs = [metrics.values for report in reports for metrics in report.epochs]
            names = [name for name in epochs[0] if name != "seconds"]
            self._known[key] = {re.sub(r"[^\w\-. :/]", "_", n): [e[n] for e in epochs] for n in names}
        return self._known[key]


def strange_curves(left: Left, curves: Curves) -> list[str]:
    """Trials whose curves are not, bit for bit, what training their hyperparameters and seed gives."""
    found = []
    for name, frozen in left.by_name.items():
        expected = {metric: values[: frozen.user_attrs["epochs"]] for metric, values in curves.of(frozen).items()}
        got = left.runs[name].curve if name in left.runs else {}
        found += [f"{name}'s curve of {m} is another" for m in {**expected, **got} if expected.get(m) != got.get(m)]
    return found


# -- what must not be trained again ------------------------------------------------------------------------------------


def newest(workspace: Path, name: str) -> dict[str, int]:
    """The newest epoch of each trial that a checkpoint holds, by the names of the files: cheap enough to be polled."""
    found: dict[str, int] = {}
    for study in (name, f"{name}.controls"):
        for path in glob_files(workspace / study, "*/*/epoch-*.pt"):
            run = f"{study}-{path.parts[-3]}"
            found[run] = max(found.get(run, 0), int(path.stem[-4:]))
    return found


def checkpointed(workspace: Path, name: str) -> Checkpointed:
    """The epochs that each trial's newest checkpoint holds now."""
    found = {}
    for study in (name, f"{name}.controls"):
        for number in {path.parts[-3] for path in glob_files(workspace / study, "*/*/epoch-*.pt")}:
            saved = checkpoint.load_latest(workspace / study / number)
            if saved is not None:
                found[f"{study}-{number}"] = {m.epoch: m.timestamp for m in saved.history}
    return found


def trained_again(left: Left, safe: Checkpointed, kept: Checkpointed) -> list[str]:
    """Epochs that a checkpoint once held, and whose values are those of a later training.

    Args:
        kept: what checkpoints hold at the end; of what was logged before the first word counts.
    """
    found = []
    for run, epochs in safe.items():
        values = left.runs[run].history.get("val_loss", []) if run in left.runs else []
        logged: Mapping[int, int] = {step: timestamp for step, _, timestamp in values}
        # Epochs beyond the pruner's word were trained ahead of it, and are not logged.
        again = [
            e for e, ended in epochs.items() for there in (logged, kept.get(run, {})) if there.get(e, ended) != ended
        ]
        found += [f"{run}: epochs {again[0]} to {again[-1]} were trained again"] if again else []
    return found
