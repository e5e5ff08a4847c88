"""Several processes that train one trial: starts them, divides its work among them, and ends them with it.

Rank 0 is the worker's own process, which alone reports and saves. The others are its children. They wait for rank 0 on
their standard input, and exit when that is closed, so that none outlives rank 0, however rank 0 ends.
"""

import contextlib
import json
import os
import pkgutil
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..config.errors import FunctionError
from ..config.filesystem import parse_path
from ..config.section import STORED
from ..config.trial_config import TrialConfig
from ..config.user_code import search_folders, search_in
from .reports import RankLostError, TrialPaths

JOIN_WITHIN = timedelta(minutes=2)  # for all ranks, once they have imported torch
STEP_WITHIN = timedelta(minutes=30)  # for the slowest rank in one step
DEAD_WITHIN = 2.0  # seconds in which a rank is dead that has left the group
_INTERFACE = "GLOO_SOCKET_IFNAME"
_CHILD = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
job = json.loads(sys.stdin.readline())
sys.path[:] = job["path"]
from sweep.training.distributed import _serve
_serve(job)
"""


class Ranks:
    """This process among those that train a trial together, each on its share of every batch.

    Args:
        rank: 0 for the worker's own process.
        store: File by which they find each other.
        agree: Returns rank 0's text on all ranks; rank 0 gives it, the others wait for it, however long.
    """

    def __init__(self, rank: int, size: int, device: torch.device, store: Path, agree: Callable[[str], str]):
        self.rank, self.size, self.device, self._agree = rank, size, device, agree
        self.network: nn.Module = nn.Identity()  # of the built-in loop, by `parallel`
        with _loopback():
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.FileStore(str(store), size),  # type: ignore[attr-defined]
                rank=rank,
                world_size=size,
                timeout=JOIN_WITHIN,
            )
        self.group._get_backend(device)._set_default_timeout(STEP_WITHIN)

    @property
    def group(self) -> dist.ProcessGroup:
        """All processes of the trial."""
        return dist.distributed_c10d._get_default_group()

    def agree(self, text: str = "") -> str:
        """Returns rank 0's text on all ranks. The others wait for rank 0, which may be reporting.

        Raises:
            RuntimeError: On rank 0, if another one is dead; `start_ranks` makes it the error that says so.
        """
        return self._agree(text)

    def parallel(self, model: nn.Module, **options: Any) -> nn.Module:
        """Gives a model rank 0's weights, and returns it so that its gradients become the mean over all ranks.

        ``options`` are those of `DistributedDataParallel`.
        """
        with _without_compiler():
            return _Parallel(model, **options)

    def scale(self, loss: Tensor, weight: Tensor | int) -> Tensor:
        """Scales the mean loss [] over this rank's share, so that the mean over ranks is that over the batch.

        ``weight`` is the number of terms that the loss is the mean of, which may be 0.
        """
        own = torch.as_tensor(weight, dtype=torch.float32, device=self.device)
        total = own.clone()
        dist.all_reduce(total)
        return loss * (own * self.size / total.clamp(min=1))

    def add(self, *tensors: Tensor) -> None:
        """Replaces each tensor by its sum over all ranks."""
        for tensor in tensors:
            dist.all_reduce(tensor)

    def mean(self, values: Mapping[str, float] | None) -> dict[str, float] | None:
        """Returns the mean over all ranks of what a function reports; None at its end, which rank 0 decides.

        Raises:
            FunctionError: This rank has other names than rank 0.
        """
        names = sorted(values or ())
        told: list[str] = json.loads(self.agree(json.dumps(names)))
        if names != told:
            own, theirs = (", ".join(each) or "no epoch" for each in (names, told))
            raise FunctionError(
                f"rank {self.rank} reports {own}, and rank 0 {theirs}: each rank reports each epoch, by the same names"
            )
        if values is None:
            return None
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        self.add(sums)
        return dict(zip(names, (sums / self.size).tolist(), strict=True))

    def share_buffers(self, model: nn.Module) -> None:
        """Gives a model's buffers, as the statistics of batch norm, the values that they have on rank 0."""
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def gather(self, tensor: Tensor) -> Tensor:
        """Returns the rows of all ranks, in their order, as of the whole batch."""
        counts = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(tensor)], device=self.device))
        rows = [int(count) for count in counts]
        padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


