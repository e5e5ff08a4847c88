"""A script of the user's own as a trial: its environment, resume, its end, and what it may not do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sweep.config.errors import FunctionError, ScriptError
from sweep.config.filesystem import AnyPath, local_path, parse_path, read_bytes
from sweep.config.study_config import StudyConfig
from sweep.config.trial_config import TrialConfig
from sweep.training import attempt_files, script_guard
from sweep.training.attempt_files import AttemptFiles, logged
from sweep.training.reports import TrialPaths, TrialReport
from sweep.training.trial import run_trial

from ..support.processes import wait_for
from ..support.training import curve, train

EPOCHS = 6
HEAD = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

saved = Path(os.environ["SWEEP_CHECKPOINT_DIR"], "epoch")
first = int(saved.read_text()) + 1 if saved.is_file() else 1
last = int(os.environ["SWEEP_MAX_EPOCHS"])

def report(**values):
    with open(os.environ["SWEEP_METRICS_FILE"], "a") as file:
        file.write(json.dumps(values) + "\\n")

"""
OWN_CHECKPOINTS = """
for epoch in range(first, last + 1):
    print("trains epoch", epoch)
    time.sleep(0.1)
    report(epoch=epoch, error=float(sys.argv[1]) / epoch)
    saved.with_name("new").write_text(str(epoch))
    saved.with_name("new").replace(saved)
"""
WITHOUT_CHECKPOINTS = """
starts = Path(__file__).with_name("starts")
starts.touch()
starts.write_text(starts.read_text() + ".")
for epoch in range(last):
    report(error=float(sys.argv[1]) / (epoch + 1))
    if epoch == len(starts.read_text()) < 3:
        time.sleep(1000)  # until it is ended, in its first two starts
"""


