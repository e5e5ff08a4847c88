"""A training function of the user's own as a trial: both forms, exact resume, and what it may not do."""

import os
import random
import shutil
import threading

import numpy as np
import pytest
import torch
from torch import nn

from sweep.config.errors import FunctionError, StopIgnoredError
from sweep.config.filesystem import read_bytes
from sweep.config.study_config import StudyConfig
from sweep.config.trial_config import TrialConfig
from sweep.training.attempt_files import logged

from ..support.training import curve, train

EPOCHS = 8


def line(trial):
    """Fits a line to noise that comes from all three shared generators, with dropout."""
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, trial["width"]), nn.Linear(trial["width"], 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=trial["lr"])
    own, counts = np.random.default_rng(trial.seed), {"steps": 0}
    guidance = trial.guidance(model, batch_size=8)
    for _ in trial.epochs(model=model, optimizer=optimizer, own=own, counts=counts):
        for _ in range(4):
            noise = float(np.random.rand()) + random.random() + float(own.normal())  # noqa: NPY002
            x = torch.randn(8, 3) + noise
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            guidance.add_gradients()
            optimizer.step()
            counts["steps"] += 1
        trial.log(steps=counts["steps"])
        yield {"error": loss, "train_loss": loss.item()}


def reporting(trial):
    for metrics in line(trial):
        trial.report(metrics)


def config_of(function, **changes) -> TrialConfig:
    study = StudyConfig(
        name="mine",
        function=f"{__name__}:{function.__name__}",
        objective={"metric": "error", "direction": "minimize"},
        space={"lambda1": 1e-3, "width": 4, "lr": {"low": 1e-3, "high": 1.0, "log": True}},
        training={"max_epochs": EPOCHS},
    )
    return study.trial({"lr": 0.01}).model_copy(update=changes)


@pytest.mark.parametrize("function", [line, reporting])
def test_a_resumed_function_has_the_numbers_of_an_uninterrupted_one(function, tmp_path):
    whole = train(config_of(function), tmp_path / "whole")
    assert whole[-1].outcome == "completed"
    assert curve(whole)[EPOCHS]["steps"] == 4 * EPOCHS
    assert "guidance/ratio" in curve(whole)[1]
    for attempt, reports in enumerate((1, 2, None), start=1):
        found = train(config_of(function), tmp_path / "parts", reports=reports, attempt=attempt)
    assert curve(found) == curve(whole)
    assert len(list((tmp_path / "parts").glob("attempt-*"))) == 3
    assert not [thread for thread in threading.enumerate() if thread.name == "trial"]


def test_both_forms_have_the_same_numbers(tmp_path):
    assert curve(train(config_of(line), tmp_path / "a")) == curve(train(config_of(reporting), tmp_path / "b"))


def test_a_control_is_not_guided(tmp_path):
    control = curve(train(config_of(line).control, tmp_path))
    assert "guidance/ratio" not in control[1]
    assert control[EPOCHS]["error"] != curve(train(config_of(line), tmp_path / "guided"))[EPOCHS]["error"]


def without_state(trial):
    for epoch in trial.epochs():
        yield {"error": 1 / epoch}


def never_the_same(trial):
    for epoch in trial.epochs():
        yield {"error": torch.rand(1, generator=torch.Generator().manual_seed(id(trial) % 2**31 + epoch))}


def test_a_function_without_state_starts_again_and_keeps_its_history(tmp_path):
    first = curve(train(config_of(without_state), tmp_path, reports=1))
    again = train(config_of(without_state), tmp_path, attempt=2)
    assert len(first) < EPOCHS
    assert list(curve(again)) == list(range(1, EPOCHS + 1))
    notices = [notice for report in again for notice in report.notices]
    assert len(notices) == 1
    assert "nothing to save: starts again at epoch 1" in notices[0]


def test_a_repeated_epoch_that_differs_is_told_and_keeps_its_first_value(tmp_path):
    first = curve(train(config_of(never_the_same), tmp_path, reports=1))
    again = train(config_of(never_the_same), tmp_path, attempt=2)
    assert curve(again)[1] == first[1]
    assert any("is not repeatable: error of epoch 1" in notice for report in again for notice in report.notices)


def early(trial):
    for epoch in trial.epochs(state={}):
        yield {"error": 1 / epoch}
        if epoch == 3:
            return


def test_a_function_may_end_before_the_last_epoch(tmp_path):
    reports = train(config_of(early), tmp_path)
    assert reports[-1].outcome == "completed"
    assert len(curve(reports)) == 3
    assert train(config_of(early), tmp_path, attempt=2)[0].outcome == "completed"  # killed before the storage had it


def stubborn(trial):
    for epoch in range(100):
        try:
            trial.report(error=1 / (epoch + 1))
        except BaseException:  # noqa: BLE001
            continue


def test_a_function_that_ignores_a_stop_is_told(tmp_path):
    with pytest.raises(StopIgnoredError, match="goes on after its report"):
        train(config_of(stubborn), tmp_path, reports=1)


def nan(trial):
    for epoch in trial.epochs(state={}):
        yield {"error": float("nan") if epoch == 2 else 1.0}


def test_an_objective_that_is_not_finite_diverges(tmp_path):
    report = train(config_of(nan), tmp_path)[-1]
    assert (report.outcome, report.error) == ("diverged", "error is not finite in epoch 2")
    assert train(config_of(nan), tmp_path, attempt=2)[-1].error == "error is not finite in epoch 2"


