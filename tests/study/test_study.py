"""The study against real storages, real processes and real deaths; what it wrote is read back with Optuna itself."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from scipy.stats import kstest, uniform

from sweep.config.errors import StorageError
from sweep.config.study_config import StudyConfig
from sweep.study.pruners import pruning_epochs
from sweep.study.samplers import FixedSpaceTPESampler
from sweep.study.storages.storage import FORMAT, open_storage, read_config, study_names
from sweep.study.stored_trials import read_rows
from sweep.study.study import Study
from sweep.study.trial import EndedElsewhereError, Trial
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig

LAST = 9  # epochs of a trial here


@pytest.fixture
def journal_url(tmp_path: Path) -> str:
    return f"journal:///{tmp_path}/optuna.journal"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Study]:
    """Opens a study as a driver does: a storage and a study of its own."""

    def make(config: StudyConfig, url: str, **options: Any) -> Study:
        return Study(config, open_storage(url), workspace=tmp_path / "results", **options)

    return make


def metrics(values: Sequence[float], first: int = 1) -> list[EpochMetrics]:
    return [EpochMetrics(first + i, {"val_loss": v, "val_accuracy": v}, 0) for i, v in enumerate(values)]


def train(study: Study, trial: Trial, curve: Sequence[float]) -> int | None:
    """Takes a trial through its life as the driver does, one epoch at a time; returns where it was pruned."""
    for epoch in metrics(curve):
        trial.epochs = epoch.epoch
        if study.report(trial, [epoch]):
            study.tell(trial, "pruned", checkpoint=None, error=None)
            return epoch.epoch
    study.tell(trial, "completed", checkpoint=None, error=None)
    return None


def asked(study: Study) -> Trial:
    trial = study.ask()
    assert trial is not None
    return trial


def everything(study: Study) -> list[Trial]:
    trials = []
    while (trial := study.ask()) is not None:
        trials.append(trial)
    return trials


def in_optuna(name: str, url: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study as somebody else's program would read them."""
    return optuna.load_study(study_name=name, storage=open_storage(url)).trials


def curves(count: int, *, seed: int = 0, epochs: int = LAST) -> list[list[float]]:
    """Learning curves that fall towards levels of their own, with noise, so that some cross."""
    draw = random.Random(seed)
    levels = [draw.random() for _ in range(count)]
    return [[level + draw.random() / epoch for epoch in range(1, epochs + 1)] for level in levels]


# -- several drivers at once -------------------------------------------------------------------------------------------

PROCESSES = 3
_barrier: Any = None