class _Parallel(nn.parallel.DistributedDataParallel):
    """DistributedDataParallel that tells PyTorch's compiler nothing, which nothing here compiles with."""

    def _run_ddp_forward(self, *inputs: Any, **options: Any) -> Any:
        return self.module(*inputs, **options)


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Answers the one question of DistributedDataParallel to the compiler, whose import takes 2 s in each rank.

    (Read in torch 2.14.)
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    vars(torch)["_dynamo"] = SimpleNamespace(utils=SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer"))
    try:
        yield
    finally:
        vars(torch).pop("_dynamo")


def number_of_ranks(config: TrialConfig, paths: TrialPaths) -> int:
    """Returns the number of processes that train a trial: its ``workers``, or one for each of its GPUs."""
    return max(config.workers, int(paths.gpus) if torch.cuda.is_available() else 1)


def device_of(config: TrialConfig, paths: TrialPaths, rank: int = 0) -> torch.device:
    """Returns the device of a rank: its GPU if the trial has GPUs, else the CPU."""
    on_gpu = paths.gpus and config.workers == 1 and torch.cuda.is_available()
    return torch.device("cuda", rank) if on_gpu and paths.gpus > 1 else torch.device("cuda" if on_gpu else "cpu")


@contextlib.contextmanager
def start_ranks(config: TrialConfig, paths: TrialPaths, follow: str) -> Iterator[Ranks]:
    """Starts the other ranks of a trial, and ends them at the end of the ``with`` block.

    Args:
        follow: Import path of what the others call, with the trial's config, its paths and their `Ranks`.

    Raises:
        RankLostError: One of them was killed.
        RuntimeError: One of them failed; the message has its traceback.
    """
    size, device = number_of_ranks(config, paths), device_of(config, paths)
    with tempfile.TemporaryDirectory(prefix="sweep-ranks-") as scratch, contextlib.ExitStack() as stack:
        job = {
            "path": sys.path,
            "folders": search_folders(),
            "follow": follow,
            "config": config.model_dump(mode="json"),
            "places": {name: str(getattr(paths, name)) for name in ("folder", "data", "cache")},
            "gpus": paths.gpus,
            "size": size,
            "store": str(Path(scratch, "store")),
        }
        children = [stack.enter_context(_Child(rank, job)) for rank in range(1, size)]
        try:
            for child in children:
                child.wait()
            ranks = Ranks(0, size, device, Path(scratch, "store"), lambda text: _tell(children, text))
            stack.callback(_leave, children)
            if device.type == "cuda":
                for child in children:
                    threading.Thread(target=child.abort_if_dead, args=[ranks.group], daemon=True).start()
            yield ranks
        except (RuntimeError, OSError) as error:  # what a group raises that a rank has left
            if (cause := _cause(children)) is None:
                raise
            raise cause from error


class _Child:
    """A rank that is a child of this process."""

    def __init__(self, rank: int, job: dict[str, Any]):
        self.rank, self.ending, self._said = rank, False, ""
        command = [sys.executable, "-c", _CHILD]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        self.tell({**job, "rank": rank})

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *exc: object) -> None:
        """Kills it: at the end of a trial it waits, and holds nothing that another process needs."""
        self.process.kill()
        self.process.communicate()

    def tell(self, message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Waits until it is about to join the group, or raises a RuntimeError."""
        assert self.process.stdout is not None
        self._said = self.process.stdout.readline()
        if self._said != "\n":
            raise RuntimeError(f"the process of rank {self.rank} ended as it started")

    def failure(self) -> tuple[float, str]:
        """Returns when it failed, in seconds since 1970, and its traceback."""
        assert self.process.stdout is not None
        text = (self._said + self.process.stdout.read()).strip()
        return tuple(json.loads(text)) if text else (0.0, f"exit code {self.process.returncode}")

    def abort_if_dead(self, group: dist.ProcessGroup) -> None:
        """Ends collective operations when it dies: on GPUs they would wait for it until their timeout."""
        self.process.wait()
        if not self.ending:
            group.abort()


def _leave(children: list[_Child]) -> None:
    """Leaves the group. The others do not take part in that: they wait for their next epoch, or are dead."""
    for child in children:
        child.ending = True
    dist.destroy_process_group()


def _tell(children: list[_Child], text: str) -> str:
    for child in children:
        if child.process.poll() is not None:
            raise RuntimeError(f"rank {child.rank} is dead")
        child.tell(text)
    return text


def _cause(children: list[_Child]) -> Exception | None:
    """Returns why rank 0 failed if that is due to another rank: one was killed, or else the first that failed."""
    deadline, failures = time.monotonic() + DEAD_WITHIN, []
    while all(child.process.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    for child in children:
        code = child.process.poll()
        if code is not None and code < 0:
            return RankLostError(f"the process of rank {child.rank} was killed: {signal.Signals(-code).name}")
        if code is not None:
            failures.append((*child.failure(), child.rank))
    if not failures:
        return None
    _, text, rank = min(failures)
    return RuntimeError(f"in the process of rank {rank}:\n{text}")


def _serve(job: dict[str, Any]) -> None:
    """Runs a rank that is a child; its standard output is for rank 0 alone, what it prints goes to standard error."""
    with os.fdopen(os.dup(1), "w") as to_rank_0:
        os.dup2(2, 1)
        texts: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_read, args=[texts], daemon=True)
        reader.start()
        try:
            config, places = TrialConfig.model_validate(job["config"], context=STORED), job["places"]
            paths = TrialPaths(**{name: parse_path(place) for name, place in places.items()}, gpus=job["gpus"])
            search_in(*map(Path, job["folders"]))
            follow = pkgutil.resolve_name(job["follow"])
            device = device_of(config, paths, job["rank"])
            if device.type == "cuda":
                torch.cuda.set_device(device)
            print(file=to_rank_0, flush=True)
            follow(config, paths, Ranks(job["rank"], job["size"], device, Path(job["store"]), lambda _: texts.get()))
        except BaseException:  # noqa: BLE001 (also a user's SystemExit)
            print(json.dumps([time.time(), traceback.format_exc()[-30_000:]]), file=to_rank_0, flush=True)
            os._exit(1)
        reader.join()


def _read(texts: "queue.Queue[str]") -> None:
    """Passes rank 0's texts on, and ends the process when rank 0 has closed the pipe, or is dead."""
    for line in sys.stdin:
        texts.put(json.loads(line))
    os._exit(0)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Makes gloo connect by this machine's loopback interface, whatever its name resolves to."""
    before = os.environ.get(_INTERFACE)
    os.environ[_INTERFACE] = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "")
    try:
        yield
    finally:
        os.environ.pop(_INTERFACE)
        if before is not None:
            os.environ[_INTERFACE] = before
