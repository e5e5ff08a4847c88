"""Memory of a trial that streams an image folder: resident set, epoch by epoch, in a process of its own.

`python -m tests.benchmarks.streaming`: 50,000 synthetic JPEGs of 64 x 64 in 10 classes, one trial of a small CNN with
crops and flips; the process holds what a Ray worker holds (Ray and torchvision are imported). Exits 1 when its largest
resident set reaches 1.5 GB, or that of the last epoch is over 5 % above that of the first. About four minutes.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

BAR_RESIDENT, BAR_GROWTH = 1.5e9, 1.05
SIDE, CLASSES, EPOCHS = 64, 10, 3


def make_folder(folder: Path, images: int) -> None:
    """Coarse noise, another for each image, with a brightness that tells the class."""
    from PIL import Image

    random = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
    for number in range(images):
        label, buffer = number % CLASSES, io.BytesIO()
        coarse = random.integers(0, 100, (8, 8, 3)) + 15 * label
        Image.fromarray(coarse.astype(np.uint8)).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=90)
        (folder / f"class{label}" / f"{number:06d}.jpg").write_bytes(buffer.getvalue())


def trial(root: Path) -> None:
    """Trains; prints the resident set before, in bytes, then seconds, largest resident set and accuracy by epoch."""
    import psutil
    import torch

    import sweep.execution.tune_adapters  # noqa: F401 (what a worker has loaded)
    from sweep.config.sections import DataConfig, GuidanceConfig, Objective, TrainingConfig
    from sweep.config.trial_config import TrialConfig
    from sweep.training.trial import TrialPaths, run_trial

    peak, process, over = 0, psutil.Process(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.05):
            peak = max(peak, process.memory_info().rss)

    torch.set_num_threads(1)
    config = TrialConfig(
        model={"name": "cnn", "depth": 4, "width": 8},
        data=DataConfig(name="imagefolder", folder="images", image_size=SIDE, augment=("crop", "flip")),
        objective=Objective(metric="val_loss", direction="minimize"),
        guidance=GuidanceConfig(lambda1=0),
        training=TrainingConfig(max_epochs=EPOCHS),
    )
    threading.Thread(target=watch, daemon=True).start()
    print(process.memory_info().rss, flush=True)
    last = time.perf_counter()
    for report in run_trial(config, TrialPaths(root / "trial", root, root / "cache"), interval=0.0):
        if report.epochs:
            print(time.perf_counter() - last, peak, report.epochs[-1].values["val_accuracy"], flush=True)
            peak, last = 0, time.perf_counter()
    over.set()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--trial", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trial:
        trial(arguments.trial)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        make_folder(Path(folder) / "images", arguments.images)
        print(
            f"{arguments.images} images of {SIDE} x {SIDE}, made in {time.perf_counter() - started:.0f} s", flush=True
        )
        command = [sys.executable, "-m", "tests.benchmarks.streaming", "--trial", folder]
        peaks: list[float] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            base = float(process.stdout.readline())
            for line in process.stdout:
                seconds, peak, accuracy = map(float, line.split())
                peaks.append(peak)
                first = " (the first includes finding and checking the files)" if len(peaks) == 1 else ""
                print(
                    f"epoch {len(peaks)}: {seconds:.0f} s{first}, largest resident set {peak / 1e6:.0f} MB, "
                    f"val_accuracy {accuracy:.3f}", flush=True
                )  # fmt: skip
    if process.returncode or len(peaks) != EPOCHS:
        print("the trial did not end")
        return 1
    growth = peaks[-1] / peaks[0]
    missed = max(peaks) >= BAR_RESIDENT or growth > BAR_GROWTH
    verdict = "MISSED" if missed else "ok"
    print(f"before the trial {base / 1e9:.2f} GB, largest {max(peaks) / 1e9:.2f} GB (bar {BAR_RESIDENT / 1e9} GB)")
    print(f"last epoch / first {growth:.3f} (bar {BAR_GROWTH})  {verdict}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
