"""Secrets planted wherever a user can put one are in nothing that a run prints, stores, sends or leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient

from sweep.config.secrets import DRIVER_VARIABLES
from sweep.config.settings import Settings
from sweep.service.webhook import check_webhooks, describe_run, notify_webhook
from sweep.study.storages.storage import open_storage

from .conftest import connections_closed
from .support.commands import sweep_here
from .support.empty_store import with_store
from .support.processes import Command, title

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

PLANT = "zq8planted"
STUDY = """
name: NAME
SUBJECT
objective: {metric: val_loss, direction: minimize}
space: {lambda1: 1e-3, width: {choices: [8, 16]}, depth: 1}
search: {trials: 4, design: 0, sampler: random, pruner: none, finalists: {top: 0}}
"""
SUBJECTS = {
    "model": """model: {name: "planted_net:Net"}
data: {name: digits, train_size: 300}
training: {max_epochs: 2, batch_size: 64}""",
    "function": 'function: "planted_net:train"\ntraining: {max_epochs: 2}',
    "command": 'command: [python, planted_script.py, "{width}"]\ntraining: {max_epochs: 2}',
}
LOUD = """
import os
import sys

held = sorted(name for name, value in os.environ.items() if "".join(["zq8", "planted"]) in value)
print("held:", *held)
print(dict(os.environ))
"""
SCRIPT = f"""{LOUD}
if sys.argv[1] == "16":
    raise RuntimeError(f"cannot use {{dict(os.environ)}}")
with open(os.environ["SWEEP_METRICS_FILE"], "a") as file:
    file.write('{{"val_loss": 0.5}}\\n')
"""
NET = """
import os
from torch import nn

class Net(nn.Module):
    def __init__(self, depth, width, in_shape, num_outputs, **rest):
        super().__init__()
        self.breaks = width == 16
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_outputs))

    def forward(self, x):
        if self.breaks and len(x) > 60:  # in training, not when it is checked
            raise RuntimeError(f"cannot use {dict(os.environ)}")
        return self.layers(x)

def train(trial):
    exec(LOUD)
    if trial["width"] == 16:
        raise RuntimeError(f"cannot use {dict(os.environ)}")
    yield {"val_loss": 0.5}
"""


@dataclass
class Planted:
    """The output, posts, processes and files of a study and of the commands about it, with secrets in all settings."""

    name: str
    kind: str  # of trial
    folder: Path  # home, temporary folders, workspace and the current folder
    environment: dict[str, str]
    printed: list[str] = field(default_factory=list)
    posted: list[bytes] = field(default_factory=list)
    command_lines: set[str] = field(default_factory=set)
    worker_variables: set[str] = field(default_factory=set)  # with a secret, of Ray's workers
    listening: set[str] = field(default_factory=set)  # addresses

    def look(self, command: Command) -> None:
        """Records the processes of a command as others of this machine see them."""
        for process in command.look():
            with contextlib.suppress(psutil.Error):
                self.command_lines.add(" ".join(process.cmdline()))
                self.listening |= {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"}
                if title(process).startswith("ray::Worker"):
                    # Its own environment, as the program in it sees it, is what its failed trial prints.
                    self.worker_variables |= {name for name, value in process.environ().items() if PLANT in value}


@contextlib.contextmanager
def hook(posted: list[bytes]) -> Iterator[str]:
    """A web server that keeps what it is sent; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def plants(folder: Path, hook_url: str, storage: str) -> dict[str, str]:
    """Returns an environment with a secret in each setting that can hold one."""
    return {
        "AWS_ACCESS_KEY_ID": f"{PLANT}-01",
        "AWS_SECRET_ACCESS_KEY": f"{PLANT}-02",
        "AWS_SESSION_TOKEN": f"{PLANT}-03",
        "MLFLOW_TRACKING_URI": f"http://ann:{PLANT}-04@127.0.0.1:1/?token={PLANT}-05",  # nobody listens
        "MLFLOW_TRACKING_USERNAME": "ann",
        "MLFLOW_TRACKING_PASSWORD": f"{PLANT}-07",
        "MLFLOW_TRACKING_TOKEN": f"{PLANT}-08",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # urllib3 then warns of each
        "SWEEP_STORAGE": storage,
        "SWEEP_ON_FINISH": f"{hook_url}/{PLANT}-10?key={PLANT}-11",
        "SWEEP_ON_FAILURE": f"http://me:{PLANT}-12@127.0.0.1:1/{PLANT}-13",
        "WANDB_API_KEY": f"{PLANT}-14",
        "HTTPS_PROXY": f"http://me:{PLANT}-15@127.0.0.1:1",
        "SWEEP_WORKSPACE": str(folder / "results"),
        **{name: str(folder / "tmp") for name in ("TMPDIR", "RAY_TMPDIR")},
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(Path(__file__).parents[1]),  # the code under test, whatever the current folder is
        "SWEEP_REPORT": "true",
    }


