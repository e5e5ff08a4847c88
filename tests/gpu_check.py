"""Tries on one GPU what tests cannot try without: `make gpu-check`, in minutes. Exits with 2 where there is no GPU."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch

from sweep.config.resources import Resources
from sweep.config.trial_config import TrialConfig
from sweep.execution.tune_adapters import execute
from sweep.training.distributed import Ranks, start_ranks
from sweep.training.loop import fit, input_batches, train_epoch
from sweep.training.reports import TrialPaths, TrialReport
from sweep.training.trial import FOLLOW, assemble, run_trial

from .support.training import trial_config
from .support.trial_lists import Trials, job

FLOAT32 = {"training": {"precision": "float32"}, "guidance": {"lambda1": 1e-2}}
CNN = {"name": "cnn", "depth": 3, "width": 32, "downsample": 1, "batch_norm": True}
WARM_UP, MEASURED = 5, 30  # epochs
GREEDY = 1  # the trial that asks for more memory than its share


def losses(config: TrialConfig, place: TrialPaths, ranks: Ranks | None = None) -> list[float]:
    run, _ = assemble(config, dataclasses.replace(place, folder=place.folder / "none"), ranks=ranks)
    return [metrics.values["val_loss"] for metrics in fit(run)]


def furthest(a: list[float], b: list[float]) -> float:
    """The largest relative difference; infinite if a number is not finite."""
    finite = all(map(math.isfinite, [*a, *b]))
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True)) if finite else math.inf


def placement(place: TrialPaths) -> str:
    """Network and images are on the GPU, and the losses are those of the CPU."""
    run, _ = assemble(trial_config(**FLOAT32), place)
    devices = {p.device.type for p in run.model.parameters()} | {run.train.images.device.type}
    off = furthest(*(losses(trial_config(**FLOAT32), dataclasses.replace(place, gpus=n)) for n in (1.0, 0.0)))
    assert devices == {"cuda"}, devices
    assert off < 1e-3, off
    return f"on {torch.cuda.get_device_name()}; losses within {off:.1e} of the CPU's"


def bfloat16(place: TrialPaths) -> str:
    """``precision: auto`` computes in bfloat16, and learns the same."""
    seen = []
    run, _ = assemble(trial_config(), place)
    run.model.register_forward_hook(lambda _model, _images, output: seen.append(output.dtype))
    auto = [metrics.values["val_loss"] for metrics in fit(run)]
    off = furthest(auto, losses(trial_config(training={"precision": "float32"}), place))
    assert set(seen) == {torch.bfloat16}, set(seen)
    assert off < 0.02, off
    return f"losses within {off:.1e} of float32's"


def distributed(place: TrialPaths) -> str:
    """One rank with nccl, batch norm synchronised, has the losses of no ranks."""
    config = trial_config(model=CNN, **FLOAT32)
    alone = losses(config, place)
    with start_ranks(config, place, FOLLOW) as ranks:
        off = furthest(losses(config, place, ranks), alone)
        backend, kinds = ranks.group.name(), {type(module).__name__ for module in ranks.network.modules()}
    assert backend == "nccl", backend
    assert "SyncBatchNorm" in kinds, kinds
    assert off < 1e-3, off
    return f"losses within {off:.1e}"


def greedy(config: TrialConfig, paths: TrialPaths, **options: Any) -> Generator[TrialReport]:
    """Trains as `run_trial` does; trial `GREEDY` first takes six tenths of the GPU."""
    total = torch.cuda.get_device_properties(0).total_memory
    taken = torch.empty(int(0.6 * total) if config.training.seed == GREEDY else 1, dtype=torch.uint8, device="cuda")
    yield from run_trial(config, paths, **options)
    del taken


def halves(place: TrialPaths) -> str:
    """Two trials share the GPU: the one that takes more than its half fails and says so, the other is not disturbed."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        source = Trials([job(place, number, 20) for number in range(2)])
        execute(source, Resources(gpus=0.5), stop=threading.Event(), run_trial=f"{greedy.__module__}:greedy")
    finally:
        ray.shutdown()
    outcomes = [source.outcome(number) for number in range(2)]
    assert outcomes == ["completed", "failed"], (outcomes, [source.results[n][-1].error for n in range(2)])
    assert source.results[GREEDY][-1].oom == "GPU", source.results[GREEDY][-1].error
    return "one of two hit its cap, the other completed"


def speed(place: TrialPaths) -> str:
    """Steps per second of the training loop, and of a bare one."""
    run, _ = assemble(trial_config(model=CNN, training={"max_epochs": 10**6}), place)
    bare, _ = assemble(run.config, place)
    order = torch.Generator().manual_seed(0)
    data = list(input_batches(run.config, run.info, run.task, bare.train, device=bare.device, generator=order))

    def by_hand() -> None:
        bare.model.train()
        for x, y in data:
            bare.optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(bare.model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            bare.optimizer.step()

    epochs = iter(range(1, 10**6))
    steps = MEASURED * math.ceil(run.train.size / run.config.training.batch_size)
    ours = steps / _seconds(lambda: train_epoch(run, next(epochs)))
    hand = MEASURED * len(data) / _seconds(by_hand)
    return f"{ours:.0f} steps/s, a bare loop on batches made beforehand {hand:.0f}"


def _seconds(epoch: Callable[[], object]) -> float:
    for _ in range(WARM_UP):
        epoch()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(MEASURED):
        epoch()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> int:
    if not torch.cuda.is_available():
        print("gpu-check: there is no GPU here that PyTorch can use, so nothing was checked", file=sys.stderr)
        return 2
    failed = []
    for check in (placement, bfloat16, distributed, halves, speed):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            place = TrialPaths(Path(folder, "trials"), Path(folder), Path(folder), gpus=1.0)
            try:
                found = f"ok: {check(place)}"
            except Exception:  # noqa: BLE001 (the other checks tell more)
                found = f"FAILED\n{traceback.format_exc()}"
                failed.append(check.__name__)
        print(f"{check.__name__:12s} {time.monotonic() - started:5.1f} s  {found}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
