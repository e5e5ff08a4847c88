"""MLflow's file in a workspace: killed at any moment of its making, moved, copied, in a folder of any name."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from sweep.config.errors import StorageError, TrackingError
from sweep.config.settings import Settings
from sweep.config.sqlite import sqlite_file
from sweep.study.storages.storage import open_storage
from sweep.tracking.client import MlflowStore
from sweep.tracking.database import find_trial_runs
from sweep.tracking.runs import RunKey

from ..support.empty_store import with_store

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow remembers the places of artifacts by the run for as long as a process lives."""
    monkeypatch.setattr(utils, "_artifact_repos_cache", Forgetful())


class Forgetful(OrderedDict[str, object]):
    def get(self, *_: object) -> None:  # type: ignore[override]
        return None


def opened(workspace: Path, study: str = "digits") -> tuple[MlflowStore, MlflowClient]:
    """Begins a study in a workspace as a run does; returns its store, and MLflow's own client."""
    settings = Settings(workspace=workspace)
    store = MlflowStore.of(study, settings)
    store.begin("", {}, {}, {"sweep.id": study}, None)
    return store, MlflowClient(settings.tracking_uri)


OURS = """
import sys
from sweep.tracking.client import create_store
from sweep.config.settings import Settings
settings = Settings(workspace=sys.argv[1])
create_store(settings.tracking_uri, settings.artifacts)
"""
MLFLOWS = """
import sys
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
MlflowClient(f"sqlite:///{sys.argv[1]}/mlflow.db").search_experiments()
"""


def kill_at(size: int, making: str, workspace: Path) -> None:
    """Kills a process that makes the database when its file has so many bytes."""
    process = subprocess.Popen([sys.executable, "-c", making, str(workspace)], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if any(file.stat().st_size >= size for file in (*workspace.glob("*mlflow.db"), *workspace.glob("*.tmp"))):
            process.kill()
            break
        time.sleep(0.001)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("making", [OURS, MLFLOWS], ids=["now", "by an older version"])
def test_a_database_whose_making_was_killed_is_made_by_the_next_command(tmp_path: Path, making: str) -> None:
    kill_at(300_000, making, tmp_path)
    assert MlflowStore.of("digits", Settings(workspace=tmp_path)).find_experiment() is None
    _, client = opened(tmp_path)
    assert {e.name for e in client.search_experiments()} == {"digits", "Default"}
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "tracking.lock"}


def test_no_other_programs_file_is_taken_for_a_half_made_one(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    open_storage(f"sqlite:///{file}")
    before = file.read_bytes()
    with pytest.raises(TrackingError):
        opened(tmp_path)
    assert optuna.get_all_study_names(f"sqlite:///{file}") == []
    assert len(before) <= file.stat().st_size
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(TrackingError, match="not a database"):
        opened(tmp_path)
    assert file.read_bytes() == b"no database" * 1000


@pytest.mark.parametrize("name", ["feature%2Fx", "a?b", "100%", "a b#ü'[x]*"])
def test_the_database_is_in_the_workspace_whatever_its_name_is(tmp_path: Path, name: str) -> None:
    workspace = tmp_path / name
    with_store(workspace)
    store, client = opened(workspace)
    client.log_text(client.search_runs([store.experiment_id])[0].info.run_id, "text", "note.txt")
    assert store.find_experiment() is not None
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert next((workspace / "artifacts").rglob("note.txt")).read_text() == "text"


def test_artifacts_follow_a_workspace_that_is_moved_and_one_that_is_copied(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    with_store(one)
    store, client = opened(one)
    opened(one, "other")
    run = client.search_runs([store.experiment_id])[0].info.run_id
    client.log_text(run, "before", "before.txt")
    one.rename(two)
    for place, before in ((two, []), (three, ["two.txt"])):
        if place == three:
            shutil.copytree(two, three)
        _, client = opened(place)
        client.log_text(run, place.name, f"{place.name}.txt")
        names = [file.path for file in client.list_artifacts(run)]
        assert names == sorted(["before.txt", *before, f"{place.name}.txt"])
        assert {e.artifact_location for e in client.search_experiments() if e.name != "Default"} == {
            (place / "artifacts").as_uri()
        }
    assert not one.exists()
    assert not list(two.rglob("three.txt"))


def test_artifacts_that_did_not_come_along_stay_where_they_are(tmp_path: Path) -> None:
    store, client = opened(with_store(tmp_path / "one"))
    run = client.search_runs([store.experiment_id])[0].info.run_id
    client.log_text(run, "before", "before.txt")
    (tmp_path / "two").mkdir()
    shutil.copy(tmp_path / "one" / "mlflow.db", tmp_path / "two")
    _, client = opened(tmp_path / "two")
    assert [file.path for file in client.list_artifacts(run)] == ["before.txt"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="gone when the process ends; use a file"):
        sqlite_file(url)
    with pytest.raises(StorageError, match="in memory"):
        MlflowStore(url, "digits", Path("artifacts"))
    with pytest.raises(StorageError, match="in memory"):
        open_storage(url)


def test_the_runs_of_trials_are_those_that_mlflow_finds(tmp_path: Path) -> None:
    path, others = tmp_path / "mlflow.db", tmp_path / "other.db"
    assert find_trial_runs(path, "digits", "digits") is None
    assert not path.exists()
    (store, client), (other, _) = opened(tmp_path), opened(tmp_path, "other")
    assert find_trial_runs(path, "digits", "digits") is None, "no trial has a run"
    keys = [RunKey("digits", kind, number) for kind in ("trial", "control") for number in range(4)]
    runs = {key: client.create_run(store.experiment_id, tags=dict(key.tags)).info.run_id for key in keys}
    client.create_run(other.experiment_id, tags=RunKey("digits", "trial", 3).tags)
    client.delete_run(runs[keys[1]])
    client.rename_experiment(store.experiment_id, "renamed")
    found = find_trial_runs(path, "digits", "digits")
    mlflows = store.find_runs(store.experiment_id, keys[:4])
    assert found == (store.experiment_id, {key.number: run for key, run in mlflows.items()})
    assert sorted(found[1]) == [0, 2, 3]
    assert find_trial_runs(path, "digits", "another") is None
    twice = client.create_run(store.experiment_id, tags=dict(keys[0].tags)).info.run_id
    assert find_trial_runs(path, "digits", "digits") is None, "MLflow says which one is valid"
    client.delete_run(twice)
    assert find_trial_runs(path, "digits", "digits") == found
    client.delete_experiment(store.experiment_id)
    assert find_trial_runs(path, "digits", "digits") is None, "MLflow says how to restore it"
    others.write_bytes(b"no database")
    assert find_trial_runs(others, "digits", "digits") is None
