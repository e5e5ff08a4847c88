"""A trial's share of a GPU, and a lack of memory among other errors. One test needs a real GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sweep.config.resources import Resources
from sweep.execution import out_of_memory as memory
from sweep.execution.out_of_memory import gpu_memory_fraction, hint, is_machine_fault, limit_gpu_memory, oom_kind

GIB = 2**30


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The caps that are set on a GPU of 16 GiB which is not there."""
    asked: list[float] = []
    properties = type("Properties", (), {"total_memory": 16 * GIB})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    return asked


def test_a_share_is_capped_and_a_whole_gpu_is_not(fractions: list[float]) -> None:
    for gpus in (0.0, 1.0, 2.0):
        limit_gpu_memory(gpus)
    assert fractions == []
    limit_gpu_memory(0.5)
    assert fractions == [0.5 - 0.6 / 16]


@pytest.mark.parametrize("number", [2, 3, 4, 7])
@pytest.mark.parametrize("total", [8 * GIB, 80 * GIB])
def test_as_many_as_share_a_gpu_fit_with_what_cuda_takes_itself(number: int, total: float) -> None:
    each = gpu_memory_fraction(1 / number, total)
    assert each >= 0.5 / number
    if number * memory.CONTEXT < total / 2:
        assert number * (each * total + memory.CONTEXT) == pytest.approx(total)


def test_nothing_is_done_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    limit_gpu_memory(0.5)


@pytest.mark.parametrize(
    ("taking", "lack"),
    [
        (lambda: torch.empty(2**50), "host"),
        (lambda: np.empty(2**55), "host"),
        (lambda: torch.empty(-1), None),
        (lambda: {}["epoch"], None),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(taking: Callable[[], object], lack: str | None) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 (whatever it is that PyTorch and NumPy raise)
        taking()
    assert oom_kind(raised.value) == lack


def test_a_lack_of_memory_on_a_gpu_is_known_by_its_class_and_by_what_cublas_says() -> None:
    assert oom_kind(torch.OutOfMemoryError("CUDA out of memory.")) == "GPU"
    assert oom_kind(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")) == "GPU"
    assert "resources.gpus" in hint("GPU")
    assert "resources.memory" in hint("host")


NODE = """1 worker(s) were killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.1, ID: e5d953ef) was 18.05GB used / 19.00GB limit (0.950000).
Ray killed 1 worker(s) based on the killing policy
(Worker with lease granted: job ID=01000000, task name=Worker.train, pid=7, actual memory used={}GB, worker ID=6f2e)
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
{}
"""


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (NODE.format(0.05, "9\t17.20\tpython other.py\n7\t0.05\tray::Worker.train"), True),
        (NODE.format(16.0, "7\t16.00\tray::Worker.train\n9\t1.20\tpython other.py"), False),
        (
            NODE.format(4.0, "\n".join(f"{pid}\t4.00\tray::Worker.train" for pid in (7, 8, 9))),
            False,
        ),  # too many of ours
        ("The actor died because its node has died. Node Id: 5af1", True),
        ("Worker exits unexpectedly. (1) the process was killed by the OOM killer", False),
        ("Task was killed due to the node running low on memory.", False),
    ],
)
def test_the_machine_is_at_fault_where_others_fill_its_memory_or_it_is_gone(error: str, machine: bool) -> None:
    assert is_machine_fault(error) == machine


@pytest.mark.parametrize(
    ("resources", "lacks"),
    [
        (Resources(gpus=0.5), []),
        (Resources(gpus=0.5, retry_oom=True), ["GPU", "host"]),
        (Resources(gpus=1, retry_oom=True), ["host"]),  # it had the whole GPU
        (Resources(retry_oom=True), ["host"]),
    ],
)
def test_what_is_tried_again_alone(resources: Resources, lacks: list[str]) -> None:
    assert [lack for lack in ("GPU", "host") if resources.retries(lack)] == lacks


@pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU: run on a machine with one")
def test_more_than_the_share_is_out_of_memory_though_the_gpu_has_it() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        limit_gpu_memory(0.25)
        torch.empty(int(0.1 * total), dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError) as raised:
            torch.empty(int(0.3 * total), dtype=torch.uint8, device="cuda")
        assert oom_kind(raised.value) == "GPU"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
