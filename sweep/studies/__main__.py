"""`make results`: runs the studies of `evidence/plan.yaml`, keeps what they say, and writes RESULTS.md from that.

Each study is two commands, `sweep run` and `sweep confirm`, which go on where they were interrupted. One whose evidence
is there, and was made by the same commands, is not run again: remove its file to do so.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys

from ..settings import Settings
from .gathering import Entry, evidence, read_plan
from .page import write


def main() -> int:
    """Runs what is missing; the exit code is that of the first command that fails."""
    parser = argparse.ArgumentParser(prog="python -m sweep.studies", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of the plan; default: all")
    parser.add_argument("--long", action="store_true", help="those too that take many hours without a GPU")
    parser.add_argument("--write", action="store_true", help="run nothing, write RESULTS.md from the evidence there is")
    options = parser.parse_args()
    plan = read_plan()
    if unknown := [name for name in options.names if name not in plan]:
        parser.error(f"not in the plan: {', '.join(unknown)}; there are {', '.join(plan)}")
    for entry in plan.values() if not options.write else ():
        asked = entry.name in options.names if options.names else options.long or not entry.long
        if asked and not entry.is_made():
            if code := _make(entry):
                return code
            write(plan)
    write(plan)
    return 0


def _make(entry: Entry) -> int:
    """Runs the commands of an entry and keeps its evidence."""
    said: dict[str, str] = {}
    for words in entry.commands():
        print(f"sweep {shlex.join(words)}", flush=True)
        listened = words[0] != "run"
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "sweep", *words],
            env={**os.environ, "SWEEP_REPORT": "false", "COLUMNS": "120"},
            stdout=subprocess.PIPE if listened else None,
            text=True,
            check=False,
        )
        if done.returncode:
            return done.returncode
        if listened:
            said[words[0]] = done.stdout
    entry.path.write_text(json.dumps(evidence(entry, said, Settings()), indent=1) + "\n")
    return 0


sys.exit(main())
