"""Two drivers on two hosts that begin one study at the same moment; the workspace is in a bucket, the storage shared.

The hosts are two processes with a host name and a folder of caches of their own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.service.callback import RunCallback
from sweep.service.run import RunOptions, _Run
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.tracking.tracker import Tracker

from ..conftest import MakeConfig
from ..support.processes import TrackingServer, wait_for

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]  # MLflow's own deprecations
LONGEST = 300  # seconds that one host waits for the other


def _begin(raws: list[dict[str, Any]], host: str, settings: dict[str, str], barrier: Any) -> None:
    os.environ["XDG_CACHE_HOME"] = host
    socket.gethostname = lambda: Path(host).name
    place = Settings.model_validate(settings)
    for config in map(StudyConfig.model_validate, raws):
        if not place.tracking_uri:
            barrier.wait(LONGEST)
            Study(config, open_storage(place.storage), workspace=place.workspace).enqueue_budget()
            continue
        tracker = Tracker.of(config.name, place)
        tracker.store.find_experiment()
        barrier.wait(LONGEST)
        run = _Run(config, place, RunCallback(), RunOptions(), tracker)
        barrier.wait(LONGEST)
        run.prepare(complete=False)
        barrier.wait(LONGEST)
        tracker.close(status="KILLED")


def begin_on_two_hosts(configs: list[StudyConfig], folder: Path, **settings: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, raws = context.Barrier(2), [config.model_dump(mode="json") for config in configs]
    hosts = [
        context.Process(target=_begin, args=(raws, str(folder / host), settings, barrier)) for host in ("one", "two")
    ]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join()
    assert [host.exitcode for host in hosts] == [0, 0]


def test_two_hosts_with_a_journal_that_both_see_write_one_budget(
    study_config: MakeConfig, bucket: Path, tmp_path: Path
) -> None:
    url = f"journal:///{tmp_path}/optuna.journal"
    begin_on_two_hosts([study_config(search={"trials": 16})], tmp_path, storage=url, workspace=str(bucket))
    (study,) = open_storage(url).get_all_studies()
    assert len(open_storage(url).get_all_trials(study._study_id)) == 16


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[str]:
    server = TrackingServer(tmp_path / "tracking")
    server.start()
    wait_for(server.ready, "the tracking server")
    yield server.url
    server.stop()


@pytest.mark.exhaustive
def test_two_hosts_write_one_budget_and_one_run_of_a_study(
    study_config: MakeConfig, bucket: Path, tmp_path: Path, storage_url: str, tracking: str
) -> None:
    configs = [study_config(name=f"{study_config().name}-{number}") for number in range(5)]
    place = {"storage": storage_url, "workspace": str(bucket), "MLFLOW_TRACKING_URI": tracking}
    begin_on_two_hosts(configs, tmp_path, **place)
    client, storage = MlflowClient(tracking), open_storage(storage_url)
    for config in configs:
        trials = optuna.load_study(study_name=config.name, storage=storage).trials
        with contextlib.suppress(KeyError):
            optuna.delete_study(study_name=config.name, storage=storage)
            optuna.delete_study(study_name=f"{config.name}.controls", storage=storage)
        assert [trial.number for trial in trials] == list(range(6))
        [experiment] = client.search_experiments(filter_string=f"name = '{config.name}'")
        assert [run.info.run_name for run in client.search_runs([experiment.experiment_id])] == [config.name]
