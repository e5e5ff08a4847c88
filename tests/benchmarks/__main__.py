"""``make bench``: runs every benchmark, one after the other; exits 1 if one of them misses a bar."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    names = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))
    missed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=False).returncode:
            missed.append(name)
    print(f"\n{len(names) - len(missed)} of {len(names)} benchmarks hold their bars", *missed)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
