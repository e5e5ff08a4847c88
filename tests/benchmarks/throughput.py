"""Throughput of a whole sweep beside bare processes and beside a stock Ray Tune script, all in one run.

`python -m tests.benchmarks.throughput`: 64 digits MLPs of 20 epochs, unguided, sampler random, two slots; the stock
script (function trainable, OptunaSearch, MLflowLoggerCallback) runs 16 of them and is scaled by four. Exits 1 when a
bar is missed. About three minutes on two quiet cores; best of `--rounds` for each, since other jobs only ever add.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIALS, EPOCHS, STOCK_TRIALS = 64, 20, 16
BAR_RATIO, BAR_EXTRA, BAR_START, BAR_STOCK = 1.4, 15.0, 15.0, 1 / 12

STUDY = f"""
name: throughput
model: {{name: mlp}}
data: {{name: digits, val_fraction: 0.2}}
objective: {{metric: val_loss, direction: minimize}}
space:
  lambda1: 0.0
  lambda2: 0.0
  depth: {{low: 1, high: 3}}
  width: {{choices: [64, 128]}}
  training.lr: {{low: 1e-4, high: 1e-2, log: true}}
training: {{max_epochs: {EPOCHS}, batch_size: 64}}
search: {{trials: {TRIALS}, sampler: random, pruner: none, finalists: {{top: 0}}}}
"""


def bare(part: int) -> None:
    """Runs half of the networks in a hand-written loop, as one of two bare processes, and prints its seconds."""
    import torch
    from torch.nn import functional as F

    from sweep.config import study_file as studyfile
    from sweep.config.sections import DataConfig
    from sweep.data.loading import load_dataset
    from sweep.models import build_model
    from sweep.study.distributions import distributions, random_point

    torch.set_num_threads(1)
    config, _ = studyfile.parse_study(studyfile.read_yaml(STUDY, "benchmark"))
    assert config is not None
    cache = Path(os.environ["BENCH_CACHE"])
    data = load_dataset(DataConfig(name="digits", val_fraction=0.2), root=cache, cache=cache)
    space = distributions(config.searched)
    mean, std = 16 * torch.tensor(data.info.mean), 16 * torch.tensor(data.info.std)
    (x, y), (xv, yv) = ((part.images, part.labels) for part in (data.train, data.val))
    started = time.perf_counter()
    for number in range(part, TRIALS, 2):
        point = random_point(space, seed=0, number=number)
        torch.manual_seed(0)
        sizes = {"depth": point["depth"], "width": point["width"]}
        model = build_model("mlp", **sizes, in_shape=data.info.in_shape, num_outputs=10)  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(model.parameters(), lr=point["training.lr"], fused=True)  # type: ignore[arg-type]
        for _ in range(EPOCHS):
            for index in torch.randperm(len(y)).split(64):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[index].float().sub_(mean).div_(std)), y[index])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.inference_mode():
                output = model(xv.float().sub_(mean).div_(std))
                _ = F.cross_entropy(output, yv).item(), (output.argmax(1) == yv).float().mean().item()
    print(json.dumps(time.perf_counter() - started))


def stock() -> None:
    """A script as the documentation of Ray Tune shows it; prints its seconds."""
    import torch
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch
    from torch.nn import functional as F

    from sweep.config.sections import DataConfig
    from sweep.data.loading import load_dataset
    from sweep.models import build_model

    cache = Path(os.environ["BENCH_CACHE"])

    def trainable(config: dict[str, float]) -> None:
        torch.set_num_threads(1)
        data = load_dataset(DataConfig(name="digits", val_fraction=0.2), root=cache, cache=cache)
        mean, std = 16 * torch.tensor(data.info.mean), 16 * torch.tensor(data.info.std)
        (x, y), (xv, yv) = ((part.images, part.labels) for part in (data.train, data.val))
        sizes = {"depth": int(config["depth"]), "width": int(config["width"])}
        model = build_model("mlp", **sizes, in_shape=data.info.in_shape, num_outputs=10)
        optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"], fused=True)
        for _ in range(EPOCHS):
            for index in torch.randperm(len(y)).split(64):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[index].float().sub_(mean).div_(std)), y[index])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.inference_mode():
                output = model(xv.float().sub_(mean).div_(std))
                accuracy = (output.argmax(1) == yv).float().mean().item()
            tune.report(
                {"val_loss": F.cross_entropy(output, yv).item(), "val_accuracy": accuracy, "train_loss": loss.item()}
            )

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        tuner = tune.Tuner(
            trainable,
            param_space={
                "depth": tune.randint(1, 4),
                "width": tune.choice([64, 128]),
                "lr": tune.loguniform(1e-4, 1e-2),
            },
            tune_config=tune.TuneConfig(
                metric="val_loss", mode="min", num_samples=STOCK_TRIALS, search_alg=OptunaSearch()
            ),
            run_config=tune.RunConfig(
                storage_path=folder, callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name="stock")]
            ),
        )
        tuner.fit()
    print(json.dumps(time.perf_counter() - started))


def sweep(workspace: Path) -> tuple[float, float, float]:
    """Runs the study; returns seconds from the first finished trial to the last, to the first epoch, and of it all."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    file = workspace / "throughput.yaml"
    file.write_text(STUDY)
    began = time.time()
    command = [sys.executable, "-m", "sweep", "run", str(file), "--workspace", str(workspace), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.time() - began
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(workspace / "optuna.journal")))
    trials = optuna.load_study(study_name="throughput", storage=storage).trials
    ended = sorted(t.datetime_complete.timestamp() for t in trials if t.datetime_complete)
    assert len(ended) == TRIALS, f"{len(ended)} of {TRIALS} trials ended"
    return ended[-1] - ended[0], _first_epoch(workspace) - began, whole


