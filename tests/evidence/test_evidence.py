"""``losses/RESULTS.md``: its plan, the evidence that is gathered of a study, and the page that is written from it."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sweep import service
from sweep.analysis.summary import summarise
from sweep.config.settings import Settings
from sweep.config.study_file import assigned, built_in_names
from sweep.data.loading import load_dataset
from sweep.service.confirm import confirm
from sweep.training import checkpoint

from ..support import rayless
from ..support.absent import DATA, data_root
from . import __main__ as results
from . import gathering, page
from .dose import read_doses
from .gathering import Entry, evidence, read_plan

ROOT = Path(__file__).parents[2]
PLAN = read_plan()
STUDY = """
name: small
model: {name: autoencoder, latent: 8}
data: {name: digits, train_size: 200}
objective: {metric: val_loss, direction: minimize}
space: {lambda1: {low: 1e-3, high: 1e-1, log: true}, depth: 2, width: 16}
training: {max_epochs: 3, batch_size: 8, lr: 1e-2}
search: {trials: 2, pruner: none, finalists: {top: 0}}
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a workspace with a confirmed study."""
    folder = tmp_path_factory.mktemp("claims")
    (folder / "small.yaml").write_text(STUDY)
    settings = Settings(workspace=folder / "results", report=False)
    config, _ = service.load_study(str(folder / "small.yaml"), settings)
    with pytest.MonkeyPatch.context() as patch:
        rayless.without_models(patch)
        options = service.RunOptions(executor="local")
        service.run(config, settings, rayless.Listener(), options)
        listen = lambda *_: contextlib.nullcontext(rayless.Listener())  # noqa: E731
        done = confirm("small", settings, listen, seeds=2, options=options)
    assert done is not None
    (folder / "results" / "said.json").write_text(json.dumps(done.as_data()))
    return settings


@pytest.fixture(scope="module")
def found(settings: Settings) -> dict[str, Any]:
    """The evidence of that study."""
    entry = Entry(name="small", label="a small one", study="digits", confirm=({"seeds": 2},), probe=True)
    said = {"confirm": [(settings.workspace / "said.json").read_text()]}
    return evidence(entry, said, settings)


@pytest.mark.parametrize("entry", PLAN.values(), ids=PLAN)
def test_every_study_of_the_plan_is_one_that_can_be_read(entry: Entry) -> None:
    assert entry.study in built_in_names()
    assert assigned([word for word in entry.commands()[0] if "=" in word])[1] == []
    assert entry.config().name == entry.name


@pytest.mark.parametrize("entry", PLAN.values(), ids=PLAN)
def test_every_study_of_the_plan_is_one_that_can_run(entry: Entry, tmp_path: Path) -> None:
    sets = [word for word in entry.commands()[0] if "=" in word]
    name = entry.config().data.name
    data = data_root(name) if name in DATA else tmp_path
    config, warnings = service.load_study(entry.study, Settings(workspace=tmp_path, data=data), sets=sets)
    assert config.name == entry.name
    assert [warning for warning in warnings if "at depth 2" not in warning] == []


def test_what_is_gathered_is_what_the_study_holds(settings: Settings, found: dict[str, Any]) -> None:
    summary = summarise("small", settings)
    assert [t["value"] for t in found["trials"]] == [row.value for row in summary.rows]
    assert found["curves"].keys() == {"guided", "plain", "strongest"}
    for row in summary.controls:
        saved = checkpoint.load_latest(settings.checkpoints("small.controls", row.number))
        assert saved is not None
        assert found["curves"][row.kind][row.seed] == [epoch.values["test_loss"] for epoch in saved.history]
    # The pairs' gain, computed from the curves.
    [gain] = [c for c in found["confirm"]["comparisons"] if (c["first"], c["second"]) == ("guided", "plain")]
    ends = [np.array([curve[-1] for curve in found["curves"][arm].values()]) for arm in ("guided", "plain")]
    assert gain["final"]["value"] == pytest.approx((ends[1] - ends[0]).mean())
    rows = [*summary.rows, *summary.controls]
    elapsed = max(row.ended or 0.0 for row in rows) - min(row.started or 0.0 for row in rows)
    assert 0 < found["hours"] * 3600 < elapsed  # one after the other, here
    assert found["commands"][1] == "confirm small --seeds 2 --json"


def test_a_probe_is_a_logistic_regression_on_the_codes(settings: Settings, found: dict[str, Any]) -> None:
    summary = summarise("small", settings)
    row = next(row for row in summary.controls if row.kind == "plain")
    weights = checkpoint.load_latest(settings.checkpoints("small.controls", row.number)).state["model"]  # type: ignore[union-attr]
    data = load_dataset(summary.config.data, root=settings.data, cache=settings.cache)

    def codes(split: Any) -> Any:
        pixels = split.images.flatten(1).float().numpy() / data.info.scale
        name = next(iter(weights)).removesuffix("weight")
        return np.maximum(pixels @ weights[f"{name}weight"].numpy().T + weights[f"{name}bias"].numpy(), 0)

    scaler = StandardScaler().fit(codes(data.train))
    fitted = LogisticRegression(max_iter=2000).fit(scaler.transform(codes(data.train)), data.train.labels)
    expected = fitted.score(scaler.transform(codes(data.test)), data.test.labels)
    assert found["probe"]["plain"][row.seed] == pytest.approx(expected, abs=0.01)
    assert 0.4 < expected < 1


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_a_constant_predictor_is_the_best_constant(data: str, settings: Settings) -> None:
    settings = settings.model_copy(update={"data": data_root(data)})
    name = {"mnist": "mnist-guidance-d08", "cifar10": "cifar10-cnn-d04"}[data]
    config = PLAN[name].config()
    dataset = load_dataset(config.data, root=settings.data, cache=settings.cache)
    if data == "mnist":
        train, test = (part.images.double().numpy() / 255 for part in (dataset.train, dataset.test))  # type: ignore[union-attr]
        expected = ((test - train.mean(axis=0)) ** 2).mean()
    else:
        expected = np.bincount(dataset.test.labels).max() / dataset.test.size  # type: ignore[union-attr]
    assert gathering.constant_level(config, settings) == pytest.approx(expected, rel=1e-5)
    assert PLAN[name].read()["constant"] == pytest.approx(expected, rel=1e-5)


def test_the_page_says_what_there_is_and_what_there_is_not(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "RESULTS"
    shutil.copytree(gathering.FOLDER, folder)
    monkeypatch.setattr(gathering, "FOLDER", folder)
    monkeypatch.setattr(page, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(page, "FIGURES", tmp_path)
    name = "mnist-guidance-d16"
    found = {**found, "constant": 1.0}  # after three epochs the small one is no better than a constant
    (folder / f"{name}.json").write_text(json.dumps(found))
    (folder / "mnist-guidance-d02.json").unlink()
    page.write(PLAN, {})
    text = (tmp_path / "RESULTS.md").read_text()
    level = found["confirm"]["comparisons"][0]["levels"][0]
    assert f"| 16 | 2 | `test_loss` | {level:.4g} |" in text
    assert "not run yet: `python -m tests.evidence mnist-guidance-d02`" in text
    assert (tmp_path / "guidance-curves.png").stat().st_size > 5000
    assert not PLAN[name].is_made(), "of other commands"
    entry = PLAN[name]
    commands = [shlex.join(words) for words in entry.commands()]
    there = {**found, "commands": commands, "config": entry.config().model_dump(mode="json")}
    (folder / f"{name}.json").write_text(json.dumps(there))
    assert entry.is_made()
    del there["config"]["search"]["design_seeds"]
    (folder / f"{name}.json").write_text(json.dumps(there))
    assert entry.is_made(), "by a version that had not this option yet"
    there["config"]["training"]["lr"] = 0.1234
    (folder / f"{name}.json").write_text(json.dumps(there))
    assert not entry.is_made(), "of another study"


def test_the_page_in_the_repository_is_the_one_that_its_evidence_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(page, "draw", lambda *_: None)
    monkeypatch.setattr(page, "draw_doses", lambda *_: None)
    page.write(PLAN, read_doses())
    text = (tmp_path / "RESULTS.md").read_text()
    assert text == (ROOT / "losses/RESULTS.md").read_text()
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    assert len(links) >= 2
    assert [link for link in links if not (ROOT / "losses" / link).exists()] == []


PLAN_OF_TWO = """
wrong:
  label: no trial
  study: digits
  set: {search.trials: 0}
right:
  label: one trial
  study: digits
  set: {search.trials: 1, search.design: 0, search.finalists.top: 0, training.max_epochs: 2}
"""


@pytest.mark.exhaustive  # four commands, each with a Ray of its own
@pytest.mark.ray
def test_what_fails_keeps_nothing_else_from_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "write", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["python -m tests.evidence"])
    monkeypatch.setenv("SWEEP_WORKSPACE", str(tmp_path / "results"))
    (tmp_path / "plan.yaml").write_text(PLAN_OF_TWO)
    assert results.main() == 2, "the exit code of a study that is refused"
    assert not (tmp_path / "wrong.json").exists()
    made = json.loads((tmp_path / "right.json").read_text())
    assert [trial["epochs"] for trial in made["trials"]] == [2]
    # It is not made again.
    before = (tmp_path / "right.json").stat().st_mtime_ns
    assert results.main() == 2
    assert (tmp_path / "right.json").stat().st_mtime_ns == before


def test_a_name_that_the_plan_lacks_is_refused() -> None:
    words = [sys.executable, "-m", "tests.evidence", "mnist-guidance-d80"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not in the plan: mnist-guidance-d80" in done.stderr
