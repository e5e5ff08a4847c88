"""The user's own model, loss and metrics: found, checked before the first trial, trained with, sent to the workers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from sklearn.metrics import f1_score

from sweep import service
from sweep.config.settings import Settings
from sweep.config.trial_config import TrialConfig
from sweep.config.user_code import ImportPathError, import_object, modules_to_send
from sweep.losses.task import TASKS, customise
from sweep.service.preflight.space_checks import check_names, check_study
from sweep.training.loop import evaluate, fit
from sweep.training.meter import Meter
from sweep.training.trial import TrialPaths, assemble, run_trial

from ..conftest import MakeConfig, Package
from ..support import rayless
from ..support.processes import environment

NETS = """
    import torch
    from torch import nn

    from . import parts

    class Net(nn.Module):
        def __init__(self, depth, width, in_shape, num_outputs, **rest):
            super().__init__()
            self.rest = rest
            layers = [nn.Flatten(), nn.Linear(in_shape[0] * in_shape[1] * in_shape[2], width)]
            for _ in range(depth - 1):
                layers += [parts.activation(), nn.Linear(width, width)]
            self.layers = nn.Sequential(*layers, parts.activation(), nn.Linear(width, num_outputs))

        def forward(self, x):
            return self.layers(x)
"""
METRICS = """
    import torch

    def absolute(output, target):
        return (output - target).abs().mean()

    def focal(output, target):
        log_p = output.log_softmax(1).gather(1, target[:, None])
        return ((1 - log_p.exp()) ** 2 * -log_p).mean()

    def f1(output, target):
        \"\"\"Macro average.\"\"\"
        scores = []
        for k in range(output.shape[1]):
            found, there = output.argmax(1) == k, target == k
            scores.append(2 * (found & there).sum() / (found.sum() + there.sum()))
        return torch.stack(scores).mean()

    def vector(output, target):
        return output.sum(1)

    def detached(output, target):
        return output.detach().mean()

    def broken(output, target):
        raise RuntimeError("no such thing")

    THRESHOLD = 0.5
