"""The code of models/README.md runs as it stands, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sweep.config.settings import Settings
from sweep.models import MODELS
from sweep.service.preflight.space_checks import check_study

from ..conftest import MakeConfig, Package

PAGE = (Path(__file__).parents[2] / "models/README.md").read_text()
BUILDING, OWN, _ = re.findall(r"^```python\n((?s:.*?))^```", PAGE, re.MULTILINE)


def test_the_model_that_is_built_has_the_weights_that_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BUILDING, "models/README.md", "exec"), {})
    assert f"# {capsys.readouterr().out}" == BUILDING.splitlines(keepends=True)[-1]


def test_the_model_of_ones_own_is_accepted_and_trains(
    study_config: MakeConfig, write_package: Package, tmp_path: Path
) -> None:
    names: dict[str, Any] = {}
    exec(compile(OWN, "models/README.md", "exec"), names)
    assert names["Funnel"](2, 16, (1, 8, 8), 10)(torch.rand(4, 1, 8, 8)).shape == (4, 10)
    config = study_config(
        model={"name": f"{write_package(nets=OWN)}.nets:Funnel", "shrink": 3},
        space={"lambda1": 0.01, "depth": {"low": 1, "high": 3}, "width": {"choices": [8, 16]}},
    )
    assert check_study(config, Settings(workspace=tmp_path / "results", data=tmp_path / "data")) == ([], [])


def test_the_page_has_a_row_for_every_family() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(MODELS)
