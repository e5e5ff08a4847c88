"""Whole small studies by the command line, through Ray; what they leave is read with Optuna's and MLflow's own clients.

Starting Ray takes seconds, so each study is run once and looked at by several tests.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML

from sweep.models import build_model

from ..support.commands import Ended, sweep, sweep_here
from ..support.invariants import Left, assert_whole, left_by
from ..support.processes import environment
from ..support.studies import CONTROLS, OUTCOMES, SEARCHED, TINY, Finished

pytestmark = pytest.mark.filterwarnings("default")  # Ray's and MLflow's own deprecations are not ours

EPOCH_METRICS = {
    *("train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"),
    *("guidance/dense", "guidance/conv", "guidance/ratio", "grad_norm/task", "grad_norm/guidance"),
}


# -- a study from its file to the artifacts ------------------------------------------------------------------------


def test_the_budget_is_met_and_everything_is_recorded_once(tiny: Finished) -> None:
    assert_whole(tiny.left, "tiny", trials=6, controls=CONTROLS)
    assert {t.state for t in tiny.left.trials} == {TrialState.COMPLETE}
    assert [t.user_attrs["design"] for t in tiny.left.trials] == [True, True, False, False, False, False]
    kinds = Counter(t.user_attrs["kind"] for t in tiny.left.controls)
    assert kinds == {"finalist": 2, "control": 2, "tuned": 4}


def test_a_pipe_gets_one_line_for_each_finished_trial(tiny: Finished) -> None:
    lines = tiny.ended.err.splitlines()
    for name in tiny.left.runs:
        [line] = [line for line in lines if line.startswith(f"{name} ")]
        assert "completed val_loss=" in line
        assert "epochs=4" in line
    assert "\x1b" not in tiny.ended.err


def test_json_is_all_that_stdout_holds(tiny: Finished) -> None:
    data = json.loads(tiny.ended.out)
    best = min(tiny.left.trials, key=lambda t: t.value or math.inf)
    assert data["study"] == "tiny"
    assert data["interrupted"] is False
    assert data["best"][0] == best.number
    assert [(t["number"], t["value"]) for t in data["trials"]] == [(t.number, t.value) for t in tiny.left.trials]
    [finalist] = data["finalists"]
    guided = [t.value for t in tiny.left.controls if t.user_attrs["kind"] == "finalist"]
    assert finalist["trial"] == best.number
    assert list(finalist["guided"].values()) == guided
    assert len(finalist["plain"]) == len(finalist["tuned"]) == 2


def test_optuna_holds_the_searched_and_nothing_else(tiny: Finished) -> None:
    for trial in tiny.left.trials:
        assert set(trial.params) == SEARCHED
        assert 1e-4 <= trial.params["lambda1"] <= 1e-2
        assert trial.params["depth"] in (1, 2, 3)
        assert trial.user_attrs["seed"] == 0
        assert trial.user_attrs["epochs"] == 4
        assert trial.user_attrs["owner"]
        assert Path(trial.user_attrs["checkpoint"]).is_file()
        # The last epoch's metric is the objective, as MLflow has it too.
        record = tiny.left.runs[f"tiny-{trial.number:04d}"]
        assert trial.value == record.curve["val_loss"][-1] == record.run.data.metrics["objective"]
    for row in tiny.left.controls:
        assert not row.params, "the sister study is nothing for a sampler"
        if row.user_attrs["kind"] != "finalist":
            chosen = row.user_attrs["hyperparameters"]
            assert (chosen["lambda1"], chosen["lambda2"]) == (0, 0)


def test_mlflow_holds_params_as_numbers_too(tiny: Finished) -> None:
    for trial in tiny.left.trials:
        data = tiny.left.runs[f"tiny-{trial.number:04d}"].run.data
        expected: dict[str, Any] = {**trial.params, "lambda2": 1e-4, "epsilon": 0.01}
        numbers = {name: value for name, value in expected.items() if not isinstance(value, str)}
        assert {name: float(data.params[name]) for name in numbers} == pytest.approx(numbers, rel=1e-5)
        assert {name: data.params[name] for name in data.params.keys() - numbers.keys()} == {
            name: value for name, value in expected.items() if isinstance(value, str)
        }
        assert {name: data.metrics[name] for name in numbers} == numbers
        assert "training.init" not in data.metrics


def test_every_metric_of_every_epoch(tiny: Finished) -> None:
    for name, record in tiny.left.runs.items():
        guided = record.tags["sweep.kind"] in ("trial", "finalist")
        layers = {m for m in record.epochs if m.startswith("entropy/")}
        assert "entropy/hidden" in layers
        expected = EPOCH_METRICS if guided else {m for m in EPOCH_METRICS if "guidance" not in m}
        assert record.epochs.keys() >= expected | layers, name
        assert all(math.isfinite(value) for curve in record.curve.values() for value in curve)
        # Each value has its own epoch's time, within the run's.
        info = record.run.info
        times = [time for _, _, time in sorted(record.history["val_loss"])]
        assert times == sorted(times)
        assert info.start_time <= times[0] <= times[-1] <= info.end_time


def test_the_objective_is_of_completed_search_trials_alone(tiny: Finished) -> None:
    for name, record in tiny.left.runs.items():
        of_the_search = not name.startswith("tiny.controls")
        assert ("objective" in record.run.data.metrics) == of_the_search
        assert ("final_objective" in record.run.data.metrics) == (not of_the_search)


def test_finalists_have_their_mean_on_fresh_seeds(tiny: Finished) -> None:
    fresh: dict[int, list[float]] = {}
    for row in tiny.left.controls:
        if row.user_attrs["kind"] == "finalist":
            fresh.setdefault(row.user_attrs["of"], []).append(row.value or 0.0)
    found = {
        name: run.history["fresh_objective"] for name, run in tiny.left.runs.items() if "fresh_objective" in run.history
    }
    assert found.keys() == {f"tiny-{number:04d}" for number in fresh}
    for number, values in fresh.items():
        [(seeds, value, _)] = found[f"tiny-{number:04d}"]
        assert (seeds, value) == (len(values), pytest.approx(sum(values) / len(values)))


def test_tags_say_what_a_number_comes_from(tiny: Finished) -> None:
    import importlib.metadata

    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    for name, record in tiny.left.runs.items():
        tags = record.tags
        number = int(name[-4:])
        if name.startswith("tiny.controls"):
            kind = tiny.left.controls[number].user_attrs["kind"]
            assert tags["sweep.kind"] == ("finalist" if kind == "finalist" else "control")
            assert int(tags["sweep.of"]) == tiny.left.controls[number].user_attrs["of"]
        else:
            assert tags["sweep.kind"] == "trial"
            assert tags["sweep.design"] == ("true" if number < 2 else "false")
        assert tags["sweep.host"] == os.uname().nodename
        assert tags["sweep.device"]
        for package in ("torch", "ray", "optuna", "mlflow"):
            assert tags[f"sweep.version.{package}"] == importlib.metadata.version(package)
        if commit:
            assert tags["sweep.git_commit"].removesuffix("-dirty") == commit


def test_fresh_seeds_and_controls_that_differ_in_guidance_alone(tiny: Finished) -> None:
    rows = [(t.user_attrs["kind"], t.user_attrs["seed"], t.user_attrs["hyperparameters"]) for t in tiny.left.controls]
    finalists = {seed: values for kind, seed, values in rows if kind == "finalist"}
    plain = {seed: values for kind, seed, values in rows if kind == "control"}
    assert set(finalists) == set(plain)
    assert 0 not in finalists, "the search has used that seed"
    for seed, values in finalists.items():
        for shared in ("depth", "width", "training.init"):
            assert plain[seed][shared] == values[shared]
        assert plain[seed]["lambda1"] == plain[seed]["lambda2"] == 0


def test_a_trial_replayed_has_the_same_curve_bit_for_bit(
    tiny: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        words = ("train", "tiny", "--trial", str(number), "--json")
        ended = sweep_here(monkeypatch, capsys, tiny.workspace, *words)
        epochs = json.loads(ended.out)["epochs"]
        replayed = {name: [e[name] for e in epochs] for name in epochs[0] if name not in ("epoch", "seconds")}
        assert replayed == tiny.left.runs[f"tiny-{number:04d}"].curve


def test_the_best_trial_has_its_files(tiny: Finished) -> None:
    client = MlflowClient(f"sqlite:///{tiny.workspace}/mlflow.db")
    best = min(tiny.left.trials, key=lambda t: t.value or math.inf)
    record = tiny.left.runs[f"tiny-{best.number:04d}"]
    assert tiny.left.parent.tags["sweep.best"] == str(best.number)

    assert record.run.info.artifact_uri.startswith(tiny.workspace.as_uri()), "beside the tracking store"
    study_file = client.download_artifacts(tiny.left.parent.run.info.run_id, "study.yaml")
    kept, wrote = YAML(typ="safe").load(Path(study_file)), YAML(typ="safe").load(TINY)
    assert {k: kept[k] for k in wrote if k != "space"} == {k: wrote[k] for k in wrote if k != "space"}
    assert kept["space"] == wrote["space"]

    config = json.loads(Path(client.download_artifacts(record.run.info.run_id, "config.json")).read_text())
    assert config["model"]["depth"] == best.params["depth"]
    assert config["guidance"]["lambda1"] == best.params["lambda1"]
    assert config["guidance"]["epsilon"] == 0.01
    [weights] = client.list_artifacts(record.run.info.run_id, "checkpoint")
    assert weights.path.endswith("epoch-0004.pt")


LOAD_MODEL = """
import sys
for name in ("sweep", "models", "losses", "cluster"):
    sys.modules[name] = None  # an import of them fails
import mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"runs:/{sys.argv[2]}/model")
numpy.save(sys.argv[4], model.predict(numpy.load(sys.argv[3])))
"""


def test_the_best_model_predicts_without_this_project(tiny: Finished, tmp_path: Path) -> None:
    best = min(tiny.left.trials, key=lambda t: t.value or math.inf)
    run_id = tiny.left.runs[f"tiny-{best.number:04d}"].run.info.run_id
    x = np.random.default_rng(0).integers(17, size=(5, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", LOAD_MODEL, f"sqlite:///{tiny.workspace}/mlflow.db", run_id, "x.npy", "y.npy"]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment(tmp_path), timeout=800
    )
    assert ended.returncode == 0, ended.stderr
    y = np.load(tmp_path / "y.npy")

    sizes = {"depth": best.params["depth"], "width": best.params["width"]}
    model = build_model("cnn", **sizes, in_shape=(1, 8, 8), num_outputs=10, downsample=1, hidden=8, activation="tanh")
    state = torch.load(best.user_attrs["checkpoint"], weights_only=True)
    model.load_state_dict(state["model"])
    with torch.no_grad():
        expected = model(torch.from_numpy((x / np.float32(16) - 0.3049) / 0.3760)).numpy()
    assert y.shape == (5, 10)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_running_a_finished_study_again_changes_nothing(
    tiny: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = sweep_here(monkeypatch, capsys, tiny.workspace, "run", str(tiny.file))
    assert ended.code == 0
    assert not [line for line in ended.out.splitlines() if line.startswith(("tiny-0", "tiny.controls-0"))]
    again = left_by(tiny.workspace, "tiny")
    assert {n: (r.run.info.run_id, r.history) for n, r in again.runs.items()} == {
        n: (r.run.info.run_id, r.history) for n, r in tiny.left.runs.items()
    }
    assert [(t.number, t.value, t.params) for t in again.trials] == [
        (t.number, t.value, t.params) for t in tiny.left.trials
    ]
    assert again.parent.run.info.status == "FINISHED"


# -- every outcome, on SQLite, one trial at a time ---------------------------------------------------------------------

LONG = "a-rather-long-temporary-directory-of-a-cluster-job_slurm_jobdir_1355700_tmp_t0016"
BLOCKED = 3  # the trial whose checkpoints find a file in their place


@dataclass(frozen=True)
class Twice:
    """The study OUTCOMES after its first run, and after one more configuration was queued and run on an odd machine."""

    workspace: Path
    url: str
    first: Ended
    left: Left
    queued: Ended
    second: Ended
    extended: Left


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Twice:
    folder = tmp_path_factory.mktemp("outcomes")
    workspace, file = folder / "results", folder / "outcomes.yaml"
    file.write_text(OUTCOMES)
    (workspace / "outcomes").mkdir(parents=True)
    (workspace / "outcomes" / f"{BLOCKED:04d}").write_text("a file where the checkpoints belong")
    (workspace / "outcomes" / "report").write_text("a file where the report belongs")
    url = f"sqlite:///{folder}/optuna.db"

    def read() -> Left:
        storage = RDBStorage(url)
        left = left_by(workspace, "outcomes", storage)
        storage.remove_session()
        return left

    first = sweep(workspace, "run", str(file), "--report", "--executor", "local", SWEEP_STORAGE=url)
    left = read()
    sets = ("--set", "lambda1=1e-3", "--set", "training.lr=0.03")
    queued = sweep(workspace, "enqueue", "outcomes", *sets, SWEEP_STORAGE=url)
    (folder / LONG).mkdir()
    odd = {"HOME": "/sys", "TMPDIR": str(folder / LONG)}  # not even root can make a file in /sys
    second = sweep(workspace, "run", "outcomes", SWEEP_STORAGE=url, **odd)
    return Twice(workspace, url, first, left, queued, second, read())


def outcome_of(left: Left, outcome: str) -> list[FrozenTrial]:
    return [t for t in left.trials if t.user_attrs["outcome"] == outcome]


def test_failures_and_divergence_never_stop_a_study(outcomes: Twice) -> None:
    assert outcomes.first.code == 0, outcomes.first.err
    assert_whole(outcomes.left, "outcomes", trials=12, controls=0)
    counts = Counter(t.user_attrs["outcome"] for t in outcomes.left.trials)
    assert set(counts) == {"completed", "pruned", "diverged", "failed"}, counts
    lines = [line.split() for line in outcomes.first.out.splitlines() if line.startswith("outcomes-")]
    assert {words[0]: words[2] for words in lines} == {
        f"outcomes-{t.number:04d}": t.user_attrs["outcome"] for t in outcomes.left.trials
    }
    assert len(lines) == 12


def test_neither_a_home_that_can_be_written_nor_a_short_tmpdir_is_needed(outcomes: Twice) -> None:
    assert outcomes.second.code == 0, outcomes.second.err
    assert not (outcomes.workspace.parent / LONG / "ray").exists()


def test_a_report_that_cannot_be_written_is_said_and_no_failure(outcomes: Twice) -> None:
    assert outcomes.first.code == 0
    assert "note: the report was not written (FileExistsError" in outcomes.first.out
    assert "sweep report outcomes" in outcomes.first.out


def test_a_loss_that_is_not_finite_is_a_divergence(outcomes: Twice) -> None:
    diverged = outcome_of(outcomes.left, "diverged")
    hot = [t.number for t in outcomes.left.trials if t.params["training.lr"] == 1e8 and t.number != BLOCKED]
    assert [t.number for t in diverged] == hot
    for trial in diverged:
        assert trial.state == TrialState.PRUNED
        assert "epoch 1" in trial.user_attrs["error"]
        assert any(violation > 0 for violation in trial.constraints.values()), "the sampler must keep away"
        metrics = outcomes.left.runs[f"outcomes-{trial.number:04d}"].run.data.metrics
        assert not {"objective", "last_objective"} & metrics.keys()


def test_a_failed_trial_keeps_its_traceback(
    outcomes: Twice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [failed] = outcome_of(outcomes.left, "failed")
    record = outcomes.left.runs[f"outcomes-{BLOCKED:04d}"]
    assert failed.number == BLOCKED
    assert failed.state == TrialState.FAIL
    assert record.run.info.status == "FAILED"
    for error in (failed.user_attrs["error"], record.tags["sweep.error"]):
        assert error.startswith("Traceback")
        assert str(outcomes.workspace / "outcomes" / f"{BLOCKED:04d}") in error
    one, every = (
        sweep_here(monkeypatch, capsys, outcomes.workspace, "status", *name, SWEEP_STORAGE=outcomes.url).out
        for name in (["outcomes"], [])
    )
    assert failed.user_attrs["error"].strip() in one
    assert f"outcomes-{BLOCKED:04d} (trial) failed: Traceback" in one
    assert "Traceback" not in every
    assert f"outcomes-{BLOCKED:04d} (trial) failed: {failed.user_attrs['error'].strip().splitlines()[-1]}" in every
    assert all(f"outcomes-{t.number:04d} (trial) diverged: " in one for t in outcome_of(outcomes.left, "diverged"))


def test_pruned_are_those_that_successive_halving_prunes(outcomes: Twice) -> None:
    """One trial at a time, so each rung keeps the best so far until it has seen three per survivor."""
    rungs: dict[int, list[float]] = {1: [], 3: []}
    for trial in outcomes.left.trials:
        curve = outcomes.left.runs[f"outcomes-{trial.number:04d}"].curve.get("val_loss", [])
        expected = trial.user_attrs["outcome"]
        if expected in ("completed", "pruned"):
            stopped = None
            for epoch, seen in rungs.items():
                seen.append(curve[epoch - 1])
                if curve[epoch - 1] > sorted(seen)[max(0, len(seen) // 3 - 1)]:
                    stopped = epoch
                    break
            assert expected == ("pruned" if stopped else "completed")
            assert len(curve) == (stopped or 4)
            assert trial.state == (TrialState.PRUNED if stopped else TrialState.COMPLETE)


def test_a_pruned_trial_has_a_last_objective_and_no_objective(outcomes: Twice) -> None:
    for trial in outcome_of(outcomes.left, "pruned"):
        record = outcomes.left.runs[f"outcomes-{trial.number:04d}"]
        assert record.run.data.metrics["last_objective"] == record.curve["val_loss"][-1]
        assert "objective" not in record.run.data.metrics
        assert trial.user_attrs["epochs"] == len(record.curve["val_loss"]) < 4
    for trial in outcome_of(outcomes.left, "completed"):
        assert "last_objective" not in outcomes.left.runs[f"outcomes-{trial.number:04d}"].run.data.metrics


def test_a_queued_configuration_is_the_next_to_be_trained(outcomes: Twice) -> None:
    assert outcomes.queued.code == outcomes.second.code == 0, outcomes.second.err
    assert "trial 12" in outcomes.queued.out
    assert_whole(outcomes.extended, "outcomes", trials=13, controls=0)
    lines = [line for line in outcomes.second.out.splitlines() if line.startswith("outcomes-")]
    assert [line.split()[0] for line in lines] == ["outcomes-0012"]
    queued = outcomes.extended.trials[12]
    assert (queued.params["lambda1"], queued.params["training.lr"]) == (1e-3, 0.03)
    assert 4 <= queued.params["width"] <= 64, "what was not set is the sampler's"
    for name, record in outcomes.left.runs.items():
        assert outcomes.extended.runs[name].run.info.run_id == record.run.info.run_id
        assert repr(outcomes.extended.runs[name].history) == repr(record.history)  # NaN differs from itself