"""


@pytest.fixture
def package(write_package: Package) -> Package:
    """With networks and metrics, and what a test adds."""
    files = {"parts": "from torch.nn import Tanh as activation", "nets": NETS, "metrics": METRICS}
    return lambda **modules: write_package(**{**files, **modules})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path / "results", data=tmp_path / "data")


# -- finding -----------------------------------------------------------------------------------------------------------


def test_what_a_path_names_is_imported(package: Package, capsys: pytest.CaptureFixture[str]) -> None:
    name = package(loud="print('hello')\nclass Outer:\n    class Inner: pass")
    assert import_object(f"{name}.nets:Net").__module__ == f"{name}.nets"
    assert import_object(f"{name}.loud:Outer.Inner").__qualname__ == "Outer.Inner"
    assert capsys.readouterr().out == ""  # for results, as with --json
    assert import_object("torch.nn.functional:l1_loss") is torch.nn.functional.l1_loss


@pytest.mark.parametrize(
    ("module", "attribute", "words"),
    [
        ("nets", "Nett", ["nets.py has no Nett", "did you mean Net?"]),
        ("missing", "Net", ["there is no module {name}.missing in ", "{folder}", "or among the installed packages"]),
        ("syntax", "Net", ["{folder}/{name}/syntax.py, line 2: SyntaxError"]),
        ("failing", "Net", ["{folder}/{name}/failing.py, line 3: ZeroDivisionError: division by zero"]),
        ("nested", "Net", ["{folder}/{name}/failing.py, line 3: ZeroDivisionError"]),
        ("lacking", "Net", ["{folder}/{name}/lacking.py, line 2: ModuleNotFoundError: No module named 'nowhere'"]),
        ("inside", "Net", ["{folder}/{name}/inside.py, line 3: RuntimeError"]),  # raised in torch, called there
        ("leaving", "Net", ["{folder}/{name}/leaving.py, line 1: SystemExit: 3"]),
    ],
)
def test_a_failing_import_is_told_by_the_users_file_and_line(
    package: Package, tmp_path: Path, module: str, attribute: str, words: list[str]
) -> None:
    name = package(
        syntax="x = 1\ndef Net(:",
        failing="x = 1\n\nx / 0",
        nested="from . import failing",
        lacking="x = 1\nimport nowhere",
        inside="import torch\n\ntorch.zeros(3).view(2)",
        leaving="raise SystemExit(3)",
    )
    with pytest.raises(ImportPathError) as error:
        import_object(f"{name}.{module}:{attribute}")
    for word in words:
        assert word.format(name=name, folder=tmp_path / "code") in str(error.value)
    assert str(error.value).startswith(f"{name}.{module}:{attribute}")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("mypkg/nets.py:Net", "'mypkg/nets.py:Net' must be package.module:attribute, as in mypkg.nets:Net"),
        ("mypkg.nets:", "must be package.module:attribute"),
        ("a:b:c", "must be package.module:attribute"),
        ("sweep.vit:ViT", "there is no module sweep.vit; sweep is this program: give yours another name"),
        ("models.vit:ViT", "there is no module models.vit in"),
        ("nowhere_at_all:Net", "there is no module nowhere_at_all in"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(path: str, words: str) -> None:
    with pytest.raises(ImportPathError, match=re.escape(words)):
        import_object(path)


def test_workers_are_sent_what_was_imported_from_these_folders(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.config.user_code._folders", [])  # where tests before have found code of their own
    name, unused = package(), package()
    single = f"single_{uuid.uuid4().hex[:8]}"
    (tmp_path / "code" / f"{single}.py").write_text("X = 1")
    import_object(f"{name}.nets:Net")
    import_object(f"{single}:X")
    sent = modules_to_send()
    assert {str(tmp_path / "code" / name), str(tmp_path / "code" / f"{single}.py")} <= set(sent)
    assert not [path for path in sent if unused in path or "site-packages" in path or path.endswith("/models")]


# -- checking ----------------------------------------------------------------------------------------------------------


def study(study_config: MakeConfig, name: str, module: str = "nets:Net", **changes: Any) -> Any:
    return study_config(**{"model": {"name": f"{name}.{module}"}, **changes})


def test_a_study_of_ones_own_has_no_problem_and_no_warning(
    study_config: MakeConfig, settings: Settings, package: Package
) -> None:
    name = package()
    config = study(
        study_config,
        name,
        model={"name": f"{name}.nets:Net", "anything": 3},
        task={"loss": f"{name}.metrics:focal", "metrics": {"f1": f"{name}.metrics:f1"}},
        objective={"metric": "val_f1", "direction": "maximize"},
        space={"lambda1": 0.01, "depth": {"low": 1, "high": 3}, "width": {"choices": [4, 1000]}, "model.other": "x"},
    )
    assert check_study(config, settings) == ([], [])
    assert config.import_paths.keys() == {"model.name", "task.loss", "task.metrics.f1"}
    assert config.identity()["task.metrics.f1"] == f"{name}.metrics:f1"


BASE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, depth, width, in_shape, num_outputs):
            super().__init__()
            {init}

        def forward(self, x):
            {forward}
"""
LINEAR = "self.layer = nn.Linear(64, num_outputs)"


@pytest.mark.parametrize(
    ("init", "forward", "words"),
    [
        (
            LINEAR,
            "return x.flatten(1)",
            ["for 4 images its output is of the shape [4, 64], expected of the shape [4, 10]"],
        ),
        (LINEAR, "return self.layer(x.flatten(1)), x", ["its output is a tuple, expected of the shape [4, 10]"]),
        (LINEAR, "return self.layer(x)", ["bad.py, line 10: RuntimeError: ", "mat1 and mat2 shapes"]),
        ("self.layer = nn.Linear(64, wide)", "return x", ["bad.py, line 7: NameError", "wide"]),
        (
            "raise ValueError(f'depth {depth} is odd')",
            "return x",
            ["at depth 2, width 8", "line 7: ValueError: depth 2 is"],
        ),
        ("self.n = num_outputs", "return x.flatten(1)[:, : self.n]", ["no parameters that could be trained"]),
        ("self.w = nn.Parameter(torch.ones(64, 10))", "return x.flatten(1) @ self.w", ["no layer to guide"]),
    ],
)
def test_a_model_that_would_fail_in_training_is_refused(
    study_config: MakeConfig, settings: Settings, package: Package, init: str, forward: str, words: list[str]
) -> None:
    name = package(bad=BASE.format(init=init, forward=forward))
    problems, warnings = check_study(study(study_config, name, "bad:Net"), settings)
    assert len(problems) == 1, problems
    assert warnings == []
    for word in (f"model {name}.bad:Net on digits: ", *words):
        assert word in problems[0]