def config_of(folder: Path, code: str, **changes: object) -> TrialConfig:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(HEAD + textwrap.dedent(code))
    study = StudyConfig(
        name="mine",
        command=["python", str(folder / "train.py"), "{lr}"],
        objective={"metric": "error", "direction": "minimize"},
        space={"lambda1": 1e-3, "lr": {"low": 1e-3, "high": 1.0, "log": True}, "kind": "plain", "on": True},
        training={"max_epochs": EPOCHS, "seed": 3},
    )
    return study.trial({"lr": 0.5}).model_copy(update=changes)


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes whose command lines have a path below a folder."""
    running = psutil.process_iter(["cmdline"])
    return [each for each in running if any(str(folder) in word for word in each.info["cmdline"] or ())]


def test_each_line_is_an_epoch(tmp_path: Path) -> None:
    reports = train(config_of(tmp_path / "code", OWN_CHECKPOINTS), tmp_path / "trial")
    assert reports[-1].outcome == "completed"
    assert curve(reports) == {epoch: {"error": 0.5 / epoch} for epoch in range(1, EPOCHS + 1)}
    assert all(0 < m.values["seconds"] < 30 for report in reports for m in report.epochs)


@pytest.mark.parametrize("code", [OWN_CHECKPOINTS, WITHOUT_CHECKPOINTS])
def test_a_script_that_was_ended_has_the_numbers_of_an_undisturbed_one(code: str, folder: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "code", code)
    for attempt, reports in enumerate((1, 2, None), start=1):
        found = train(config, folder, reports=reports, attempt=attempt)
    assert curve(found) == {epoch: {"error": 0.5 / epoch} for epoch in range(1, EPOCHS + 1)}
    [log] = [read_bytes(path).decode() for path, _ in logged(folder) if path.name == "log.txt"]
    trained = [line for line in log.splitlines() if line.startswith("trains")]
    notices = [notice for report in found for notice in report.notices]
    if code == OWN_CHECKPOINTS:
        assert len(trained) <= EPOCHS + 2, "at most the epoch that was interrupted is trained again"
        assert notices == []
    else:
        assert len(notices) == 1
        assert "starts again at epoch 1" in notices[0]


LEFT = '{"epoch": 1, "error": 0.5}\n{"epoch": 2, "error": 0.25}\n{"epoch": 3, "error": 0.125}\n{"epoch": 4, "err'


def interrupted(config: TrialConfig, folder: Path, left: str, own: str) -> list[TrialReport]:
    """Trains an epoch, then leaves what a kill behind its checkpoint would, and trains on."""
    first = train(config, folder, reports=1)
    assert 1 <= len(curve(first)) < 3
    (folder / "attempt-01" / "metrics.jsonl").write_text(left)
    (folder / "attempt-01" / "files" / "epoch").write_text(own)
    return train(config, folder, attempt=2)


def test_lines_that_were_written_after_the_last_checkpoint_count(tmp_path: Path) -> None:
    code = OWN_CHECKPOINTS.replace("float(sys.argv[1]) / epoch", "0.5 ** epoch")
    found = interrupted(config_of(tmp_path / "code", code), tmp_path / "trial", LEFT, "3")
    assert curve(found) == {epoch: {"error": 0.5**epoch} for epoch in range(1, EPOCHS + 1)}
    assert [len(curve(found[:1])), found[0].outcome] == [3, None], "they are in a checkpoint before the script goes on"
    endless = LEFT.replace("0.125", "NaN")
    last = interrupted(config_of(tmp_path / "b", code), tmp_path / "diverged", endless, "3")[-1]
    assert (last.outcome, last.error) == ("diverged", "error is not finite in epoch 3")


def test_a_checkpoint_that_is_ahead_of_the_metrics_fails_the_trial(tmp_path: Path) -> None:
    config = config_of(tmp_path / "code", OWN_CHECKPOINTS)
    with pytest.raises(ScriptError, match="went on with epoch 6 where 4 was next: its checkpoint is ahead"):
        interrupted(config, tmp_path / "trial", LEFT, "5")


def test_a_repeated_epoch_that_differs_is_told_and_keeps_its_first_value(tmp_path: Path) -> None:
    code = WITHOUT_CHECKPOINTS.replace("report(error=", "report(error=time.time() + ").replace("< 3", "< 2")
    config = config_of(tmp_path / "code", code)
    first = curve(train(config, tmp_path / "trial", reports=1))
    again = train(config, tmp_path / "trial", attempt=2)
    assert curve(again)[1] == first[1]
    assert any("is not repeatable: error of epoch 1" in notice for report in again for notice in report.notices)


def test_a_script_knows_its_trial_and_no_secret_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = "zq8planted"
    monkeypatch.setenv("SWEEP_STORAGE", f"postgresql+psycopg://me:{password}@db/studies")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{password}-2")
    monkeypatch.setenv("PGPASSWORD", password)
    monkeypatch.setenv("OF_THE_SAME_SERVER", f"user=me password={password}")
    monkeypatch.setenv("HF_TOKEN", "needed by the script")
    code = """
        saved.with_name("environment").write_text(json.dumps({**os.environ, "cwd": os.getcwd(), "argv": sys.argv[1:]}))
        Path(os.environ["SWEEP_ARTIFACT_DIR"], "plot.txt").write_text("a plot")
        report(error=1, test_error=2)
    """
    config = config_of(tmp_path / "code", code, test=True)
    assert config.command is not None
    config = config.model_copy(update={"command": (*config.command, "--on={on}", "{{on}}", "{seed}", "{kind}")})
    folder = tmp_path / "mine" / "0017"
    train(config, folder)
    own = folder / "attempt-01" / "files"
    known = json.loads((own / "environment").read_text())
    assert known["argv"] == ["0.5", "--on=true", "{on}", "3", "plain"]
    assert known["cwd"] == known["SWEEP_CHECKPOINT_DIR"] == str(own)
    given = json.loads(known["SWEEP_HYPERPARAMETERS"])
    assert {name: given[name] for name in ("lr", "kind", "on", "lambda1")} == {
        "lr": 0.5,
        "kind": "plain",
        "on": True,
        "lambda1": 1e-3,
    }
    names = ("STUDY", "TRIAL", "SEED", "EPOCH", "MAX_EPOCHS", "CONFIRMING")
    assert [known[f"SWEEP_{name}"] for name in names] == ["mine", "17", "3", "0", str(EPOCHS), "1"]
    assert known["HF_TOKEN"] == "needed by the script"
    assert [name for name, value in known.items() if password in str(value)] == []
    assert {path.name: where for path, where in logged(folder)} == {"log.txt": "", "plot.txt": "artifacts"}


FAILURES = {
    "report(error=1); print('what was wrong'); sys.exit(3)": "ended with exit code 3\nwhat was wrong",
    "os.kill(os.getpid(), signal.SIGKILL)": "ended with the signal SIGKILL",
    "print('usage')": r"ended without a report: it never told error: it appends a line of JSON for each epoch",
    "report(loss=1, lr=2)": "lr is the name of a hyperparameter; error is missing; it reported loss, lr",
    "report(error='high')": "error is a str, not a number",
    "os.kill(os.getpid(), 40)": "ended with the signal 40",
    "report(error=10**400)": "error is a int, not a number",
    "report(error=1, epoch=float('nan'))": "wrote epoch nan, which is no whole number",
    "report(error=1, epoch=1.5)": "wrote epoch 1.5, which is no whole number",
    "open(os.environ['SWEEP_METRICS_FILE'], 'a').write('[' * 100_000 + '\\n')": "wrote what is no line of JSON",
    "report(error=1, epoch=0)": "wrote epoch 0 where 1 was next: they count from 1",
    "report(error=1); report(error=1, epoch=1)": "wrote epoch 1 where 2 was next",
    "open(os.environ['SWEEP_METRICS_FILE'], 'w').write('error 3\\n')": "wrote what is no line of JSON: 'error 3'",
    "open(os.environ['SWEEP_METRICS_FILE'], 'w').write('3\\n')": "wrote a int, not numbers by name",
}


@pytest.mark.parametrize(("code", "message"), FAILURES.items())
def test_what_a_script_may_not_do_is_told(code: str, message: str, tmp_path: Path) -> None:
    kind = ScriptError if message.startswith("ended with ") else FunctionError
    with pytest.raises(kind, match=message):
        train(config_of(tmp_path / "code", code), tmp_path / "trial")


@pytest.mark.parametrize(
    "write",
    [
        "metrics.write_text(json.dumps({'error': epoch}) + '\\n' * (3 - epoch))",
        "metrics.write_text(json.dumps({'error': epoch}) + '\\n')",
        "new.write_text(json.dumps({'error': epoch}) + '\\n'); new.replace(metrics)",
        "metrics.unlink()",
    ],
    ids=["shorter", "of the same length", "another file", "none"],
)
def test_a_file_of_metrics_that_is_written_anew_is_told(write: str, tmp_path: Path) -> None:
    code = f"""
        metrics, new = Path(os.environ["SWEEP_METRICS_FILE"]), Path("new")
        for epoch in (1, 2):
            {write}
            time.sleep(1)
    """
    with pytest.raises(FunctionError, match="has written SWEEP_METRICS_FILE anew: open it to append to it"):
        train(config_of(tmp_path / "code", code), tmp_path / "trial")


def test_a_script_that_was_killed_behind_its_last_line_is_started_again_to_end(tmp_path: Path) -> None:
    lines = "".join(f'{{"epoch": {epoch}, "error": {0.5 / epoch}}}\n' for epoch in range(1, EPOCHS + 1))
    ends = 'Path(os.environ["SWEEP_ARTIFACT_DIR"], "end.txt").write_text(os.environ["SWEEP_EPOCH"])'
    reports = interrupted(config_of(tmp_path / "code", OWN_CHECKPOINTS + ends), tmp_path / "trial", lines, str(EPOCHS))
    assert (reports[0].outcome, reports[-1].outcome) == (None, "completed")
    assert curve(reports) == {epoch: {"error": 0.5 / epoch} for epoch in range(1, EPOCHS + 1)}
    assert (tmp_path / "trial" / "attempt-02" / "artifacts" / "end.txt").read_text() == str(EPOCHS)
    fails = config_of(tmp_path / "other", OWN_CHECKPOINTS + "sys.exit(4)")
    with pytest.raises(ScriptError, match="ended with exit code 4"):
        interrupted(fails, tmp_path / "failed", lines, str(EPOCHS))


def test_lines_without_their_epoch_from_a_script_that_resumes_fail_the_trial(tmp_path: Path) -> None:
    config = config_of(tmp_path / "code", OWN_CHECKPOINTS.replace("epoch=epoch, ", ""))
    with pytest.raises(
        ScriptError, match="resumed after epoch 3, and ended after 1 lines: it went on from its checkpoint"
    ):
        interrupted(config, tmp_path / "trial", LEFT, "5")


def test_a_number_that_is_none_is_a_divergence(tmp_path: Path) -> None:
    code = OWN_CHECKPOINTS.replace("float(sys.argv[1]) / epoch", "None if epoch == 3 else 0.5")
    [*_, last] = train(config_of(tmp_path / "code", code), tmp_path / "trial")
    assert (last.outcome, last.error) == ("diverged", "error is not finite in epoch 3")


def test_a_mark_of_the_byte_order_is_no_error(tmp_path: Path) -> None:
    code = OWN_CHECKPOINTS.replace("json.dumps", "'\\ufeff' + json.dumps")
    code = 'metrics = os.environ["SWEEP_METRICS_FILE"]\nPath(metrics).open("ab").write(b"\\xef\\xbb\\xbf")\n' + code
    assert len(curve(train(config_of(tmp_path / "code", code), tmp_path / "trial"))) == EPOCHS


def test_what_an_object_store_has_of_a_script_is_never_ahead_of_its_metrics(
    bucket: AnyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = bucket / "mine" / "0000"
    files = AttemptFiles(trial / "attempt-01", None)
    for epoch in (1, 2):
        files.metrics.write_text("line\n" * epoch)
        (files.own / "epoch").write_text(str(epoch))
        with monkeypatch.context() as machine, contextlib.suppress(KeyboardInterrupt):
            if epoch == 2:
                machine.setattr(attempt_files, "write_bytes", dies_at_the_second(attempt_files.write_bytes))
            files.copy()
    shutil.rmtree(local_path(bucket / "mine"))  # what the next machine has
    local_path(trial / "attempt-02" / "files").mkdir(parents=True)
    (local_path(trial / "attempt-02" / "files") / "stale").touch()  # of a study before
    found = AttemptFiles(trial / "attempt-02", trial / "attempt-01")
    assert (found.metrics.read_text(), (found.own / "epoch").read_text()) == ("line\nline\n", "1")
    assert [path.name for path in found.own.iterdir()] == ["epoch"]


def dies_at_the_second(write: Callable[..., None]) -> Callable[..., None]:
    """Returns a function that writes once, and then raises, as if the machine had died."""
    calls = list[object]()

    def called(path: AnyPath, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(path, content)

    return called


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    config = config_of(tmp_path / "code", "").model_copy(update={"command": ("no-such-program", "{lr}")})
    with pytest.raises(FunctionError, match="no-such-program cannot be started: No such file"):
        train(config, tmp_path / "trial")


def test_a_script_may_end_early_and_one_that_goes_on_is_stopped(tmp_path: Path) -> None:
    early = train(config_of(tmp_path / "a", "report(error=1)"), tmp_path / "early")
    assert (early[-1].outcome, len(curve(early))) == ("completed", 1)
    assert train(config_of(tmp_path / "a", "report(error=1)"), tmp_path / "early", attempt=2)[0].outcome == "completed"
    endless = train(config_of(tmp_path / "b", "while True: report(error=1); time.sleep(0.01)"), tmp_path / "endless")
    assert (endless[-1].outcome, len(curve(endless))) == ("completed", EPOCHS)
    assert f"goes on after training.max_epochs, {EPOCHS}: it is stopped" in endless[-1].notices[0]
    assert processes_of(tmp_path / "b") == []


TERMINATED = """
def stop(*_):
    saved.with_name("told").write_text("SIGTERM")
    MORE