def _start(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _drive(raw: dict[str, Any], url: str, workspace: Path) -> tuple[int, list[int]]:
    """One driver: opens the study, fills the budget and works on what it gets; all of them start together."""
    _barrier.wait(timeout=300)
    study = Study(StudyConfig.model_validate(raw), open_storage(url), workspace=workspace)
    study.enqueue_budget()
    numbers = []
    while (trial := study.ask()) is not None:
        numbers.append(trial.number)
        train(study, trial, [0.5])
        if len(numbers) == 1:
            _barrier.wait(timeout=300)  # everybody gets one
    return os.getpid(), numbers


@pytest.fixture(scope="module")
def together() -> Iterator[Callable[..., list[Any]]]:
    """Calls a function in three processes at once, which start with a barrier between them."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, spawn, initializer=_start, initargs=(barrier,)) as pool:

        def call(function: Callable[..., Any], *args: object) -> list[Any]:
            barrier.reset()
            return [call.result(timeout=600) for call in [pool.submit(function, *args) for _ in range(PROCESSES)]]

        yield call


def test_three_drivers_at_once_meet_the_budget_exactly(
    together: Any, study_config: MakeConfig, storage_url: str, tmp_path: Path
) -> None:
    config = study_config(search={"trials": 9, "design": 4, "sampler": "tpe"}, training={"max_epochs": 1})
    results = together(_drive, config.model_dump(mode="json"), storage_url, tmp_path)
    assert len({pid for pid, _ in results} - {os.getpid()}) == PROCESSES
    assert sorted(number for _, numbers in results for number in numbers) == list(range(9))
    assert all(numbers for _, numbers in results)
    trials = in_optuna(config.name, storage_url)
    assert [t.number for t in trials] == list(range(9))
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert {t.user_attrs["owner"]["pid"] for t in trials} == {pid for pid, _ in results}
    assert [t.number for t in trials if t.user_attrs["design"]] == [0, 1, 2, 3]
    assert len({repr(t.params) for t in trials}) == 9


def parts(lambdas: Sequence[Any], count: int) -> list[int]:
    """In which of ``count`` equal parts of the log range 1e-5 to 0.1 each value lies: a Sobol' net has one in each."""
    return sorted(int(count * (math.log10(x) + 5) / 4) for x in lambdas)


# -- the budget --------------------------------------------------------------------------------------------------------


def test_the_budget_is_rows_that_wait(opened: Any, study_config: MakeConfig, storage_url: str) -> None:
    config = study_config(search={"trials": 5, "design": 2})
    study = opened(config, storage_url)
    assert study.rows() == []
    study.enqueue_budget()
    first = study.rows()
    assert [(r.number, r.state, r.design, r.kind, r.seed) for r in first] == [
        (i, "waiting", i < 2, "trial", 0) for i in range(5)
    ]
    study.enqueue_budget()
    opened(config, storage_url).enqueue_budget()
    assert study.rows() == first
    # Extended: more design trials, and more of the others; what was there stays.
    more = config.model_copy(update={"search": config.search.model_copy(update={"trials": 9, "design": 4})})
    opened(more, storage_url).enqueue_budget()
    assert study.rows()[:5] == first
    assert [r.design for r in study.rows()] == [True, True, False, False, False, True, True, False, False]
    at_once = opened(more.model_copy(update={"name": "at-once"}), storage_url)
    at_once.enqueue_budget()
    designed, same = ([row.hyperparameters for row in each.rows() if row.design] for each in (study, at_once))
    assert designed == same  # the sequence went on
    assert len({row["lambda1"] for row in designed}) == 4
    opened(config, storage_url).enqueue_budget()  # a smaller budget takes nothing away
    all_design = more.search.model_copy(update={"design": 9})
    opened(
        config.model_copy(update={"search": all_design}), storage_url
    ).enqueue_budget()  # and no row is there for more design
    assert len(study.rows()) == 9
    assert len(everything(study)) == 9
    assert study.ask() is None


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_points_that_must_be_among_the_trials_come_first_and_once(
    opened: Any, study_config: MakeConfig, storage_url: str, sampler: str
) -> None:
    space = {"lambda1": {"low": 1e-5, "high": 1e-1, "log": True}, "depth": {"low": 1, "high": 4}}
    config = study_config(space=space, search={"trials": 5, "design": 2, "sampler": sampler})
    study, whole, part = opened(config, storage_url), {"lambda1": 1e-3, "depth": 2}, {"depth": 3}
    for _ in range(2):
        assert study.enqueue_budget([whole, part]) == 5
    assert [row.design for row in study.rows()] == [False, False, True, True, False, False, False]
    first, second = asked(study), asked(study)
    assert first.hyperparameters == whole
    assert second.hyperparameters["depth"] == 3
    assert 1e-5 <= float(second.hyperparameters["lambda1"]) <= 1e-1
    # One that is asked for later is one more, whether the others are there or not.
    assert opened(config, storage_url).enqueue_budget([whole, {"lambda1": 1e-2, "depth": 1}, part]) == 5
    assert [t.hyperparameters["depth"] for t in everything(study)][-1] == 1
    assert len(study.rows()) == 8


def test_of_the_sister_study_a_run_takes_what_it_wants_and_leaves_the_rest(
    opened: Any, study_config: MakeConfig, storage_url: str
) -> None:
    config, controls = study_config(), [("control", 0, seed, {"lambda1": 0.0}) for seed in (1, 2)]
    pairs = [(arm, 0, seed, {"lambda1": x}) for seed in (10, 11) for arm, x in (("guided", 0.5), ("plain", 0.0))]
    larger = opened(config, storage_url, sister=True, pairs=pairs)
    larger.add([*controls, *pairs])
    assert (larger.n_waiting(), opened(config, storage_url, sister=True).n_waiting()) == (4, 2)
    left = asked(larger)  # by a driver that is still at it
    smaller = opened(config, storage_url, sister=True, pairs=pairs[:2])
    assert (left.config.training.seed, smaller.is_busy()) == (10, True)
    assert [(t.kind, t.config.training.seed) for t in everything(smaller)] == [("plain", 10)]
    own = opened(config, storage_url, sister=True)
    assert not own.is_busy()
    assert [(t.kind, t.config.training.seed) for t in everything(own)] == [("control", 1), ("control", 2)]
    assert [(t.kind, t.config.training.seed) for t in everything(larger)] == [("guided", 11), ("plain", 11)]


def test_failed_trials_count(opened: Any, study_config: MakeConfig, journal_url: str) -> None:
    study = opened(study_config(search={"trials": 2}), journal_url)
    study.enqueue_budget()
    study.tell(asked(study), "failed", checkpoint=None, error="no")
    study.enqueue_budget()
    assert len(study.rows()) == 2


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_design_trials_are_independent_uniform_points_whatever_the_sampler(
    opened: Any, study_config: MakeConfig, journal_url: str, sampler: str
) -> None:
    """Of 256 points the product of four signs has the mean 0 +- 1/16; of a Sobol' sequence, some are always 1."""
    names = ("lambda1", "lambda2", "epsilon", "training.lr", "training.weight_decay")
    space = {name: {"low": 0.1, "high": 0.3} for name in names}
    config = study_config(space=space, search={"trials": 257, "design": 256, "sampler": sampler})
    study = opened(config, journal_url)
    study.enqueue_budget()
    trials = in_optuna(config.name, journal_url)
    assert [t.user_attrs["design"] for t in trials] == [True] * 256 + [False]
    assert [t.user_attrs.get("independent", False) for t in trials] == [True] * 256 + [False]
    points = np.array([[t.params[name] - 0.2 for name in space] for t in trials[:256]])
    assert kstest(points.ravel(), uniform(-0.1, 0.2).cdf).pvalue > 0.01
    for size in (2, 3, 4):
        for axes in itertools.combinations(range(5), size):
            assert abs(np.prod(np.sign(points[:, axes]), axis=1).mean()) < 0.25


def test_every_third_design_point_is_repeated_on_other_seeds(
    opened: Any, study_config: MakeConfig, storage_url: str
) -> None:
    def rows(design: int, seeds: int) -> list[tuple[float, int, bool]]:
        search = {"trials": design, "design": design, "design_seeds": seeds}
        config = study_config(search=search)
        opened(config, storage_url).enqueue_budget()
        trials = in_optuna(config.name, storage_url)
        return [(t.params["lambda1"], t.user_attrs["seed"], "repeat" in t.user_attrs) for t in trials]

    first = rows(8, 2)
    assert [repeat for _, _, repeat in first] == [False] * 3 + [True] + [False] * 3 + [True]
    assert [first[3][0], first[7][0]] == [first[0][0], first[1][0]]
    assert {seed for _, seed, repeat in first if not repeat} == {0}
    assert len({value for value, _, repeat in first if not repeat}) == 6
    assert first[3][1] == first[7][1] not in (0, 1, 2, 3)  # nor that of a finalist
    assert rows(8, 2) == first  # a resumed study has the same design
    more = rows(11, 3)  # the sequence goes on, with a third seed for the points that were repeated
    assert more[:8] == first
    assert [(value, repeat) for value, _, repeat in more[8:10]] == [(first[0][0], True), (first[1][0], True)]
    assert more[8][1] == more[9][1] != first[3][1]
    assert not more[10][2]


def test_the_sampler_qmc_draws_sobol_points(opened: Any, study_config: MakeConfig, journal_url: str) -> None:
    study = opened(study_config(search={"trials": 16, "sampler": "qmc"}), journal_url)
    study.enqueue_budget()
    assert parts([t.hyperparameters["lambda1"] for t in everything(study)], 16) == list(range(16))


def test_the_sampler_that_is_told_the_space_draws_the_points_of_optunas() -> None:
    space = {"x": FloatDistribution(1e-3, 1.0, log=True), "kind": CategoricalDistribution(("a", "b"))}

    def points(sampler: optuna.samplers.BaseSampler) -> list[dict[str, object]]:
        study = optuna.create_study(sampler=sampler)
        for number in range(30):
            trial = study.ask(space)
            study.tell(trial, trial.params["x"] + (number % 3))
        return [trial.params for trial in study.trials]

    assert points(FixedSpaceTPESampler(space, seed=7)) == points(optuna.samplers.TPESampler(seed=7))


def test_a_sampler_learns_whichever_thread_asks(
    study_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor asks in a thread of its own, and tells in Tune's."""
    (tmp_path / "results").mkdir()
    seen: list[int] = []
    sample = optuna.samplers.TPESampler._sample
    monkeypatch.setattr(
        optuna.samplers.TPESampler,
        "_sample",
        lambda self, study, trial, *words: (
            seen.append(len(study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True))),
            sample(self, study, trial, *words),
        )[1],
    )
    config = study_config(search={"trials": 16, "sampler": "tpe", "pruner": "none"})
    study = Study(config, open_storage(f"sqlite:///{tmp_path}/optuna.db"), workspace=tmp_path / "results")
    study.enqueue_budget()
    with ThreadPoolExecutor(1) as asker:
        for number in range(16):
            trial = asker.submit(study.ask).result()
            assert trial is not None
            train(study, trial, [number / 16])
    assert seen == list(range(10, 16)), "after ten trials it models those that have ended"


def test_a_users_own_trial_is_one_more(opened: Any, study_config: MakeConfig, storage_url: str) -> None:
    space = {"lambda1": {"low": 1e-5, "high": 0.1, "log": True}, "depth": {"low": 1, "high": 4}, "width": 8}
    study = opened(study_config(space=space, search={"trials": 2, "sampler": "tpe"}), storage_url)
    study.enqueue_budget()
    assert study.enqueue({"lambda1": 0.02, "depth": 3}) == 2
    assert study.enqueue({"depth": 4}) == 3
    *_, whole, part = everything(study)
    assert whole.hyperparameters == {"lambda1": 0.02, "depth": 3}
    assert part.hyperparameters["depth"] == 4
    lambda1 = part.hyperparameters["lambda1"]
    assert isinstance(lambda1, float)
    assert 1e-5 <= lambda1 <= 0.1
    assert (whole.design, whole.kind) == (False, "trial")


# -- points that do not repeat, or do ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_points_do_not_depend_on_interruptions(
    opened: Any, study_config: MakeConfig, tmp_path: Path, sampler: str
) -> None:
    space = {
        "lambda1": {"low": 1e-5, "high": 0.1, "log": True},
        "depth": {"low": 1, "high": 4},
        "width": {"choices": [4, 8]},
    }

    def config(trials: int) -> StudyConfig:
        return study_config(space=space, search={"trials": trials, "design": 3, "sampler": sampler})

    def points(url: str, budgets: list[tuple[int, int]]) -> list[Any]:
        found: dict[int, Any] = {}
        for trials, count in budgets:
            study = opened(config(trials), url)
            study.enqueue_budget()
            for _ in range(count):
                trial = asked(study)
                found[trial.number] = trial.hyperparameters
                train(study, trial, [0.1] * LAST)
        return [found[number] for number in sorted(found)]

    whole = points(f"journal:///{tmp_path}/a.journal", [(12, 12)])
    assert len({repr(p) for p in whole}) > 10
    assert points(f"journal:///{tmp_path}/b.journal", [(4, 2), (7, 1), (7, 4), (12, 5)]) == whole


