"""Finding a study by its name: names that it must not have, studies of other programs, and storages without it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from sweep.config.errors import ConfigError, SweepError
from sweep.config.settings import Settings
from sweep.service import load_stored_config, load_study
from sweep.study.storages.catalog import get_storage


@pytest.mark.parametrize(
    "name", ["mlflow.db", "Optuna.journal", "ARTIFACTS", "services", "lock", "tracking.lock", "Default"]
)
def test_a_study_has_no_name_of_the_workspaces_own_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"name: '{name}' is a name of the workspace's"):
        load_study("digits", Settings(workspace=tmp_path), sets=[f"name={name}"])


def test_a_study_of_another_program_is_said_to_be_that(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path)
    optuna.create_study(study_name="foreign", storage=get_storage(settings.storage, create=True))
    for load in (load_study, load_stored_config):
        with pytest.raises(SweepError, match="foreign: a study of another program"):
            load("foreign", settings)


@pytest.mark.parametrize("storage", ["", "sqlite:///FOLDER/studies.db"])
def test_reading_creates_nothing_and_says_where_it_looked(tmp_path: Path, storage: str) -> None:
    settings = Settings(workspace=tmp_path / "mistyped", storage=storage.replace("FOLDER", str(tmp_path / "away")))
    with pytest.raises(SweepError, match="no such study in the storage") as error:
        load_stored_config("digits", settings)
    assert settings.storage in str(error.value)
    assert "SWEEP_WORKSPACE" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_lost_a_study_is_told_by_its_checkpoints(tmp_path: Path) -> None:
    (left := tmp_path / "mine" / "0000" / "attempt-01").mkdir(parents=True)
    (left / "epoch-0001.pt").touch()
    with pytest.raises(SweepError, match="mine holds its checkpoints: the storage was replaced or cut"):
        load_stored_config("mine", Settings(workspace=tmp_path))