def test_what_is_wrong_at_every_size_is_said_once(
    study_config: MakeConfig, settings: Settings, package: Package
) -> None:
    name = package(bad=BASE.format(init=LINEAR, forward="return x.flatten(1)"))
    space = {"lambda1": 0.01, "depth": {"low": 1, "high": 3}, "width": {"choices": [4, 8]}}
    [problem], _ = check_study(study(study_config, name, "bad:Net", space=space), settings)
    assert "on digits: at depth 1, width 4 and 5 more: for 4 images its output is of the shape [4, 64]" in problem


def test_a_model_that_cannot_do_without_weights_is_built_with_them(
    study_config: MakeConfig, settings: Settings, package: Package
) -> None:
    code = BASE.format(
        init=f"{LINEAR}; self.scale = float(self.layer.weight.std())",
        forward="return self.layer(x.flatten(1)) * self.scale",
    )
    assert check_study(study(study_config, package(bad=code), "bad:Net"), settings) == ([], [])


@pytest.mark.parametrize("lambda1", [0.0, 0.01])
def test_trained_weights_that_guidance_leaves_out_are_told(
    study_config: MakeConfig, settings: Settings, package: Package, lambda1: float
) -> None:
    code = BASE.format(
        init=f"{LINEAR}; self.rows = nn.GRU(8, 8, batch_first=True)",
        forward="return self.layer(self.rows(x[:, 0])[0].flatten(1))",
    )
    space = {"lambda1": lambda1, "depth": {"low": 1, "high": 3}, "width": 4}
    problems, told = check_study(study(study_config, name := package(bad=code), "bad:Net", space=space), settings)
    assert problems == []
    start = f"guidance leaves out trained weights of {name}.bad:Net: rows.weight_ih_l0, rows.weight_hh_l0 (recurrent"
    assert len(told) == (lambda1 > 0)
    assert all(message.startswith(start) for message in told)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"name": "{p}.nets:Nett"}}, ["model.name: {p}.nets:Nett: ", "has no Nett"]),
        ({"model": {"name": "{p}.metrics:THRESHOLD"}}, ["model.name: ", "must be a class or a function", "float"]),
        ({"model": {"name": "{p}.few:few"}}, ["must take depth, width, in_shape", "lacks in_shape, num_outputs"]),
        ({"model": {"name": "{p}.few:none"}}, ["it must make a torch.nn.Module, not a int"]),
        ({"model": {"name": "{p}.few:none", "latent": 3}}, ["model.latent: ", "has no such option", "depth, width"]),
        ({"model": {"name": "{p}.few:Needy"}}, ["on digits: at depth", ": TypeError: Needy.__init__() missing 1"]),
        ({"model": {"name": "{p}.few:Strange"}}, ["task is 'guessing'", "classification, segmentation"]),
        ({"task": {"kind": "reconstruction"}}, ["expected of the shape [4, 1, 8, 8]"]),
        ({"model": {"name": "mlp"}, "task": {"kind": "reconstruction"}}, ["task.kind: mlp is for classification"]),
        ({"task": {"loss": "{p}.metrics:focl"}}, ["task.loss: ", "has no focl", "did you mean focal?"]),
        ({"task": {"loss": "{p}.metrics:vector"}}, ["task.loss: ", "returned a tensor [4], not one number"]),
        ({"task": {"loss": "{p}.metrics:detached"}}, ["task.loss: ", "a tensor [] without a gradient"]),
        ({"task": {"loss": "{p}.metrics:broken"}}, ["task.loss: ", "metrics.py, line ", "no such thing"]),
        ({"task": {"metrics": {"m": "{p}.metrics:vector"}}}, ["task.metrics.m: ", "vector"]),
        ({"task": {"metrics": {"m": "{p}.metrics:broken"}}}, ["task.metrics.m: ", "metrics.py, line 25"]),
        ({"task": {"metrics": {"accuracy": "{p}.metrics:f1"}}}, ["task.metrics.accuracy: ", "choose another"]),
        ({"objective": {"metric": "val_f1"}}, ["objective.metric: ", "'val_f1'", "val_loss, val_accuracy"]),
        (
            {"task": {"metrics": {"f1": "{p}.metrics:f1"}}, "objective": {"metric": "val_f2"}},
            ["objective.metric: ", "did you mean val_f1?", "val_loss, val_accuracy, val_f1"],
        ),
        (
            {"model": {"name": "autoencoder"}, "task": {"loss": "{p}.metrics:absolute"},
             "objective": {"metric": "val_psnr"}},
            ["objective.metric: ", "'val_psnr'", "it has val_loss"],
        ),
    ],
)  # fmt: skip
def test_a_problem_of_ones_own_is_told_before_the_first_trial(
    study_config: MakeConfig, settings: Settings, package: Package, changes: dict[str, Any], words: list[str]
) -> None:
    few = """
        from torch import nn
        def few(depth, width): return nn.Linear(depth, width)
        def none(depth, width, in_shape, num_outputs): return depth
        class Strange(nn.Module):
            task = "guessing"
            def __init__(self, depth, width, in_shape, num_outputs): super().__init__()
        class Needy(nn.Module):
            def __init__(self, depth, width, in_shape, num_outputs, slope): super().__init__()
    """
    name = package(few=few)
    changes = json.loads(json.dumps(changes).replace("{p}", name))
    problems, _ = check_study(study(study_config, name, **changes), settings)
    assert len(problems) == 1, problems
    for word in words:
        assert word.replace("{p}", name) in problems[0]
    assert str(Path(__file__).parents[2] / "sweep") not in problems[0]  # no line of ours
    assert str(Path(__file__).parents[2] / "models") not in problems[0]