def test_no_point_is_drawn_twice_by_drivers_that_came_at_the_same_time(
    opened: Any, study_config: MakeConfig, journal_url: str
) -> None:
    config = study_config(search={"trials": 9, "sampler": "tpe"})
    first, second = opened(config, journal_url), opened(config, journal_url)
    first.enqueue_budget()
    drivers = [first, second, opened(config, journal_url)]
    trials = [asked(drivers[i % 3]) for i in range(9)]
    assert len({t.hyperparameters["lambda1"] for t in trials}) == 9


def test_the_seed_of_a_study_decides_its_points(opened: Any, study_config: MakeConfig, tmp_path: Path) -> None:
    def points(seed: int, name: str) -> list[Any]:
        study = opened(
            study_config(training={"seed": seed}, search={"trials": 4, "sampler": "tpe"}),
            f"journal:///{tmp_path}/{name}.journal",
        )
        study.enqueue_budget()
        return [t.hyperparameters for t in everything(study)]

    assert points(1, "a") == points(1, "b")
    assert points(1, "a2") != points(2, "c")


# -- death and adoption ------------------------------------------------------------------------------------------------

DRIVER = """
import json, sys, time
from pathlib import Path
from sweep.config.study_config import StudyConfig
from sweep.training.reports import EpochMetrics
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
raw, url, workspace = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
study = Study(StudyConfig.model_validate(raw), open_storage(url), workspace=workspace)
study.enqueue_budget()
trial = study.ask()
study.report(trial, [EpochMetrics(e, {"val_loss": 1 / e}, 0) for e in (1, 2, 3)])
print(trial.number, trial.attempt, flush=True)
time.sleep(600)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[[StudyConfig, str], tuple[subprocess.Popen[str], list[int]]]]:
    """Starts a driver in a process of its own, that takes one trial and lives on; returns it, number and attempt."""
    started = []

    def start(config: StudyConfig, url: str) -> tuple[subprocess.Popen[str], list[int]]:
        command = [sys.executable, "-c", DRIVER, config.model_dump_json(), url, str(tmp_path / "results")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        started.append(process)
        assert process.stdout is not None
        return process, [int(word) for word in process.stdout.readline().split()]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_trials_of_a_dead_driver_are_adopted_and_those_of_a_living_one_are_not(
    opened: Any, driver: Any, study_config: MakeConfig, storage_url: str
) -> None:
    config = study_config(search={"trials": 3}, training={"max_epochs": 4})
    process, taken = driver(config, storage_url)
    assert taken == [0, 1]
    study = opened(config, storage_url)
    study.enqueue_budget()
    others = everything(study)
    assert [t.number for t in others] == [1, 2]
    running = study.rows()[0]
    assert (running.state, running.orphan, running.epochs) == ("running", False, 3)
    assert running.owner == f"{socket.gethostname()} pid {process.pid}"
    process.send_signal(signal.SIGKILL)
    process.wait()  # reaped, not a zombie
    assert [r.orphan for r in study.rows()] == [True, False, False]
    adopted = asked(study)
    assert (adopted.number, adopted.attempt, adopted.reported) == (0, 2, 3)
    assert adopted.last_pruning_check == 2  # the third may have been reported by a driver that died before its verdict
    assert adopted.hyperparameters == in_optuna(config.name, storage_url)[0].params
    assert study.ask() is None
    assert not any(r.orphan for r in study.rows())
    assert [(r.owner or "").split()[-1] for r in study.rows()] == [str(os.getpid())] * 3


def test_each_death_is_one_more_attempt_and_orphans_come_before_new_trials(
    opened: Any, driver: Any, study_config: MakeConfig, journal_url: str
) -> None:
    config = study_config(search={"trials": 3})
    first, taken = driver(config, journal_url)
    assert taken == [0, 1]
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # a zombie, which its parent has not reaped, is dead
    second, taken = driver(config, journal_url)
    assert taken == [0, 2]
    second.kill()
    second.wait()
    study = opened(config, journal_url)
    adopted = study.ask(new=False)
    assert adopted is not None
    assert (adopted.number, adopted.attempt) == (0, 3)
    assert study.ask(new=False) is None  # two trials wait, but no new one was asked for
    assert [(t.number, t.attempt) for t in everything(study)] == [(1, 1), (2, 1)]


@pytest.mark.parametrize("renews", [True, False])
def test_an_owner_on_another_host_lives_as_long_as_it_renews_its_lease(
    opened: Any, study_config: MakeConfig, storage_url: str, monkeypatch: pytest.MonkeyPatch, renews: bool
) -> None:
    config = study_config(search={"trials": 1})
    theirs, ours = opened(config, storage_url), opened(config, storage_url)
    theirs.enqueue_budget()
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    trial = asked(theirs)
    theirs.heartbeat(1)
    monkeypatch.undo()
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("sweep.study.storages.leases.time", clock)

    def pass_by(seconds: int) -> None:
        for _ in range(seconds // 10):
            clock.now += 10
            ours.heartbeat(int(clock.now))

    assert (trial.owner["host"], ours.rows()[0].owner) == ("elsewhere", f"elsewhere pid {os.getpid()}")
    assert ours.ask() is None  # seen for the first time
    clock.now += 3600  # in which the storage was away: nobody could renew anything
    pass_by(30)
    if renews:
        with monkeypatch.context() as there:
            there.setattr("socket.gethostname", lambda: "elsewhere")
            theirs.heartbeat(2)
    assert ours.ask() is None
    pass_by(30)
    assert [row.orphan for row in ours.rows()] == [not renews]
    heir = ours.ask()
    assert (heir is None) is renews
    assert theirs.owns(trial) is renews  # one that slept notices
    assert heir is None or (heir.number, heir.attempt) == (0, 2)


def test_a_reboot_or_another_container_is_another_machine(
    opened: Any, study_config: MakeConfig, journal_url: str
) -> None:
    """Its process ids mean nothing here: what counts is the lease."""
    study = opened(study_config(search={"trials": 1}), journal_url)
    study.enqueue_budget()
    trial = asked(study)
    trial.handle.set_user_attr("owner", {**trial.owner, "boot": "another", "pid": 2**22 + 1})
    assert study.ask() is None


def test_a_process_that_was_given_the_number_of_a_dead_one_is_not_the_owner(
    opened: Any, study_config: MakeConfig, journal_url: str
) -> None:
    study = opened(study_config(search={"trials": 1}), journal_url)
    study.enqueue_budget()
    trial = asked(study)
    mark = trial.handle.user_attrs["owner"]
    assert mark["pid"] == os.getpid()
    trial.handle.set_user_attr("owner", {**mark, "started": mark["started"] - 3600})
    assert asked(study).attempt == 2


CRASHES = """
import json, os, sys
from pathlib import Path
import optuna.samplers._tpe.sampler, scipy.stats  # once, before the forks
from optuna.storages.journal import JournalFileBackend
from sweep.config.study_config import StudyConfig
from sweep.training.reports import EpochMetrics
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study