def _first_epoch(workspace: Path) -> float:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("throughput")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`sweep.kind` = 'trial'")
    return min(client.get_metric_history(run.info.run_id, "val_loss")[0].timestamp for run in runs) / 1000


def _spawn(mode: str, cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "BENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    command = [sys.executable, "-m", "tests.benchmarks.throughput", "--mode", mode]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _seconds(*processes: subprocess.Popen[str]) -> float:
    return max(float(p.communicate()[0].strip().splitlines()[-1]) for p in processes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["all", "bare0", "bare1", "stock"], default="all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-stock", action="store_true")
    arguments = parser.parse_args()
    if arguments.mode != "all":
        stock() if arguments.mode == "stock" else bare(int(arguments.mode[-1]))
        return 0
    from sweep.config.sections import DataConfig
    from sweep.data.loading import load_dataset

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        load_dataset(DataConfig(name="digits"), root=cache, cache=cache)
        rounds = []
        for number in range(arguments.rounds):
            limit = _seconds(_spawn("bare0", cache), _spawn("bare1", cache))
            workspace = Path(folder) / str(number)
            workspace.mkdir()
            between, first, whole = sweep(workspace)
            rounds.append((between / limit, whole - limit, first, limit, between, whole))
            print(
                f"round {number}: two bare processes {limit:.1f} s; sweep {between:.1f} s from first to last trial, "
                f"{whole:.1f} s in all, first epoch after {first:.1f} s; ratio {between / limit:.2f}", flush=True
            )  # fmt: skip
        print(f"{'bar':44}{'median':>8}{'best':>8}{'worst':>8}{'bar':>8}")
        rows = [
            ("first to last trial / two bare processes", BAR_RATIO),
            ("seconds beyond two bare processes", BAR_EXTRA),
            ("start-up: seconds to the first epoch", BAR_START),
        ]
        missed = False
        for index, (name, bar) in enumerate(rows):
            values = sorted(r[index] for r in rounds)
            median = values[len(values) // 2]
            missed |= median > bar
            verdict = "" if median <= bar else "  MISSED"
            print(f"{name:44}{median:8.2f}{values[0]:8.2f}{values[-1]:8.2f}{bar:8.2f}{verdict}")
        if not arguments.no_stock:
            seconds = _seconds(_spawn("stock", cache)) * TRIALS / STOCK_TRIALS
            whole = sorted(r[5] for r in rounds)[len(rounds) // 2]
            missed |= whole > BAR_STOCK * seconds
            print(
                f"stock script, 16 trials scaled to 64: {seconds:.0f} s; sweep in all / stock = 1/{seconds / whole:.1f}"
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
