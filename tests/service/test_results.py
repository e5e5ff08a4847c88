"""The results of a study in Python: against Optuna's trials, MLflow's runs, and the pages that the commands write."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import sweep
from sweep.analysis.confirmation import Confirmation
from sweep.config.errors import SweepError
from sweep.data.loading import load_dataset

from ..support.made_study import HOSTILE
from ..support.studies import CONTROLS, SEARCHED, Finished

if TYPE_CHECKING:
    from sweep.analysis.report.report import Report

pytestmark = pytest.mark.filterwarnings("default")  # Ray's and MLflow's own deprecations are not ours
EVIDENCE = Path(__file__).parents[1] / "evidence" / "RESULTS"


@pytest.fixture(scope="module")
def study(tiny: Finished) -> sweep.StudyResults:
    return sweep.load("tiny", settings=sweep.Settings(workspace=tiny.workspace))


def test_the_tables_are_optunas_trials(study: sweep.StudyResults, tiny: Finished) -> None:
    trials = study.trials
    assert trials.index.tolist() == [trial.number for trial in tiny.left.trials]
    assert trials["value"].tolist() == [trial.value for trial in tiny.left.trials]
    for name in SEARCHED:
        assert trials[name].tolist() == [trial.params[name] for trial in tiny.left.trials]
    assert len(study.controls) == CONTROLS == len(tiny.left.controls)
    assert repr(study) == "tiny: 6 trials: 6 completed"
    best = study.best(3)
    assert set(best.columns) == {"value", "on_fresh_seeds", "fresh_seeds", *SEARCHED, "epochs"}
    finalists = [trial for trial in tiny.left.controls if trial.user_attrs["kind"] == "finalist"]
    [(number, row)] = list(best[best["fresh_seeds"] > 0].iterrows())
    assert {trial.user_attrs["of"] for trial in finalists} == {number}
    assert row["on_fresh_seeds"] == pytest.approx(np.mean([trial.value for trial in finalists]))
    assert best["on_fresh_seeds"].is_monotonic_increasing


def test_the_curves_are_those_of_mlflow(study: sweep.StudyResults, tiny: Finished) -> None:
    curves = study.curves("val_accuracy")
    assert curves.shape == (4, 6)
    for number in curves.columns:
        assert curves[number].tolist() == tiny.left.runs[f"tiny-{number:04d}"].curve["val_accuracy"]
    assert study.curves().loc[4].tolist() == study.trials["value"].tolist()
    with pytest.raises(SweepError, match=r"val_acuracy: no trial of tiny has it \(did you mean val_accuracy\?\)"):
        study.curves("val_acuracy")


def test_the_model_is_as_good_as_the_best_trial_was(study: sweep.StudyResults, tiny: Finished) -> None:
    best, settings = study.best(1).index[0], study.settings
    validation = load_dataset(study.config.data, root=sweep.Settings().data, cache=settings.cache).val
    images, labels = next(validation.uint8_batches(10_000, "cpu", None, ()))
    model = study.model()
    assert (model.meta["study"], model.meta["trial"]) == ("tiny", best)
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(tiny.left.runs[f"tiny-{best:04d}"].curve["val_accuracy"][-1], abs=1e-6)
    assert accuracy > 0.2


def test_a_notebook_shows_what_the_commands_say(made: tuple[sweep.Settings, Report]) -> None:
    settings, written = made
    study = sweep.load("made", settings=settings)
    analysis = study.sensitivity()
    shown = [study._repr_html_(), analysis._repr_html_(), written._repr_html_()]
    for text in shown:
        assert HOSTILE not in text
    assert html.escape(HOSTILE) in shown[0], "a choice of the user's is shown as it is written"
    stored = json.loads((written.page.parent / "sensitivity.json").read_text())["parameters"]
    assert analysis.table.index[0] == max(stored, key=lambda name: stored[name]["total"])
    for name, row in analysis.table.iterrows():
        assert (row["first"], row["total"]) == (stored[name]["first"], stored[name]["total"])
        assert row["total_low"] <= row["total"] <= row["total_high"]
        assert f"<th>{name}</th>" in shown[1]
    [source] = re.findall(r'srcdoc="([^"]*)"', shown[2])
    assert html.unescape(source) == written.page.read_text()
    drawn = set(re.findall(r'data-figure="([^"]+)"', written.page.read_text()))
    assert {html.escape(name, quote=False) for name in study.figures()} == drawn
    again = study.report(settings.workspace / "again")
    assert again.metrics == written.metrics


def test_what_is_not_there_is_named(made: tuple[sweep.Settings, Report], tmp_path: Path) -> None:
    study = sweep.load("made", settings=made[0])
    with pytest.raises(SweepError, match=r"has no weights of it: sweep train made --trial \d+"):
        study.model()
    with pytest.raises(SweepError, match="no such study"):
        sweep.load("made", settings=sweep.Settings(workspace=tmp_path))


def test_a_confirmation_is_a_table() -> None:
    stored = json.loads((EVIDENCE / "mnist-tuned-d08.json").read_text())["confirm"]
    confirmation = Confirmation.from_data(stored)
    table, shown = confirmation.table, confirmation._repr_html_()
    assert table[["trial", "first", "second"]].values.tolist() == [
        [each["number"], each["first"], each["second"]] for each in stored["comparisons"]
    ]
    for row, each in zip(table.itertuples(), stored["comparisons"], strict=True):
        assert row.gain == pytest.approx(np.mean(each["final"]["values"]))
        assert [row.mean_first, row.mean_second] == pytest.approx(each["levels"])
        assert row.first_is in shown