write = JournalFileBackend.append_logs

def crash_at(count):
    left = [count]
    def append_logs(self, logs):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        write(self, logs)
    JournalFileBackend.append_logs = append_logs

for count in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        crash_at(count)
        raw = {**json.loads(sys.argv[1]), "name": f"crash-{count}"}
        study = Study(StudyConfig.model_validate(raw), open_storage(f"journal:///{count}.journal"), workspace=Path("."))
        study.enqueue_budget()
        trial = study.ask()
        study.report(trial, [EpochMetrics(e, {"val_loss": 1 / e}, 0) for e in (1, 2)])
        trial.epochs = 2
        study.tell(trial, "completed", checkpoint="here", error=None)
        study.ask()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_driver_may_die_at_any_write(study_config: MakeConfig, tmp_path: Path) -> None:
    """After a crash before each single write: exactly the budget, every trial finished, none twice."""
    config = study_config(search={"trials": 3, "design": 1, "sampler": "tpe"}, training={"max_epochs": 2})
    command = [sys.executable, "-c", CRASHES, config.model_dump_json(), "19"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    codes = [int(code) for code in ended.stdout.split()]
    assert codes.count(9) >= 15
    assert codes[-1] == 0  # the last one lived through it
    for count in range(len(codes)):
        renamed = config.model_copy(update={"name": f"crash-{count}"})
        study = Study(renamed, open_storage(f"journal:///{tmp_path}/{count}.journal"), workspace=tmp_path)
        study.enqueue_budget()
        while (trial := study.ask()) is not None:
            train(study, trial, [1.0, 0.5])
        assert [(r.number, r.outcome, r.value, r.epochs) for r in study.rows()] == [
            (i, "completed", 0.5, 2) for i in range(3)
        ], f"after a crash at write {count}"
        assert [r.design for r in study.rows()] == [True, False, False]


# -- reports and the pruner --------------------------------------------------------------------------------------------


def plain_pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    return {
        "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 5),
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        "hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3),
    }[name]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband"])
def test_trials_are_pruned_where_optunas_own_loop_prunes_them(
    opened: Any, study_config: MakeConfig, journal_url: str, pruner: str, direction: Any
) -> None:
    """Ours gets epochs in batches of any size; the plain loop reports and asks at every single epoch."""
    count = 30
    config = study_config(
        search={"trials": count, "pruner": pruner}, objective={"direction": direction}, training={"max_epochs": LAST}
    )
    study = opened(config, journal_url)
    study.enqueue_budget()
    # Hyperband takes a trial's bracket from the study's name and the trial's number.
    plain = optuna.create_study(study_name=config.name, direction=direction, pruner=plain_pruner(pruner, LAST))
    draw, pruned, expected = random.Random(1), [], []
    for curve in curves(count):
        values = curve if direction == "minimize" else [-v for v in curve]
        trial, reference = asked(study), plain.ask()
        assert trial.number == reference.number
        stop, stopped = None, None
        for epoch, value in enumerate(values, start=1):
            reference.report(value, epoch)
            if epoch < LAST and reference.should_prune():
                stop = epoch
                break
        plain.tell(reference, None if stop else values[-1], TrialState.PRUNED if stop else TrialState.COMPLETE)
        epochs = metrics(values)
        while epochs and stopped is None:
            size = draw.randint(1, 5)
            stopped = study.report(trial, epochs[:size])
            epochs = epochs[size:]
        study.tell(trial, "pruned" if stopped else "completed", checkpoint=None, error=None)
        pruned.append(stopped)
        expected.append(stop)
    assert pruned == expected
    assert 3 < sum(p is not None for p in pruned) < count - 3
    assert len({p for p in pruned if p is not None}) > 1
    decisions = pruning_epochs(config)
    for ours, theirs in zip(in_optuna(config.name, journal_url), plain.trials, strict=True):
        assert ours.state == theirs.state
        at_decisions = {e: v for e, v in theirs.intermediate_values.items() if e in decisions}
        assert ours.intermediate_values == at_decisions
        assert ours.value == theirs.value


@pytest.mark.parametrize(
    ("pruner", "epochs", "expected"),
    [
        ("median", 9, {1, 2, 3, 4, 5, 6, 7, 8, 9}),
        ("median", 50, {5, 10, 15, 20, 25, 30, 35, 40, 45, 50}),
        ("none", 1, {1}),
        ("successive_halving", 20, {1, 3, 9, 20}),
        ("hyperband", 27, {1, 3, 9, 27}),
    ],
)
def test_the_storage_holds_the_epochs_at_which_the_pruner_decides(
    opened: Any, study_config: MakeConfig, journal_url: str, pruner: str, epochs: int, expected: set[int]
) -> None:
    config = study_config(search={"trials": 1, "pruner": pruner}, training={"max_epochs": epochs})
    study = opened(config, journal_url)
    study.enqueue_budget()
    train(study, asked(study), [1 / e for e in range(1, epochs + 1)])
    (trial,) = in_optuna(config.name, journal_url)
    assert trial.intermediate_values == {e: 1 / e for e in expected}
    assert pruning_epochs(config) == expected


@pytest.mark.parametrize("at", ["last", "best"])
def test_replayed_and_batched_epochs_leave_what_single_ones_leave(
    opened: Any, study_config: MakeConfig, storage_url: str, at: str
) -> None:
    config = study_config(search={"trials": 3, "pruner": "median"}, training={"max_epochs": LAST}, objective={"at": at})
    study = opened(config, storage_url)
    study.enqueue_budget()
    single, batch, adopted = everything(study)
    curve = [0.9, 0.5, 0.7, 0.3, 0.6, 0.2, 0.8, 0.4, 0.45]
    epochs = metrics(curve)
    for epoch in epochs:
        assert study.report(single, [epoch]) is None
    assert study.report(batch, epochs) is None
    # The third loses its driver after four epochs; its next one hands in everything from the first on.
    study.report(adopted, epochs[:4])
    mark = adopted.handle.user_attrs["owner"]
    adopted.handle.set_user_attr("owner", {**mark, "started": mark["started"] - 3600})
    again = asked(study)
    assert (again.number, again.reported, again.last_pruning_check, again.best) == (adopted.number, 4, 3, None)
    assert study.report(again, epochs[:6]) is None
    assert study.report(again, epochs[4:]) is None  # the fifth and sixth twice
    for trial in (single, batch, again):
        study.tell(trial, "completed", checkpoint=None, error=None)
    running = [min(curve[:i]) for i in range(1, 10)] if at == "best" else curve
    for frozen in in_optuna(config.name, storage_url):
        assert frozen.intermediate_values == dict(enumerate(running, start=1))
        assert frozen.value == running[-1]


@pytest.mark.parametrize(("at", "expected"), [("last", {2: 0.5, 4: 0.7}), ("best", {2: 0.5, 4: 0.5})])
def test_an_objective_that_is_not_finite_is_no_value_of_its_epoch(
    opened: Any, study_config: MakeConfig, journal_url: str, at: str, expected: dict[int, float]
) -> None:
    config = study_config(search={"trials": 1, "pruner": "median"}, training={"max_epochs": 4}, objective={"at": at})
    study = opened(config, journal_url)
    study.enqueue_budget()
    train(study, asked(study), [math.nan, 0.5, -math.inf, 0.7])
    (trial,) = in_optuna(config.name, journal_url)
    assert (trial.intermediate_values, trial.value) == (expected, expected[4])


def test_design_trials_controls_and_the_last_epoch_are_never_pruned(
    opened: Any, study_config: MakeConfig, journal_url: str
) -> None:
    config = study_config(search={"trials": 9, "design": 2, "pruner": "successive_halving"})
    study, sister = opened(config, journal_url), opened(config, journal_url, sister=True)
    study.enqueue_budget()
    design = [asked(study), asked(study)]
    for _ in range(6):
        train(study, asked(study), [0.1] * LAST)
    hopeless = [9.0] * LAST
    assert [train(study, trial, hopeless) for trial in design] == [None, None]
    assert train(study, asked(study), [0.1] * (LAST - 1) + [9.0]) is None
    sister.add([("control", 0, seed, {"lambda1": 0.0}) for seed in range(6)])
    sister.add([("control", 0, 6, {"lambda1": 0.0}), ("finalist", 0, 1, {"lambda1": 0.1})])
    for curve in (*[[0.1] * LAST] * 6, hopeless, hopeless):
        assert train(sister, asked(sister), curve) is None
    # The same pruner does stop an ordinary trial.
    study.enqueue({"lambda1": 0.01})
    assert train(study, asked(study), hopeless) == 1


def test_a_driver_that_has_lost_a_trial_neither_releases_nor_ends_it(
    opened: Any, study_config: MakeConfig, storage_url: str
) -> None:
    config = study_config(search={"trials": 2})
    study = opened(config, storage_url)
    study.enqueue_budget()
    taken, ended = asked(study), asked(study)
    theirs = {**taken.owner, "host": "elsewhere", "attempt": 2}
    for trial in (taken, ended):
        trial.handle.set_user_attr("owner", theirs)
    study.release(taken)
    optuna.load_study(study_name=config.name, storage=open_storage(storage_url)).tell(ended.number, 0.5)
    study.release(ended)
    with pytest.raises(EndedElsewhereError):
        train(study, ended, [0.25] * LAST)
    left = in_optuna(config.name, storage_url)
    assert [trial.user_attrs["owner"] for trial in left] == [theirs, theirs]
    assert left[ended.number].value == 0.5


def test_a_row_shows_only_what_counts(opened: Any, study_config: MakeConfig, journal_url: str) -> None:
    """Epochs trained beyond the pruner's word are not in the storage."""
    config = study_config(search={"trials": 7, "pruner": "median"})
    study = opened(config, journal_url)
    study.enqueue_budget()
    for _ in range(6):
        train(study, asked(study), [0.1] * LAST)
    trial = asked(study)
    assert study.report(trial, metrics([9.0] * LAST)) == 1
    assert in_optuna(config.name, journal_url)[-1].intermediate_values == {1: 9.0}


# -- how trials end ----------------------------------------------------------------------------------------------------


def test_outcomes_states_and_attributes_as_other_programs_read_them(
    opened: Any, study_config: MakeConfig, storage_url: str
) -> None:
    config = study_config(search={"trials": 4, "design": 1}, training={"seed": 7})
    study = opened(config, storage_url)
    study.enqueue_budget()
    completed, pruned, diverged, failed = everything(study)
    for trial, curve in ((completed, [0.5, 0.25]), (pruned, [0.9]), (diverged, [0.4, 0.3, 0.1])):
        study.report(trial, metrics(curve))
        trial.epochs = len(curve)
    study.tell(completed, "completed", checkpoint="a/epoch-0002.pt", error=None)
    study.tell(pruned, "pruned", checkpoint=None, error=None)
    study.tell(diverged, "diverged", checkpoint="c/epoch-0004.pt", error="the loss is not finite in epoch 4")
    study.tell(failed, "failed", checkpoint=None, error="out of memory")
    trials = in_optuna(config.name, storage_url)
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "PRUNED", "FAIL"]
    assert [t.user_attrs["outcome"] for t in trials] == ["completed", "pruned", "diverged", "failed"]
    assert [t.user_attrs["epochs"] for t in trials] == [2, 1, 3, 0]
    assert [t.user_attrs["seed"] for t in trials] == [7] * 4
    assert [t.user_attrs["design"] for t in trials] == [True, False, False, False]
    assert [t.user_attrs.get("checkpoint") for t in trials] == ["a/epoch-0002.pt", None, "c/epoch-0004.pt", None]
    assert [t.user_attrs["owner"]["pid"] for t in trials] == [os.getpid()] * 4
    assert [t.value for t in trials[:2]] == [0.25, 0.9]
    assert trials[2].constraints == {"diverged": 1.0}
    assert all(max(t.constraints.values(), default=0.0) <= 0 for t in trials if t.number != 2)
    assert optuna.load_study(study_name=config.name, storage=open_storage(storage_url)).best_trial.number == 0
    rows = read_rows(config.name, open_storage(storage_url))
    assert rows == study.rows()
    assert [r.outcome for r in rows] == ["completed", "pruned", "diverged", "failed"]
    assert [r.error for r in rows] == [None, None, "the loss is not finite in epoch 4", "out of memory"]
    assert [(r.state, r.epochs) for r in rows] == [("finished", n) for n in (2, 1, 3, 0)]
    assert all(r.started is not None and r.ended is not None and r.started <= r.ended for r in rows)
    assert [r.hyperparameters for r in rows] == [t.params for t in trials]


