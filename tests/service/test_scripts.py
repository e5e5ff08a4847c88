"""A study of a script of the user's own, from `sweep init` to `sweep confirm`, with and without Ray."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import sweep
from sweep import service
from sweep.config import user_code
from sweep.config.errors import SweepError
from sweep.config.settings import Settings
from sweep.service import load_study

from ..support.commands import sweep_here
from ..support.invariants import Curves, assert_whole, left_by, strange_curves
from ..support.training import curve, train
from .test_functions import listen

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

EXAMPLES = Path(sweep.__file__).parent / "builtin" / "examples"
LOCAL = service.RunOptions(executor="local")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_code, "_folders", [])  # scripts of other tests have the same names
    return Settings(workspace=tmp_path / "results", report=False)


LIGHT = """
import json, os, sys
for epoch in range(1, 4):
    loss = float(sys.argv[1]) / epoch + float(sys.argv[2])
    values = {"val_loss": loss, **({"test_loss": 1 + loss} if os.environ["SWEEP_CONFIRMING"] == "1" else {})}
    with open(os.environ["SWEEP_METRICS_FILE"], "a") as file:
        file.write(json.dumps(values) + chr(10))
"""
STUDY = """
name: light
command: [python, light.py, "{lr}", "{lambda1}"]
objective: {metric: val_loss, direction: minimize}
space: {lr: {low: 0.1, high: 1.0, default: 0.5}, lambda1: {low: 0.1, high: 1.0}}
training: {max_epochs: 3}
search: {trials: 3, sampler: random, pruner: none, finalists: {top: 1, seeds: 2, tuned: 2}}
"""


def write_study(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "light.py").write_text(LIGHT)
    (folder / "light.yaml").write_text(STUDY)
    return str(folder / "light.yaml")


def test_a_study_trains_finalists_controls_and_pairs_of_a_script(settings: Settings, tmp_path: Path) -> None:
    config, warnings = load_study(write_study(tmp_path / "beside"), settings)
    assert warnings == []
    service.run(config, settings, options=LOCAL)
    left = left_by(settings.workspace, "light")
    assert_whole(left, "light", trials=3, controls=2 + 2 + 2 + 2)
    for trial in left.trials:
        values = [trial.params["lr"] / epoch + trial.params["lambda1"] for epoch in (1, 2, 3)]
        assert left.runs[f"light-{trial.number:04d}"].curve["val_loss"] == values
    [control, _] = [t for t in left.controls if t.user_attrs["kind"] == "control"]
    assert control.value == control.user_attrs["hyperparameters"]["lr"] / 3, "a control's lambda1 is 0"
    assert left.runs["light-0000"].tags["sweep.script"]
    found = service.confirm("light", settings, listen, seeds=1, options=LOCAL)
    assert found is not None
    assert found.metric == "test_loss"
    assert not strange_curves(left, Curves(config, tmp_path, tmp_path / "scratch"))


@pytest.mark.ray
@pytest.mark.exhaustive  # a whole Ray
def test_a_script_beside_the_study_file_is_found_by_workers(settings: Settings, tmp_path: Path) -> None:
    config, _ = load_study(write_study(tmp_path / "beside"), settings)
    service.run(config, settings)
    assert_whole(left_by(settings.workspace, "light"), "light", trials=3, controls=2 + 2 + 2 + 2)


@pytest.mark.exhaustive  # each start imports scikit-learn
def test_the_example_runs_is_ended_and_goes_on_to_the_same_numbers(settings: Settings, tmp_path: Path) -> None:
    config, warnings = load_study(str(EXAMPLES / "script.yaml"), settings)
    assert warnings == []
    trial = config.trial({"lr": 0.1, "batch_size": 32}).model_copy(update={"test": True})
    whole = curve(train(trial, tmp_path / "whole"))
    assert list(whole) == [*range(1, 21)]
    assert whole[20]["val_loss"] < whole[1]["val_loss"] / 2
    assert whole[20]["test_loss"] < 0.7
    first = train(trial, tmp_path / "parts", reports=1)
    assert len(curve(first)) < 20
    assert curve(train(trial, tmp_path / "parts", attempt=2)) == whole


def test_init_writes_a_study_of_a_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLES / "script.py", "loop.py")

    def init(name: str, *words: str) -> str:
        ended = sweep_here(monkeypatch, capsys, settings.workspace, "init", name, *words)
        return ended.err if ended.code else ended.out

    assert "Wrote first.yaml" in init("first", "--command", "python loop.py --lr {lr} --batch-size '{batch_size}'")
    config, warnings = load_study("first.yaml", settings)
    assert warnings == []
    assert config.command == ("python", "loop.py", "--lr", "{lr}", "--batch-size", "{batch_size}")
    assert (config.objective.metric, list(config.searched)) == ("val_loss", ["lr", "batch_size"])
    assert "no file lop.py" in init("other", "--command", "python lop.py {lr}")
    assert "No closing quotation" in init("other", "--command", "python 'loop.py")
    assert "leave them out" in init("other", "--command", "python loop.py {lr}", "--model", "mlp")
    assert not Path("other.yaml").exists()


BROKEN = """
name: broken
command: [python, broken.py, "{lr}"]
objective: {metric: val_loss, direction: minimize}
space: {lr: {low: 0.1, high: 1.0}}
search: {trials: 2, sampler: random, finalists: {top: 0}}
"""


def test_what_a_script_does_wrong_is_told_by_train_and_by_its_trial(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    script = tmp_path / "broken.py"

    def here(*words: str) -> tuple[int, str, str]:
        ended = sweep_here(monkeypatch, capsys, settings.workspace, *words)
        return ended.code, ended.out, ended.err

    script.write_text("print('nothing to report')")
    code, _, err = here("train", "broken.yaml", "--set", "lr=0.5")
    assert code == 2
    assert "ended without a report: it never told val_loss" in err
    config, _ = load_study("broken.yaml", settings)
    with pytest.raises(SweepError, match=r"never told val_loss.* Nothing is lost: mend that, then resume the study"):
        service.run(config, settings, options=LOCAL)
    script.write_text("import sys; sys.exit('no such file: data.csv')")
    code, _, err = here("train", "broken.yaml", "--set", "lr=0.5")
    assert code == 2
    assert "ended with exit code 1\nno such file: data.csv" in err
    assert "Traceback" not in err
    service.run(config, settings, options=LOCAL)
    left = left_by(settings.workspace, "broken")
    assert_whole(left, "broken", trials=2, controls=0)
    for run in left.runs.values():
        assert run.tags["sweep.error"].endswith("ended with exit code 1\nno such file: data.csv")
    code, out, _ = here("status", "broken", "--log", "1")
    assert (code, out) == (0, "no such file: data.csv\n")


def test_train_prints_json_alone_whatever_the_script_prints(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    report = "open(os.environ['SWEEP_METRICS_FILE'], 'a').write('{\"val_loss\": 0.5}\\n')"
    (tmp_path / "broken.py").write_text(f"import os; print('loud'); {report}")
    ended = sweep_here(monkeypatch, capsys, settings.workspace, "train", "broken.yaml", "--set", "lr=0.5", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["epochs"][0]["val_loss"] == 0.5
    assert "loud" in ended.err
