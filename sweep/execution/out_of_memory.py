"""Memory of a trial: the share of a GPU that its process may take, and what is said where memory was not enough.

Imports torch where it is asked about it, since a worker need not have it.
"""

from __future__ import annotations

from ..training.reports import OomKind

CONTEXT = 0.6 * 2**30  # bytes of a GPU that a process takes beside its tensors, for CUDA itself
_KILLED = ("OutOfMemoryError", "running low on memory")  # Ray's words for a worker that its memory monitor has ended
_GPU = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")  # where it is not PyTorch that asks for memory
_HOST = ("DefaultCPUAllocator", "can't allocate memory")


def gpu_memory_fraction(gpus: float, total: float) -> float:
    """The part of a GPU's memory that a process's tensors may take, so that others have theirs.

    Args:
        gpus: what the trial was given.
        total: bytes of the GPU.
    """
    return 1.0 if gpus >= 1 else max(gpus - CONTEXT / total, gpus / 2)


def limit_gpu_memory(gpus: float) -> None:
    """Holds this process to its share of the GPU, which Ray does not; does nothing where it has a whole one or none."""
    if not 0 < gpus < 1:
        return
    import torch

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(gpu_memory_fraction(gpus, total))


def oom_kind(problem: BaseException) -> OomKind | None:
    """Which memory an exception of a trial says is not enough, if any."""
    import torch

    said = str(problem)
    if isinstance(problem, torch.OutOfMemoryError) or any(words in said for words in _GPU):
        return "GPU"
    return "host" if isinstance(problem, MemoryError) or any(words in said for words in _HOST) else None


def ray_oom_kind(error: str) -> OomKind | None:
    """Which memory was not enough where Ray has ended a worker, from what it says of that."""
    return "host" if any(words in error for words in _KILLED) else None


def hint(memory: OomKind) -> str:
    """What has happened, and what to do about it."""
    gpu = "give it more of a GPU, or a larger one (resources.gpus, resources.accelerator_type)"
    host = "let fewer share a node (resources.memory, resources.max_concurrent)"
    return (
        f"out of memory on the {memory}: lower training.batch_size or width, or {gpu if memory == 'GPU' else host}; "
        "resources.retry_oom tries such a trial once more, alone"
    )