def test_tpe_keeps_away_from_where_trials_diverge(opened: Any, study_config: MakeConfig, journal_url: str) -> None:
    """Divergence late in training, after splendid epochs, is worse than an early pruning after poor ones."""
    config = study_config(
        space={"lambda1": {"low": 0.0, "high": 1.0}, "depth": 2, "width": 8},
        search={"trials": 52, "design": 32, "sampler": "tpe"},
    )
    study = opened(config, journal_url)
    study.enqueue_budget()
    for _ in range(32):
        trial = asked(study)
        high = trial.hyperparameters["lambda1"] > 0.5  # type: ignore[operator]
        trial.epochs = 8 if high else 2
        study.report(trial, metrics([0.01] * 8 if high else [5.0] * 2))
        study.tell(trial, "diverged" if high else "pruned", checkpoint=None, error=None)
    proposed = [t.hyperparameters["lambda1"] for t in everything(study)]
    assert len(proposed) == 20
    assert sum(x < 0.5 for x in proposed) >= 16  # type: ignore[operator]


def test_a_maximised_study_prefers_the_larger(opened: Any, study_config: MakeConfig, journal_url: str) -> None:
    objective = {"metric": "val_accuracy", "direction": "maximize", "at": "best"}
    config = study_config(objective=objective, search={"trials": 2}, training={"max_epochs": 3})
    study = opened(config, journal_url)
    study.enqueue_budget()
    train(study, asked(study), [0.5, 0.9, 0.1])
    train(study, asked(study), [0.2, 0.3, 0.8])
    assert [r.value for r in study.rows()] == [0.9, 0.8]
    assert optuna.load_study(study_name=config.name, storage=open_storage(journal_url)).best_trial.number == 0