@pytest.fixture(scope="module", params=[*SUBJECTS])
def planted(request: pytest.FixtureRequest) -> Iterator[Planted]:
    """A study of two trials, one of which fails, with Ray; and each command that reads it."""
    folder = Path(tempfile.mkdtemp(prefix="secret", dir="/tmp"))  # Ray's sockets want a short path
    kind, server = request.param, os.environ.get("TEST_POSTGRES_URL", "")
    name = f"test-secrets-{kind}-{os.getpid()}"
    for each in ("home", "tmp", "results"):
        (folder / each).mkdir()
    (folder / "planted_net.py").write_text(f"{NET}\nLOUD = {LOUD!r}\n")
    (folder / "planted_script.py").write_text(SCRIPT)
    (folder / "study.yaml").write_text(STUDY.replace("NAME", name).replace("SUBJECT", SUBJECTS[kind]))
    storage = re.sub("//([^@:/]*)(:[^@]*)?@", rf"//\1:{PLANT}-09@", server) or f"journal:///{folder}/optuna.journal"
    posted: list[bytes] = []
    with hook(posted) as url, connections_closed(), contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(contextlib.chdir(folder))
        found = Planted(name, kind, folder, plants(folder, url, storage), posted=posted)
        run = Command(folder / "results", "run", "study.yaml", "--offline-ok", "--verbose", **found.environment)
        stack.callback(run.close)
        while not run.over:
            found.look(run)
        found.printed.append(run.out)
        assert run.end() == 0, run.out
        yield found
        if server:
            for each in (name, f"{name}.controls"):
                optuna.delete_study(study_name=each, storage=open_storage(server))


def holders(folder: Path, *words: str) -> set[str]:
    """Returns the files below a folder that hold one of the words, in an archive too."""
    found = set()
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        parts = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
        if any(word.encode() in part for word in words for part in parts):
            found.add(str(path.relative_to(folder)))
    return found


@pytest.mark.exhaustive  # whole runs, with all that they leave
def test_a_run_prints_posts_and_leaves_no_secret(planted: Planted) -> None:
    assert [line for text in planted.printed for line in text.splitlines() if PLANT in line] == []
    assert len(planted.posted) == 1
    assert [body for body in planted.posted if PLANT.encode() in body] == []
    assert {line for line in planted.command_lines if PLANT in line} == set()
    token = planted.folder / "home" / ".ray" / "auth_token"
    assert holders(planted.folder, PLANT) == set()
    assert holders(planted.folder, token.read_text()) == {"home/.ray/auth_token"}
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert any("/ray/session_" in str(path) for path in (planted.folder / "tmp").rglob("*.log"))


@pytest.mark.exhaustive
def test_workers_have_none_of_the_drivers_passwords(planted: Planted) -> None:
    assert planted.worker_variables & {*DRIVER_VARIABLES} == set()
    assert "AWS_SECRET_ACCESS_KEY" in planted.worker_variables  # for a workspace in object storage

    logs = [path.read_text() for path in planted.folder.glob("results/*/*/attempt-01/log.txt")]
    held = {name for log in logs for name in re.findall(r"^held: (.*)", log, re.MULTILINE)}
    assert len(logs) == (0 if planted.kind == "model" else 4)
    for names in held:
        assert "AWS_SECRET_ACCESS_KEY" in names.split()
        assert {*names.split()} & {*DRIVER_VARIABLES} == set()


@pytest.mark.exhaustive
def test_a_private_ray_listens_on_the_loopback_address_alone(planted: Planted) -> None:
    assert {address.removeprefix("::ffff:") for address in planted.listening} == {"127.0.0.1"}


