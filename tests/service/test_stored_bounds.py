"""Studies of a version whose numbers had no bounds: they go on and are reported, and what is changed is bounded."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from sweep.config.study_file import parse_study
from sweep.study.storages.storage import FORMAT, open_storage

from ..support.commands import sweep_here
from ..support.empty_store import with_store
from ..support.studies import SMALL, config_of

BEYOND = {
    "training": {"seed": 2**40},
    "search": {"trials": 2, "design": 1, "finalists": {"top": 0, "seeds": 5000}},
    "resources": {"cpus": 0.001, "memory": 0.001, "max_concurrent": 10**6},
    "space": {"lambda1": {"low": 0.0, "high": 1.0, "step": 1e-7}, "depth": 1, "width": {"choices": [8, 10**7 + 1]}},
}


def stored(workspace: Path) -> None:
    raw = config_of(SMALL).model_dump(mode="json")
    raw |= {name: {**raw[name], **change} for name, change in BEYOND.items()}
    assert parse_study(raw)[1], "a new study with these numbers is refused"
    storage = open_storage(f"journal:///{workspace}/optuna.journal")
    study = optuna.create_study(study_name="small", storage=storage, direction="minimize")
    for name, value in {"config": raw, "format": FORMAT, "id": "old"}.items():
        study.set_user_attr(name, value)
    for depth in (8, 8):  # the other width is too large for any machine
        study.enqueue_trial({"width": depth}, user_attrs={"seed": 2**40, "design": False})


def test_a_stored_study_goes_on_with_numbers_that_a_new_one_must_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = with_store(tmp_path / "results")
    stored(workspace)

    def sweep(*words: str) -> tuple[int, str, str]:
        ended = sweep_here(monkeypatch, capsys, workspace, *words)
        return ended.code, ended.out, ended.err

    code, _, said = sweep("run", "small", "--executor", "local", "--trials", "1000000")
    assert (code, said.count("\n  - ")) == (2, 1), said
    assert "search.trials: " in said
    assert "100000" in said
    code, _, said = sweep("resume", "small", "--executor", "local", "--json")
    assert code == 0, said
    code, out, said = sweep("status", "small", "--json")
    assert [trial["outcome"] for trial in json.loads(out)[0]["trials"]] == ["completed"] * 2, said
    for words in (("best", "small"), ("report", "small"), ("train", "small", "--trial", "0")):
        code, _, said = sweep(*words)
        assert code == 0, (words, said)