def no_mapping(trial):
    yield 3.0


def no_number(trial):
    yield {"error": "0.1"}


def no_objective(trial):
    yield {"loss": 0.1, "lr": 1}


def no_report(trial):
    return 0.1


def twice(trial):
    for _ in trial.epochs():
        yield {"error": 0.1}
        yield {"error": 0.1}


def backwards(trial):
    for epoch in (1, 2, 1):
        yield {"error": 0.1, "epoch": epoch}


def misspelt(trial):
    yield {"error": trial["widht"]}


def yields_and_reports(trial):
    trial.report(error=0.1)
    yield {"error": 0.1}


def no_state(trial):
    for _ in trial.epochs(model=object()):
        yield {"error": 0.1}


def no_saveable_state(trial):
    for _ in trial.epochs(counts={"ok": 1, "deep": {"seen": {1, 2}, "also": threading.Lock}}):
        yield {"error": 0.1}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_mapping, r"test_user_function.py, line \d+: .*:no_mapping reported a float, not numbers by name"),
        (no_number, "error is a str, not a number"),
        (no_objective, "lr is the name of a hyperparameter; error is missing; it reported loss, lr"),
        (no_report, "ended without a report: it never told error"),
        (twice, "reported epoch 1 where 2 was next"),
        (backwards, "reported epoch 1 where 3 was next"),
        (
            misspelt,
            r"trial\['widht'\]: the study has no such hyperparameter \(did you mean width\?\); width, lr, lambda1",
        ),
        (yields_and_reports, "gives its metrics to yield"),
        (no_state, r"epochs\(model=...\): a builtins.object has no state"),
        (no_saveable_state, r"epochs\(counts=...\) cannot be saved: the entry deep"),
    ],
)
def test_what_a_function_may_not_do_is_told(function, message, tmp_path):
    with pytest.raises(FunctionError, match=message):
        train(config_of(function), tmp_path)


def confirming(trial):
    for _ in trial.epochs():
        yield {"error": 0.1, **({"test_error": 0.2} if trial.is_confirming and trial["lr"] < 1 else {})}


def test_a_pair_is_to_measure_the_test_set(tmp_path):
    assert curve(train(config_of(confirming, test=True), tmp_path))[1]["test_error"] == 0.2
    assert "test_error" not in curve(train(config_of(confirming), tmp_path / "b"))[1]
    lazy = config_of(confirming, test=True, hyperparameters={"lr": 2.0})
    with pytest.raises(FunctionError, match="test_error is missing"):
        train(lazy, tmp_path / "c")


def loud(trial):
    print(dict(os.environ))  # noqa: T201
    print("x" * 1000)  # noqa: T201
    yield {"error": 0.1}


def test_a_log_has_no_secret_and_an_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "zq8planted")
    monkeypatch.setattr("sweep.training.attempt_files.MOST_LOGGED", 600 + len(str(dict(os.environ))))
    train(config_of(loud), tmp_path)
    log = (tmp_path / "attempt-01" / "log.txt").read_text()
    assert "'AWS_SECRET_ACCESS_KEY': '***'" in log
    assert "zq8planted" not in log
    assert "zq8planted" not in capsys.readouterr().out, "Ray keeps what a worker prints"
    assert log.endswith("log.txt ends here\n")


def test_inert_guidance_is_left_to_the_driver_to_tell(tmp_path):
    weak = config_of(line)
    weak = weak.model_copy(update={"guidance": weak.guidance.model_copy(update={"lambda1": 1e-12})})
    found = train(weak, tmp_path)  # a warning would be an error here
    assert found[-1].outcome == "completed"
    assert 0 < found[-1].epochs[-1].values["guidance/ratio"] < 1e-5


def with_files(trial):
    """Has checkpoints of its own: the number of its last epoch, in a file."""
    saved = trial.folder / "epoch"
    first = int(saved.read_text()) + 1 if saved.is_file() else 1
    for epoch in range(first, trial.max_epochs + 1):
        print(f"trains epoch {epoch}")  # noqa: T201
        trial.report(error=1 / epoch, epoch=epoch)
        saved.write_text(str(epoch))
    (release := saved.with_name("v1.2")).mkdir(exist_ok=True)
    for picture in (saved.with_name("picture.txt"), release / "large.txt"):
        picture.write_text("a picture")
    trial.log_artifact(saved.with_name("picture.txt"))
    trial.log_artifact(release)


def test_a_function_may_have_checkpoints_of_its_own(folder, tmp_path, capsys):
    for attempt, reports in enumerate((2, 3, None), start=1):
        found = train(config_of(with_files), folder, reports=reports, attempt=attempt)
        shutil.rmtree(tmp_path / "cache-home", ignore_errors=True)  # the next attempt is on another machine
    assert list(curve(found)) == list(range(1, EPOCHS + 1))
    assert not [notice for report in found for notice in report.notices]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trains")]
    assert len(printed) < EPOCHS + 3, "at most the interrupted epoch is trained again"
    files = {path.name: (path, where) for path, where in logged(folder)}
    places = {"log.txt": "", "picture.txt": "artifacts", "large.txt": "artifacts/v1.2"}
    assert {name: where for name, (_, where) in files.items()} == places
    assert read_bytes(files["picture.txt"][0]) == b"a picture"
    log = read_bytes(files["log.txt"][0]).decode().splitlines()
    assert set(log) == set(printed), "the log goes on with that of the attempts before"
