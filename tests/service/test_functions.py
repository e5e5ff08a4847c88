"""A study of a training function of the user's own: its trials, controls and finalists, its pairs, and replay."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from torch import nn

import sweep
from sweep import service
from sweep.cli.tables import comparison_table, confirmation_tables
from sweep.config.errors import ConfigError, SweepError
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.service.callback import RunCallback

from ..support.commands import sweep_here
from ..support.invariants import Curves, assert_whole, left_by, strange_curves

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

LAMBDA: dict[str, Any] = {"lambda1": {"low": 1e-4, "high": 1e-1, "log": True}}
OWN: dict[str, Any] = {
    "width": {"choices": [2, 4], "default": 4},
    "lr": {"low": 1e-3, "high": 0.3, "log": True, "default": 0.01},
}
SEARCH = {"trials": 4, "sampler": "random", "pruner": "none", "finalists": {"top": 1, "seeds": 2, "tuned": 2}}


def train(trial: sweep.TrialContext) -> Iterator[dict[str, float]]:
    """Fits a plane."""
    model = nn.Sequential(nn.Linear(3, trial["width"]), nn.Tanh(), nn.Linear(trial["width"], 1))
    optimizer, guidance = torch.optim.SGD(model.parameters(), lr=trial["lr"]), trial.guidance(model, batch_size=16)
    for _ in trial.epochs(model=model, optimizer=optimizer):
        for _ in range(8):
            x = torch.randn(16, 3)
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            guidance.add_gradients()
            optimizer.step()
        yield {"mse": loss.item(), **({"test_mse": loss.item() + 1} if trial.is_confirming else {})}


def unseeded(trial: sweep.TrialContext) -> Iterator[dict[str, float]]:
    """Prints, and reports what no seed determines."""
    print("unseeded, but", trial["lr"])  # noqa: T201
    value = float.fromhex(uuid4().hex[:8])
    for _ in trial.epochs():
        yield {"mse": value, "test_mse": 2 * value}


def stubborn(trial: sweep.TrialContext) -> None:
    """Swallows whatever ends it."""
    while True:
        with contextlib.suppress(BaseException):
            trial.report(mse=1.0)


def without_objective(trial: sweep.TrialContext) -> Iterator[dict[str, float]]:
    yield {"accuracy": 0.5}


def no_argument() -> None: ...


def study(space: dict[str, Any], function: str = "train", name: str = "plane", **changes: Any) -> StudyConfig:
    raw = {
        "name": name,
        "function": f"{__name__}:{function}",
        "objective": {"metric": "mse", "direction": "minimize"},
        "space": space,
        "training": {"max_epochs": 3},
        "search": SEARCH,
    }
    return StudyConfig.model_validate(raw | changes)


def run(config: StudyConfig, settings: Settings) -> Any:
    return service.run(config, settings, options=service.RunOptions(executor="local"))


@contextlib.contextmanager
def listen(_config: StudyConfig, _left: int | None) -> Iterator[RunCallback]:
    yield RunCallback()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def settings(workspace: Path) -> Settings:
    return Settings(workspace=workspace, report=False)


@pytest.fixture(scope="module")
def guided(settings: Settings) -> StudyConfig:
    run(study({**LAMBDA, **OWN}), settings)
    return study({**LAMBDA, **OWN})


@pytest.fixture(scope="module")
def plain(settings: Settings) -> StudyConfig:
    run(study(OWN, name="plain"), settings)
    return study(OWN, name="plain")


def test_a_study_trains_finalists_and_controls_of_a_function(
    guided: StudyConfig, settings: Settings, workspace: Path
) -> None:
    left = left_by(workspace, guided.name)
    assert_whole(left, guided.name, trials=4, controls=2 + 2 + 2 + 2)
    assert all({"lambda1", "width", "lr"} == set(trial.params) for trial in left.trials)
    controls = [t.user_attrs for t in left.controls if t.user_attrs["kind"] in ("control", "tuned")]
    assert {attrs["hyperparameters"]["lambda1"] for attrs in controls} == {0.0}
    tuned = {attrs["hyperparameters"]["lr"] for attrs in controls if attrs["kind"] == "tuned"}
    assert len(tuned) == 2, "the tuned control searches the space of the function"
    finalists = [t.user_attrs["seed"] for t in left.controls if t.user_attrs["kind"] == "finalist"]
    assert finalists == [1, 2]
    curve = left.runs["plane-0000"].curve
    assert len(curve["mse"]) == 3
    assert "guidance/ratio" in curve


def test_every_trial_can_be_replayed(guided: StudyConfig, settings: Settings, workspace: Path, tmp_path: Path) -> None:
    left = left_by(workspace, guided.name)
    assert not strange_curves(left, Curves(guided, tmp_path, tmp_path))


def test_a_guided_study_is_confirmed_against_the_strongest_control(
    guided: StudyConfig, settings: Settings, workspace: Path
) -> None:
    found = service.confirm(guided.name, settings, listen, seeds=2, options=service.RunOptions(executor="local"))
    assert found is not None
    assert [(c.first, c.second) for c in found.comparisons] == [
        ("guided", "plain"),
        ("guided", "strongest"),
        ("strongest", "plain"),
    ]
    assert found.metric == "test_mse"
    assert {"width", "lr"} == set(found.baselines[0].hyperparameters) - {"lambda1", "lambda2"}
    for comparison in found.comparisons:
        assert min(comparison.final_means) > 1, "the test metric is that of the function"


def test_a_study_without_a_lambda_has_no_controls_and_is_confirmed_against_its_defaults(
    plain: StudyConfig, settings: Settings, workspace: Path
) -> None:
    left = left_by(workspace, plain.name)
    assert_whole(left, plain.name, trials=4, controls=2)
    assert {t.user_attrs["kind"] for t in left.controls} == {"finalist"}
    assert "lambda1" not in left.runs["plain-0000"].run.data.params
    table = comparison_table(plain, service.summarise(plain.name, settings).comparison)
    assert (table.title, table.columns, len(table.rows)) == (
        "Finalists: mse on 2 fresh seeds",
        ["trial", "mean ± sd"],
        1,
    )
    found = service.confirm(plain.name, settings, listen, seeds=2, options=service.RunOptions(executor="local"))
    assert found is not None
    assert [(c.first_name, c.second) for c in found.comparisons] == [("searched", "default")]
    assert confirmation_tables(found)[0].rows[0][0] == f"{found.comparisons[0].number}: searched over default"
    rows = [t.user_attrs for t in left_by(workspace, plain.name).controls]
    assert [r["hyperparameters"] for r in rows if r["kind"] == "default"] == [{"width": 4, "lr": 0.01}] * 2


def test_a_study_without_defaults_cannot_be_confirmed(settings: Settings) -> None:
    config = study({"width": 2, "lr": {"low": 0.01, "high": 0.1}}, name="bare", search={**SEARCH, "trials": 1})
    run(config, settings)
    with pytest.raises(ConfigError, match=r"space.lr: has no default to compare with"):
        service.confirm("bare", settings, listen)
    given = study({"width": 2, "lr": {"low": 0.01, "high": 0.1, "default": 0.05}}, name="bare", search=config.search)
    run(given, settings)  # a default may be given later
    assert service.confirm("bare", settings, listen, seeds=1, options=service.RunOptions(executor="local"))


def test_a_function_that_never_reports_the_objective_ends_the_run(settings: Settings, workspace: Path) -> None:
    config = study(OWN, "without_objective", "lost")
    with pytest.raises(SweepError, match=r"mse is missing; it reported accuracy. Nothing is lost: mend that"):
        run(config, settings)
    assert not [t for t in left_by(workspace, "lost").trials if t.state.is_finished()]


@pytest.mark.parametrize(
    ("function", "metric", "problem"),
    [
        ("missing", "mse", "has no missing"),
        ("no_argument", "mse", "must take one argument, the trial"),
        ("OWN", "mse", "must be a class or a function, not of the type dict"),
        ("train", "lr", "'lr' is the name of a hyperparameter"),
    ],
)
def test_what_is_wrong_with_a_function_is_told_before_any_trial(
    function: str, metric: str, problem: str, settings: Settings
) -> None:
    from sweep.service.preflight.space_checks import check_study

    config = study(OWN, function, objective={"metric": metric, "direction": "minimize"})
    problems, _ = check_study(config, settings)
    assert len(problems) == 1
    assert problem in problems[0]


def test_several_processes_are_for_a_generator_function(settings: Settings) -> None:
    from sweep.service.preflight.space_checks import check_study

    several = study(OWN, "stubborn", resources={"workers": 2})
    [problem], _ = check_study(several, settings)
    assert "stubborn does not yield its reports, so it trains in one process" in problem
    assert check_study(study(OWN, "train", resources={"workers": 2}), settings) == ([], [])
    assert check_study(study(OWN, "stubborn", resources={"workers": 1}), settings) == ([], [])


def test_a_function_that_is_not_repeatable_is_told_once(settings: Settings) -> None:
    told = list[str]()

    class Listening(RunCallback):
        def on_message(self, message: str) -> None:
            told.append(message)

    config = study({"lr": {"choices": [0.1]}}, "unseeded", "unseeded")
    service.run(config, settings, Listening(), service.RunOptions(executor="local"))
    [message] = [message for message in told if "not repeatable" in message]
    assert "trial 1 of unseeded has the hyperparameters and the seed of unseeded-0000" in message


def test_what_a_trial_prints_is_its_log_and_an_artifact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Settings, workspace: Path
) -> None:
    if not (workspace / "unseeded").is_dir():
        run(study({"lr": {"choices": [0.1]}}, "unseeded", "unseeded"), settings)
    shown = sweep_here(monkeypatch, capsys, workspace, "status", "unseeded", "--log", "1")
    assert (shown.code, shown.out) == (0, "unseeded, but 0.1\n")
    finalist = sweep_here(monkeypatch, capsys, workspace, "status", "unseeded", "--log", "unseeded.controls-0000")
    assert finalist.out == "unseeded, but 0.1\n"
    assert "has no log" in sweep_here(monkeypatch, capsys, workspace, "status", "unseeded", "--log", "99").err
    logged = [path.read_text() for path in workspace.glob("artifacts/*/artifacts/log.txt")]
    assert logged.count("unseeded, but 0.1\n") >= 4


def test_train_runs_a_function_here_and_measures_its_test_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], guided: StudyConfig, workspace: Path
) -> None:
    replayed = sweep_here(monkeypatch, capsys, workspace, "train", "plane", "--trial", "2", "--test", "--json")
    assert replayed.code == 0, replayed.err
    found = json.loads(replayed.out)
    curve = left_by(workspace, guided.name).runs["plane-0002"].curve["mse"]
    assert [epoch["mse"] for epoch in found["epochs"]] == curve
    assert found["test"] == {"test_mse": curve[-1] + 1}
    out = sweep_here(monkeypatch, capsys, workspace, "train", "plane", "--trial", "2", "--out", "model.pt2")
    assert "knows its model alone" in out.err


@pytest.mark.exhaustive  # a report draws all figures
def test_what_reads_a_study_reads_that_of_a_function(
    guided: StudyConfig, plain: StudyConfig, settings: Settings
) -> None:
    for config in (guided, plain):
        page = service.report(config.name, settings).page.read_text()
        assert f"{__name__}:train" in page
        assert "max_epochs 3, seed 0" in page
        assert "batch_size 128" not in page, "it does not act on a function"
        assert "function" in service.export_config(config, service.summarise(config.name, settings).best[0])
        found = sweep.load(config.name, settings=settings)
        assert len(found.trials) == len(found.curves(config.objective.metric).columns) == config.search.trials
        assert "learning curves" in found.figures()
        assert config.name in found._repr_html_()
        assert not found.sensitivity().trusted
        with pytest.raises(SweepError, match=r"knows its model alone; .* trial.log_artifact"):
            found.model()


@pytest.mark.ray
@pytest.mark.exhaustive  # three workers, one after the other
def test_a_function_that_ignores_a_stop_gets_each_trial_a_fresh_worker_and_is_told_once(tmp_path: Path) -> None:
    told = list[str]()

    class Listening(RunCallback):
        def on_message(self, message: str) -> None:
            told.append(message)

    config = study({"width": 2, "lr": {"low": 0.1, "high": 0.2}}, "stubborn", "stubborn")
    search = {"trials": 3, "sampler": "random", "pruner": "none", "finalists": {"top": 0}}
    config = StudyConfig.model_validate({**config.model_dump(), "search": search, "resources": {"max_concurrent": 1}})
    service.run(config, Settings(workspace=tmp_path, report=False), Listening())
    assert_whole(left_by(tmp_path, "stubborn"), "stubborn", trials=3, controls=0)
    assert len([message for message in told if "goes on after its report has raised TrialStopped" in message]) == 1
    assert len([message for message in told if "goes on after training.max_epochs, 3" in message]) == 1


def test_a_dry_run_counts_trials_and_knows_no_duration(settings: Settings) -> None:
    counts = {"plain": 2, "guided": 2 + 2 + 2 + 2}  # finalists; controls, trials that tune, the tuned control
    for space, name in ((OWN, "plain"), ({**LAMBDA, **OWN}, "guided")):
        plan = service.plan_run(study(space, name=f"new-{name}"), settings)
        assert (plan.trials, plan.controls, plan.epoch_seconds, plan.hours) == (4, counts[name], None, None)
