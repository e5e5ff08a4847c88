"""`sweep simulate`: the whole machinery with trials that sleep, and the sums that it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweep.config.settings import Settings
from sweep.service import simulation
from sweep.service.simulation import Samples, measure_capacity
from sweep.study.storages.storage import open_storage
from sweep.study.stored_trials import read_rows
from sweep.training.simulated_trial import metrics

from ..conftest import connections_closed


class Watcher:
    """A listener that looks, while workers live, at what they have loaded."""

    def __init__(self) -> None:
        self.libraries: dict[int, str] = {}

    def on_epoch_end(self, _trial: object, epoch: Any) -> None:
        pid = int(epoch.values["worker/pid"])
        self.libraries[pid] = Path(f"/proc/{pid}/maps").read_text()

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.mark.ray
@pytest.mark.exhaustive
def test_a_simulation_runs_its_budget_through_everything_on_workers_without_torch(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path, storage="", tracking_uri="", address="local")
    load = simulation.Load(trials=6, slots=2, epochs=3, epoch_seconds=0.2, finished=20)
    config, watcher = simulation.study_of(load), Watcher()
    with connections_closed():
        found = simulation.simulate(load, config, settings, watcher)
        rows = read_rows(config.name, open_storage(settings.storage))
        client = MlflowClient(settings.tracking_uri)
        experiment = client.get_experiment_by_name(config.name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.`sweep.kind` = 'trial'")
    assert len(rows) == 26
    assert {row.state for row in rows} == {"finished"}
    assert sum(row.owner is not None for row in rows) == 6
    assert sorted(int(run.data.tags["sweep.trial"]) for run in runs) == list(range(20, 26))
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert 1 <= len(watcher.libraries) <= 2
    assert all("libpython" in maps or "python" in maps for maps in watcher.libraries.values())
    assert not any("libtorch" in maps for maps in watcher.libraries.values())
    assert 0 < found.whole <= 1
    assert found.driver_mb > 0
    assert 50 < found.worker_mb / len(watcher.libraries) < 200


def test_slot_time_is_counted_by_the_nominal_seconds_of_epochs_of_slots_that_have_begun() -> None:
    samples = Samples(
        epochs={0: [("a", 1.0), ("a", 2.0)], 1: [("b", 3.0)], 2: [("a", 3.5), ("a", 4.5)]}, handed_out=[0.0, 2.0, 4.0]
    )
    found = measure_capacity(samples, slots=2, epoch_seconds=1.0)
    # a from 0 to 4 was without a trial for half a second, b from 2 to 4 for one; then nothing was left to hand out.
    assert found.steady == pytest.approx((3.5 + 1.0) / (4 + 2))
    assert found.whole == pytest.approx(5 / (2 * 4.5))
    assert found.turnover.median == pytest.approx(500)


def test_a_simulated_curve_can_be_learnt() -> None:
    config = simulation.study_of(simulation.Load(1, 1, 20, 1.0))
    others = {"epsilon": 0.1, "depth": 4, "width": 64, "training.lr": 1e-3}
    good, bad = (config.trial({"lambda1": lambda1, **others}) for lambda1 in (1e-3, 1e-1))
    assert metrics(good, 20)["val_loss"] < metrics(bad, 20)["val_loss"] < metrics(bad, 1)["val_loss"]
