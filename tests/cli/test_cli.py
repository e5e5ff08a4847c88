"""The commands: what they print where, how they end, what they say of bad input. Whole studies are in test_sweep."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from sweep.study.storages.storage import open_storage

from ..conftest import connections_closed
from ..support.commands import Ended, sweep, sweep_here
from ..support.processes import environment
from ..support.studies import TINY, Finished

pytestmark = pytest.mark.filterwarnings("default")  # Ray's and MLflow's own deprecations are not ours

COMMANDS = (
    *(
        "init",
        "run",
        "resume",
        "status",
        "best",
        "sensitivity",
        "report",
        "confirm",
        "enqueue",
        "retry",
        "train",
        "profile",
    ),
    *("ui", "gc", "export", "import", "schema", "doctor", "simulate"),
    *("submit", "jobs", "logs", "stop", "cluster render", "cluster secrets"),
    "services up",
)

Sweep = Callable[..., Ended]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """Runs a command in this process, in an empty folder, on a workspace of the test's own."""
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")

    def run(*words: str, **changes: str) -> Ended:
        return sweep_here(monkeypatch, capsys, tmp_path / "results", *words, **changes)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def test_the_version_is_that_of_the_package(here: Sweep) -> None:
    [version] = re.findall(r'^version = "(.+)"$', (Path(__file__).parents[2] / "pyproject.toml").read_text(), re.M)
    ended = here("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"sweep {version}\n", "")


@pytest.fixture
def copy(tiny: Finished, tmp_path: Path) -> Path:
    """The storage and the tracking store of a finished study, to be written to."""
    (tmp_path / "results").mkdir()
    for name in ("optuna.journal", "mlflow.db"):
        shutil.copy(tiny.workspace / name, tmp_path / "results" / name)
    return tmp_path / "results"


# -- help ------------------------------------------------------------------------------------------------------------


def test_help_is_instant_and_lists_every_command(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "sweep", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(tmp_path))
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "ray", "optuna", "mlflow", "pydantic", "numpy"}
    for name in COMMANDS:
        assert re.search(rf"\b{name.split()[0]}\b", ended.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(here: Sweep, command: str) -> None:
    ended = here(*command.split(), "--help")
    assert ended.code == 0
    assert re.search(rf"Examples?: sweep {command}\b", ended.out)


def test_no_command_is_help() -> None:
    ended = subprocess.run([sys.executable, "-m", "sweep"], capture_output=True, text=True, check=False)
    assert "Usage: sweep" in ended.stdout + ended.stderr


def test_the_shell_completes_commands_and_options() -> None:
    program = Path(sys.executable).with_name("sweep")

    def complete(words: str) -> list[str]:
        completion = {"_SWEEP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        ended = subprocess.run([program], env={**os.environ, **completion}, capture_output=True, text=True, check=False)
        return ended.stdout.split()

    assert complete("sweep st") == ["status", "stop"]
    assert complete("sweep run --dr") == ["--dry-run"]


# -- commands that look at a study, or add to it -------------------------------------------------------------------


def test_schema_is_a_json_schema_that_describes_every_key(here: Sweep) -> None:
    schema = json.loads(here("schema").out)
    assert {"name", "objective", "space"} <= set(schema["required"])
    assert schema["oneOf"] == [{"required": ["model", "data"]}, {"required": ["function"]}, {"required": ["command"]}]
    assert {"guidance", "training", "search", "resources"} <= schema["properties"].keys()
    assert schema["properties"]["space"]["description"]


def test_status_lists_all_studies_or_shows_one(here: Sweep, copy: Path) -> None:
    one, every = here("status", "tiny"), here("status")
    assert one.code == every.code == 0
    assert one.out == every.out
    [search] = [line.split() for line in one.out.splitlines() if line.split()[:1] == ["search"]]
    assert search[1:] == ["0", "0", "6", "0", "0", "0", "0"]  # waiting, running, then the outcomes, completed first
    [data] = json.loads(here("status", "--json").out)
    assert data["study"] == "tiny"
    assert [t["outcome"] for t in data["trials"]] == ["completed"] * 6


def test_a_study_of_a_newer_version_does_not_hide_the_others(here: Sweep, copy: Path) -> None:
    storage = open_storage(f"journal:///{copy}/optuna.journal")
    newer = optuna.create_study(study_name="newer", storage=storage)
    newer.set_user_attr("config", {"colour": "red"})
    newer.set_user_attr("format", 99)
    said = "study newer: a newer version has written it (format 99"
    ended = here("status")
    assert ended.code == 0
    assert said in ended.out
    assert "tiny" in ended.out
    ended = here("status", "--json")
    assert [each["study"] for each in json.loads(ended.out)] == ["tiny"]
    assert said in ended.err
    for words in (["status", "newer"], ["resume", "newer"], ["run", "newer"], ["best", "newer"], ["gc", "newer"]):
        assert_refused(here(*words), "a newer version has written it", "use that version")
    assert here("resume", "tiny").code == 0


def test_status_of_nothing_says_how_to_begin(here: Sweep) -> None:
    ended = here("status")
    assert ended.code == 0
    assert "sweep run" in ended.out
    assert json.loads(here("status", "--json").out) == []


def test_best_first(here: Sweep, copy: Path, tiny: Finished) -> None:
    ranked = sorted(tiny.left.trials, key=lambda t: t.value or 0)
    ended = here("best", "tiny", "--top", "2")
    rows = [line.split() for line in ended.out.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert [int(row[0]) for row in rows[:2]] == [t.number for t in ranked[:2]]
    assert float(rows[0][1]) == pytest.approx(ranked[0].value, rel=1e-4)
    data = json.loads(here("best", "tiny", "--json", "--top", "3").out)
    assert [(row["number"], row["value"]) for row in data] == [(t.number, t.value) for t in ranked[:3]]
    assert data[0]["hyperparameters"] == ranked[0].params


def test_best_links_to_the_runs_that_mlflow_holds(here: Sweep, copy: Path, tiny: Finished) -> None:
    ranked = sorted(tiny.left.trials, key=lambda t: t.value or 0)[:2]
    experiment = tiny.left.parent.run.info.experiment_id
    expected = {
        t.number: f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/"
        f"{tiny.left.runs[f'tiny-{t.number:04d}'].run.info.run_id}"
        for t in ranked
    }
    ended = here("best", "tiny", "--top", "2")
    shown = [line.split() for line in ended.out.splitlines() if "/#/" in line]
    assert {int(number): link for number, link in shown} == expected
    assert f"sweep ui tiny --workspace {copy} --port 5000" in ended.out
    data = json.loads(here("best", "tiny", "--top", "2", "--json").out)
    assert {row["number"]: row["link"] for row in data} == expected


def test_best_needs_no_server(here: Sweep, copy: Path) -> None:
    ended = here("best", "tiny", "--json", MLFLOW_TRACKING_URI="http://me:hidden@127.0.0.1:1")
    assert ended.code == 0
    assert [row["link"] for row in json.loads(ended.out)] == [None] * 5
    assert "http://me:***@127.0.0.1:1 is unreachable" in ended.err
    assert "hidden" not in ended.err
    elsewhere = here("best", "tiny", MLFLOW_TRACKING_URI=f"sqlite:///{copy}/other.db")
    assert elsewhere.code == 0
    assert "/#/" not in elsewhere.out


def test_the_exported_best_trains_to_the_same_number(here: Sweep, copy: Path, tiny: Finished, tmp_path: Path) -> None:
    best = min(tiny.left.trials, key=lambda t: t.value or 0)
    exported = tmp_path / "best.yaml"
    ended = here("best", "tiny", "--export", str(exported))
    assert ended.code == 0
    assert f"sweep train {exported}" in ended.out
    assert YAML(typ="safe").load(exported)["space"] == {**best.params, "lambda2": 1e-4, "epsilon": 0.01}
    trained = json.loads(here("train", str(exported), "--test", "--json").out)
    assert [e["val_loss"] for e in trained["epochs"]] == tiny.left.runs[f"tiny-{best.number:04d}"].curve["val_loss"]
    assert set(trained["test"]) == {"test_loss", "test_accuracy"}
    assert trained["config"]["guidance"]["lambda1"] == best.params["lambda1"]


def test_train_prints_a_line_for_each_epoch(here: Sweep, file: Path) -> None:
    sets = ("lambda1=1e-3", "depth=2", "width=4", "training.init=he", "training.max_epochs=2")
    ended = here("train", str(file), *(word for each in sets for word in ("--set", each)))
    assert ended.code == 0
    lines = [line.split() for line in ended.out.splitlines()]
    assert [line[:2] for line in lines] == [["epoch", "1"], ["epoch", "2"]]
    assert "val_accuracy" in lines[0]


@pytest.mark.parametrize("as_json", [False, True])
def test_train_of_a_trial_that_diverges_ends_with_1_and_says_so(here: Sweep, file: Path, as_json: bool) -> None:
    values = "lambda1=1e-3 depth=1 width=4 training.init=he model.activation=leaky_relu"
    values += " training.optimizer=sgd training.lr=1e30"
    words = [word for each in values.split() for word in ("--set", each)]
    ended = here("train", str(file), *words, "--test", *(["--json"] if as_json else []))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "diverged: " in (ended.err if as_json else ended.out)
    if as_json:
        data = json.loads(ended.out)
        assert (data["outcome"], data["epochs"], data["test"]) == ("diverged", [], {})


def test_enqueue_puts_one_more_trial_into_the_queue(here: Sweep, copy: Path) -> None:
    ended = here("enqueue", "tiny", "--set", "lambda1=1e-3", "--set", "depth=2")
    assert ended.code == 0
    assert f"sweep run tiny --workspace {copy}" in ended.out
    [data] = json.loads(here("status", "--json").out)
    assert [t["state"] for t in data["trials"]] == ["finished"] * 6 + ["waiting"]
    plan = json.loads(here("run", "tiny", "--dry-run", "--json").out)
    assert plan["trials"] == 1
    ended = here("enqueue", "tiny", "--set", "lambda1=1e-2", "--json")
    assert json.loads(ended.out) == {"study": "tiny", "trial": 7, "hyperparameters": {"lambda1": 0.01}}


def test_the_commands_it_names_find_the_same_study(here: Sweep, copy: Path, tmp_path: Path) -> None:
    elsewhere = f"journal:///{tmp_path}/other folder/optuna.journal"
    (tmp_path / "other folder").mkdir()
    (copy / "optuna.journal").rename(tmp_path / "other folder" / "optuna.journal")
    sets = ("--set", "lambda1=1e-3", "--set", "depth=2")
    named = here("enqueue", "tiny", *sets, "--storage", elsewhere).out.partition("Run it with: ")[2]
    command = shlex.split(named)
    assert command == ["sweep", "run", "tiny", "--workspace", str(copy), "--storage", elsewhere]
    assert json.loads(here(*command[1:], "--dry-run", "--json").out)["trials"] == 1


def test_a_dry_run_shows_the_plan_and_starts_nothing(here: Sweep, file: Path, tmp_path: Path) -> None:
    ended = here("run", str(file), "--dry-run", "--trials", "8", "--set", "training.max_epochs=2")
    assert ended.code == 0
    for part in ("mlp", "digits", "lambda1"):
        assert part.replace("mlp", "cnn") in ended.out
    assert re.search(r"trials +8 still to run, of 8 \(2 design\)", ended.out)
    assert re.search(r"estimated +[\d.]+ (s|min|h) with", ended.out)
    sets = ("--set", "resources.cpus=0.5", "--set", "resources.max_concurrent=3")
    plan = json.loads(here("run", str(file), "--dry-run", "--json", "--design", "3", *sets).out)
    assert plan["slots"] == min(3, 2 * (os.cpu_count() or 1))
    assert (plan["study"], plan["trials"], plan["controls"]) == ("tiny", 9, 8)
    assert plan["epoch_seconds"] > 0
    epochs = (plan["trials"] + plan["controls"]) * 4
    assert plan["hours"] == pytest.approx(epochs * plan["epoch_seconds"] / plan["slots"] / 3600)


def test_the_estimate_counts_each_configuration_once(here: Sweep, tmp_path: Path) -> None:
    file = tmp_path / "few.yaml"
    space = "{lambda1: 0.0, lambda2: 0.0, depth: {low: 1, high: 3}, width: {choices: [8, 16]}}"
    head = "{name: few, model: {name: mlp}, data: {name: digits}, objective: {metric: val_loss, direction: minimize}"
    file.write_text(
        f"{head}, space: {space}, training: {{max_epochs: 1}}, search: {{trials: 40, finalists: {{top: 0}}}}}}"
    )
    plan = json.loads(here("run", str(file), "--dry-run", "--json").out)
    assert (plan["trials"], plan["trainings"], plan["controls"]) == (40, 6, 0)
    assert plan["hours"] == pytest.approx(6 * plan["epoch_seconds"] / plan["slots"] / 3600)
    again = json.loads(here("run", str(file), "--dry-run", "--json", "--set", "search.duplicates=train").out)
    assert again["trainings"] == 40
    assert "40 still to run, of 40 (0 design); 6 of them are trained at most" in here("run", str(file), "--dry-run").out


def test_a_dry_run_writes_nothing_and_uses_what_is_prepared(here: Sweep, file: Path, tmp_path: Path) -> None:
    def files() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))}

    before, offline = files(), {f"{kind}_proxy": "http://127.0.0.1:1" for kind in ("http", "https")} | {"no_proxy": ""}
    assert here("run", str(file), "--dry-run", "--verbose").err.count("preparing in") == 1
    lacking = ("--set", "data.name=mnist", "--set", "name=other", "--data", str(tmp_path / "given"))
    assert_refused(here("run", str(file), "--dry-run", *lacking, **offline), "the download failed", "given/MNIST/raw")
    assert files() == before
    here("train", str(file), "--set", "training.max_epochs=1", *("--set", "depth=1", "--set", "width=4"))  # prepares
    before = files()
    ended = here("run", str(file), "--dry-run", "--verbose")
    assert (ended.code, ended.err.count("preparing in")) == (0, 0)
    assert files() == before


