"""The saved model of a study, by the lines of the page and by `sweep train --out`: the accuracy of `train --test`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sweep import service
from sweep.config.settings import Settings
from sweep.data.datasets import stratified_order

from ..support.commands import sweep_here
from ..support.processes import environment

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

PAGE = Path(__file__).parents[2] / "models" / "README.md"
SHORT = ["search.design=0", "search.sampler=random", "training.max_epochs=3", "search.finalists.top=1"]
SHORT += ["search.finalists.seeds=1", "search.finalists.tuned=0", "space.depth=4", "space.width=64"]
KEEP = """
import json
numpy.save("restored.npy", restored)
json.dump([run, model.metadata.metadata, str(model.metadata.signature.inputs)], open("model.json", "w"))
"""


@pytest.mark.exhaustive
def test_the_page_predicts_as_well_as_train_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = tmp_path / "results"
    settings = Settings(
        workspace=workspace,
        storage=f"journal:///{workspace}/optuna.journal",
        tracking_uri=f"sqlite:///{workspace}/mlflow.db",
        report=False,
    )
    config, _ = service.load_study("digits", settings, sets=SHORT, trials=2)
    summary = service.run(config, settings, options=service.RunOptions(executor="local"))
    best = summary.best[0]

    [block] = re.findall(r"^## Load the best and predict\n.+?^```python\n(.+?)^```", PAGE.read_text(), re.M | re.S)
    code, env = [sys.executable, "-W", "ignore", "-c", block + KEEP], environment(workspace)
    done = subprocess.run(code, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, metadata, inputs = json.loads((tmp_path / "model.json").read_text())
    assert "uint8" in inputs
    assert "(-1, 1, 8, 8)" in inputs
    assert (metadata["study"], metadata["trial"]) == ("digits", best.number)
    assert (metadata["metric"], metadata["value"]) == ("val_loss", best.value)

    out = tmp_path / "model.pt2"
    words = ("train", "digits", "--trial", str(best.number), "--test", "--json", "--out", str(out))
    ended = sweep_here(monkeypatch, capsys, workspace, *words)
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)["test"]["test_loss"]
    assert f"Wrote {out}" in ended.err

    images, test = load_digits().images[:, None], stratified_order(load_digits().target)[-359:]
    restored = np.load(tmp_path / "restored.npy")
    assert float(done.stdout) == pytest.approx(((restored - images / 16) ** 2).mean(), rel=1e-5)
    assert ((restored[test] - images[test] / 16) ** 2).mean() == pytest.approx(said, rel=1e-5)
    assert said < images[test].var() / 16**2, "better than a constant image"

    extra = {"metadata.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    with torch.inference_mode():
        assert program(torch.from_numpy(images.astype(np.uint8))).numpy() == pytest.approx(restored, abs=1e-6)
    assert json.loads(extra["metadata.json"]) == metadata


NETS = """
from torch import nn


class Branching(nn.Module):
    def __init__(self, depth, width, in_shape, num_outputs):
        super().__init__()
        self.head = nn.Linear(64, num_outputs)

    def forward(self, x):
        x = self.head(x.flatten(1))
        return x if x.mean() > 0 else 2 * x
"""
BAD_OUT = {
    "another kind of file": ("model.onnx", "must end in .pt2"),
    "a file that exists": ("there.pt2", "exists"),
    "no such folder": ("nowhere/model.pt2", "there is no folder nowhere"),
    "a network that cannot be exported": ("model.pt2", "nets_to_save.py, line 12"),
}


@pytest.mark.parametrize(("out", "part"), BAD_OUT.values(), ids=BAD_OUT.keys())
def test_a_model_that_cannot_be_kept_is_refused_before_the_training(
    out: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.pt2").write_text("mine")
    (tmp_path / "nets_to_save.py").write_text(NETS)
    (tmp_path / "study.yaml").write_text(
        "{name: mine, model: {name: 'nets_to_save:Branching', depth: 1, width: 4}, data: {name: digits},"
        " objective: {metric: val_loss, direction: minimize}, space: {lambda1: 0.001}}"
    )
    monkeypatch.chdir(tmp_path)
    ended = sweep_here(monkeypatch, capsys, tmp_path / "results", "train", "study.yaml", "--out", out)
    assert ended.code == 2
    assert f"--out {out}: " in ended.err
    assert part in ended.err
    assert "Traceback" not in ended.err
    assert "epoch" not in ended.out + ended.err
    assert (tmp_path / "there.pt2").read_text() == "mine"
    assert not (tmp_path / "model.pt2").exists()
