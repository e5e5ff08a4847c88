"""The end of a run for other programs: webhooks over a real connection, and lines of JSON."""

from __future__ import annotations

import io
import json
import math
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sweep.cli.progress import JsonLines, LogLines
from sweep.config.errors import ConfigError, SweepError
from sweep.config.settings import Settings
from sweep.service import webhook
from sweep.service.webhook import check_webhooks, describe_run, notify_webhook
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig
from ..support import rayless
from ..support.commands import sweep_here
from ..support.empty_store import with_store
from ..support.invariants import left_by
from ..support.studies import SMALL

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours


class Hook:
    """A web server that answers with the given codes, the last one for ever, and keeps what it was sent."""

    def __init__(self, *codes: int):
        self.got: list[dict[str, Any]] = []
        left = list(codes)
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                hook.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Location", "/elsewhere")
                self.send_header("Retry-After", "60")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Prints nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/s3cret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(webhook, "BACKOFF", 0.005)
    made: list[Hook] = []

    def make(*codes: int) -> Hook:
        made.append(Hook(*codes))
        return made[-1]

    yield make
    for hook in made:
        hook.server.shutdown()
        hook.server.server_close()


def test_a_run_that_failed_or_was_stopped_is_told_to_the_other_url(hooks: Any) -> None:
    good, bad = hooks(200), hooks(204)
    settings = Settings(on_finish=good.url, on_failure=bad.url)
    for error in (ValueError("no room"), KeyboardInterrupt()):
        assert notify_webhook(settings, describe_run("digits", error=error)) is None
    assert good.got == []
    assert [(e["event"], e["study"], e["error"]) for e in bad.got] == [
        ("failed", "digits", "no room"),
        ("interrupted", "digits", "KeyboardInterrupt"),
    ]
    assert bad.got[0]["text"] == "digits failed: no room"
    assert bad.got[0]["host"] == socket.gethostname()
    assert notify_webhook(Settings(), describe_run("digits")) is None  # nobody wants to know


def test_a_server_that_stumbles_is_told_again_and_one_that_refuses_is_not(hooks: Any) -> None:
    end = describe_run("digits", error=ValueError("no room"))
    stumbles, refuses, broken = hooks(500, 503, 200), hooks(404), hooks(500)
    assert notify_webhook(Settings(on_failure=stumbles.url), end) is None
    assert len(stumbles.got) == 3
    assert notify_webhook(Settings(on_failure=refuses.url), end) == "on_failure: 127.0.0.1 answers 404"
    assert len(refuses.got) == 1
    assert notify_webhook(Settings(on_failure=broken.url), end) == "on_failure: 127.0.0.1 answers 500"
    assert len(broken.got) == 3
    moved = hooks(302)
    assert notify_webhook(Settings(on_failure=moved.url), end) == "on_failure: 127.0.0.1 answers 302"
    assert len(moved.got) == 1, "a redirect is not followed"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/s3cret"
        problem = notify_webhook(Settings(on_failure=url), end)
    assert problem is not None
    assert "refused" in problem
    assert "s3cret" not in problem


def test_what_is_no_url_is_refused_before_anything_runs() -> None:
    check_webhooks(Settings(on_finish="https://example.org/x", on_failure=""))
    with pytest.raises(ConfigError) as caught:
        check_webhooks(Settings(on_finish="file:///etc/passwd", on_failure="https:/s3cret"))
    assert len(caught.value.problems) == 2
    assert "SWEEP_ON_FAILURE: must be a URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_run_prints_lines_of_json_alone_and_tells_how_it_ended(
    hooks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rayless.without_models(monkeypatch)
    file, workspace, hook = tmp_path / "small.yaml", with_store(tmp_path / "results"), hooks(200)
    file.write_text(SMALL)
    run = ("run", str(file), "--log", "json", "--executor", "local")
    ended = sweep_here(monkeypatch, capsys, workspace, *run, SWEEP_ON_FINISH=hook.url)
    assert ended.code == 0, ended.err
    *lines, last = map(json.loads, ended.out.splitlines())
    left = left_by(workspace, "small")
    assert all(line["study"] == "small" and line["time"] > 1.7e9 for line in [*lines, last])
    for trial in left.trials:
        own = [line for line in lines if line.get("trial") == trial.number]
        assert [line["event"] for line in own] == ["started", *["progress"] * (len(own) - 2), "ended"]
        assert own[0]["hyperparameters"].keys() >= trial.params.keys()
        assert own[-2]["metrics"]["val_loss"] == own[-1]["value"] == trial.value
        assert (own[-1]["outcome"], own[-1]["epochs"], own[-2]["epoch"]) == ("completed", 3, 3)
    best = min(left.trials, key=lambda t: t.value or math.inf)
    [told] = hook.got
    assert told == {name: value for name, value in last.items() if name != "time"}
    assert (told["event"], told["outcomes"]) == ("finished", {"completed": len(left.trials)})
    assert (told["best"]["trial"], told["best"]["value"]) == (best.number, best.value)

    ended = sweep_here(monkeypatch, capsys, workspace, *run, SWEEP_ON_FINISH="nonsense")
    assert (ended.code, ended.out) == (2, "")
    assert "SWEEP_ON_FINISH: must be a URL" in ended.err


