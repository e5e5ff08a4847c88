"""Why a trial was pruned: what the storage holds of it against what is computed here from the curves alone."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest

from sweep.config.search_methods import PrunerName
from sweep.config.study_config import StudyConfig
from sweep.study.pruners import PRUNERS
from sweep.study.storages.storage import open_storage
from sweep.study.stored_trials import read_rows
from sweep.study.study import Study
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig

LAST = 9


def train(study: Study, curves: Sequence[Sequence[float]]) -> list[int | None]:
    """Trains trials one after the other; returns the epoch at which each one was pruned."""
    stopped: list[int | None] = []
    study.enqueue_budget()
    for curve in curves:
        trial = study.ask()
        assert trial is not None
        for epoch, value in enumerate(curve, start=1):
            trial.epochs = epoch
            if study.report(trial, [EpochMetrics(epoch, {"val_loss": value, "val_accuracy": value}, 0)]):
                break
        study.tell(trial, "completed" if trial.pruned_at is None else "pruned", checkpoint=None, error=None)
        stopped.append(trial.pruned_at)
    return stopped


def reasons(config: StudyConfig, url: str) -> list[tuple[int | None, str | None]]:
    return [(row.pruned_at, row.pruned_by) for row in read_rows(config.name, open_storage(url))]


def test_every_pruner_of_a_study_file_is_built_here() -> None:
    assert tuple(PRUNERS) == get_args(PrunerName)


def test_the_median_pruner_says_what_the_trial_had_and_the_median_there(
    study_config: MakeConfig, storage_url: str, tmp_path: Path
) -> None:
    config = study_config(search={"trials": 8, "pruner": "median"}, training={"max_epochs": LAST})
    levels = [0.1, 0.5, 0.2, 0.4, 0.3]
    curves = [[level + 1 / epoch for epoch in range(1, LAST + 1)] for level in levels]
    rising = [0.9, 2.0, 3.0, 4.0, 5.0, *[5.0] * (LAST - 5)]
    study = Study(config, open_storage(storage_url), workspace=tmp_path)
    stopped = train(study, [*curves, [4.0] * LAST, rising, [0.05] * LAST])
    assert stopped[:5] == [None] * 5
    first = statistics.median(level + 1.0 for level in levels)
    assert stopped[5] == 1
    at = next(epoch for epoch in range(1, LAST) if statistics.median(c[epoch - 1] for c in curves) < 0.9)
    assert stopped[6] == at == 2
    median = statistics.median(curve[at - 1] for curve in curves)
    assert reasons(config, storage_url) == [
        *[(None, None)] * 5,
        (1, f"median: val_loss 4 at epoch 1, the median of 5 completed trials there is {first:.5g}"),
        (2, f"median: val_loss 0.9 at best up to epoch 2, the median of 5 completed trials there is {median:.5g}"),
        (None, None),
    ]
    attrs = optuna.load_study(study_name=config.name, storage=open_storage(storage_url)).trials[5].user_attrs
    assert (attrs["pruned_at"], attrs["outcome"]) == (1, "pruned")


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_successive_halving_says_which_rung_and_the_cutoff_there(
    study_config: MakeConfig, storage_url: str, tmp_path: Path, direction: str
) -> None:
    config = study_config(
        search={"trials": 8, "pruner": "successive_halving"},
        training={"max_epochs": LAST},
        objective={"metric": "val_loss", "direction": direction},
    )
    sign = 1.0 if direction == "minimize" else -1.0
    curves = [[sign * (10 - number)] * LAST for number in range(6)]  # each better than all before: none is pruned
    early = [sign * 20.0] * LAST  # the best two of seven have 6 and 5
    late = [sign * 5.5, sign * 5.5, *[sign * 9.0] * (LAST - 2)]  # passes the first rung alone
    study = Study(config, open_storage(storage_url), workspace=tmp_path)
    assert train(study, [*curves, early, late]) == [None] * 6 + [1, 3]
    bound = "or less" if direction == "minimize" else "or more"
    assert reasons(config, storage_url)[6:] == [
        (
            1,
            f"successive_halving: val_loss {sign * 20:g} at epoch 1 (rung 1), "
            f"the best 2 of 7 trials there have {sign * 6:g} {bound}",
        ),
        (
            3,
            f"successive_halving: val_loss {sign * 9:g} at epoch 3 (rung 2), "
            f"the best 2 of 7 trials there have {sign * 6:g} {bound}",
        ),
    ]


def test_hyperband_compares_within_a_bracket_alone(study_config: MakeConfig, journal_url: str, tmp_path: Path) -> None:
    """The bracket is computed from what the trials hold; here it is compared with Optuna's own."""
    count = 60
    config = study_config(search={"trials": count, "pruner": "hyperband"}, training={"max_epochs": LAST})
    study = Study(config, open_storage(journal_url), workspace=tmp_path)
    values = [((37 * number) % 61) / 61 for number in range(count)]
    stopped = train(study, [[value] * LAST for value in values])
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=LAST, reduction_factor=3)
    loaded = optuna.load_study(study_name=config.name, storage=open_storage(journal_url), pruner=pruner)
    pruner._try_initialization(loaded)  # makes its brackets
    brackets = [pruner._get_bracket_id(loaded, trial) for trial in loaded.trials]
    assert sum(epoch is not None for epoch in stopped) > 10
    seen = set()
    for number, (epoch, reason) in enumerate(reasons(config, journal_url)):
        assert epoch == stopped[number]
        if epoch is None:
            continue
        reached = [
            values[other]
            for other in range(number + 1)
            if brackets[other] == brackets[number] and (stopped[other] or LAST) >= epoch
        ]
        passing = max(1, len(reached) // 3)
        cutoff = sorted(reached)[passing - 1]
        assert values[number] > cutoff
        match = re.fullmatch(
            r"hyperband: val_loss (\S+) at epoch (\d+) \(rung (\d+)(?: of bracket (\d+))?\), "
            r"the best (?:(\d+) )?of (\d+) trials there ha(?:s|ve) (\S+) or less",
            reason or "",
        )
        assert match is not None, reason
        value, at, rung, bracket, best, others, bound = match.groups()
        assert (float(value), int(at)) == (pytest.approx(values[number], rel=1e-4), epoch)
        assert int(bracket or 1) - 1 == brackets[number]
        assert 3 ** (int(rung) - 1 + brackets[number]) == epoch
        assert (int(best or 1), int(others)) == (passing, len(reached))
        assert float(bound) == pytest.approx(cutoff, rel=1e-4)
        seen.add(brackets[number])
    assert len(seen) > 1


def test_an_epoch_without_a_number_prunes_no_trial(study_config: MakeConfig, journal_url: str, tmp_path: Path) -> None:
    config = study_config(search={"trials": 1, "pruner": "successive_halving"}, training={"max_epochs": LAST})
    study = Study(config, open_storage(journal_url), workspace=tmp_path)
    assert train(study, [[float("nan"), *[1.0] * (LAST - 1)]]) == [None]
    assert reasons(config, journal_url) == [(None, None)]


def test_a_study_of_an_older_version_has_no_reasons(study_config: MakeConfig, journal_url: str, tmp_path: Path) -> None:
    config = study_config(search={"trials": 1})
    study = Study(config, open_storage(journal_url), workspace=tmp_path)
    study.enqueue_budget()
    trial: Any = study.ask()
    study.report(trial, [EpochMetrics(1, {"val_loss": 1.0}, 0)])
    study.tell(trial, "pruned", checkpoint=None, error=None)
    stored = optuna.load_study(study_name=config.name, storage=open_storage(journal_url)).trials[0].user_attrs
    assert not {"pruned_at", "pruned_by"} & stored.keys()
    assert [(row.outcome, *reason) for row, reason in zip(study.rows(), reasons(config, journal_url), strict=True)] == [
        ("pruned", None, None)
    ]


@pytest.fixture
def journal_url(tmp_path: Path) -> str:
    return f"journal:///{tmp_path}/optuna.journal"