signal.signal(signal.SIGTERM, stop)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", __file__])
report(error=1)
while True: time.sleep(0.1)
"""


@pytest.mark.parametrize("more", ["sys.exit()", "pass"])
def test_a_script_gets_sigterm_then_sigkill_and_leaves_nothing_behind(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = tmp_path / "guard.py"  # a program of its own, which a patch does not reach
    guard.write_text(Path(script_guard.__file__).read_text().replace("STOP_WITHIN = 10.0", "STOP_WITHIN = 0.5"))
    monkeypatch.setattr("sweep.training.script_process.script_guard.__file__", str(guard))
    config = config_of(tmp_path / "code", TERMINATED.replace("MORE", more))
    running = run_trial(config, TrialPaths(*[parse_path(tmp_path / "trial")] * 3), interval=0.0)
    next(running)
    assert len(processes_of(tmp_path / "code")) >= 2
    running.close()
    assert (tmp_path / "trial" / "attempt-01" / "files" / "told").read_text() == "SIGTERM"
    wait_for(lambda: processes_of(tmp_path / "code") == [], "the end of all its processes")


def test_a_script_that_has_ended_leaves_nothing_in_the_background(tmp_path: Path) -> None:
    code = """
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", __file__])
        report(error=1)
    """
    assert train(config_of(tmp_path / "code", code), tmp_path / "trial")[-1].outcome == "completed"
    wait_for(lambda: processes_of(tmp_path / "code") == [], "the end of all its processes")


WORKER = """
import sys
from pathlib import Path
from sweep.config.trial_config import TrialConfig
from sweep.training.reports import TrialPaths
from sweep.training.trial import run_trial