def test_a_plan_does_not_mind_a_divergence(here: Sweep, file: Path) -> None:
    for lr in ("1e30", "1e5"):  # in the first epoch, and in one of the two
        sets = ("training.optimizer=sgd", f"training.lr={lr}", "data.train_size=300")
        ended = here("run", str(file), "--dry-run", "--json", *(word for each in sets for word in ("--set", each)))
        assert ended.code == 0, ended.err
        assert json.loads(ended.out)["epoch_seconds"] > 0


def test_a_finished_study_is_not_trained_again_by_resume(here: Sweep, copy: Path) -> None:
    ended = here("resume", "tiny", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["interrupted"] is False
    assert "tiny is finished: nothing is left to train" in ended.err
    assert not [line for line in ended.err.splitlines() if line.startswith("tiny-")]


def test_doctor_fails_where_a_check_does(here: Sweep) -> None:
    well = here("doctor", "--json")
    checks = {check["check"]: check for check in json.loads(well.out)}
    assert well.code == 0
    assert all(check["ok"] for check in checks.values())
    assert {"versions", "storage", "tracking", "workspace", "digits"} <= checks.keys()
    ill = here("doctor", MLFLOW_TRACKING_URI="http://me:hidden@127.0.0.1:1", SWEEP_STORAGE="nonsense")
    assert ill.code == 1
    assert re.search(r"FAIL tracking .*http://me:\*\*\*@127.0.0.1:1", ill.out)
    assert re.search(r"FAIL storage .*nonsense", ill.out)
    assert re.search(r"ok +digits", ill.out)
    assert "hidden" not in ill.out + ill.err


# -- ui --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)])
def test_ui_serves_on_loopback_until_interrupted(tiny: Finished, copy: Path, number: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sweep", "ui", "tiny", "--port", str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    # Ctrl-C reaches a terminal's whole process group, so the command gets one of its own.
    with subprocess.Popen(command, env=environment(copy), start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            link = process.stdout.readline().strip()
            experiment = tiny.left.parent.run.info.experiment_id
            assert link.startswith(f"http://127.0.0.1:{port}/#/experiments/{experiment}/")
            assert link.endswith("viewStateShareKey=objective")
            assert answer(port) == 200
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            sockets = [s for each in family for s in each.net_connections("inet") if s.status == psutil.CONN_LISTEN]
            assert {s.laddr.ip for s in sockets} == {"127.0.0.1"}
            taken = subprocess.run([*command], env=environment(copy), capture_output=True, text=True, check=False)
            assert taken.returncode == 2
            assert f"--port: {port} of this machine is taken" in taken.stderr
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            assert process.wait(timeout=120) in (0, 128 + number)
            _, alive = psutil.wait_procs(family, timeout=120)
            assert not alive
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answer(port: int, path: str = "/health", patience: float = 60.0) -> int:
    """The status of the server's answer, once it gives one."""
    deadline = time.monotonic() + patience
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        finally:
            connection.close()


# -- bad input: exit code 2, one message, nothing begun ------------------------------------------------------------


def assert_untouched(workspace: Path) -> None:
    """No study in the storage, no experiment in MLflow."""
    journal = workspace / "optuna.journal"
    assert not journal.exists() or journal.read_bytes() == b""
    if (workspace / "mlflow.db").exists():
        experiments = MlflowClient(f"sqlite:///{workspace}/mlflow.db").search_experiments()
        assert [e.name for e in experiments] == ["Default"]


def assert_refused(ended: Ended, *parts: str) -> None:
    assert ended.code == 2, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert ended.err.count("error: ") == 1
    for part in parts:
        assert part in ended.err


BAD_STUDIES = {
    "unknown key": (["serch.trials=3"], ["serch: unknown key (did you mean search?)"]),
    "unknown key of a section": (["training.epochs=3"], ["training.epochs: unknown key (did you mean max_epochs?)"]),
    "unknown hyperparameter": (["space.lamda1=3"], ["lamda1", "(did you mean lambda1?)"]),
    "unknown option of the model": (["model.hiden=3"], ["model.hiden", "(did you mean hidden?)"]),
    "wrong type": (["training.max_epochs=many"], ["training.max_epochs", "'many'"]),
    "low above high": (["space.lambda1.low=1"], ["space.lambda1", "low (1.0) must be below high (0.01)"]),
    "low equal to high": (["space.depth.low=3"], ["space.depth", "low (3) must be below high (3)"]),
    "log scale from 0": (["space.lambda1.low=0"], ["space.lambda1", "log scale needs low > 0"]),
    "unknown model": (["model.name=cn"], ["model.name", "'cn'", "mlp, autoencoder, cnn"]),
    "unknown data": (["data.name=digit"], ["data.name", "digits, mnist, fashion_mnist, cifar10, cifar100"]),
    "unknown metric": (["objective.metric=val_los"], ["objective.metric", "val_loss, val_accuracy"]),
    "metric of another task": (["objective.metric=val_psnr"], ["cnn has no 'val_psnr'", "val_loss, val_accuracy"]),
    "unknown sampler": (["search.sampler=tpee"], ["search.sampler", "tpe", "random", "qmc", "gp", "'tpee'"]),
    "unknown pruner": (["search.pruner=medain"], ["search.pruner", "median", "successive_halving", "'medain'"]),
    "too deep for the image": (["space.depth=8", "model.downsample=8"], ["downsample = 8", "8x8", "depth = 8"]),
    "too shallow for the model": (["model.downsample=2"], ["depth = 1: must be at least downsample = 2"]),
    "more images than there are": (["data.train_size=5000"], ["data.train_size = 5000", "digits has 1294 images"]),
    "design above trials": (["search.design=7"], ["design (7) must not exceed trials (6)"]),
    "path in the name": (["name=../evil"], ["name", "'../evil'", "no slash"]),
    "name of a sister study": (["name=tiny.controls"], ["'tiny.controls'", "not end in .controls"]),
    "name of a study of confirm": (["name=a.confirm.b"], ["'a.confirm.b' must not contain .confirm."]),
    "several at once": (
        ["serch.trials=3", "training.lr=-1", "space.depth.low=9", "model.hiden=3", "objective.metric=val_los"],
        ["serch", "training.lr", "space.depth", "model.hiden", "objective.metric", "5 problems"],
    ),
}


@pytest.mark.parametrize(("sets", "parts"), BAD_STUDIES.values(), ids=BAD_STUDIES.keys())
def test_a_bad_study_is_one_message(here: Sweep, file: Path, tmp_path: Path, sets: list[str], parts: list[str]) -> None:
    ended = here("run", str(file), *(word for each in sets for word in ("--set", each)))
    assert_refused(ended, str(file), *parts)
    assert_untouched(tmp_path / "results")


def test_a_bad_study_in_a_process_of_its_own(file: Path, tmp_path: Path) -> None:
    ended = sweep(tmp_path / "results", "run", str(file), "--set", "serch.trials=3")
    assert_refused(ended, "serch: unknown key (did you mean search?)")


def test_a_syntax_error_has_its_line(here: Sweep, file: Path, tmp_path: Path) -> None:
    file.write_text(TINY.replace("objective: {metric: val_loss", "objective: {metric: [val_loss"))
    line = 1 + next(n for n, text in enumerate(file.read_text().splitlines()) if text.startswith("objective"))
    ended = here("run", str(file))
    assert_refused(ended, str(file), f"line {line}", "not valid YAML")
    assert_untouched(tmp_path / "results")


BAD_WORDS = {
    "no such file": (["run", "nowhere.yaml"], ["nowhere.yaml: no such file", "digits"]),
    "no such study": (["run", "digit"], ["digit:", "(did you mean digits?)"]),
    "resume of an unknown study": (["resume", "other"], ["other: no such study", "which has tiny."]),
    "resume of a misspelt study": (["resume", "tinny"], ["tinny: no such study", "(did you mean tiny?)"]),
    "status of an unknown study": (["status", "tinny"], ["tinny: no such study", "(did you mean tiny?)"]),
    "best of an unknown study": (["best", "tinny"], ["tinny: no such study", "(did you mean tiny?)"]),
    "confirm of an unknown study": (["confirm", "tinny"], ["tinny: no such study", "(did you mean tiny?)"]),
    "confirmed more than there is": (
        ["confirm", "tiny", "--top", "7", "--against", "droput,sauna"],
        [
            "3 problems",
            "--top 7: tiny has 6 completed configurations",
            "'droput' is none of",
            "mean dropout?",
            "'sauna' is none",
        ],
    ),
    "unknown trial": (["train", "tiny", "--trial", "99"], ["trial 99", "0 to 5"]),
    "no value to train with": (["train", "tiny"], ["lambda1: give it a value", "depth: give it a value"]),
    "option without a value": (["run", "tiny", "--set", "depth"], ["--set depth: must be key=value"]),
    "queued beyond the space": (["enqueue", "tiny", "--set", "lambda1=1"], ["lambda1: 1 is not in", "0.01"]),
    "queued and not searched": (
        ["enqueue", "tiny", "--set", "dept=1"],
        ["dept: not searched", "(did you mean depth?)"],
    ),
    "queued nothing": (["enqueue", "tiny"], ["--set", "lambda1"]),
    "another space": (
        ["run", "tiny", "--set", "space.lambda1.low=1e-5", "--set", "training.lr=0.1"],
        ["exists and differs", "lambda1.low: was 0.0001, now 1e-05", "lr: was 0.005, now 0.1", "tiny-2"],
    ),
    "storage of no kind": (["status", "--storage", "nonsense"], ["storage nonsense: unreachable"]),
    "storage unreachable": (
        ["run", "digits", "--storage", "postgresql+psycopg://me:hidden@127.0.0.1:1/db"],
        ["storage postgresql+psycopg://me:***@127.0.0.1:1/db: unreachable", "SWEEP_STORAGE"],
    ),
    "no Ray there": (["run", "digits", "--address", "127.0.0.1:1"], ["127.0.0.1:1: no Ray cluster", "--address local"]),
}


@pytest.mark.parametrize(("words", "parts"), BAD_WORDS.values(), ids=BAD_WORDS.keys())
def test_a_bad_command_is_one_message(here: Sweep, copy: Path, words: list[str], parts: list[str]) -> None:
    before = (copy / "optuna.journal").read_bytes()
    ended = here(*words)
    assert_refused(ended, *parts)
    assert "hidden" not in ended.err
    assert (copy / "optuna.journal").read_bytes() == before


def test_a_storage_that_goes_away_is_one_message(here: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    words = ("status", "--storage", f"sqlite:///{path}?timeout=0.1")
    with connections_closed():
        open_storage(f"sqlite:///{path}")
    assert here(*words).code == 0
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert_refused(here(*words), "storage: unreachable, nothing is lost: ", "database is locked")
    assert here(*words).code == 0


def test_a_file_that_cannot_be_written_is_one_message(here: Sweep, copy: Path, tmp_path: Path) -> None:
    ended = here("best", "tiny", "--export", str(tmp_path / "nowhere" / "best.yaml"))
    assert ended.code == 2
    assert ended.err == f"error: [Errno 2] No such file or directory: '{tmp_path}/nowhere/best.yaml'\n"


def test_missing_data_names_the_files_and_the_folder(here: Sweep, file: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    # A proxy that is not there: no network, wherever the test runs.
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:1")
    ended = here("run", str(file), "--set", "data.name=mnist", SWEEP_DATA=str(tmp_path / "empty"), **offline)
    assert_refused(ended, "train-images-idx3-ubyte", str(tmp_path / "empty" / "MNIST" / "raw"), "SWEEP_DATA")
    assert time.monotonic() - started < 120
    assert_untouched(tmp_path / "results")


def test_a_tracking_server_out_of_reach_is_named_without_its_password(here: Sweep, file: Path, tmp_path: Path) -> None:
    ended = here("run", str(file), MLFLOW_TRACKING_URI="http://me:hidden@127.0.0.1:1")
    assert_refused(ended, "http://me:***@127.0.0.1:1", "MLFLOW_TRACKING_URI")
    assert "hidden" not in ended.err
    assert_untouched(tmp_path / "results")


def test_a_deleted_experiment_of_the_name_can_be_restored_or_renamed(here: Sweep, copy: Path, file: Path) -> None:
    client = MlflowClient(f"sqlite:///{copy}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    (copy / "optuna.journal").unlink()
    ended = here("run", str(file))
    assert_refused(ended, "'tiny' was deleted", f"restore --experiment-id {experiment.experiment_id}", "rename")
    assert not (copy / "optuna.journal").exists()


@pytest.mark.ray
def test_more_gpus_than_any_node_has_are_refused_before_the_study_begins(
    here: Sweep, file: Path, tmp_path: Path
) -> None:
    ended = here("run", str(file), "--set", "resources.gpus=30", "--set", "resources.cpus=0.5")
    assert_refused(ended, "15 CPUs and 30 GPUs in its 30 processes", "no node", "there is: ", "resources.gpus")
    assert_untouched(tmp_path / "results")
