"""Runs of a function or a script of the user's own that end by SIGKILL: exactly the budget, nothing trained twice."""

from __future__ import annotations

import functools
import os
import random
import signal
import textwrap
from pathlib import Path

import psutil
import pytest

from sweep.config.user_code import search_in

from ..support.commands import sweep
from ..support.invariants import Curves, assert_whole, checkpointed, left_by, newest, strange_curves, trained_again
from ..support.processes import Command, title, wait_for
from ..support.studies import config_of

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

STUDY = """
name: killed
SUBJECT
objective: {metric: val_loss, direction: minimize}
space: {width: 4, lr: {low: 1e-3, high: 1e-1, log: true}, lambda1: {low: 1e-4, high: 1e-1, log: true}}
training: {max_epochs: EPOCHS}
search: {trials: 3, sampler: random, pruner: none, finalists: {top: 0}}
"""
CODE = """
import random
import time

import numpy as np
import torch
from torch import nn


def generator(trial):
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(3, trial["width"]), nn.Linear(trial["width"], 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=trial["lr"])
    guidance = trial.guidance(model, batch_size=8)
    for epoch in trial.epochs(model=model, optimizer=optimizer):
        time.sleep(0.05)
        x = torch.randn(8, 3) + random.random() + float(np.random.rand())
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        guidance.add_gradients()
        optimizer.step()
        yield {"val_loss": loss.item()}


def callback(trial):
    for metrics in generator(trial):
        trial.report(metrics)
"""

SCRIPT = """
import json
import os
import random
import sys
import time
from pathlib import Path

saved = Path(os.environ["SWEEP_CHECKPOINT_DIR"], "state.json")
epoch, value = json.loads(saved.read_text()) if saved.is_file() else (0, 1.0)
for epoch in range(epoch + 1, int(os.environ["SWEEP_MAX_EPOCHS"]) + 1):
    time.sleep(0.05)
    value *= 1 - float(sys.argv[1]) * random.Random(f"{os.environ['SWEEP_SEED']} {epoch}").random()
    with open(os.environ["SWEEP_METRICS_FILE"], "a") as file:
        file.write(json.dumps({"epoch": epoch, "val_loss": value}) + chr(10))
    saved.with_name("new.json").write_text(json.dumps([epoch, value]))
    saved.with_name("new.json").replace(saved)
"""


KILLS = int(os.environ.get("FUNCTION_KILLS", "1"))  # of each form; 20 in `make torture`


def of_test(module: str, form: str, kills: int) -> str:
    """The study file, with so many epochs that no run before the last reaches its end."""
    of_script = f'command: [python, {module}.py, "{{lr}}", --width, "{{width}}", "{{lambda1}}"]'
    subject = of_script if form == "script" else f'function: "{module}:{form}"'
    words = {"SUBJECT": subject, "EPOCHS": str(60 + 15 * kills)}
    return functools.reduce(lambda text, word: text.replace(*word), words.items(), STUDY)


def kill_after(epochs: int, workspace: Path, *command: str) -> None:
    """Runs a command, and kills it when checkpoints hold so many more epochs."""
    before, driver = sum(newest(workspace, "killed").values()), Command(workspace, *command)
    try:
        wait_for(lambda: driver.over or sum(newest(workspace, "killed").values()) >= before + epochs, "epochs")
        assert not driver.over, driver.out
        driver.signal(signal.SIGKILL)
        driver.end()
    finally:
        driver.close()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("form", "kills", "executor"),
    [
        ("generator", KILLS, "local"),
        ("callback", KILLS, "local"),
        ("script", KILLS, "local"),
        pytest.param("generator", KILLS, "ray", marks=pytest.mark.ray),
        pytest.param("script", KILLS, "ray", marks=pytest.mark.ray),
    ],
)
def test_a_killed_run_goes_on_from_the_last_checkpoints(form: str, kills: int, executor: str, tmp_path: Path) -> None:
    chance, workspace, module = random.Random(kills), tmp_path / "workspace", f"own_{form}_{kills}_{executor}"
    (tmp_path / f"{module}.py").write_text(SCRIPT if form == "script" else textwrap.dedent(CODE))
    (tmp_path / "killed.yaml").write_text(text := of_test(module, form, kills))
    command = ("run", str(tmp_path / "killed.yaml"), "--executor", executor)
    safe: dict[str, dict[int, int]] = {}
    for _ in range(kills):
        kill_after(chance.randrange(1, 10), workspace, *command)
        for name, epochs in checkpointed(workspace, "killed").items():
            safe[name] = {**epochs, **safe.get(name, {})}
    ended = sweep(workspace, *command)
    assert ended.code == 0, ended.err
    left = left_by(workspace, "killed")
    assert_whole(left, "killed", trials=3, controls=0)
    assert not trained_again(left, safe, checkpointed(workspace, "killed"))
    search_in(tmp_path)
    wait_for(lambda: not [p for p in psutil.process_iter() if f"{module}.py" in title(p)], "the end of all scripts")
    assert not strange_curves(left, Curves(config_of(text), tmp_path, tmp_path / "scratch"))
