"""Runs of a study, one after the other, by the command line; in this process, without Ray: see `rayless`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweep.service import driver
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study

from ..support import rayless
from ..support.commands import Ended, sweep_here
from ..support.empty_store import with_store
from ..support.invariants import assert_whole, left_by
from ..support.processes import environment
from ..support.studies import OUTCOMES, SMALL, config_of

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours


Sweep = Callable[..., Ended]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    (tmp_path / "small.yaml").write_text(SMALL)
    rayless.without_models(monkeypatch)

    def sweep(*words: str, **changes: str) -> Ended:
        local = ("--executor", "local") if words[0] in ("run", "resume") else ()
        return sweep_here(monkeypatch, capsys, with_store(tmp_path / "results"), *words, *local, **changes)

    return sweep


def test_a_study_is_extended_and_says_when_it_is_over_and_when_its_code_has_changed(
    here: Sweep, tmp_path: Path
) -> None:
    file, workspace = str(tmp_path / "small.yaml"), tmp_path / "results"
    first = here("run", file)
    assert first.code == 0, first.err
    before = left_by(workspace, "small")
    over = here("resume", "small")
    assert over.code == 0
    assert "small is finished: nothing is left to train; --trials with a larger number extends it" in over.out

    again = "import sys; sys.argv[0] = 'sweep'\nfrom sweep.cli.app import main\ntry: main()\nexcept SystemExit: pass\n"
    words = [sys.executable, "-c", f"{again}print({{'torch', 'ray'}} & {{*sys.modules}})", "run", file]
    done = subprocess.run(words, env=environment(workspace), capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n"), "what takes seconds to import was imported, though nothing is left to train"

    study = Study(config_of(SMALL), open_storage(f"journal:///{workspace}/optuna.journal"), workspace=workspace)
    [code] = study.get_user_attr("code")  # type: ignore[misc]
    study.set_user_attr("code", [{**code, "sweep.version.torch": "1.0"}])
    second = here("run", "small", "--trials", "6")
    assert second.code == 0, second.err
    assert "the code has changed since this study was last trained: torch 1.0 -> " in second.out
    lines = [line.split()[0] for line in second.out.splitlines() if line.startswith("small-0")]
    assert lines == ["small-0004", "small-0005"]
    left = left_by(workspace, "small")
    assert_whole(left, "small", trials=6, controls=0)
    assert {n: r.history for n, r in left.runs.items() if n in before.runs} == {
        n: r.history for n, r in before.runs.items()
    }
    assert left.parent.tags["sweep.version.torch"] == f"1.0, {code['sweep.version.torch']}"


def test_a_budget_never_shrinks_and_that_is_said(here: Sweep, tmp_path: Path) -> None:
    config, workspace = config_of(SMALL.replace("trials: 4", "trials: 6")), tmp_path / "results"
    Study(config, open_storage(f"journal:///{workspace}/optuna.journal"), workspace=workspace).enqueue_budget()
    words = "small has 6 trials: its budget grows, and never shrinks"
    for said in (True, False):  # when there is nothing left to train, there is nothing to say
        ended = here("run", str(tmp_path / "small.yaml"))
        assert ended.code == 0, ended.err
        assert (words in ended.out) == said
        assert "run small --trials 12" in ended.out
    assert_whole(left_by(workspace, "small"), "small", trials=6, controls=0)


def test_without_a_tracking_server_a_study_goes_on_where_it_may_and_sends_everything_later(
    here: Sweep, tmp_path: Path
) -> None:
    file, nowhere = str(tmp_path / "small.yaml"), "http://127.0.0.1:1"
    refused = here("run", file, "--tracking", nowhere)
    assert refused.code == 2
    assert "is unreachable" in refused.err
    offline = here("run", file, "--tracking", nowhere, "--offline-ok")
    assert offline.code == 0, offline.err
    assert offline.out.count("note: tracking: MLflow at http://127.0.0.1:1 is unreachable") == 2  # and at the end
    assert "the next run of small sends what is missing" in offline.out
    assert here("run", file).code == 0
    assert_whole(left_by(tmp_path / "results", "small"), "small", trials=4, controls=0)


class Refusing(BaseHTTPRequestHandler):
    """A tracking server whose password has been changed."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815  http.server's names

    def log_message(self, *args: object) -> None:
        pass


