"""Why a trial was pruned, as MLflow has it: from the driver that pruned it, and from one that repairs its run."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from sweep.cli.tables import MOST_PRUNED, status_lines
from sweep.config.settings import Settings
from sweep.service import RunCallback, summarise
from sweep.service.recorder import Recorder
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.tracking.tracker import Tracker
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig, connections_closed
from ..support.empty_store import with_store

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations
REASON = "median: val_loss 9 at epoch 1, the median of 5 completed trials there is 1"


@pytest.mark.parametrize("pruner_died", [False, True])
def test_a_pruned_trial_has_the_tags_whoever_sends_them(
    study_config: MakeConfig, tmp_path: Path, pruner_died: bool
) -> None:
    config = study_config(search={"trials": 6, "pruner": "median"}, training={"max_epochs": 3})
    settings = Settings(workspace=with_store(tmp_path), storage=f"journal:///{tmp_path}/optuna.journal")
    storage = open_storage(settings.storage)
    search, controls = (Study(config, storage, workspace=tmp_path, sister=sister) for sister in (False, True))
    search.enqueue_budget()
    with connections_closed():
        tracker = Tracker(settings.tracking_uri, config.name, artifacts=settings.artifacts)
        tracker.open(description="", params={}, tags={})
        recorder = Recorder(settings, search, controls, tracker, RunCallback())
        for value in (1.0, 1.0, 1.0, 1.0, 1.0, 9.0):
            trial = search.ask()
            assert trial is not None
            search.report(trial, [EpochMetrics(epoch, {"val_loss": value}, 0) for epoch in (1, 2, 3)])
            outcome = "completed" if trial.pruned_at is None else "pruned"
            search.tell(trial, outcome, checkpoint=None, error=None)  # type: ignore[arg-type]
            if not pruner_died:
                recorder.start(trial)
                recorder.end(trial, outcome, None, {})  # type: ignore[arg-type]
        assert recorder.repair()
        tracker.close(status="FINISHED", timeout=120)
        client = mlflow.MlflowClient(settings.tracking_uri)
        experiment = client.get_experiment_by_name(config.name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.`sweep.kind` = 'trial'")
        tags = {int(run.data.tags["sweep.trial"]): run.data.tags for run in runs}
    assert sorted(tags) == list(range(6))
    assert (tags[5]["sweep.pruned_at"], tags[5]["sweep.pruned_by"]) == ("1", REASON)
    assert not any("sweep.pruned_by" in tags[number] for number in range(5))
    lines = list(status_lines(summarise(config.name, settings), tracebacks=False))
    assert lines == [f"  {config.name}-0005 (trial) pruned by {REASON}"]


def test_status_shows_the_latest_reasons_and_counts_the_others(study_config: MakeConfig, tmp_path: Path) -> None:
    count = 5 + MOST_PRUNED + 3
    config = study_config(search={"trials": count, "pruner": "median"}, training={"max_epochs": 3})
    settings = Settings(workspace=with_store(tmp_path), storage=f"journal:///{tmp_path}/optuna.journal")
    study = Study(config, open_storage(settings.storage), workspace=tmp_path)
    study.enqueue_budget()
    while (trial := study.ask()) is not None:
        value = 1.0 if trial.number < 5 else 9.0
        study.report(trial, [EpochMetrics(epoch, {"val_loss": value}, 0) for epoch in (1, 2, 3)])
        study.tell(trial, "pruned" if trial.pruned_at else "completed", checkpoint=None, error=None)
    first, *lines = status_lines(summarise(config.name, settings), tracebacks=False)
    assert first == f"  3 earlier pruned trials: sweep status {config.name} --json has the reasons"
    assert lines == [
        f"  {config.name}-{number:04d} (trial) pruned by {REASON}" for number in range(count - MOST_PRUNED, count)
    ]
