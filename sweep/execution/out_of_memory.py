"""Memory of a trial: the share of a GPU that its process may allocate, and the hint when memory was not enough."""

import contextlib
import re
from collections.abc import Iterator

from ..training.reports import OomKind

CONTEXT = 0.6 * 2**30  # bytes of a GPU that CUDA allocates in each process, beside its tensors
_KILLED = ("OutOfMemoryError", "running low on memory")  # in Ray's message about a worker that it ended
_GPU = (
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)  # in a rank; of libraries below PyTorch's allocator
_HOST = ("DefaultCPUAllocator", "can't allocate memory")


def gpu_memory_fraction(gpus: float, total: float) -> float:
    """Returns the fraction of a GPU's memory, of ``total`` bytes, that the tensors of a process with a share may use.

    Example:
        >>> gpu_memory_fraction(0.5, 16 * 2**30)  # half of it, minus 0.6 GiB for CUDA itself
        0.4625
    """
    return 1.0 if gpus >= 1 else max(gpus - CONTEXT / total, gpus / 2)


def limit_gpu_memory(gpus: float) -> None:
    """Limits this process to its share of the GPU, which Ray does not do; no effect on a whole GPU or none."""
    if 0 < gpus < 1:
        _set_gpu_memory(gpus)


def _set_gpu_memory(gpus: float) -> None:
    import torch

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(gpu_memory_fraction(gpus, total))


@contextlib.contextmanager
def gpu_memory_limit(gpus: float) -> Iterator[None]:
    """Limits this process to its share of the GPU for a ``with`` block, and lifts the limit after it."""
    limit_gpu_memory(gpus)
    try:
        yield
    finally:
        if 0 < gpus < 1:
            _set_gpu_memory(1.0)


def oom_kind(problem: BaseException) -> OomKind | None:
    """Returns which memory a trial's exception reports as exhausted, or None for any other exception."""
    import torch

    message = str(problem)
    if isinstance(problem, torch.OutOfMemoryError) or any(words in message for words in _GPU):
        return "GPU"
    return "host" if isinstance(problem, MemoryError) or any(words in message for words in _HOST) else None


def ray_oom_kind(error: str) -> OomKind | None:
    """Returns ``host`` if Ray's message about a dead worker says that its memory monitor ended it, or None."""
    return "host" if any(words in error for words in _KILLED) else None


def is_machine_fault(error: str) -> bool:
    """Returns True if Ray's message about a dead worker blames its node: it is gone, or other programs fill its memory.

    Others do if all workers of Ray together hold less than half of the memory that is used.
    """
    if "node has died" in error or "node is dead" in error:
        return True
    used = re.search(r"was ([\d.]+)GB used", error)
    killed = re.findall(r"actual memory used=([\d.]+)GB", error)
    largest = re.findall(r"^\d+\t([\d.]+)\tray::", error, re.MULTILINE)
    ours = max(sum(map(float, killed)), sum(map(float, largest)))
    return used is not None and bool(killed or largest) and ours < float(used[1]) / 2


def hint(memory: OomKind) -> str:
    """Returns one line for the user: which memory was exhausted, and what to change."""
    gpu = "give it more of a GPU, or a larger one (resources.gpus, resources.accelerator_type)"
    host = "let fewer share a node (resources.memory, resources.max_concurrent)"
    return (
        f"out of memory on the {memory}: lower training.batch_size or width, or {gpu if memory == 'GPU' else host}; "
        "resources.retry_oom tries such a trial once more, alone"
    )
