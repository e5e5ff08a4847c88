"""Times a study that is submitted to a warm cluster, up to its driver's first line, beside a run without a job.

`python -m tests.benchmarks.shipping`, two minutes, no data needed; exits 1 when the bar is missed. The head is a Ray of
this machine that has run a job before. The command packs the code and sends it (zip, 0.3 MB); the head unpacks it and
starts a driver, whose first line says where it runs, before it checks the study and every node. How long its first
trial takes to begin is printed too, beside a run without a job.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from ..support.processes import Cluster, environment, wait_for

BAR, RUNS = 3.0, 5  # seconds
STUDY = """
name: shipped-{}
model: {{name: mlp}}
data: {{name: digits}}
objective: {{metric: val_loss, direction: minimize}}
space: {{lambda1: {{low: 1e-5, high: 1e-1, log: true}}, depth: 1, width: 8}}
training: {{max_epochs: 1}}
search: {{trials: 1, design: 0, sampler: random, pruner: none, finalists: {{top: 0}}}}
"""


def ours(text: str) -> list[str]:
    """The lines of ours in a job's output: Ray's own come first, with their time or their tag."""
    return [line for line in text.splitlines() if line.startswith("shipped-")]


def submitted(cluster: Cluster, folder: Path, given: dict[str, str], number: int) -> tuple[float, ...]:
    """Submits a study; returns the seconds to its end, the driver's first line, and its first trial."""
    (folder / "study.yaml").write_text(STUDY.format(number))
    began = time.monotonic()
    words = (sys.executable, "-m", "sweep", "submit", "study.yaml", f"--address={cluster.url}", "--json")
    done = subprocess.run(words, env=given, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    taken = time.monotonic()
    logs = Path(tempfile.gettempdir(), "ray")
    name = f"job-driver-{json.loads(done.stdout)['id']}.log"

    def said(words: str) -> bool:
        return any(words in line for log in logs.glob(f"session_2*/logs/{name}") for line in ours(log.read_text()))

    wait_for(lambda: said("driver on"), "the first line")
    first = time.monotonic()
    wait_for(lambda: said("to train"), "the first trial")
    begun = time.monotonic()
    wait_for(lambda: not running(cluster, folder, given), "the job's end")
    return taken - began, first - began, begun - began


def running(cluster: Cluster, folder: Path, given: dict[str, str]) -> bool:
    words = (sys.executable, "-m", "sweep", "jobs", f"--address={cluster.url}", "--json")
    done = subprocess.run(words, env=given, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return any(job["status"] in ("RUNNING", "PENDING") for job in json.loads(done.stdout))


def here(cluster: Cluster, folder: Path, given: dict[str, str], number: int) -> float:
    """Runs such a study on the cluster from a process beside it; returns the seconds until its first trial begins."""
    (folder / "study.yaml").write_text(STUDY.format(f"here-{number}"))
    words = (sys.executable, "-m", "sweep", "run", "study.yaml", f"--address={cluster.address}")
    began = time.monotonic()
    process = subprocess.Popen(
        words, env=given, cwd=folder, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.monotonic() - began
    process.communicate()
    assert ours(line), line
    return seconds


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "home").mkdir()
        (folder / "home" / "sweep.env").write_text(f"SWEEP_WORKSPACE={folder}/results\n")
        variables = {"HOME": str(folder / "home")}
        with contextlib.closing(Cluster(folder, cpus=1, dashboard=True, **variables)) as cluster:
            given = environment(folder / "results", **cluster.environment) | {"PYTHONPATH": str(Path.cwd())}
            submitted(cluster, folder, given, 0)  # which warms the cluster
            times = [submitted(cluster, folder, given, number) for number in range(1, RUNS + 1)]
            bare = [here(cluster, folder, given, number) for number in range(RUNS)]
    sent, first, begun = (list(column) for column in zip(*times, strict=True))
    rows = {
        "submit, until the head has it": sent,
        "until the driver's first line": first,
        "until its first trial begins": begun,
        "a run without a job, likewise": bare,
    }
    for what, seconds in rows.items():
        print(f"{what:34}{median(seconds):5.1f} s ({min(seconds):.1f} to {max(seconds):.1f}, n {RUNS})")
    met = median(first) <= BAR
    print(f"bar: {median(first):.1f} s <= {BAR:g} s {'ok' if met else 'MISSED'}; ", end="")
    print(f"a job adds {median(begun) - median(bare):.1f} s")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
