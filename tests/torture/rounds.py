"""One round of the torture: a study from its first driver to its end, and the kills on the way."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import optuna
import psutil
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from sweep.config import study_file as studyfile
from sweep.config.study_config import StudyConfig

from ..support.invariants import (
    Checkpointed,
    Left,
    checkpointed,
    differences,
    flaws,
    journal,
    left_by,
    newest,
    trained_again,
    trials_of,
)
from ..support.processes import PATIENCE, Cluster, Command, TrackingServer, is_training, wait_for

TRIALS, CONTROLS, EPOCHS = 8, 5, 80
HANGS = PATIENCE  # seconds after which what has not happened counts as never
STUDY = f"""
name: NAME
KIND
objective: {{metric: val_loss, direction: minimize}}
space:
  lambda1: {{low: 1e-4, high: 1e-2, log: true}}
  depth: {{low: 1, high: 3}}
  width: {{choices: [64, 128]}}
search: {{trials: {TRIALS}, SEARCH, finalists: {{top: 1, seeds: 1, tuned: 2}}}}
resources: {{max_concurrent: SLOTS}}
"""
SCRIPT = Path(__file__).with_name("own_script.py")
KINDS = {
    "model": f"model: {{name: mlp}}\ndata: {{name: digits}}\ntraining: {{max_epochs: {EPOCHS}, batch_size: 16}}",
    **{
        form: f'function: "tests.torture.own_loop:{form}"\ntraining: {{max_epochs: {EPOCHS}}}'
        for form in ("generator", "callback")
    },
    "script": f'command: [python, {SCRIPT}, "{{depth}}", "{{width}}"]\ntraining: {{max_epochs: {EPOCHS}}}',
}
"""The kinds of trial: the built-in loop, a function of the user's own in its two forms, and a script."""
SEARCHES = {
    "random": "sampler: random, pruner: none, design: 1",  # nothing depends on timing: the whole study is compared
    "tpe": "sampler: tpe, pruner: median",
}
SIGNALS = {
    "SIGKILL": [signal.SIGKILL],
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
}
CODES = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "SIGINT": 130, "SIGINT twice": 130}
DRIVER = {"SIGKILL": 4, "SIGTERM": 1, "SIGINT": 1, "SIGINT twice": 1}
FAULTS: dict[str, dict[str, int]] = {  # by where the study runs; how often each is drawn
    "local": {**DRIVER, "worker": 7},
    "two drivers": {**DRIVER, "worker": 5},
    "server": {**DRIVER, "worker": 3, "server": 5},
    "cluster": {**DRIVER, "worker": 3, "raylet": 5},
}
MOMENTS = ("any", "any", "checkpoint", "storage", "tracking")  # at any time, or as soon as one of them was written


def study_file(name: str, search: str, kind: str, slots: int = 2) -> str:
    return (
        STUDY.replace("NAME", name)
        .replace("KIND", KINDS[kind])
        .replace("SEARCH", SEARCHES[search])
        .replace("SLOTS", str(slots))
    )


def config_of(text: str) -> StudyConfig:
    config, problems = studyfile.parse_study(studyfile.read_yaml(text, "a study"))
    assert config is not None, problems
    return config


@dataclass
class Fault:
    """One kill, and the running trials it has hit: what counts."""

    kind: str
    moment: str
    stage: str
    hits: int
    seconds: float
    """Since the round began."""


@dataclass
class Outcome:
    """The result of one round."""

    number: int
    storage: str
    search: str
    where: str
    faults: list[Fault] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def hits(self) -> int:
        return sum(fault.hits for fault in self.faults)


class Shared(Protocol):
    """The things that rounds share."""

    folder: Path
    kind: str
    cluster_turn: threading.Lock
    cluster: Cluster

    def add_node(self) -> None:
        """Replaces a node that was killed, in the background."""

    def undisturbed(self) -> Left:
        """The study with the sampler random, run once without interruption."""

    def strange_curves(self, left: Left) -> list[str]:
        """Trials whose curves are not those of training them here."""