@pytest.mark.exhaustive  # whole runs, with all that they leave
def test_no_command_about_it_prints_or_writes_a_secret(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, results = planted.name, with_store(planted.folder / "results")
    in_workspace = {**planted.environment, "MLFLOW_TRACKING_URI": ""}
    commands = [
        (("resume", name, "--verbose"), in_workspace),  # sends everything to MLflow
        (("status", name), planted.environment),
        (("status", name, "--json"), planted.environment),
        (("best", name), planted.environment),
        (("sensitivity", name), planted.environment),
        (("report", name), planted.environment),
        (("export", name, "study.zip"), planted.environment),
        (("gc", name), planted.environment),
        (("doctor",), planted.environment),
        (("doctor", name, "--bundle", "bundle.json"), planted.environment),
        (("run", "study.yaml", "--dry-run"), planted.environment),  # trains a model here: its error, a traceback
        (("run", "digits"), planted.environment),  # is refused: the tracking server is down
    ]
    codes, printed = [], ""
    for words, environment in commands:
        ended = sweep_here(monkeypatch, capsys, results, *words, **environment)
        codes.append(ended.code)
        printed += ended.out + ended.err
    dry = 1 if planted.kind == "model" else 0  # it trains no code of the user's own
    assert codes == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, dry, 2], printed
    assert [line for line in printed.splitlines() if PLANT in line] == []
    assert "MLflow at http://ann:***@127.0.0.1:1/?token=*** is unreachable" in printed
    assert "RuntimeError: cannot use" in printed  # the traceback of the failed trial, of the worker's environment
    runs = MlflowClient(f"sqlite:///{results}/mlflow.db").search_runs(["1"])
    assert {run.data.tags.get("sweep.outcome") for run in runs} == {None, "completed", "failed"}
    assert {"study.zip", "bundle.json"} <= {path.name for path in planted.folder.iterdir()}
    assert holders(planted.folder, PLANT) == set()
    bundle = json.loads((planted.folder / "bundle.json").read_text())
    assert bundle["packages"]["optuna"] == optuna.__version__
    assert [check["check"] for check in bundle["checks"] if not check["ok"]] == ["tracking"]
    assert bundle["settings"]["on_finish"] is True
    assert {row["outcome"] for row in bundle["studies"][name]["rows"]} == {"completed", "failed"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SWEEP_ON_FINISH": f"http://[::1/{PLANT}"}, "SWEEP_ON_FINISH: must be a URL"),
        ({"SWEEP_ON_FINISH": f"http://host:{PLANT}/x"}, "SWEEP_ON_FINISH: must be a URL"),
        ({"SWEEP_ON_FAILURE": f"me:{PLANT}@host"}, "SWEEP_ON_FAILURE: must be a URL"),
        ({"SWEEP_STORAGE": f"postgresql+psycopg://me:{PLANT}@127.0.0.1:1/db"}, "storage postgresql+psycopg://me:***@"),
        ({"SWEEP_STORAGE": f"postgresql+psycopg://127.0.0.1:1/db?password={PLANT}"}, "db?password=***"),
        ({"SWEEP_STORAGE": f"nosuch://me:{PLANT}@host:port/db"}, "storage nosuch://me:***@host:port/db"),
        ({"MLFLOW_TRACKING_URI": f"http://127.0.0.1:1/?token={PLANT}"}, "http://127.0.0.1:1/?token=***"),
        ({"MLFLOW_TRACKING_URI": f"nosuch://me:{PLANT}@host?sig={PLANT}"}, "nosuch://me:***@host?sig=***"),
    ],
)
def test_a_refusal_names_no_secret(
    changes: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = sweep_here(monkeypatch, capsys, tmp_path / "results", "run", "digits", "--executor", "local", **changes)
    assert ended.code == 2
    assert said in ended.err
    assert PLANT not in ended.out + ended.err


def test_a_webhook_with_spaces_is_sent_and_one_that_nobody_hears_is_told_by_its_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    posted: list[bytes] = []
    with hook(posted) as url:
        spaced = Settings(on_failure=f"{url}/a b?s={PLANT}")
        check_webhooks(spaced)
        assert notify_webhook(spaced, describe_run("digits", error=ValueError("no room"))) is None
        assert len(posted) == 1
    nobody = Settings(on_failure=f"http://me:{PLANT}@127.0.0.1:1/{PLANT}")
    assert "127.0.0.1 is unreachable" in str(notify_webhook(nobody, describe_run("digits", error=ValueError("no"))))
    assert PLANT not in caplog.text  # urllib3 warns of each attempt


def test_a_traceback_names_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot use {os.environ}")

    monkeypatch.setattr("sweep.service.study_names_of_ours", broken)
    environment = plants(tmp_path, "http://127.0.0.1:1", f"sqlite:///{tmp_path}/x.db")
    ended = sweep_here(monkeypatch, capsys, tmp_path / "results", "status", **environment)
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "RuntimeError: cannot use environ(" in ended.err
    assert PLANT not in ended.out + ended.err
