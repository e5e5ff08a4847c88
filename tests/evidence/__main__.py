"""`make results`: runs the studies of ``RESULTS/plan.yaml``, keeps their results, and writes ``losses/RESULTS.md``.

Each study is two commands, `sweep run` and `sweep confirm`, which resume after an interruption. A study is not run
again if its evidence exists and was made by the same commands; to run it again, remove its JSON file.
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

from .dose import read_doses
from .gathering import Entry, evidence, read_plan
from .page import write


def main() -> int:
    """Runs the studies without evidence, and writes the page.

    A failure does not stop the other studies; an interruption does.

    Returns:
        The exit code of the first command that failed, or 0.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.evidence", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of the plan; default: all but the long ones")
    parser.add_argument("--long", action="store_true", help="also those that take many hours without a GPU")
    parser.add_argument(
        "--write", action="store_true", help="run nothing; write losses/RESULTS.md from the existing evidence"
    )
    options = parser.parse_args()
    plan, doses = read_plan(), read_doses()
    known = {*plan, *doses, *(entry.group for entry in plan.values() if entry.group)}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"not in the plan: {', '.join(unknown)}; there are {', '.join([*plan, *doses])}")
    first = 0
    for entry in plan.values() if not options.write else ():
        named = entry.name in options.names or entry.group in options.names
        asked = named if options.names else options.long or not entry.long
        if asked and not entry.is_made():
            code = _make(entry)
            if code < 0 or code > 128:  # a signal
                return code
            first = first or code
            write(plan, doses)
    for dose in doses.values() if not options.write else ():
        if (not options.names or dose.name in options.names) and not dose.is_made():
            dose.make(Settings())
    write(plan, doses)
    return first


def _make(entry: Entry) -> int:
    """Runs the commands of an entry and keeps its evidence."""
    printed: dict[str, list[str]] = {}
    for words in entry.commands():
        print(f"sweep {shlex.join(words)}", flush=True)
        capture = words[0] != "run"
        code, out = _sweep(words, capture=capture)
        if code:
            return code
        if capture:
            printed.setdefault(words[0], []).append(out)
    filesystem.write_bytes(entry.path, (json.dumps(evidence(entry, printed, Settings()), indent=1) + "\n").encode())
    return 0


def _sweep(words: list[str], *, capture: bool) -> tuple[int, str]:
    """Runs a command to its end; forwards SIGTERM, so that the command can save checkpoints.

    Returns:
        The exit code, and the standard output if it was captured.
    """
    command = [sys.executable, "-m", "sweep", *words]
    environment = {**os.environ, "SWEEP_REPORT": "false", "COLUMNS": "120"}
    out = subprocess.PIPE if capture else None
    with subprocess.Popen(command, env=environment, stdout=out, text=True) as process:
        before = signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
        try:
            while True:
                try:
                    printed, _ = process.communicate()
                    return process.returncode, printed or ""
                except KeyboardInterrupt:  # the terminal sends Ctrl-C to the command, too
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