class Round:
    """One study from its first driver to its end."""

    def __init__(self, outcome: Outcome, seed: int, shared: Shared, say: Callable[[Round, str], None]):
        self.outcome, self.shared, self.say, self.where = outcome, shared, say, outcome.where
        number = outcome.number
        self.draw = random.Random(f"{seed}/{number}")
        self.folder = shared.folder / f"round-{number:02d}"
        self.folder.mkdir()
        self.workspace = self.folder / "results"
        self.name = f"torture-{number:02d}-{os.getpid()}"
        self.count = 2 if self.where == "two drivers" else 1
        file = self.folder / "study.yaml"
        file.write_text(study_file(self.name, outcome.search, shared.kind, slots=2 // self.count))
        self.url = {
            "journal": f"journal:///{self.workspace}/optuna.journal",
            "sqlite": f"sqlite:///{self.folder}/optuna.db",
            "postgresql": os.environ.get("TEST_POSTGRES_URL", ""),
        }[outcome.storage]
        self.words = ["run", str(file), "--storage", self.url]
        self.environment: dict[str, str] = {}
        self.drivers: list[Command] = []
        self.ended: list[Command] = []
        self.cluster: Cluster | None = None
        self.server: TrackingServer | None = None
        self.marks: dict[str, int] = {}  # run -> its newest epoch when a worker was last killed
        self.safe: list[Checkpointed] = []
        self.over = False
        self.began = time.monotonic()

    def run(self) -> Outcome:
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            if self.where == "cluster":
                stack.enter_context(self.shared.cluster_turn)
                self.cluster = self.shared.cluster
                self.environment = self.cluster.environment
                self.words += ["--address", self.cluster.address]
            if self.where in ("server", "cluster"):  # several nodes need a server
                self.server = TrackingServer(self.workspace)
                self.environment = {**self.environment, "MLFLOW_TRACKING_URI": self.server.url}
            try:
                while not self.over:
                    self.start_drivers()
                    if self.wait_for_training():
                        self.fault()
                self.check_end()
            except (TimeoutError, subprocess.TimeoutExpired, AssertionError) as error:
                self.broken(f"{type(error).__name__}: {error}")
        self.outcome.seconds = time.monotonic() - self.began
        return self.outcome

    def broken(self, *promises: str) -> None:
        self.outcome.broken += promises

    # -- drivers -------------------------------------------------------------------------------------------------------

    def start_drivers(self) -> None:
        if self.server is not None and not self.server.ready():
            self.server.start() if not self.server.up else None
            wait_for(self.server.ready, "the tracking server", HANGS)
        while len(self.drivers) < self.count:
            self.drivers.append(Command(self.workspace, *self.words, **self.environment))

    def training(self) -> list[psutil.Process]:
        """The workers that are within a step of a trial."""
        return self.cluster.training() if self.cluster else [p for d in self.drivers for p in d.training()]

    def wait_for_training(self, ready: Callable[[], bool] = lambda: True) -> bool:
        """Waits until a worker trains, and more; False where a driver has ended instead."""
        wait_for(lambda: any(d.over for d in self.drivers) or (self.training() and ready()), "a trial", HANGS)
        ended = [driver for driver in self.drivers if driver.over]
        for driver in ended:
            self.note_end(driver, driver.end(), expected=0)
        return not ended

    def note_end(self, driver: Command, code: int, *, expected: int) -> None:
        """Takes a driver off the list; the study is over when one has ended by itself."""
        self.drivers.remove(driver)
        self.ended.append(driver)
        if code == 0:
            self.over = True
            for other in self.drivers[:]:  # it ends with the study too
                self.note_end(other, other.end(HANGS), expected=0)
        if code not in (0, expected) or "Traceback" in driver.out:
            self.broken(f"a driver ended with {code} instead of {expected}: {driver.out[-3000:]}")
            self.over = True

    # -- faults --------------------------------------------------------------------------------------------------------

    def fault(self) -> None:
        kinds = FAULTS[self.where]
        kind = self.draw.choices(list(kinds), list(kinds.values()))[0]
        moment = self.draw.choice(MOMENTS)
        if kind in ("worker", "raylet") and not self.wait_for_training(self.is_fresh):
            return
        self.safe.append(checkpointed(self.workspace, self.name))
        self.wait_for_moment(moment)
        running = self.running()
        stage = "controls" if any(".controls" in run for run in running) else "search"
        act = {"worker": self.kill_workers, "raylet": self.kill_raylet, "server": self.stop_server}
        hits = act[kind]() if kind in act else self.end_driver(kind)
        if hits:
            self.outcome.faults.append(Fault(kind, moment, stage, hits, time.monotonic() - self.began))
            self.say(self, f"{kind} at {moment}, {stage}")

    def wait_for_moment(self, moment: str) -> None:
        """Any moment of the next two seconds, or that at which a checkpoint, the storage or MLflow was written."""
        names = {"storage": ["optuna.journal", "../optuna.db"], "tracking": ["mlflow.db"]}.get(moment, [])
        files = [self.workspace / name for name in names if (self.workspace / name).exists()]
        pause = self.draw.uniform(0, 2)

        def written() -> list[object]:
            if moment == "checkpoint":
                return sorted(self.workspace.glob(f"{self.name}*/*/*/epoch-*.pt"))
            return [(file.stat().st_mtime_ns, Path(f"{file}-journal").exists()) for file in files]

        if moment == "any" or (moment != "checkpoint" and not files):  # PostgreSQL has no file to look at
            time.sleep(pause)
            return
        before, deadline = written(), time.monotonic() + 3
        while written() == before and time.monotonic() < deadline:
            time.sleep(0.001)

    def end_driver(self, kind: str) -> int:
        driver = self.draw.choice(self.drivers)
        training = self.training()
        for number in SIGNALS[kind]:
            driver.signal(number)
            if len(SIGNALS[kind]) > 1:
                wait_for(lambda: driver.over or driver.says("Stopping"), "the answer to a signal", HANGS)
                time.sleep(self.draw.uniform(0, 0.3))
        code = driver.end(HANGS)
        left = sum(pid == driver.process.pid for pid in self.running().values())
        self.note_end(driver, code, expected=CODES[kind])
        self.check_between(stopped=code in (130, 143) and not self.drivers)
        if not self.drivers:
            self.marks = {}  # a new driver counts losses anew
        return int(bool(training) and left > 0)

    def kill_workers(self) -> int:
        """Kills one of the workers, or all; a worker is stopped first, so that it is known what it was doing."""
        workers = self.training()
        if self.draw.random() < 0.6:
            workers = workers[:1]
        self.mark()
        hits = 0
        for process in workers:
            with contextlib.suppress(psutil.Error):  # it has ended by itself
                process.suspend()
                if is_training(process):
                    process.kill()
                    hits += 1
                else:
                    process.resume()
        return hits

    def kill_raylet(self) -> int:
        assert self.cluster is not None
        self.mark()
        hits = self.cluster.kill_node()
        if hits:
            self.shared.add_node()
        return hits

    def stop_server(self) -> int:
        """Stops the tracking server, lets the study go on for some seconds, and starts it again."""
        assert self.server is not None
        training = self.training()
        self.server.stop(self.draw.choice([signal.SIGKILL, signal.SIGTERM]))
        time.sleep(self.draw.uniform(0.5, 5))
        self.server.start()
        return int(bool(training))

    # -- what the storage and the checkpoints say ----------------------------------------------------------------------

    @cached_property
    def storage(self) -> BaseStorage:
        """For reading; opened when the first driver has made it."""
        return journal(self.workspace) if self.url.startswith("journal") else RDBStorage(self.url)

    def running(self) -> dict[str, int]:
        """The trials that are RUNNING, and the process ids of their drivers."""
        trials = zip((self.name, f"{self.name}.controls"), trials_of(self.name, self.storage), strict=True)
        return {
            f"{study}-{t.number:04d}": t.user_attrs.get("owner", {}).get("pid", 0)
            for study, each in trials
            for t in each
            if t.state == TrialState.RUNNING
        }

    def mark(self) -> None:
        self.marks = newest(self.workspace, self.name)

    def is_fresh(self) -> bool:
        """Returns True if both slots' trials came further since a worker was last killed; a stuck one would fail."""
        epochs, running = newest(self.workspace, self.name), self.running()
        further = sum(epochs.get(run, 0) > self.marks.get(run, 0) for run in running)
        return further >= min(2, len(running)) > 0

    # -- promises ------------------------------------------------------------------------------------------------------

    def check_between(self, *, stopped: bool) -> None:
        """Checks what holds whenever a driver has ended."""
        search, controls = trials_of(self.name, self.storage)
        for trials, budget in ((search, [TRIALS]), (controls, [0, CONTROLS - 1, CONTROLS])):
            numbers = [t.number for t in trials]
            if numbers != list(range(len(numbers))) or len(numbers) not in budget:
                self.broken(f"between two drivers the trials are {numbers}")
        with contextlib.closing(sqlite3.connect(self.workspace / "mlflow.db", timeout=60)) as tracked:
            twice = tracked.execute("select name from runs group by name having count(*) > 1").fetchall()
            double = tracked.execute(
                "select name, key, step from metrics join runs using (run_uuid) "
                "group by run_uuid, key, step having count(*) > 1"
            ).fetchall()
            running = tracked.execute("select name from runs where status = 'RUNNING'").fetchall()
        if twice or double:
            self.broken(f"runs that are there twice: {twice}, values: {double[:5]} and {len(double[5:])} more")
        if stopped and running and self.server is None:
            self.broken(f"RUNNING after a driver was stopped: {running}")

    def check_end(self) -> None:
        """All that must hold of a study that is over."""
        for _ in range(2):
            if not any("sends what is missing" in driver.out for driver in self.ended[-self.count :]):
                break
            self.start_drivers()  # the next run does
            for driver in self.drivers[:]:
                self.note_end(driver, driver.end(HANGS), expected=0)
        left = left_by(self.workspace, self.name, self.storage)
        self.broken(*flaws(left, trials=TRIALS, controls=CONTROLS))
        failed = [n for n, t in left.by_name.items() if t.user_attrs.get("outcome") not in ("completed", "pruned")]
        self.broken(*[f"{name} has failed: {left.by_name[name].user_attrs.get('error')}" for name in failed])
        if not self.outcome.broken:
            self.broken(*self.shared.strange_curves(left))
            kept = checkpointed(self.workspace, self.name)
            self.broken(*sorted({again for safe in self.safe for again in trained_again(left, safe, kept)}))
            if self.outcome.search == "random":
                self.broken(*differences(left, self.shared.undisturbed()))

    def close(self) -> None:
        """Ends what is left, by process id; the workspace stays where a promise was broken."""
        for driver in [*self.drivers, *self.ended]:
            driver.close()
        if self.server is not None:
            self.server.stop()
        if self.url.startswith("postgresql") and "storage" in self.__dict__:
            for name in set(optuna.get_all_study_names(self.storage)) & {self.name, f"{self.name}.controls"}:
                optuna.delete_study(study_name=name, storage=self.storage)
        if not self.outcome.broken:
            shutil.rmtree(self.folder, ignore_errors=True)
