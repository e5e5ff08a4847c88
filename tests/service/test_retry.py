"""`sweep retry`: a failed trial is queued once more, has a run of its own, and counts once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweep import service
from sweep.analysis.summary import summarise
from sweep.config.settings import Settings
from sweep.service.maintenance.archive import export_study, import_study
from sweep.study.storages.storage import open_storage
from sweep.study.stored_trials import read_rows
from sweep.study.study import Study

from ..conftest import MakeConfig
from ..support import rayless
from ..support.commands import Ended, sweep_here
from ..support.empty_store import with_store


@pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours
def test_failed_trials_are_trained_again_and_count_once(
    tmp_path: Path, study_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rayless.without_models(monkeypatch)
    workspace = with_store(tmp_path / "results")
    settings = Settings(workspace=workspace, report=False)
    config = study_config(
        search={"trials": 3, "design": 2, "finalists": {"top": 1, "seeds": 1, "tuned": 0}},
        training={"max_epochs": 4, "lr": 0.01, "batch_size": 16},
    )
    search = Study(config, open_storage(settings.storage), workspace=workspace)
    search.enqueue_budget()
    first = search.ask()
    assert first is not None
    search.tell(first, "failed", checkpoint=None, error="the worker died 3 times in the same epoch")
    local = service.RunOptions(executor="local")
    summary = service.run(config, settings, options=local)
    assert [row.outcome for row in summary.rows] == ["failed", "completed", "completed"]

    def sweep(*words: str) -> Ended:
        return sweep_here(monkeypatch, capsys, workspace, *words)

    name = config.name
    refused = sweep("retry", name, "1", "9", f"{name}.controls-0000")
    assert refused.code == 2
    for each in (f"{name}-0001", f"{name}-0009", f"{name}.controls-0000"):
        assert f"{each}: only trials that have failed are retried: {name}-0000\n" in refused.err
    queued = sweep("retry", name, "0")
    assert queued.code == 0, queued.err
    assert f"Queued {name}-0000 again, as {name}-0003\nTrain with: sweep run {name} " in queued.out
    assert f"{name}-0000: only trials that have failed are retried: none" in sweep("retry", name, "0").err
    assert json.loads(sweep("run", name, "--dry-run", "--json", "--executor", "local").out)["trials"] == 1

    summary = service.run(config, settings, options=local)
    assert [(row.number, row.outcome, row.retry_of) for row in summary.rows] == [
        (1, "completed", None),
        (2, "completed", None),
        (3, "completed", 0),
    ]
    assert summary.rows[-1].hyperparameters == first.hyperparameters
    assert summary.rows[-1].design
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`sweep.kind` = 'trial'")
    runs = {run.info.run_name: run for run in found}
    assert {key: run.data.tags["sweep.outcome"] for key, run in runs.items()} == {
        f"{name}-{number:04d}": "failed" if number == 0 else "completed" for number in range(4)
    }
    assert runs[f"{name}-0003"].data.tags["retry_of"] == "0"
    assert "no trial has failed" in sweep("retry", name).out
    again = service.run(config, settings, options=local)
    assert len(again.rows) == 3, "the budget is met"

    other = Settings(workspace=with_store(tmp_path / "other"), report=False)
    export_study(name, tmp_path / "study.zip", settings)
    import_study(tmp_path / "study.zip", other)
    elsewhere = summarise(name, other)
    assert [(row.number, row.value, row.retry_of) for row in elsewhere.rows] == [
        (row.number, row.value, row.retry_of) for row in again.rows
    ]


def test_a_failed_member_of_a_pair_is_retried_under_its_own_seed(tmp_path: Path, study_config: MakeConfig) -> None:
    settings, config = Settings(workspace=tmp_path / "results"), study_config()
    storage, values = open_storage(settings.storage), {"lambda1": 0.01}
    Study(config, storage, workspace=settings.workspace)
    pairs = [("guided", 0, 10_000, values), ("plain", 0, 10_000, {"lambda1": 0.0})]
    sister = Study(config, storage, workspace=settings.workspace, sister=True, pairs=pairs)
    sister.add(pairs)
    for outcome in ("failed", "completed"):
        trial = sister.ask()
        assert trial is not None
        trial.best = 0.5
        sister.tell(trial, outcome, checkpoint=None, error=None)  # type: ignore[arg-type]
    [again] = service.retry(config.name, settings)
    assert again == (f"{config.name}.controls-0000", f"{config.name}.controls-0002", True)
    sister.add(pairs)  # as the next confirmation does
    rows = read_rows(sister.name, storage)
    assert [(r.number, r.state, r.kind, r.seed, r.hyperparameters, r.retry_of) for r in rows] == [
        (1, "finished", "plain", 10_000, {"lambda1": 0.0}, None),
        (2, "waiting", "guided", 10_000, values, 0),
    ]
    trial = sister.ask()
    assert trial is not None
    assert (trial.number, trial.kind, trial.config.training.seed) == (2, "guided", 10_000)
