"""Metrics of the user's own that accumulate an epoch, by torchmetrics or by hand, against scikit-learn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from sweep.config.sections import TaskConfig
from sweep.config.settings import Settings
from sweep.config.trial_config import TrialConfig
from sweep.losses.task import TASKS, customise
from sweep.service.preflight.space_checks import check_study
from sweep.training.loop import fit
from sweep.training.meter import Meter
from sweep.training.trial import TrialPaths, assemble, run_trial

from ..conftest import MakeConfig, Package
from ..support.training import trial_config

SIZES = [3, 50, 1, 17, 30]  # uneven batches
CODE = """
    import torch
    from torchmetrics.classification import MulticlassF1Score

    class MacroF1(MulticlassF1Score):
        def __init__(self):
            super().__init__(num_classes=10, average="macro")

    macro_f1 = MulticlassF1Score(num_classes=10, average="macro")

    class Largest:
        \"\"\"Without torchmetrics.\"\"\"
        def reset(self): self.value = -1.0
        def update(self, outputs, targets): self.value = max(self.value, float(outputs.max()))
        def compute(self): return self.value

    class Needy(MulticlassF1Score):
        pass
"""


def epoch_of(metrics: dict[str, Any], outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics of an epoch in uneven batches."""
    meter = Meter(customise(TASKS["classification"], None, metrics))
    for output, label in zip(outputs.split(SIZES), labels.split(SIZES), strict=True):
        meter.update(torch.tensor(1.0), output, label)
    return meter.compute("val")


@pytest.mark.parametrize("buffer", [1, 200, 2**22])
def test_a_torchmetrics_metric_is_that_of_the_whole_epoch(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    classification = pytest.importorskip(
        "torchmetrics.classification", reason="torchmetrics: pip install -e .[examples]"
    )
    monkeypatch.setattr("sweep.training.meter.METER_BUFFER", buffer)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (sum(SIZES),), generator=generator)
    logits = torch.randn(len(labels), 4, generator=generator) + torch.nn.functional.one_hot(labels, 4)

    f1 = classification.MulticlassF1Score(num_classes=4, average="macro")
    auc = classification.MulticlassAUROC(num_classes=4)

    def mean_f1(outputs: Tensor, targets: Tensor) -> float:
        return float(f1_score(targets, outputs.argmax(1), average="macro"))

    metrics: dict[str, Any] = {"f1": f1, "auc": auc, "mean_f1": mean_f1}
    expected = f1_score(labels, logits.argmax(1), average="macro")
    for _ in range(2):  # an instance serves every epoch anew
        values = epoch_of(metrics, logits, labels)
        assert values["val_f1"] == pytest.approx(expected, rel=1e-6)
        assert values["val_auc"] == pytest.approx(roc_auc_score(labels, logits.softmax(1), multi_class="ovr"), rel=1e-5)
    is_one_piece = buffer > logits.numel()
    assert (values["val_mean_f1"] == pytest.approx(expected, rel=1e-6)) == is_one_piece  # a mean of F1 is no F1
    assert float(f1.tp.sum()) == 0  # the user's own instance is left alone


@pytest.mark.parametrize("name", ["MacroF1", "macro_f1"])
def test_classes_and_instances_are_accepted_and_trained_with(
    study_config: MakeConfig, write_package: Package, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics: pip install -e .[examples]")
    package = write_package(own=CODE)
    metrics = {"f1": f"{package}.own:{name}", "largest": f"{package}.own:Largest"}
    config = study_config(
        model={"name": "mlp"},
        task={"metrics": metrics},
        objective={"metric": "val_f1", "direction": "maximize"},
        training={"max_epochs": 1},
        space={"lambda1": 1e-3, "depth": {"low": 1, "high": 2}, "width": 16},
    )
    settings = Settings(workspace=tmp_path / "results", data=tmp_path / "data")
    assert check_study(config, settings) == ([], [])

    monkeypatch.setattr("sweep.training.meter.METER_BUFFER", 500)  # several parts, in inference mode and out of it
    torch.set_num_threads(1)
    trial: TrialConfig = config.trial({"depth": 1})
    run, _ = assemble(trial, TrialPaths(tmp_path / "none", tmp_path / "data", tmp_path / "cache"))
    (metrics_of_epoch,) = fit(run)
    with torch.no_grad():
        logits = run.model.eval()((run.val.images.float() / 16 - run.info.mean[0]) / run.info.std[0])
    expected = f1_score(run.val.labels, logits.argmax(1), average="macro")
    assert metrics_of_epoch.values["val_f1"] == pytest.approx(expected, rel=1e-5)
    assert metrics_of_epoch.values["val_largest"] == pytest.approx(float(logits.max()), rel=1e-5)
    assert {"train_f1", "train_largest"} <= metrics_of_epoch.values.keys()


def test_a_class_that_needs_arguments_is_refused_before_the_first_trial(
    study_config: MakeConfig, write_package: Package, tmp_path: Path
) -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics: pip install -e .[examples]")
    config = study_config(
        model={"name": "mlp"},
        task={"metrics": {"f1": f"{write_package(own=CODE)}.own:Needy"}},
        space={"lambda1": 1e-3, "depth": 1, "width": {"low": 8, "high": 16}},
    )
    problems, _ = check_study(config, Settings(workspace=tmp_path / "results", data=tmp_path / "data"))
    assert len(problems) == 1
    assert problems[0].startswith("task.metrics.f1: ")
    assert "missing 1 required positional argument: 'num_classes'" in problems[0]


# -- an objective that is not finite -----------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("at", "values", "outcome", "error"),
    [
        ("last", [NAN, NAN, 0.8], "completed", None),
        ("last", [0.5, 0.5, NAN], "failed", "val_m is not a number in epoch 3"),
        ("last", [0.5, 0.5, -INF], "diverged", "val_m is infinite in epoch 3"),
        ("last", [INF, INF, 0.5], "completed", None),
        ("best", [NAN, 0.5, NAN], "completed", None),
        ("best", [NAN, NAN, INF], "diverged", "val_m is infinite in epoch 3"),
    ],
)
def test_an_objective_must_be_finite_at_the_end_alone(
    at: str, values: list[float], outcome: str, error: str | None, write_package: Package, tmp_path: Path
) -> None:
    """Of each epoch the training part is measured first, then the validation part."""
    code = f"""
        nan, inf = float("nan"), float("inf")
        values = iter([number for value in {values} for number in (0.0, value)])
        def scripted(outputs, targets): return next(values)
    """
    task = TaskConfig(metrics={"m": f"{write_package(scores=code)}.scores:scripted"})
    config = trial_config(
        objective={"metric": "val_m", "direction": "maximize", "at": at, "target": 0.4},
        training={"max_epochs": 3},
    ).model_copy(update={"task": task})
    place = TrialPaths(folder=tmp_path / "trial", data=tmp_path / "data", cache=tmp_path / "cache")
    *_, last = run_trial(config, place, interval=0)
    assert (last.outcome, last.error) == (outcome, error)
    (again,) = run_trial(config, place, attempt=2)  # from the checkpoint, as another driver does
    assert (again.outcome, again.error, len(again.epochs)) == (outcome, error, 3)
    reached = [m.epoch for m in again.epochs if "epochs_to_target" in m.values]
    assert reached == [e for e, value in enumerate(values, 1) if 0.4 <= value < INF][:1]