def test_a_confirmation_does_so_too(
    hooks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rayless.without_models(monkeypatch)
    file, workspace, good, bad = tmp_path / "small.yaml", with_store(tmp_path / "results"), hooks(200), hooks(200)
    file.write_text(SMALL)
    urls = {"SWEEP_ON_FINISH": good.url, "SWEEP_ON_FAILURE": bad.url}
    assert sweep_here(monkeypatch, capsys, workspace, "run", str(file), "--executor", "local").code == 0
    refused = sweep_here(monkeypatch, capsys, workspace, "confirm", "small", "--top", "99", **urls)
    assert (refused.code, good.got, bad.got) == (2, [], [])
    words = ("confirm", "small", "--seeds", "2", "--log", "json", "--executor", "local")
    ended = sweep_here(monkeypatch, capsys, workspace, *words, **urls)
    assert ended.code == 0, ended.err
    *lines, last = map(json.loads, ended.out.splitlines())
    assert {line["study"] for line in lines} == {"small.controls", "small.confirm.strongest"}
    assert Counter(line["kind"] for line in lines if line["event"] == "ended")["guided"] == 2
    [told] = good.got
    assert told == {name: value for name, value in last.items() if name != "time"}
    assert (told["event"], told["study"], bad.got) == ("finished", "small", [])
    assert [each["against"] for each in told["verdicts"]] == ["plain", "strongest"]
    assert told["text"].startswith("confirm small finished: Trial ")

    def broken(*_: object, **__: object) -> None:
        raise SweepError("the storage is full")

    monkeypatch.setattr(sys.modules["sweep.service.confirm"], "read_confirmation", broken)
    failed = sweep_here(monkeypatch, capsys, workspace, "confirm", "small", "--seeds", "2", **urls)
    assert (failed.code, len(good.got)) == (2, 1)
    assert [end["text"] for end in bad.got] == ["confirm small failed: the storage is full"]


def test_what_is_no_number_is_null(study_config: MakeConfig) -> None:
    stream = io.StringIO()
    lines = JsonLines(study_config(), Console(file=io.StringIO()), stream=stream)
    trial = SimpleNamespace(study="digits", number=3, kind="trial", key=("digits", 3), best=math.nan, epochs=2)
    lines.on_epoch_end(trial, EpochMetrics(2, {"val_loss": math.inf, "val_accuracy": 0.5}, 0))  # type: ignore[arg-type]
    lines.on_trial_end(trial, "diverged", "diverged in epoch 2")  # type: ignore[arg-type]
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["metrics"] == {"val_loss": None, "val_accuracy": 0.5}
    assert (second["value"], second["outcome"], second["error"]) == (None, "diverged", "diverged in epoch 2")


@pytest.mark.parametrize("view", ["text", "json"])
def test_a_run_goes_on_when_nobody_reads_what_it_prints(study_config: MakeConfig, view: str) -> None:
    """As in `sweep run digits | head -1`; the command's exit code is then that of the run."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        console = Console(file=stream if view == "text" else io.StringIO())
        progress = (
            LogLines(study_config(), console) if view == "text" else JsonLines(study_config(), console, stream=stream)
        )
        with progress:
            progress.on_message("the first")
            progress.on_message("the second")
    assert progress.notices == ["the first", "the second"]