def test_all_problems_are_told_at_once(package: Package) -> None:
    name = package(failing="1 / 0")
    raw = {
        "model": {"name": f"{name}.failing:Net"},
        "data": {"name": "nowhere_at_all:Set"},
        "task": {"loss": f"{name}.metrics:focl", "metrics": {"f1": f"{name}.metric:f1", "two": 2}},
        "nonsense": 3,
    }
    problems = check_names(raw)
    assert [p.partition(":")[0] for p in problems] == ["model.name", "data.name", "task.loss", "task.metrics.f1"]


@pytest.mark.parametrize("names", [["f 1"], ["2"], ["val/f1"]])
def test_a_metrics_name_is_a_plain_one(study_config: MakeConfig, names: list[str]) -> None:
    with pytest.raises(ValueError, match="names are letters, digits and '_', a letter first"):
        study_config(task={"metrics": dict.fromkeys(names, "a:b")})


# -- training ----------------------------------------------------------------------------------------------------------


def run_of(study_config: MakeConfig, tmp_path: Path, **changes: Any) -> Any:
    torch.set_num_threads(1)
    config: TrialConfig = study_config(**changes).trial({"lambda1": 1e-3})
    return assemble(config, TrialPaths(tmp_path / "none", tmp_path / "data", tmp_path / "cache"))[0]


def test_own_loss_and_metrics_are_what_they_say(study_config: MakeConfig, package: Package, tmp_path: Path) -> None:
    name = package()
    run = run_of(
        study_config,
        tmp_path,
        model={"name": f"{name}.nets:Net"},
        task={"loss": f"{name}.metrics:focal", "metrics": {"f1": f"{name}.metrics:f1"}},
        training={"max_epochs": 2, "lr": 1e-2},
        space={"lambda1": {"low": 1e-5, "high": 1e-1, "log": True}, "depth": 2, "width": 16},
    )
    first, second = fit(run)
    assert set(first.values) > {"train_loss", "train_accuracy", "train_f1", "val_loss", "val_accuracy", "val_f1"}
    assert second.values["val_loss"] < first.values["val_loss"]
    images = (run.val.images.float() / 16 - 0.3049) / 0.3760
    with torch.no_grad():
        logits = run.model.eval()(images).numpy().astype(np.float64)
    p = np.exp(logits)[range(len(images)), run.val.labels] / np.exp(logits).sum(1)
    assert second.values["val_loss"] == pytest.approx(np.mean(-((1 - p) ** 2) * np.log(p)), rel=1e-4)
    expected = f1_score(run.val.labels.numpy(), logits.argmax(1), average="macro")
    assert second.values["val_f1"] == pytest.approx(expected, rel=1e-5)


