"""How long a study that is submitted to a warm cluster takes to its driver's first line, beside a run without a job.

`python -m tests.benchmarks.shipping`, two minutes, no data needed; exits 1 when the bar is missed. The head is a Ray of
this machine that has run a job before. The command packs the code and sends it (zip, 0.3 MB); the head unpacks it and
starts a driver, whose first line comes when it is connected and has looked at every node: nothing is said before a
study that cannot run is refused.
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

from tests.processes import Cluster, environment, wait_for

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


def ours(text: str) -> bool:
    """Whether a job's output has a line of ours: Ray's own come first, with their time or their tag."""
    return any(line.startswith("shipped-") for line in text.splitlines())


def submitted(cluster: Cluster, folder: Path, given: dict[str, str], number: int) -> tuple[float, float]:
    """Submits a study; returns the seconds to the driver's first line, from the command's start and from its end."""
    (folder / "study.yaml").write_text(STUDY.format(number))
    began = time.monotonic()
    words = (sys.executable, "-m", "sweep", "submit", "study.yaml", f"--address={cluster.url}", "--json")
    done = subprocess.run(words, env=given, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    taken = time.monotonic()
    logs = Path(tempfile.gettempdir(), "ray")
    name = f"job-driver-{json.loads(done.stdout)['id']}.log"
    wait_for(lambda: any(ours(log.read_text()) for log in logs.glob(f"session_2*/logs/{name}")), "the first line")
    first = time.monotonic()
    wait_for(lambda: not running(cluster, folder, given), "the job's end")
    return first - began, first - taken


def running(cluster: Cluster, folder: Path, given: dict[str, str]) -> bool:
    words = (sys.executable, "-m", "sweep", "jobs", f"--address={cluster.url}", "--json")
    done = subprocess.run(words, env=given, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return any(job["status"] in ("RUNNING", "PENDING") for job in json.loads(done.stdout))


def here(cluster: Cluster, folder: Path, given: dict[str, str], number: int) -> float:
    """Runs such a study on the cluster from a process beside it; returns the seconds to its first line."""
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
    whole, sent = (sorted(column) for column in zip(*times, strict=True))
    rows = {
        "submit to first line": whole,
        "of it, from when the head has it": sent,
        "a run beside it, to first line": bare,
    }
    for what, seconds in rows.items():
        print(f"{what:34}{median(seconds):5.1f} s ({min(seconds):.1f} to {max(seconds):.1f}, n {RUNS})")
    met = median(whole) <= BAR
    print(f"bar: {median(whole):.1f} s <= {BAR:g} s {'ok' if met else 'MISSED'}; ", end="")
    print(f"{median(whole) - median(bare):.1f} s more than without a job")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
