"""The cost of an outage of the tracking server: nothing is lost, nothing is there twice, and training does not wait.

`python -m tests.benchmarks.outage`, four minutes on two quiet cores. A real `mlflow server` is killed in the middle of
a study and started again 60 s later. Throughput is by the times at which epochs ended: those of a second during the
outage over those before and after it: on cores that others use too, it says nothing. Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from ..support.invariants import checkpointed, flaws, left_by
from ..support.processes import Command, TrackingServer, wait_for

BAR = 0.95  # of the throughput without an outage
STEADY = 5.0  # seconds left out around each change: workers start, the server's process takes its share of a core
EPOCHS = 60

STUDY = f"""
name: outage
model: {{name: mlp, depth: 2, width: 128}}
data: {{name: digits}}
objective: {{metric: val_loss, direction: minimize}}
space:
  lambda1: {{low: 1e-4, high: 1e-2, log: true}}
training: {{max_epochs: {EPOCHS}, batch_size: 16}}
search: {{trials: TRIALS, sampler: random, pruner: none, finalists: {{top: 0}}}}
"""


def rate(ended: list[float], *spans: tuple[float, float]) -> float:
    """Epochs per second in spans of time, given when each epoch ended."""
    return sum(a <= each < b for each in ended for a, b in spans) / sum(b - a for a, b in spans)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of the outage")
    parser.add_argument(
        "--around", type=float, default=45, help="seconds of training before it; after it comes the rest"
    )
    parser.add_argument("--trials", type=int, default=110)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "results"
        file = Path(folder) / "outage.yaml"
        file.write_text(STUDY.replace("TRIALS", str(arguments.trials)))
        server = TrackingServer(workspace)
        server.start()
        wait_for(server.ready, "the tracking server")
        command = Command(workspace, "run", str(file), MLFLOW_TRACKING_URI=server.url)
        try:
            wait_for(lambda: command.over or checkpointed(workspace, "outage"), "the first epochs")
            time.sleep(arguments.around)
            server.stop()
            down = time.time()
            time.sleep(arguments.seconds)
            up = time.time()
            server.start()
            while not command.over:  # on busy cores the rest takes long: a trial must end now and then
                lines = command.out.count("\n")
                wait_for(lambda said=lines: command.over or command.out.count("\n") > said, "the end of a trial")
            assert command.end() == 0, command.out
            told = "sends what is missing" in command.out
            server.stop()
            left = left_by(workspace, "outage")
        finally:
            command.close()
            server.stop()
    values = [value for run in left.runs.values() for value in run.history["val_loss"]]
    ended = sorted(timestamp / 1000 for _, _, timestamp in values)
    assert ended[-1] > up + 2 * STEADY, "the study was over before the outage was: more --trials"
    during = rate(ended, (down + STEADY, up - STEADY))
    around = rate(ended, (ended[0] + STEADY, down - STEADY), (up + 2 * STEADY, ended[-1] - STEADY))
    wrong = flaws(left, trials=arguments.trials, controls=0)
    stored = sum(len(v) for run in left.runs.values() for v in run.history.values() if v[0][0] > 0)
    names = {len(run.epochs) for run in left.runs.values()}
    print(f"outage of {up - down:.0f} s, {arguments.trials} trials of {EPOCHS} epochs, {max(names)} metrics an epoch")
    print(
        f"values stored {stored}, expected {arguments.trials * EPOCHS * max(names)}; flaws found: {len(wrong)}",
        *wrong[:5],
    )
    print(f"said at the end that something is missing: {told}")
    print(f"epochs per second: {around:.1f} with the server, {during:.1f} without")
    met = during >= BAR * around and not wrong and not told
    print(f"throughput during the outage {during / around:.3f}, the bar is {BAR}: {'met' if met else 'MISSED'}")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
