"""Prints the timeline of one run, from the command to its end: `python -m tests.benchmarks.timeline`.

The study is that of `throughput`, in an empty workspace, run by a process of its own as `sweep run` runs it. Shown is
when each step began and ended, so that one sees which step waits for which; steps of several threads overlap.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGAN = "TIMELINE_BEGAN"  # environment variable: seconds since the Unix epoch


def main() -> int:
    parser = argparse.ArgumentParser(description="The timeline of one run.")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--executor", default="ray")
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)  # given to the process that runs
    options = parser.parse_args()
    if options.workspace:
        run(options.trials, options.executor, options.workspace)
        return 0
    print(
        f"{options.trials} trials, {options.executor}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="sweep-timeline-") as folder:
        began, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "tests.benchmarks.timeline", *sys.argv[1:], "--workspace", folder]
        code = subprocess.run(command, env={**os.environ, BEGAN: str(began)}, check=False).returncode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{time.time() - began:8.2f} s  the process has ended; CPU {cpu:.1f} s, of its children that have ended too")
    return code


def say(what: str) -> None:
    print(f"{time.time() - float(os.environ[BEGAN]):8.2f} s  {what}", flush=True)


def watch(owner: Any, name: str, what: str) -> None:
    """Replaces a function by one that says when it begins and ends."""
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def watched(*arguments: Any, **options: Any) -> Any:
        say(f"[ {what}")
        try:
            return original(*arguments, **options)
        finally:
            say(f"] {what}")

    setattr(owner, name, watched)


def run(trials: int, executor: str, workspace: Path) -> None:
    """Runs the study, and says when each step begins and ends."""
    say("python has started")
    from sweep import service
    from sweep.config.settings import Settings
    from sweep.service.callback import RunCallback

    from .throughput import STUDY

    running: Any = importlib.import_module("sweep.service.run")  # the function of the face hides the module
    said = set[str]()

    def once(what: str) -> None:
        if what not in said:
            said.add(what)
            say(what)

    class Moments(RunCallback):
        ended = 0

        def on_phase(self, phase: str) -> None:
            say(phase)

        def on_trial_start(self, *_: object) -> None:
            once("first trial")

        def on_epoch_end(self, *_: object) -> None:
            once("first epoch")

        def on_trial_end(self, *_: object) -> None:
            self.ended += 1
            if self.ended in (1, trials):
                say(f"end of trial {self.ended}")

    watch(running, "_connect_tracker", "imports of torch and MLflow, MLflow's store")
    watch(running, "analyse_finished", "sensitivity and report")
    for name in ("prepare", "execute", "conclude", "finish"):
        watch(running._Run, name, name)
    say("[ check of the study")
    settings, file = Settings(workspace=workspace, report=True), workspace / "study.yaml"
    file.write_text(STUDY)
    config, _ = service.load_study(str(file), settings, trials=trials)
    from sweep.service import driver

    watch(driver.Driver, "log_best_when_done", "wait for the last trial, then export of the best model")
    say("] check of the study")
    service.run(config, settings, Moments(), service.RunOptions(executor=executor))
    say("the run has returned")


if __name__ == "__main__":
    sys.exit(main())