def test_an_autoencoders_own_loss_compares_with_the_images(
    study_config: MakeConfig, package: Package, tmp_path: Path
) -> None:
    """Without psnr, which is a function of the squared error."""
    run = run_of(
        study_config,
        tmp_path,
        model={"name": "autoencoder", "latent": 4},
        task={"loss": f"{package()}.metrics:absolute", "metrics": {"squares": "torch.nn.functional:mse_loss"}},
        training={"max_epochs": 1},
    )
    metrics = evaluate(run, run.val, "val")
    images = run.val.images.float() / 16
    with torch.no_grad():
        difference = (run.model(images) - images).double()
    assert metrics == {
        "val_loss": pytest.approx(float(difference.abs().mean()), rel=1e-5),
        "val_squares": pytest.approx(float(difference.square().mean()), rel=1e-5),
    }


def test_a_metric_of_an_epoch_too_large_is_the_mean_over_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def largest(output: torch.Tensor, _target: torch.Tensor) -> float:
        sizes.append(len(output))
        return float(output.max())

    monkeypatch.setattr("sweep.training.meter.METER_BUFFER", 100)
    meter = Meter(customise(TASKS["classification"], None, {"largest": largest}))
    output = torch.rand(25, 10)
    for part in output.split(5):
        meter.update(torch.tensor(1.0), part, torch.zeros(len(part), dtype=torch.int64))
    found = meter.compute("val")["val_largest"]
    assert sizes == [10, 10, 5]
    expected = (output[:10].max() * 10 + output[10:20].max() * 10 + output[20:].max() * 5) / 25
    assert found == pytest.approx(float(expected))


UNEXPORTABLE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, depth, width, in_shape, num_outputs):
            super().__init__()
            self.first, self.second, self.third = nn.LazyLinear(width), nn.Linear(width, width), nn.Linear(width, width)
            self.third.weight = self.second.weight
            self.num_outputs, self.head = num_outputs, None

        def forward(self, x):
            x = self.third(self.second(self.first(x.flatten(1)).relu()).relu())
            if self.head is None:
                self.head = nn.Linear(x.shape[1], self.num_outputs)
            if x.mean() > 100:
                x = x / 2
            return self.head(x)