# -- the sister study --------------------------------------------------------------------------------------------------


def test_rows_of_the_sister_study_are_added_once(opened: Any, study_config: MakeConfig, storage_url: str) -> None:
    config = study_config()
    sister = opened(config, storage_url, sister=True)
    wanted = [
        ("finalist", 3, 1, {"lambda1": 0.1}),
        ("finalist", 3, 2, {"lambda1": 0.1}),
        ("control", 3, 1, {"lambda1": 0.0, "training.init": "he"}),
        ("tuned", 3, 1, {"lambda1": 0.0, "training.init": "he"}),
    ]
    sister.add(wanted[:2])
    sister.add(wanted)
    opened(config, storage_url, sister=True).add(wanted)
    assert [(r.kind, r.of, r.seed, r.hyperparameters) for r in sister.rows()] == wanted
    trials = everything(sister)
    assert [(t.kind, t.of, t.config.training.seed, t.study) for t in trials] == [
        (kind, of, seed, f"{config.name}.controls") for kind, of, seed, _ in wanted
    ]
    assert [t.config.guidance.lambda1 for t in trials] == [0.1, 0.1, 0.0, 0.0]
    assert [t.config.training.init for t in trials] == ["default", "default", "he", "he"]
    train(sister, trials[0], [0.1] * LAST)
    sister.add(wanted)
    sister.add([(kind, 5, seed, values) for kind, _, seed, values in wanted])  # the same trainings, for another trial
    assert len(sister.rows()) == 4
    in_storage = in_optuna(f"{config.name}.controls", storage_url)
    assert [(t.user_attrs["kind"], t.user_attrs["of"]) for t in in_storage] == [(k, of) for k, of, _, _ in wanted]
    assert study_names(open_storage(storage_url)).count(f"{config.name}.controls") == 0


