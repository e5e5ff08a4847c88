"""The dose-response: what it trains, that a kill loses nothing, and its numbers against closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from sweep.config.settings import Settings

from . import gathering
from .dose import Dose, read_doses
from .dose_tables import MARGIN, DoseTables, responses
from .gathering import read_plan

DOSES = read_doses()
STUDY = """
name: small
model: {name: autoencoder, latent: 8}
data: {name: digits, train_size: 200}
objective: {metric: val_loss, direction: minimize}
space: {lambda1: {low: 1e-3, high: 1e-1, log: true}, depth: 2, width: 16, guidance.form: {choices: [reciprocal, log]}}
training: {max_epochs: 3, batch_size: 32}
search: {trials: 2, pruner: none, finalists: {top: 0}}
"""


@pytest.fixture
def dose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dose:
    """A dose-response on a small study, whose strongest control is known."""
    from sweep.config.study_file import parse_study, read_yaml

    config, problems = parse_study(read_yaml(STUDY, "small"))
    assert config is not None, problems
    found = {"lambda1": 0.0, "lambda2": 0.0, "training.lr": 0.005, "training.init": "he"}
    confirmed = {
        "rivals": [{"arm": "he", "hyperparameters": {}}, {"arm": "strongest", "hyperparameters": found}],
        "configurations": {"1": {"lambda1": 0.02, "guidance.form": "log"}},
    }
    evidence = {"config": config.model_dump(mode="json"), "confirm": confirmed}
    (tmp_path / "small.json").write_text(json.dumps(evidence))
    monkeypatch.setattr(gathering, "FOLDER", tmp_path)
    return Dose(name="dose-small", label="small", strongest_of="small", lambda1=(0.0, 0.01, 1.0), seeds=2)


@pytest.mark.parametrize("name", DOSES)
def test_only_lambda1_differs_from_the_strongest_control(name: str) -> None:
    whole = DOSES[name]
    [strongest] = [r for r in read_plan()[whole.strongest_of].read()["confirm"]["rivals"] if r["arm"] == "strongest"]
    own = {key.partition(".")[2]: v for key, v in strongest["hyperparameters"].items() if key.startswith("training.")}
    assert len(own) == 3
    trials = [whole.trial(10_000, strength) for strength in whole.lambda1]
    for strength, trial in zip(whole.lambda1, trials, strict=True):
        assert own.items() <= dict(trial.training).items()
        assert trial.guidance.lambda1 == strength
        assert trial.control == trials[0]
    assert whole.lambda1 == (0, 1e-4, 1e-3, 1e-2, 1e-1)
    assert len(list(whole.wanted())) == 5 * 16


def test_the_unguided_run_is_the_strongest_control_of_the_pairs() -> None:
    """On another kind of processor the same seed drifts apart by as much as another seed."""
    for name, dose in DOSES.items():
        study = read_plan()[dose.strongest_of].read()
        stored, runs = study["curves"]["strongest"], dose.read()["runs"] if dose.path.exists() else []
        same = [run for run in runs if not run["lambda1"] and run["hardware"] == study["hardware"]]
        assert len(same) >= 2
        for run in same:
            assert run["curve"] == pytest.approx(stored[str(run["seed"])], rel=1e-6), (name, run["seed"])


@pytest.mark.parametrize("name", DOSES)
def test_the_runs_of_a_seed_were_made_on_one_machine(name: str) -> None:
    machines: dict[int, set[str]] = {}
    for run in DOSES[name].read()["runs"]:
        machines.setdefault(run["seed"], set()).add(run["hardware"]["processor"])
    assert {len(each) for each in machines.values()} == {1}


def test_an_interrupted_dose_response_goes_on(dose: Dose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(workspace=tmp_path / "results")
    assert dose.trial(10_000, 0.01).guidance.form == "log"
    train, left = Dose._run, [2]

    def interrupted(self: Dose, seed: int, strength: float, settings: Settings) -> dict[str, Any]:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return train(self, seed, strength, settings)

    monkeypatch.setattr(Dose, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dose.make(settings)
    partial = json.loads(dose.path.read_text())
    assert (len(partial["runs"]), partial["complete"], dose.is_made()) == (2, False, False)
    left[0] = -1
    dose.make(settings)
    found = dose.read()
    assert dose.is_made()
    assert found["runs"][:2] == partial["runs"], "not trained again"
    assert [(r["seed"], r["lambda1"]) for r in found["runs"]] == list(dose.wanted())
    assert {len(run["curve"]) for run in found["runs"]} == {3}
    assert len({run["curve"][-1] for run in found["runs"]}) == 6
    assert [*(tmp_path / "results" / "dose-small").iterdir()] == [], "checkpoints of runs that are kept"


def made_up(shifts: dict[float, float]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    control = random.normal(0.02, 0.001, 16)
    runs = []
    for strength, shift in {0.0: 0.0, **shifts}.items():
        final = control - shift * 0.02 + (random.normal(0, 4e-4, 16) if strength else 0)
        runs += [{"seed": i, "lambda1": strength, "curve": [0.05, float(value)]} for i, value in enumerate(final)]
    return {"runs": runs}


def test_a_response_is_a_paired_gain_and_two_one_sided_tests() -> None:
    study = {
        "config": {"objective": {"metric": "val_loss", "direction": "minimize"}, "training": {"max_epochs": 2}},
        "constant": 0.067,
    }
    found = made_up({1e-3: 0.0, 1e-2: 0.1, 1e-1: -0.05})
    same, better, worse = responses(found, study)
    assert [r.pair.verdict for r in (same, better, worse)] == ["not shown", "better", "worse"]
    assert same.p_equal < 0.05 < better.p_equal
    finals = {s: np.array([r["curve"][-1] for r in found["runs"] if r["lambda1"] == s]) for s in (0.0, 1e-3)}
    gains, margin = finals[0.0] - finals[1e-3], MARGIN * finals[0.0].mean()
    assert same.pair.final.value == pytest.approx(gains.mean())
    tests = [ttest_1samp(gains, m, alternative=a).pvalue for m, a in ((-margin, "greater"), (margin, "less"))]
    students = 3 * max(tests)  # Holm's correction: the smallest of three
    assert students * (1 - 1e-9) <= same.p_equal <= 5 * students, "a longer tail on the side of skewness"


def test_a_partial_response_shows_no_number() -> None:
    [text, *_] = [DoseTables({}, {}, DOSES, {}, {}).response(name) for name in DOSES]
    assert text.startswith("Not finished, so nothing is shown yet")
