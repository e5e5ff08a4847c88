"""A script that the torture kills: a walk that its seed determines, with a checkpoint after each epoch."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path


def main() -> None:
    depth, width = map(int, sys.argv[1:])
    lambda1 = json.loads(os.environ["SWEEP_HYPERPARAMETERS"])["lambda1"]
    saved = Path(os.environ["SWEEP_CHECKPOINT_DIR"], "state.json")
    before, value = json.loads(saved.read_text()) if saved.is_file() else (0, 1.0)
    for epoch in range(before + 1, int(os.environ["SWEEP_MAX_EPOCHS"]) + 1):
        time.sleep(0.05)
        chance = random.Random(f"{os.environ['SWEEP_SEED']} {depth} {width} {epoch}")
        value *= 1 - (lambda1 + 0.01) * chance.random()
        with Path(os.environ["SWEEP_METRICS_FILE"]).open("a") as file:
            file.write(json.dumps({"epoch": epoch, "val_loss": value}) + "\n")
        saved.with_name("new.json").write_text(json.dumps([epoch, value]))
        saved.with_name("new.json").replace(saved)


if __name__ == "__main__":
    main()
