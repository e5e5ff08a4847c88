"""Studies as tables: ours, with metrics from checkpoints and gains over controls; and what other programs leave."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from sweep import service
from sweep.config.errors import SweepError
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.study.dataframe import Table, importances, read_tables
from sweep.study.finalists import missing_trials, wanted_rows
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.study.trial import Trial
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig

# -- our studies -------------------------------------------------------------------------------------------------------

LAST = 12  # epochs; the pruner decides at all of them, so the storage holds them
DESIGN = 36


def losses(trial: Trial) -> list[float]:
    """Falls from 2 by epoch; guidance takes 0.1 a decade of lambda1 above 1e-5 off, and every layer 0.2."""
    lambda1, depth = float(trial.hyperparameters["lambda1"] or 0), int(trial.config.model["depth"])
    gain = 0.1 * math.log10(lambda1 / 1e-5) if lambda1 else 0.0
    return [1 + 1 / epoch + 0.2 * depth - gain for epoch in range(1, LAST + 1)]


def accuracies(trial: Trial) -> list[float]:
    return [1 / loss for loss in losses(trial)]


@dataclass(frozen=True)
class Ours:
    """A study whose trials were made up, checkpoints included."""

    config: StudyConfig
    settings: Settings

    def open(self, *, sister: bool = False, **search: object) -> Study:
        config = self.config.model_copy(update={"search": self.config.search.model_copy(update=search)})
        return Study(config, open_storage(self.settings.storage), workspace=self.settings.workspace, sister=sister)

    def train(self, study: Study, *, diverging: Sequence[int] = (), checkpoints: bool = True) -> None:
        while (trial := study.ask()) is not None:
            epochs = [
                EpochMetrics(epoch, {"val_loss": loss, "val_accuracy": accuracy}, 0)
                for epoch, (loss, accuracy) in enumerate(zip(losses(trial), accuracies(trial), strict=True), start=1)
            ]
            if trial.number in diverging and trial.kind == "trial":
                epochs = epochs[:5]
            study.report(trial, epochs)
            trial.epochs = len(epochs)
            if checkpoints:
                folder = self.settings.checkpoints(study.name, trial.number) / "attempt-01"
                checkpoint.save(folder, epochs, {}, diverged=None)
            outcome = "completed" if len(epochs) == LAST else "diverged"
            study.tell(trial, outcome, checkpoint=None, error=None)  # type: ignore[arg-type]

    def read(self, **options: Any) -> Table:
        [found] = read_tables(self.config.name, open_storage(self.settings.storage), self.settings, **options)
        return found


@pytest.fixture
def ours(study_config: MakeConfig, tmp_path: Path) -> Ours:
    """37 trials: 36 of the design, two of them diverged."""
    space = {"lambda1": {"low": 1e-5, "high": 1e-1, "log": True}, "depth": {"low": 1, "high": 3}, "width": 8}
    config = study_config(
        space=space, search={"trials": DESIGN + 1, "design": DESIGN}, training={"max_epochs": LAST, "batch_size": 64}
    )
    made = Ours(config, Settings(workspace=tmp_path / "results", storage=f"journal:///{tmp_path}/optuna.journal"))
    study = made.open()
    study.enqueue_budget()
    made.train(study, diverging=(3, 4))
    return made


def test_a_study_of_ours_is_its_last_epochs(ours: Ours) -> None:
    found = ours.read()
    assert (found.objective, found.epoch) == ("val_loss", LAST)
    assert set(found.space) == {"lambda1", "depth"}
    assert found.hint == f"sweep run {ours.config.name} --design 64"
    assert list(found.trials.index) == list(range(DESIGN + 1))
    assert list(found.trials["design"]) == [True] * DESIGN + [False]
    assert list(found.trials.index[found.trials["value"].isna()]) == [3, 4]
    assert found.trials["outcome"].value_counts().to_dict() == {"completed": DESIGN - 1, "diverged": 2}
    first = found.trials.loc[0]
    expected = 1 + 1 / LAST + 0.2 * first["params_depth"] - 0.1 * math.log10(first["params_lambda1"] / 1e-5)
    assert first["value"] == pytest.approx(expected)


@pytest.mark.parametrize(("epoch", "checkpoints"), [(4, True), (4, False), (5, True), (5, False)])
def test_an_earlier_epoch_is_in_the_storage_or_in_the_checkpoints(
    study_config: MakeConfig, tmp_path: Path, epoch: int, checkpoints: bool
) -> None:
    """The pruner decides at every second epoch of twenty: the storage has no others."""
    config = study_config(search={"trials": 3}, training={"max_epochs": 20, "batch_size": 64})
    made = Ours(config, Settings(workspace=tmp_path / "results", storage=f"journal:///{tmp_path}/optuna.journal"))
    study = made.open()
    study.enqueue_budget()
    made.train(study, checkpoints=checkpoints)
    if epoch == 5 and not checkpoints:
        with pytest.raises(
            SweepError, match=r"val_loss at epoch 5 is in the checkpoints of .*, and .*results has none"
        ):
            made.read(epoch=epoch)
        return
    found = made.read(epoch=epoch)
    assert found.epoch == epoch
    at_last = made.read(epoch=LAST).trials["value"]
    assert found.trials["value"].to_numpy() == pytest.approx(at_last + 1 / epoch - 1 / LAST)


def test_trials_that_diverged_later_count_at_an_earlier_epoch(ours: Ours) -> None:
    assert ours.read(epoch=5).trials["value"].notna().all()
    assert list(ours.read(epoch=6).trials["value"].isna().to_numpy().nonzero()[0]) == [3, 4]


def test_another_metric_comes_from_the_checkpoints(ours: Ours) -> None:
    found, objective = ours.read(metric="val_accuracy"), ours.read()
    assert found.objective == "val_accuracy"
    assert found.trials["value"].dropna().to_numpy() == pytest.approx(1 / objective.trials["value"].dropna())
    assert ours.read(metric="val_loss").trials.equals(objective.trials)
    early = ours.read(metric="val_accuracy", epoch=2).trials["value"]
    assert early.to_numpy() == pytest.approx(1 / ours.read(epoch=2).trials["value"])


def test_an_epoch_or_a_metric_that_there_is_not_is_told_with_those_there_are(ours: Ours) -> None:
    for epoch in (0, LAST + 1):
        with pytest.raises(SweepError, match=f"--epoch {epoch}: the trials of .* have epochs 1 to {LAST}"):
            ours.read(epoch=epoch)
    with pytest.raises(SweepError) as error:
        ours.read(metric="val_acuracy")
    assert "did not log it (did you mean val_accuracy?); it logged val_loss, val_accuracy" in str(error.value)


def test_the_gain_over_the_control_needs_controls_and_names_the_run_that_adds_them(ours: Ours) -> None:
    [analysis] = service.sensitivity(ours.config.name, ours.settings, against_control=True)
    assert not analysis.trusted
    assert "0 of 0 full-budget trials are uniform" in str(analysis.reason)
    command = f"sweep run {ours.config.name} --set search.design_controls=true"
    assert str(analysis.reason).endswith(f"the controls of its design trials, which are missing: {command}")
    assert analysis.n_missing == (ours.read().trials["outcome"] == "completed").sum()

    sister = ours.open(sister=True, design_controls=True)
    rows = ours.open().rows()
    wanted = wanted_rows(sister.config, rows)
    assert missing_trials(wanted, sister.rows()) == wanted
    sister.add(wanted)
    assert missing_trials(wanted, sister.rows()) == []
    plain = [row for row in sister.rows() if row.kind == "control" and row.seed == ours.config.training.seed]
    assert len(plain) == 3  # one for each depth: guidance is all that else differs
    ours.train(sister)

    found = ours.read(against_control=True)
    assert found.objective == "gain in val_loss over the control"
    decades = [math.log10(value / 1e-5) for value in found.trials["params_lambda1"]]
    expected = pd.Series(decades, found.trials.index).mul(0.1).drop([3, 4])
    assert found.trials["value"].dropna().to_numpy() == pytest.approx(expected)
    assert found.hint.endswith("--design 64")
    [analysis] = service.sensitivity(ours.config.name, ours.settings, against_control=True)
    assert analysis.trusted
    assert analysis.parameters["lambda1"].total == pytest.approx(1, abs=0.02)
    assert analysis.parameters["depth"].total < 0.02
    assert ours.read(against_control=True, metric="val_accuracy").objective == "val_accuracy minus the control's"


def test_more_design_trials_can_be_added_and_the_study_remembers_how_many(ours: Ours) -> None:
    name = ours.config.name
    config, _ = service.load_study(name, ours.settings, design=4)
    assert (config.search.design, config.search.trials) == (DESIGN + 4, DESIGN + 5)
    made = Ours(config, ours.settings)
    study = made.open()
    study.enqueue_budget()
    assert [row.design for row in study.rows()][-4:] == [True] * 4
    again, _ = service.load_study(name, ours.settings)  # what `resume` goes on with, should this run be interrupted
    assert again.search == config.search
    made.train(study)
    assert made.read().trials["design"].sum() == DESIGN + 4


# -- studies of other programs ----------------------------------------------------------------------------------------

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(1, 5)}


def left(
    value: float | Sequence[float] | None = 0.5,
    steps: dict[int, float] | None = None,
    state: TrialState = TrialState.COMPLETE,
    space: dict[str, BaseDistribution] | None = None,
    **attributes: object,
) -> optuna.trial.FrozenTrial:
    """One trial of another program."""
    space = space or SPACE
    params = {"x": 0.5, "n": 3, "m": 0.1}
    return create_trial(
        state=state,
        value=value if isinstance(value, float) else None,
        values=None if isinstance(value, float) else value,
        params={name: params[name] for name in space},
        distributions=space,
        intermediate_values=steps,
        user_attrs=attributes,
    )


Foreign = Callable[..., list[Table]]


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    """Makes a study of trials and reads it."""

    def make(
        *trials: optuna.trial.FrozenTrial, directions: Sequence[str] = ("minimize",), names: Any = None, **options: Any
    ) -> list[Table]:
        storage = open_storage(f"journal:///{tmp_path}/optuna.journal")
        study = optuna.create_study(study_name="theirs", storage=storage, directions=directions, load_if_exists=True)
        study.add_trials(trials)
        if names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(names)
        return read_tables("theirs", storage, Settings(workspace=tmp_path / "results"), **options)

    return make


def test_full_budget_is_the_largest_step_of_the_study(foreign: Foreign) -> None:
    [found] = foreign(
        left(0.1, {0: 1.0, 26: 0.1}, design=True),
        left(0.2, {0: 1.0, 8: 0.2}),  # stopped early, and told as complete
        left(0.3, {0: 1.0, 8: 0.3}, epochs=27),  # reported less often
        left(0.4),  # reported nothing
        left(None, {0: 0.5}, TrialState.PRUNED),
    )
    assert found.epoch == 26
    assert list(found.trials["value"].notna()) == [True, False, True, True, False]
    assert list(found.trials["outcome"]) == ["completed", "pruned", "completed", "completed", "pruned"]
    assert list(found.trials["design"]) == [True, False, False, False, False]
    assert found.objective == "value"
    assert "trial.set_user_attr('design', True)" in found.hint


def test_a_study_may_say_how_many_epochs_it_has(foreign: Foreign, tmp_path: Path) -> None:
    storage = open_storage(f"journal:///{tmp_path}/optuna.journal")
    optuna.create_study(study_name="theirs", storage=storage).set_user_attr("max_epochs", 30)
    [found] = foreign(left(0.1, {9: 0.1}, epochs=30), left(0.2, {9: 0.2}, epochs=20), left(0.3, {3: 0.3}, epochs=9))
    assert list(found.trials["value"].notna()) == [True, True, False]  # the second by its last step


def test_without_intermediate_values_every_completed_trial_counts(foreign: Foreign) -> None:
    [found] = foreign(left(0.1), left(0.2, design=True), left(None, state=TrialState.FAIL))
    assert found.epoch is None
    assert list(found.trials["value"].notna()) == [True, True, False]
    with pytest.raises(SweepError, match=r"--epoch 3: .*; they reported no intermediate values"):
        foreign(epoch=3)


def test_what_is_not_finite_has_diverged(foreign: Foreign) -> None:
    [found] = foreign(
        left(0.1, {1: 0.5, 2: 0.1}),
        left(math.inf, {1: 0.5, 2: math.inf}),
        left(None, {1: math.nan}, TrialState.PRUNED),
        left(None, {1: math.nan}, TrialState.FAIL),
        left(None, {1: 0.5}, TrialState.FAIL),
        left(None, {1: 0.5}, TrialState.PRUNED, outcome="diverged"),
    )
    assert list(found.trials["outcome"]) == ["completed", *["diverged"] * 3, "failed", "diverged"]
    assert list(found.trials["value"].notna()) == [True] + [False] * 5


def test_trials_that_have_not_ended_are_no_part_of_it(foreign: Foreign) -> None:
    [found] = foreign(left(0.1), left(None, state=TrialState.RUNNING), left(None, state=TrialState.WAITING))
    assert len(found.trials) == 1


def test_hyperparameters_of_some_trials_alone_are_left_out(foreign: Foreign) -> None:
    [found] = foreign(left(0.1), left(0.2, space={**SPACE, "m": FloatDistribution(0.0, 1.0)}))
    assert set(found.space) == {"x", "n"}
    assert found.left_out == {"m": "only some trials have it"}


def test_a_trial_is_uniform_over_the_space_that_it_was_asked_in(foreign: Foreign) -> None:
    narrow: dict[str, BaseDistribution] = {**SPACE, "x": FloatDistribution(0.4, 0.6)}
    elsewhere: dict[str, BaseDistribution] = {**SPACE, "n": IntDistribution(1, 3)}
    [found] = foreign(left(0.1, space=narrow, design=True), left(0.2, space=elsewhere), left(0.3, design=True))
    assert found.space == SPACE
    assert list(found.trials["design"]) == [False, False, True]
    assert found.trials["value"].notna().all()


def test_each_objective_has_a_table(foreign: Foreign) -> None:
    directions = ("minimize", "maximize")
    first, second = foreign(left([0.1, 0.9]), left([0.2, 0.8], design=True), directions=directions)
    assert (first.objective, second.objective) == ("values_0", "values_1")
    assert list(first.trials["value"]) == [0.1, 0.2]
    assert list(second.trials["value"]) == [0.9, 0.8]
    assert [t.objective for t in foreign(names=["loss", "speed"], directions=directions)] == ["loss", "speed"]
    [speed] = foreign(metric="speed", directions=directions)
    assert list(speed.trials["value"]) == [0.9, 0.8]


def test_numbers_that_trials_were_marked_with_are_metrics(foreign: Foreign) -> None:
    [found] = foreign(left(0.1, accuracy=0.9, note="x"), left(0.2), metric="accuracy")
    assert found.objective == "accuracy"
    assert found.trials["value"].iloc[0] == 0.9
    assert math.isnan(found.trials["value"].iloc[1])
    with pytest.raises(SweepError, match="--metric note: no trial of theirs has it; they have value, accuracy"):
        foreign(metric="note")


def test_a_study_without_a_finished_trial_is_a_table_without_rows(foreign: Foreign) -> None:
    [found] = foreign()
    assert found.trials.empty
    assert found.space == {}


def test_optunas_importances_see_which_way_is_better(tmp_path: Path) -> None:
    """Only `x` decides, and only whether a trial is among the best: PED-ANOVA must look at that end."""
    storage = open_storage(f"journal:///{tmp_path}/optuna.journal")
    found = {}
    for direction, sign in (("minimize", 1.0), ("maximize", -1.0)):
        study = optuna.create_study(study_name=direction, storage=storage, direction=direction)
        for i in range(64):
            x, y = (i % 8) / 8, (i // 8) / 8
            value = sign * (x if x < 0.25 else 0.25 + y)
            space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
            study.add_trial(create_trial(value=value, params={"x": x, "y": y}, distributions=space))
        found[direction] = importances(direction, storage, Settings())["value"]
    assert found["minimize"] == pytest.approx(found["maximize"])
    assert found["minimize"]["x"] > 0.9
    optuna.create_study(study_name="empty", storage=storage)
    assert importances("empty", storage, Settings()) == {"value": {}}
