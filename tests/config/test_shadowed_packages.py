"""A user's folders and modules may have the names of this program and of its top-level folders."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import cloudpickle
import pytest

from sweep.cluster.shadowing import import_hook

CHECKOUT = Path(__file__).parents[2]
LAUNCHER = CHECKOUT / "sweep" / "cli" / "launcher" / "__init__.py"
FILES = {
    "models/__init__.py": "",
    "models/parts.py": "from torch.nn import Tanh as activation",
    "models/nets.py": """
        from torch import nn

        from losses import SCALE

        from . import parts

        class Net(nn.Module):
            def __init__(self, depth, width, in_shape, num_outputs):
                super().__init__()
                layers = [nn.Linear(64, width), parts.activation(), nn.Linear(width, num_outputs)]
                self.layers = nn.Sequential(nn.Flatten(), *layers)

            def forward(self, x):
                return self.layers(x) * SCALE
    """,
    "losses.py": "SCALE = 1.0",
    "cluster/__init__.py": "raise RuntimeError('the cluster of the user')",
    "tests/__init__.py": "raise RuntimeError('the tests of the user')",
    "study.yaml": """
        name: shadowed
        model: {name: "models.nets:Net"}
        data: {name: digits}
        objective: {metric: val_loss, direction: minimize}
        space: {lambda1: {low: 1.0e-5, high: 1.0e-1, log: true}, depth: 2, width: 8}
        training: {max_epochs: 1, batch_size: 64, lr: 3.0e-2}
        search: {trials: 2, pruner: none, finalists: {top: 0}}
    """,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder, with a package of its own for each top-level folder of this program."""
    folder = tmp_path / "project"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip("\n"))
    return folder


@pytest.fixture
def hidden(project: Path) -> Path:
    """The same folder with a ``sweep.py``, too."""
    (project / "sweep.py").write_text("raise RuntimeError('the sweep of the user')\n")
    return project


def call(folder: Path, *words: object, path: str | Path = "") -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder, with ``path`` for PYTHONPATH, and returns what it printed."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEP_", "MLFLOW_", "RAY_"))}
    variables |= {"PYTHONPATH": str(path), "SWEEP_WORKSPACE": str(folder.parent / "results")}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env={**variables, "SWEEP_DATA": str(folder.parent / "data")},
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip


def sweep(folder: Path, *words: str, path: str | Path = "") -> str:
    """Calls the command as it is installed, and returns its standard output."""
    done = call(folder, LAUNCHER, *words, path=path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_installed_command_is_the_launcher() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"sweep": "entropy_sweep:main"}
    assert CHECKOUT / project["tool"]["setuptools"]["package-dir"]["entropy_sweep"] == LAUNCHER.parent
    assert {"sweep", "entropy_sweep"} <= {*project["tool"]["setuptools"]["packages"]}


@pytest.mark.parametrize("path", [pytest.param("", marks=pytest.mark.exhaustive), "."])
def test_the_command_starts_beside_packages_of_its_own_names(hidden: Path, path: str) -> None:
    assert "No study yet" in sweep(hidden, "status", path=path)


@pytest.mark.parametrize(
    "package", [pytest.param(True, marks=pytest.mark.exhaustive), False], ids=["package", "folder"]
)
def test_a_trial_trains_a_model_of_the_users_models(hidden: Path, *, package: bool) -> None:
    if not package:  # without __init__.py Python would prefer any other package of this name
        (hidden / "models" / "__init__.py").unlink()
    trained = json.loads(sweep(hidden, "train", "study.yaml", "--set", "lambda1=0.01", "--json", path=CHECKOUT))
    assert trained["outcome"] == "completed"
    assert trained["config"]["model"]["name"] == "models.nets:Net"


@pytest.mark.exhaustive
def test_a_study_trains_a_model_of_the_users_models_on_rays_workers(hidden: Path) -> None:
    """Ray puts the current folder, with its ``sweep.py``, first in the path of its workers."""
    done = json.loads(sweep(hidden, "run", "study.yaml", "--no-report", "--json", path="."))
    assert [trial["outcome"] for trial in done["trials"]] == ["completed", "completed"]


NOTEBOOK = """
    import sys

    import sweep

    heavy = {"torch", "ray", "optuna", "mlflow", "pydantic", "numpy"} & sys.modules.keys()
    assert not heavy, heavy
    assert sweep.__version__ and {"run", "load", "train", "confirm"} < {*sweep.__all__}

    import models, losses
    from sweep import EntropyGuidance, RunCallback, RunOptions, Settings, StudyConfig

    assert losses.SCALE == 1.0 and EntropyGuidance.__module__ == "sweep.losses.guidance"

    class Counter(RunCallback):
        ended = 0

        def on_trial_end(self, trial, outcome, error):
            self.ended += 1

    config = sweep.load_config("study.yaml")
    assert isinstance(config, StudyConfig) and config.search.trials == 2
    counter = Counter()
    here = RunOptions(executor="local")
    study = sweep.run("study.yaml", trials=3, settings=Settings(report=False), callback=counter, options=here)
    assert study.trials["outcome"].tolist() == ["completed"] * 3 and counter.ended == 3
    best = study.best(1)
    assert sweep.run("shadowed").best(1).index[0] == best.index[0]
    [epoch] = sweep.train("shadowed", trial=int(best.index[0]))
    assert epoch.values["val_loss"] == best["value"].iloc[0]
    print(sweep.load("shadowed").report().files[0])
"""


@pytest.mark.exhaustive
def test_a_notebook_calls_the_program_beside_the_users_packages(project: Path) -> None:
    (project / "notebook.py").write_text(textwrap.dedent(NOTEBOOK))
    done = call(project, "notebook.py", path=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(done.stdout.strip()).is_file()


def test_a_worker_that_would_find_another_module_imports_this_program_first(
    hidden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(hidden.parent)
    assert import_hook() is None
    monkeypatch.chdir(CHECKOUT)
    assert import_hook() is None
    monkeypatch.chdir(hidden)
    hook = cloudpickle.dumps(import_hook())
    code = f"import pickle; pickle.loads({hook!r})(); import sweep; print(sweep.__file__)"
    assert call(hidden, "-c", code, path=".").stdout.strip() == str(CHECKOUT / "sweep" / "__init__.py")
    monkeypatch.chdir(hidden.parent)
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    assert pickle.loads(cloudpickle.dumps(import_hook())) is not None