"""


def test_layers_built_in_the_first_pass_are_trained_and_resumed(
    study_config: MakeConfig, settings: Settings, package: Package, tmp_path: Path
) -> None:
    name = package(lazy=UNEXPORTABLE)
    config = study(study_config, name, "lazy:Net")
    assert check_study(config, settings) == ([], [])
    trial, place = config.trial({"lambda1": 1e-3}), TrialPaths(tmp_path / "trial", settings.data, settings.cache)
    *_, last = run_trial(trial, place)
    assert last.outcome == "completed"
    start, _ = assemble(trial, TrialPaths(tmp_path / "none", settings.data, settings.cache))
    trained, saved = assemble(trial, place)
    assert saved is not None
    names = [layer.name for layer in trained.guidance.layers]
    assert names == ["first", "second", "head"]  # the third has the weight of the second
    for part in ("first", "second", "head"):
        before, after = (run.model.get_submodule(part).weight for run in (start, trained))
        assert not torch.equal(before, after), part
    assert trained.model.third.weight is trained.model.second.weight


@pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours
def test_a_study_of_a_model_that_cannot_be_exported_keeps_its_weights(
    study_config: MakeConfig,
    package: Package,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = package(lazy=UNEXPORTABLE)
    config = study(
        study_config, name, "lazy:Net", training={"max_epochs": 1}, search={"trials": 1, "finalists": {"top": 0}}
    )
    storage, store = f"journal:///{tmp_path}/optuna.journal", f"sqlite:///{tmp_path}/mlflow.db"
    settings = Settings(workspace=tmp_path, storage=storage, tracking_uri=store)
    listener = rayless.Listener()
    service.run(config, settings, listener, service.RunOptions(executor="local"))
    told = listener.said
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(config.name)
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id], "tags.`sweep.trial` = '0'")
    [notice] = [said for said in told if "cannot be exported" in said]
    assert f"its weights are kept as state_dict.pt of run {run.info.run_id}: " in notice
    assert f"{tmp_path}/code/{name}/lazy.py, line 15: " in notice
    assert "data-dependent expression" in notice
    assert "\n" not in notice
    assert "torch.ops" not in capfd.readouterr().err  # the exporter prints pages of graphs
    weights = client.download_artifacts(run.info.run_id, "state_dict.pt", str(tmp_path))
    shapes = {key: tuple(weight.shape) for key, weight in torch.load(weights, weights_only=True).items()}
    assert {shapes[f"{part}.weight"] for part in ("first", "second", "third", "head")} == {(8, 64), (8, 8), (10, 8)}
    assert client.search_logged_models([experiment.experiment_id]) == []
    assert not any("tracking: " in said for said in told)  # nothing is left to be sent


# -- a whole study: the README's example -------------------------------------------------------------------------------

LOAD_MODEL = """
import sys, mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
[run] = mlflow.search_runs(experiment_names=["mine"], filter_string="tags.`sweep.best` != ''").to_dict("records")
number = int(run["tags.sweep.best"])
trials = mlflow.search_runs(experiment_names=["mine"], filter_string=f"tags.`sweep.trial` = '{number}'")
model = mlflow.pyfunc.load_model(f"runs:/{trials.run_id[0]}/model")
print(model.predict(numpy.zeros((3, 1, 8, 8), numpy.uint8)).shape)
"""


def page_example(folder: Path) -> None:
    """Writes the files that sweep/config/README.md shows, each a block below a paragraph that begins with its name."""
    readme = (Path(__file__).parents[2] / "sweep" / "config" / "README.md").read_text()
    files = re.findall(r"^`(mypkg/\w+\.py|mine\.yaml)`(?:.+\n)+\n```\w+\n((?s:.*?))^```", readme, re.MULTILINE)
    assert [name for name, _ in files] == ["mypkg/nets.py", "mypkg/scores.py", "mypkg/digits.py", "mine.yaml"]
    (folder / "mypkg").mkdir(parents=True)
    for name, text in files:
        (folder / name).write_text(text)


@pytest.mark.exhaustive
@pytest.mark.ray
@pytest.mark.filterwarnings("default")  # Ray's and MLflow's own deprecations are not ours
def test_the_readmes_example_runs_from_anywhere(tmp_path: Path) -> None:
    """On workers that see neither folder; found again by the study's name; its model loads when the code is gone."""
    code, here, results = tmp_path / "code", tmp_path / "here", tmp_path / "results"
    page_example(code)
    here.mkdir()

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, *words], environment(results)
        return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, check=False, timeout=800)

    first = python("-m", "sweep", "run", str(code / "mine.yaml"), "--json", "--set", "training.max_epochs=2")
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert [t["outcome"] for t in summary["trials"]] == ["completed"] * 4
    assert all(0.3 <= t["value"] <= 1 for t in summary["trials"]), "top 3 of 10 classes"
    again = python("-m", "sweep", "run", "mine", "--trials", "5", "--dry-run")
    assert again.returncode == 0, again.stderr
    assert "1 still to run" in again.stderr + again.stdout

    shutil.rmtree(code)
    loaded = python("-c", LOAD_MODEL, f"sqlite:///{results}/mlflow.db")
    assert loaded.stdout == "(3, 10)\n", loaded.stderr
    gone = python("-m", "sweep", "run", "mine", "--trials", "6")
    assert gone.returncode == 2
    assert "there is no module mypkg" in gone.stderr
