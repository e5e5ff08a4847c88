"""Racing over seeds: which trial is a repeat, on which seed, in every storage and after a death; what is best then."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import stats

from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.study.dataframe import read_tables
from sweep.study.finalists import best_rows, expected_on_fresh_seeds
from sweep.study.racing import averaged, next_repeat
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig
from ..support.records import point, row

SAMPLERS = ("tpe", "gp", "random", "qmc")
SPACE: dict[str, Any] = {"lambda1": {"low": 0.0, "high": 1.0}, "epsilon": {"low": 0.1, "high": 1.1}, "width": 8}
SPACE |= {"lambda2": 0.0, "depth": 2}


def loss(values: Mapping[str, Any], seed: int, *, noise: float = 0.1) -> float:
    digest = hashlib.blake2b(repr((sorted(values.items()), seed)).encode(), digest_size=8).digest()
    drawn = np.random.default_rng(int.from_bytes(digest)).standard_normal()
    return float((values["lambda1"] - 0.5) ** 2 + (values["epsilon"] - 0.6) ** 2 + noise * drawn)


def searched(config: StudyConfig, url: str, workspace: Path, *, stop: int = 10**6, die_at: int | None = None) -> Study:
    """Takes the trials of a study to their ends, as one driver does; at ``die_at`` it forgets what it has claimed."""
    study = Study(config, open_storage(url), workspace=workspace)
    study.enqueue_budget()
    while stop and (trial := study.ask()) is not None:
        stop -= 1
        if trial.number == die_at:
            study.release(trial)  # as after a death, another driver adopts it
            die_at = None
            continue
        value = loss(trial.hyperparameters, trial.config.training.seed)
        study.report(trial, [EpochMetrics(1, {"val_loss": value}, 0)])
        study.tell(trial, "completed", checkpoint=None, error=None)
    return study


def plan(study: Study) -> list[tuple[Any, ...]]:
    return [(r.number, r.repeat_of, r.seed, sorted(r.hyperparameters.items()), r.value) for r in study.rows()]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_further_seeds_are_rows_of_the_budget_and_the_same_after_a_death(
    study_config: MakeConfig, tmp_path: Path, sampler: str
) -> None:
    search = {"sampler": sampler, "trials": 36, "design": 4, "seeds": 3}
    config = study_config(space=SPACE, search=search, training={"max_epochs": 1, "seed": 7})
    study = searched(config, f"journal:///{tmp_path}/a", tmp_path)
    rows = study.rows()
    assert len(rows) == 36
    repeats = [r for r in rows if r.repeat_of is not None]
    assert 4 <= len(repeats) <= 18
    for r in repeats:
        first = rows[r.repeat_of]
        assert first.repeat_of is None
        assert r.hyperparameters == first.hyperparameters
        assert not r.design
    for number in {r.repeat_of for r in repeats}:
        seeds = [7, *(r.seed for r in repeats if r.repeat_of == number)]
        assert seeds in ([7, 5007], [7, 5007, 5008]), "the seeds in order, each once, three at most"
    assert all(r.seed == 7 for r in rows if r.repeat_of is None)
    assert [r.design for r in rows] == [True] * 4 + [False] * 32, "the design is left alone"

    again = searched(config, f"journal:///{tmp_path}/b", tmp_path, die_at=repeats[-1].number)
    assert plan(again) == plan(study)
    searched(config, f"journal:///{tmp_path}/c", tmp_path, stop=20)
    assert plan(searched(config, f"journal:///{tmp_path}/c", tmp_path)) == plan(study), "after an interruption"


def test_a_race_is_the_same_in_every_storage(study_config: MakeConfig, tmp_path: Path, storage_url: str) -> None:
    config = study_config(space=SPACE, search={"trials": 24, "design": 0, "seeds": 2}, training={"max_epochs": 1})
    found = plan(searched(config, storage_url, tmp_path))
    assert found == plan(searched(config, f"journal:///{tmp_path}/of_memory", tmp_path / "beside"))
    assert any(repeat is not None for _, repeat, *_ in found)
    stored = optuna.load_study(study_name=config.name, storage=open_storage(storage_url)).trials
    assert all(each.params for each in stored)


def test_a_driver_that_died_while_it_chose_leaves_no_half_of_a_repeat(study_config: MakeConfig, tmp_path: Path) -> None:
    config = study_config(space=SPACE, search={"trials": 30, "design": 0, "seeds": 3}, training={"max_epochs": 1})
    study = searched(config, f"journal:///{tmp_path}/a", tmp_path, stop=25)
    storage = study._storage  # a row as it is between two writes: a seed, and no values yet
    [waiting, *_] = [t for t in study._trials() if t.state == TrialState.WAITING]
    storage.set_trial_user_attr(waiting._trial_id, "seed", 5001)
    storage.set_trial_user_attr(waiting._trial_id, "repeat_of", 3)
    rows = searched(config, f"journal:///{tmp_path}/a", tmp_path).rows()
    [chosen] = [r for r in rows if r.number == waiting.number]
    first = rows[chosen.repeat_of] if chosen.repeat_of is not None else None
    assert first.hyperparameters == chosen.hyperparameters if first else chosen.seed == config.training.seed


def test_a_repeat_is_not_pruned_so_that_means_are_of_whole_trials(study_config: MakeConfig, tmp_path: Path) -> None:
    search = {"trials": 30, "design": 0, "seeds": 2, "pruner": "median"}
    config = study_config(space=SPACE, search=search, training={"max_epochs": 9})
    study = Study(config, open_storage(f"journal:///{tmp_path}/a"), workspace=tmp_path)
    study.enqueue_budget()
    ends: dict[bool, set[int | None]] = {False: set(), True: set()}
    while (trial := study.ask()) is not None:
        # The first ten, each better than the last, set the level; what follows is far worse from the start.
        value = 0.2 - trial.number / 100 if trial.number < 10 else 1e3
        pruned_at = None
        for epoch in range(1, 10):
            pruned_at = pruned_at or study.report(trial, [EpochMetrics(epoch, {"val_loss": value}, 0)])
        if trial.number >= 10:
            ends[trial.repeat_of is not None].add(pruned_at)
        study.tell(trial, "pruned" if pruned_at else "completed", checkpoint=None, error=None)
    assert ends[True] == {None}
    assert None not in ends[False]
    assert ends[False]


# -- the rule ----------------------------------------------------------------------------------------------------------


def trial(number: int, x: float, value: float | None, *, seed: int = 0, **attrs: Any) -> FrozenTrial:
    state = attrs.pop("state", TrialState.COMPLETE)
    made = create_trial(
        state=state,
        value=value,
        params={"lambda1": x, "epsilon": 0.5},
        distributions={n: optuna.distributions.FloatDistribution(0.0, 200.0) for n in ("lambda1", "epsilon")},
        user_attrs={"seed": seed, "design": False, "outcome": "completed", **attrs},
    )
    made.number = number
    return made


def race(config: StudyConfig, values: Iterable[Iterable[float]], *more: FrozenTrial) -> tuple[float, int] | None:
    """The configuration, by the place of its values, that the next trial repeats, and its seed."""
    found: list[FrozenTrial] = []
    for place, own in enumerate(values):
        for i, value in enumerate(own):
            attrs = {"repeat_of": place} if i else {}
            found.append(trial(len(found), float(place), value, seed=i and 4999 + i, **attrs))
    # As many new configurations as there are repeats at most are needed: these are far off.
    found += [trial(100 + i, 50.0 + i, 1e6 + i) for i in range(60)]
    repeat = next_repeat(config, [*found, *more])
    return None if repeat is None else (repeat.values["lambda1"], repeat.seed)


@pytest.fixture
def config(study_config: MakeConfig) -> StudyConfig:
    space = {"lambda1": {"low": 0.0, "high": 2.0}, "epsilon": {"low": 0.0001, "high": 2.0}, "width": 8, "depth": 2}
    return study_config(space={**space, "lambda2": 0.0}, search={"trials": 64, "design": 0, "seeds": 3})


def test_the_best_is_repeated_first_and_then_what_may_still_be_better(config: StudyConfig) -> None:
    assert race(config, [[0.2], [0.1], [0.3]]) == (1.0, 5000), "without a spread, the best alone"
    # Two values that differ by 0.02 have a standard deviation of 0.0141, and one degree of freedom.
    reach = float(stats.t.ppf(0.9, 1)) * 0.02 / math.sqrt(2) * math.sqrt(1 / 3 + 1)
    done = [0.1, 0.12]
    assert race(config, [[0.11 + 1e-3], done]) == (1.0, 5001), "the best goes on first"
    far = [0.11, 0.11 - 0.01, 0.11 + 0.01]
    sd = 0.01
    reach = float(stats.t.ppf(0.9, 2)) * sd * math.sqrt(1 / 3 + 1)
    assert race(config, [far, [0.11 + 0.99 * reach]]) == (1.0, 5000)
    assert race(config, [far, [0.11 + 1.01 * reach]]) is None
    maximize = config.model_copy(update={"objective": config.objective.model_copy(update={"direction": "maximize"})})
    assert race(maximize, [far, [0.11 + 0.99 * reach]]) not in ((1.0, 5000), None)


def test_without_a_difference_between_seeds_no_more_are_trained(config: StudyConfig) -> None:
    assert race(config, [[0.1, 0.1], [0.2, 0.2], [0.3]]) == (0.0, 5001)
    assert race(config, [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]) is None
    assert race(config, [[0.1, 0.1], [0.2, 0.2], [0.3, 0.31]]) is not None


def test_what_was_lost_or_is_being_trained_does_not_race(config: StudyConfig) -> None:
    assert race(config, [[0.2], [0.1]]) == (1.0, 5000)
    for attrs in (
        {"state": TrialState.RUNNING, "value": None},
        {"state": TrialState.FAIL, "value": None},
        {"state": TrialState.PRUNED, "value": None, "outcome": "diverged"},
        {"value": 0.7, "outcome": "collapsed"},
    ):
        again = trial(99, 1.0, **{"seed": 5000, "repeat_of": 1, **attrs})
        assert race(config, [[0.2], [0.1]], again) == (0.0, 5000), attrs


def test_few_configurations_or_many_repeats_wait(config: StudyConfig) -> None:
    few = [trial(i, i / 10, i / 10) for i in range(9)]
    assert next_repeat(config, few) is None
    enough = [*few, trial(9, 1.9, 0.95)]
    assert next_repeat(config, enough) is not None
    repeats = [trial(11, 0.0, 0.0, seed=5000, repeat_of=0)]
    assert next_repeat(config, enough + repeats) is None, "one in six"
    rest = [trial(12 + i, 3.0 + i, 0.99) for i in range(36)]
    more = [trial(50 + i, 4.0 + i, 0.98, seed=5000, repeat_of=13 + i) for i in range(10)]
    assert next_repeat(config, [*enough, *repeats, *rest]) is not None
    assert next_repeat(config, [*enough, *repeats, *rest[:25], *more]) is None
    assert next_repeat(config, [*enough, *repeats, *rest, *more]) is not None, "57 of 64"


def test_a_sampler_sees_means(config: StudyConfig) -> None:
    trials = [trial(0, 0.1, 1.0), trial(1, 0.2, 2.0), trial(2, 0.1, 3.0, seed=5000), trial(3, 0.2, 9.0, seed=5000)]
    trials += [trial(4, 0.3, 5.0), trial(5, 0.3, None, seed=5000, state=TrialState.RUNNING)]
    trials += [trial(6, 0.4, 0.1), trial(7, 0.4, None, seed=5000, state=TrialState.PRUNED, outcome="diverged")]
    seen = [(t.params["lambda1"], t.value, t.state) for t in averaged(trials)]
    complete = TrialState.COMPLETE
    assert seen == [(0.1, 2.0, complete), (0.2, 5.5, complete), (0.3, 5.0, complete), (0.4, None, TrialState.PRUNED)]


# -- what is best ------------------------------------------------------------------------------------------------------


def test_the_best_is_good_on_each_seed(config: StudyConfig) -> None:
    lucky, steady, lost = point(0.1, 2), point(0.2, 2), point(0.3, 2)
    rows = [row(0, 0.50, lucky), row(1, 0.51, steady), row(2, 0.40, lost)]
    assert [r.number for r in best_rows(config, rows)] == [2, 0, 1]
    rows += [row(3, 0.55, steady, seed=5000, repeat_of=1), row(4, 0.47, steady, seed=5001, repeat_of=1)]
    rows += [row(5, None, lost, seed=5000, repeat_of=2, outcome="diverged")]
    best = best_rows(config, rows)
    assert [r.number for r in best] == [1, 0, 2]
    values = [0.51, 0.55, 0.47]
    assert best[0].value == pytest.approx(statistics.fmean(values))
    assert dict(best[0].values) == {0: 0.51, 5000: 0.55, 5001: 0.47}
    assert best[0].standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(3))
    assert best[1].standard_error == pytest.approx(statistics.stdev(values))
    assert math.isinf(best[2].standard_error)

    finalist = row(0, 0.6, steady, kind="finalist", seed=1, of=1)
    expected = expected_on_fresh_seeds(config, rows, [finalist])
    assert expected[1].value == 0.6
    assert expected[0].value > 0.6, "what is behind a finalist is not expected to be better"


def test_a_design_point_on_two_seeds_is_one_configuration_with_a_mean(config: StudyConfig) -> None:
    rows = [row(0, 0.1, point(0.1, 2), design=True), row(1, 0.2, point(0.2, 2))]
    rows.append(row(2, 0.4, point(0.1, 2), design=True, seed=5000))
    assert [(r.number, r.value) for r in best_rows(config, rows)] == [(1, 0.2), (0, 0.25)]


def test_the_analysis_has_one_trial_of_each_configuration(study_config: MakeConfig, tmp_path: Path) -> None:
    config = study_config(space=SPACE, search={"trials": 30, "design": 0, "seeds": 3}, training={"max_epochs": 1})
    url = f"journal:///{tmp_path}/a"
    rows = searched(config, url, tmp_path).rows()
    repeats = {r.number for r in rows if r.repeat_of is not None}
    assert repeats
    [table] = read_tables(config.name, open_storage(url), Settings(workspace=tmp_path, storage=url))
    assert set(table.trials.index) == {r.number for r in rows} - repeats


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": {"seeds": 0}}, "search.seeds"),
        ({"search": {"seeds": 3, "sampler": "grid"}, "space": {"depth": {"low": 1, "high": 4}}}, "seeds: leave it out"),
    ],
)
def test_what_cannot_race_is_refused(changes: dict[str, Any], words: str) -> None:
    raw: dict[str, Any] = {"name": "s", "model": {"name": "mlp"}, "data": {"name": "digits"}}
    raw |= {"objective": {"metric": "val_loss", "direction": "minimize"}, "space": SPACE, **changes}
    raw["space"] = {**SPACE, **dict.fromkeys(("lambda1", "epsilon"), 0.1), **changes.get("space", {})}
    with pytest.raises(Exception, match=words):
        StudyConfig.model_validate(raw)