def test_a_tracking_server_that_refuses_is_told_of_once(
    here: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "RENEW_EVERY", 0.02)  # seconds between two looks at it
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        refused = here("run", str(tmp_path / "small.yaml"), "--tracking", url)
        ended = here("run", str(tmp_path / "small.yaml"), "--tracking", url, "--offline-ok")
        server.shutdown()
    words = f"MLflow at {url} refuses access"
    assert refused.code == 2
    assert words in refused.err
    assert ended.code == 0, ended.err
    during, _, after = ended.out.partition("small: 4 trials")
    assert during.count(words) == 2  # when it was noticed, and at the end
    assert words not in after


def test_a_tracking_server_that_never_answers_holds_up_nothing(here: Sweep, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes what comes, and says nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        words = ("run", str(tmp_path / "small.yaml"), "--tracking", url, "--offline-ok")
        ended = here(*words, MLFLOW_HTTP_REQUEST_TIMEOUT="1")
    assert ended.code == 0, ended.err
    assert "small: 4 trials: 4 completed" in ended.out
    assert "the next run of small sends what is missing" in ended.out


def test_the_experiment_of_another_study_of_the_name_is_left_alone(here: Sweep, tmp_path: Path) -> None:
    """A team with one tracking server, and a storage each."""
    file, workspace = str(tmp_path / "small.yaml"), tmp_path / "results"
    assert here("run", file).code == 0
    before = left_by(workspace, "small")
    mine = ("--workspace", str(tmp_path / "mine"), "--tracking", f"sqlite:///{workspace}/mlflow.db")
    client, experiment = MlflowClient(f"sqlite:///{workspace}/mlflow.db"), before.parent.run.info.experiment_id
    refused = here("run", file, *mine)
    assert refused.code == 2
    assert "the MLflow experiment 'small' is another study's of this name, which " in refused.err
    client.delete_experiment_tag(experiment, "sweep.id")  # as an earlier version has left it
    refused = here("run", file, *mine)
    assert refused.code == 2
    assert "has 4 runs of trials that the storage does not have (small-0000, ...)" in refused.err
    assert "--set name=" in refused.err
    assert f"mlflow experiments rename --experiment-id {experiment} --new-name small-old" in refused.err
    after = left_by(workspace, "small")
    assert {n: r.run.to_dictionary() for n, r in after.runs.items()} == {
        n: r.run.to_dictionary() for n, r in before.runs.items()
    }
    assert after.parent.run.to_dictionary() == before.parent.run.to_dictionary()
    client.rename_experiment(experiment, "small-old")
    assert here("run", file, *mine).code == 0


def test_a_study_without_a_completed_trial_ends_with_1(here: Sweep, tmp_path: Path) -> None:
    file, workspace = tmp_path / "study.yaml", tmp_path / "results"
    file.write_text(OUTCOMES.replace("outcomes", "hopeless").replace("{choices: [1e-2, 3e-2, 1e-1, 1e8]}", "1e8"))
    (workspace / "hopeless").mkdir(parents=True)
    (workspace / "hopeless" / "0000").write_text("a file where the checkpoints belong")
    ended = here("run", str(file), "--trials", "2", "--set", "search.finalists.top=3", "--json")
    assert ended.code == 1, ended.err
    assert "No trial has completed" in ended.err
    assert "Traceback" not in ended.err
    assert json.loads(ended.out)["best"] == []
    left = left_by(workspace, "hopeless")
    assert_whole(left, "hopeless", trials=2, controls=0)
    assert [t.user_attrs["outcome"] for t in left.trials] == ["failed", "diverged"]