# -- whose study it is -------------------------------------------------------------------------------------------------


def test_the_config_is_kept_with_the_study(opened: Any, study_config: MakeConfig, storage_url: str) -> None:
    config = study_config(guidance="paper", data={"augment": ["crop"]})
    storage = open_storage(storage_url)
    assert read_config(config.name, storage) is None
    assert read_rows(config.name, storage) == []
    opened(config, storage_url)
    assert read_config(config.name, open_storage(storage_url)) == config
    more = config.model_copy(update={"search": config.search.model_copy(update={"trials": 99})})
    study = opened(more, storage_url)
    assert read_config(config.name, open_storage(storage_url)) == more
    assert config.name in study_names(open_storage(storage_url))
    study.set_user_attr("fact", {"n": [1, None]})
    assert opened(config, storage_url).get_user_attr("fact") == {"n": [1, None]}
    assert study.get_user_attr("nothing") is None


def test_a_study_of_somebody_else_is_refused_and_left_alone(
    opened: Any, study_config: MakeConfig, storage_url: str
) -> None:
    config = study_config()
    foreign = optuna.create_study(study_name=config.name, storage=open_storage(storage_url))
    foreign.set_user_attr("mine", 1)
    with pytest.raises(StorageError, match=f"{config.name}.*sweep did not create.*another name"):
        opened(config, storage_url)
    foreign.tell(foreign.ask(), 0.5)
    with pytest.raises(StorageError, match=f"{config.name}.*sweep did not create.*another name"):
        opened(config, storage_url)
    assert read_config(config.name, open_storage(storage_url)) is None
    again = optuna.load_study(study_name=config.name, storage=open_storage(storage_url))
    assert again.user_attrs == {"mine": 1}
    assert [t.value for t in again.trials] == [0.5]


def test_a_study_of_the_other_direction_is_refused(opened: Any, study_config: MakeConfig, storage_url: str) -> None:
    opened(study_config(), storage_url)
    with pytest.raises(StorageError, match="objective is to minimize, not to maximize"):
        opened(study_config(objective={"direction": "maximize"}), storage_url)
    assert opened(study_config(), storage_url).rows() == []


def test_a_study_that_died_before_it_was_described_is_taken_over(
    opened: Any, study_config: MakeConfig, storage_url: str
) -> None:
    config = study_config(objective={"direction": "maximize"})
    optuna.create_study(study_name=config.name, storage=open_storage(storage_url), direction="maximize")
    opened(config, storage_url).enqueue_budget()
    assert len(in_optuna(config.name, storage_url)) == 6


def test_a_config_that_this_version_cannot_read_is_said_so(study_config: MakeConfig, journal_url: str) -> None:
    config = study_config()
    foreign = optuna.create_study(study_name=config.name, storage=open_storage(journal_url))
    foreign.set_user_attr("config", {"name": config.name, "colour": "red"})
    with pytest.raises(StorageError, match=f"{config.name}.*config"):
        read_config(config.name, open_storage(journal_url))


def test_a_study_of_a_newer_version_is_refused_and_left_alone(
    opened: Any, study_config: MakeConfig, storage_url: str
) -> None:
    """Both ways to a study: by what is known of it, and by opening it for writing."""
    config, newer = study_config(), FORMAT + 1
    study = opened(config, storage_url)
    assert study.get_user_attr("format") == FORMAT
    study.set_user_attr("format", newer)
    words = f"study {config.name}: a newer version has written it \\(format {newer}, this one reads up to {FORMAT}\\)"
    with pytest.raises(StorageError, match=words):
        read_config(config.name, open_storage(storage_url))
    with pytest.raises(StorageError, match=words):
        opened(config, storage_url)
    assert study.get_user_attr("format") == newer


