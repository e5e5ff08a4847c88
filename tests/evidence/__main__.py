"""`make results`: runs the studies of `RESULTS/plan.yaml`, keeps what they say, and writes RESULTS.md from that.

Each study is two commands, `sweep run` and `sweep confirm`, which go on where they were interrupted. One whose evidence
is there, and was made by the same commands, is not run again: remove its file to do so.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys

from sweep.config import filesystem
from sweep.config.settings import Settings

from .gathering import Entry, evidence, read_plan
from .page import write


def main() -> int:
    """Runs what is missing; the exit code is that of the first command that fails, which keeps no other from running.

    One that was interrupted ends it.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.evidence", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of the plan; default: all")
    parser.add_argument("--long", action="store_true", help="those too that take many hours without a GPU")
    parser.add_argument("--write", action="store_true", help="run nothing, write RESULTS.md from the evidence there is")
    options = parser.parse_args()
    plan = read_plan()
    if unknown := [name for name in options.names if name not in plan]:
        parser.error(f"not in the plan: {', '.join(unknown)}; there are {', '.join(plan)}")
    first = 0
    for entry in plan.values() if not options.write else ():
        asked = entry.name in options.names if options.names else options.long or not entry.long
        if asked and not entry.is_made():
            code = _make(entry)
            if code < 0 or code > 128:  # a signal
                return code
            first = first or code
            write(plan)
    write(plan)
    return first


def _make(entry: Entry) -> int:
    """Runs the commands of an entry and keeps its evidence."""
    said: dict[str, str] = {}
    for words in entry.commands():
        print(f"sweep {shlex.join(words)}", flush=True)
        listened = words[0] != "run"
        code, out = _sweep(words, listened=listened)
        if code:
            return code
        if listened:
            said[words[0]] = out
    filesystem.write_bytes(entry.path, (json.dumps(evidence(entry, said, Settings()), indent=1) + "\n").encode())
    return 0


def _sweep(words: list[str], *, listened: bool) -> tuple[int, str]:
    """Runs a command to its end, also when this process is to stop: the command hears of it, and checkpoints.

    Returns:
        Its exit code, and what it printed where it was listened to.
    """
    command = [sys.executable, "-m", "sweep", *words]
    environment = {**os.environ, "SWEEP_REPORT": "false", "COLUMNS": "120"}
    out = subprocess.PIPE if listened else None
    with subprocess.Popen(command, env=environment, stdout=out, text=True) as process:
        before = signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
        try:
            while True:
                try:
                    printed, _ = process.communicate()
                    return process.returncode, printed or ""
                except KeyboardInterrupt:  # a terminal sends Ctrl-C to the command as well
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