place = Path(sys.argv[2])
for report in run_trial(TrialConfig.model_validate_json(sys.argv[1]), TrialPaths(place, place, place), interval=0.0):
    print("reported", flush=True)
"""


def test_a_script_ends_when_its_worker_is_killed(tmp_path: Path) -> None:
    config = config_of(tmp_path / "code", TERMINATED.replace("MORE", "pass"))
    words = [sys.executable, "-c", WORKER, config.model_dump_json(), str(tmp_path / "trial")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=dict(os.environ), text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "reported\n"
        assert len(processes_of(tmp_path / "code" / "train.py")) >= 2
        # Ray kills the children of a worker, too.
        for child in psutil.Process(worker.pid).children(recursive=True):
            child.kill()
        worker.send_signal(signal.SIGKILL)
    wait_for(lambda: processes_of(tmp_path / "code" / "train.py") == [], "the end of all its processes")
    assert not (tmp_path / "trial" / "attempt-01" / "files" / "told").exists(), "at once"


def test_a_script_may_be_of_any_language(tmp_path: Path) -> None:
    (tmp_path / "loop.sh").write_text(
        'for epoch in 1 2 3; do echo "{\\"error\\": $1}" >> "$SWEEP_METRICS_FILE"; echo told; done\n'
    )
    config = config_of(tmp_path, "").model_copy(update={"command": ("sh", str(tmp_path / "loop.sh"), "{lr}")})
    reports = train(config, tmp_path / "trial")
    assert curve(reports) == {epoch: {"error": 0.5} for epoch in (1, 2, 3)}
    assert (tmp_path / "trial" / "attempt-01" / "log.txt").read_text() == "told\n" * 3