def test_a_study_that_was_begun_before_formats_were_counted_is_read(
    opened: Any, study_config: MakeConfig, journal_url: str
) -> None:
    config = study_config()
    before = optuna.create_study(study_name=config.name, storage=open_storage(journal_url))
    before.set_user_attr("config", config.model_dump(mode="json"))
    assert opened(config, journal_url).get_user_attr("format") == FORMAT


def test_checkpoints_of_a_study_that_is_gone_are_not_gone_on_with(
    opened: Any, study_config: MakeConfig, journal_url: str, tmp_path: Path
) -> None:
    """Trial 0 of the new one would take trial 0's of the old one for its own."""
    config = study_config()
    checkpoint.save(tmp_path / "results" / config.name / "0000" / "attempt-01", [], {})
    with pytest.raises(StorageError, match=f"{config.name} holds checkpoints of an earlier one; move that"):
        opened(config, journal_url)
    assert optuna.get_all_study_names(open_storage(journal_url)) == []
    checkpoint.save(tmp_path / "results" / f"{config.name}.controls" / "0000" / "attempt-01", [], {})
    with pytest.raises(StorageError, match="holds checkpoints"):
        opened(config, journal_url, sister=True)


# -- storages ----------------------------------------------------------------------------------------------------------


def torn(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"op_code":5,"worker_id":"x","trial_')


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [torn, cut])
def test_a_journal_with_a_torn_last_line_opens(
    opened: Any, study_config: MakeConfig, tmp_path: Path, journal_url: str, damage: Callable[[Path], None]
) -> None:
    config = study_config(search={"trials": 3})
    study = opened(config, journal_url)
    study.enqueue_budget()
    train(study, asked(study), [0.5] * LAST)
    study.set_user_attr("last", "word")
    damage(tmp_path / "optuna.journal")
    study = opened(config, journal_url)
    assert [(r.outcome, r.value) for r in study.rows()] == [("completed", 0.5), (None, None), (None, None)]
    assert study.get_user_attr("last") == ("word" if damage is torn else None)
    for trial in everything(study):
        train(study, trial, [0.25] * LAST)
    # What was written after the cut is readable.
    assert [t.value for t in in_optuna(config.name, journal_url)] == [0.5, 0.25, 0.25]


DAMAGES = {
    "not JSON": b'{"op_code":5,"wor',
    "zeros": bytes(40),
    "no text": b"\xff\xfe\x00",
    "no entry": b"17",
    "an entry that makes no sense": b'{"op_code":6,"worker_id":"x"}',
}


@pytest.mark.parametrize("place", ["in the middle", "at the end"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_journal_says_which_line_and_what_can_be_read(
    opened: Any, study_config: MakeConfig, tmp_path: Path, journal_url: str, damage: bytes, place: str
) -> None:
    config = study_config(search={"trials": 3})
    study, path = opened(config, journal_url), tmp_path / "optuna.journal"
    study.enqueue_budget()
    train(study, asked(study), [0.5] * LAST)
    lines = len(path.read_bytes().splitlines())
    study.set_user_attr("later", "on")
    whole = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join(
        [*whole[:lines], damage + b"\n", *(whole[lines + 1 :] or whole[-1:] if "middle" in place else [])]
    )
    path.write_bytes(damaged)
    with pytest.raises(StorageError) as error:
        open_storage(journal_url)
    message = str(error.value)
    assert message.startswith(f"journal {path}: line {lines + 1} is damaged (")
    assert f"Readable before that line: {config.name} with 3 trials, 1 of them finished." in message
    assert f"head -n {lines} {path} > {tmp_path}/readable.journal\n" in message
    assert path.read_bytes() == damaged


def test_a_journal_of_which_nothing_can_be_read_is_left_as_it_is(tmp_path: Path, journal_url: str) -> None:
    (tmp_path / "optuna.journal").write_text("a diary\nof another kind\n")
    with pytest.raises(StorageError, match=r"line 1 is damaged .*No study is readable before it: restore the file"):
        open_storage(journal_url)
    assert (tmp_path / "optuna.journal").read_text() == "a diary\nof another kind\n"


def test_a_journal_url_has_sqlalchemys_slashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_storage("journal:///here/a.journal")
    assert (tmp_path / "here" / "a.journal").is_file()
    open_storage(f"journal:///{tmp_path}/there/b.journal")
    assert (tmp_path / "there" / "b.journal").is_file()
    for wrong in ("journal://c.journal", "journal:///"):
        with pytest.raises(StorageError, match="journal:///path"):
            open_storage(wrong)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "there"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:s3cr%40t@127.0.0.1:1/db", "postgresql+psycopg://me:***@127.0.0.1:1/db"),
        ("postgresql+psycopg://me:s3cr@t@127.0.0.1:1/db", "postgresql+psycopg://me:***@127.0.0.1:1/db"),
        (
            "postgresql+psycopg://me@127.0.0.1:1/db?password=s3cr@t",
            "postgresql+psycopg://me@127.0.0.1:1/db?password=***",
        ),
        ("postgresql+psycopg://me:s3cr@t@127.0.0.1:port/db", "postgresql+psycopg://me:***@127.0.0.1:port/db"),
        ("nosuchdb://me:s3cr@t@127.0.0.1/db", "nosuchdb://me:***@127.0.0.1/db"),
        ("postgresql+nodriver://me:s3cr@t@127.0.0.1/db", "postgresql+nodriver://me:***@127.0.0.1/db"),
        ("me:s3cr@t", "me:***@t"),
    ],
)
def test_a_storage_out_of_reach_is_named_without_its_password(url: str, shown: str) -> None:
    with pytest.raises(StorageError) as error:
        open_storage(url)
    message = str(error.value)
    assert message.startswith(f"storage {shown}: unreachable (")
    assert "SWEEP_STORAGE" in message
    for secret in ("s3cr", "r@t", "r%40t"):
        assert secret not in message
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (f"journal:///{tmp_path}/file/a.journal", f"sqlite:///{tmp_path}/file/a.db"):
        with pytest.raises(StorageError, match="unreachable"):
            open_storage(url)
