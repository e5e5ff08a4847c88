"""Networks that have learned nothing, trained for real, against constant predictors of scikit-learn and numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.metrics import log_loss
from torch import nn

from sweep.config.trial_config import TrialConfig
from sweep.data.loading import load_dataset
from sweep.training.collapse import collapse, constant_metrics
from sweep.training.reports import TrialReport
from sweep.training.trial import TrialPaths, run_trial

from ..support.absent import data_root
from ..support.training import trial_config

WHOLE = {"train_size": None, "val_fraction": 0.2}
SGD = {"optimizer": "sgd", "lr": 10.0}
DEEP = {"depth": 6, "width": 32}
AUTOENCODER = {"name": "autoencoder", "depth": 2, "width": 16, "latent": 8}


class Zero(nn.Module):
    """Weights of 0, which get no gradient: it learns the last bias alone, that is the class frequencies."""

    def __init__(self, width: int, num_outputs: int, **_: object):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_outputs))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layers(x)
        return output


def last_report(place: TrialPaths, **changes: Any) -> TrialReport:
    *_, last = run_trial(trial_config(**changes), place)
    return last


@pytest.fixture
def place(tmp_path: Path) -> TrialPaths:
    return TrialPaths(folder=tmp_path / "checkpoints", data=tmp_path / "data", cache=tmp_path / "cache")


def validation(config: TrialConfig, place: TrialPaths) -> tuple[Any, Any]:
    """Validation images in [0, 1] and labels."""
    val = load_dataset(config.data, root=place.data, cache=place.cache).val
    return val.images.numpy() / 16, val.labels.numpy()


def test_the_levels_are_those_of_scikit_learns_dummy_and_of_the_mean_image(place: TrialPaths) -> None:
    config = trial_config(data=WHOLE)
    images, labels = validation(config, place)
    dummy = DummyClassifier(strategy="prior").fit(labels, labels)
    dataset = load_dataset(config.data, root=place.data, cache=place.cache)
    found = constant_metrics(config, "classification", dataset)
    assert found["val_loss"] == pytest.approx(log_loss(labels, dummy.predict_proba(labels)), rel=1e-6)
    assert found["val_accuracy"] == pytest.approx(dummy.score(labels, labels))
    pictures = constant_metrics(config, "reconstruction", dataset)
    error = np.mean((images - images.mean(0)) ** 2)
    assert pictures == pytest.approx({"val_loss": error, "val_psnr": -10 * np.log10(error)}, rel=1e-5)
    # They are measured once, and read from then on.
    [file] = (place.cache / "digits").glob("constant-classification-*.json")
    file.write_text('{"val_loss": 7.0, "val_accuracy": 0.5}')
    assert constant_metrics(config, "classification", dataset) == {"val_loss": 7.0, "val_accuracy": 0.5}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"model": DEEP, "training": SGD}, "collapsed"),
        ({"model": {"name": f"{__name__}:Zero"}}, "collapsed"),
        ({"model": AUTOENCODER, "training": {"lr": 1.0}}, "collapsed"),
        ({"model": {"width": 32}, "training": {"max_epochs": 1}}, "completed"),
        ({"model": AUTOENCODER, "training": {"max_epochs": 10}}, "completed"),
    ],
    ids=["SGD", "zero", "autoencoder", "healthy", "healthy autoencoder"],
)
def test_a_network_on_the_digits(place: TrialPaths, changes: dict[str, Any], outcome: str) -> None:
    report = last_report(place, data=WHOLE, **changes)
    assert report.outcome == outcome
    values = report.epochs[-1].values
    images, labels = validation(trial_config(data=WHOLE), place)
    if "val_accuracy" in values:
        shares = np.bincount(labels) / len(labels)
        level, better = -np.sum(shares * np.log(shares)), values["val_accuracy"] > shares.max() + 0.02
    else:
        level, better = np.mean((images - images.mean(0)) ** 2), False
    assert (better or values["val_loss"] < 0.98 * level) == (outcome == "completed")
    if outcome == "collapsed":
        assert f"val_loss {values['val_loss']:.4g} (constant {level:.4g})" in (report.error or "")
        # A driver that died before it recorded the end: the next one hears the same.
        again = last_report(place, data=WHOLE, **changes)
        assert (again.outcome, again.error) == (outcome, report.error)


@pytest.mark.parametrize(("depth", "lr", "outcome"), [(6, 10.0, "collapsed"), (2, 0.05, "completed")])
def test_a_network_on_mnist(place: TrialPaths, depth: int, lr: float, outcome: str) -> None:
    root = data_root("mnist")
    place = TrialPaths(folder=place.folder, data=root, cache=place.cache)
    data = {"name": "mnist", "train_size": 2000, "val_fraction": 0.05}
    report = last_report(place, data=data, model={**DEEP, "depth": depth}, training={**SGD, "lr": lr})
    assert report.outcome == outcome


CLASSES = {"val_loss": 2.0, "val_accuracy": 0.2}


@pytest.mark.parametrize(
    ("loss", "accuracy", "collapsed"),
    [
        (2.0, 0.2, True),
        (1.97, 0.1, True),  # 1.5 % better than the constant
        (1.95, 0.1, False),  # 2.5 %
        (2.5, 0.21, True),
        (9.0, 0.23, False),  # overfitted, but no constant
        (300.0, 0.2, True),
    ],
)
def test_one_metric_that_improves_is_enough(loss: float, accuracy: float, collapsed: bool) -> None:
    values = {"val_loss": loss, "val_accuracy": accuracy}
    assert (collapse(trial_config(), values, CLASSES) is not None) == collapsed
    maximised = trial_config(objective={"metric": "val_accuracy", "direction": "maximize"})
    assert (collapse(maximised, values, CLASSES) is not None) == collapsed


def test_images_that_are_all_alike_judge_nobody() -> None:
    assert (
        collapse(trial_config(), {"val_loss": 0.0, "val_accuracy": 1.0}, {"val_loss": 0.0, "val_accuracy": 1.0}) is None
    )


def test_what_is_the_users_own_is_judged_by_their_constant_alone() -> None:
    own = {"metric": "val_f1", "direction": "maximize"}
    values = {"val_loss": 2.0, "val_accuracy": 0.2, "val_f1": 0.05}
    assert collapse(trial_config(objective=own), values, CLASSES) is None
    levelled = {**own, "constant": 0.05}
    reason = "no better at the last epoch than a constant output: val_f1 0.0505 (constant 0.05)"
    assert collapse(trial_config(objective=levelled), {**values, "val_f1": 0.0505}, CLASSES) == reason
    assert collapse(trial_config(objective=levelled), {**values, "val_f1": 0.06}, CLASSES) is None
    losing = trial_config().model_copy(update={"task": trial_config().task.model_copy(update={"loss": "a:b"})})
    assert collapse(losing, {"val_loss": 9.0, "val_accuracy": 0.1}, CLASSES) is None
    above = trial_config(objective={"constant": 8.0})  # replaces what was measured
    assert collapse(above, {"val_loss": 7.9, "val_accuracy": 0.9}, CLASSES) is not None
    assert collapse(above, {"val_loss": 7.0, "val_accuracy": 0.1}, CLASSES) is None
