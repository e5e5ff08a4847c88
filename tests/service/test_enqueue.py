"""`enqueue`: values are typed as in a study file, and all that do not fit are listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.config.errors import ConfigError
from sweep.config.search_space import Scalar
from sweep.config.settings import Settings
from sweep.service import enqueue
from sweep.study.storages.catalog import get_storage
from sweep.study.study import Study

from ..conftest import MakeConfig


@pytest.fixture
def settings(tmp_path: Path, study_config: MakeConfig) -> Settings:
    """A workspace with a study that has no trial yet."""
    found = Settings(workspace=tmp_path)
    space = {
        "lambda1": {"low": 1e-5, "high": 0.1, "log": True},
        "depth": {"low": 1, "high": 3},
        "width": {"choices": [8, 16]},
        "model.dropout": {"choices": [0.1, 0.5]},
    }
    Study(study_config(name="queued", space=space), get_storage(found.storage, create=True), workspace=found.workspace)
    return found


@pytest.mark.parametrize(
    ("given", "value"),
    [("width=8.0", 8), ("depth=2.0", 2), ("lambda1=1e-3", 0.001), ("depth=3", 3), ("model.dropout=0.5", 0.5)],
)
def test_a_value_has_the_type_of_its_field(settings: Settings, given: str, value: Scalar) -> None:
    _, values = enqueue("queued", settings, [given])
    assert list(values.values()) == [value]
    assert [type(each) for each in values.values()] == [type(value)]


def test_what_does_not_fit_is_listed(settings: Settings) -> None:
    wrong = ["depth=true", 'lambda1="1e-3"', "width=9", "depth=[1]", "width={a: 1}", "width", "x=1", "depth=1e400"]
    wrong += [f"depth={'1' * 5000}", "lambda1=1", "model.dropout=true", "depth=1.5", "width=null"]
    with pytest.raises(ConfigError) as error:
        enqueue("queued", settings, wrong)
    assert len(error.value.problems) == len(wrong), error.value.problems
    assert len(str(error.value)) < 3000
    words = str(error.value)
    assert "depth: must be a number, not true" in words or "depth: True must be a whole number" in words
    assert "lambda1: must be a number, not the text '1e-3': remove the quotes" in words
