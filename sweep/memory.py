"""Memory of a trial: the share of a GPU that its process may take, and what is said where memory was not enough."""

from __future__ import annotations

import torch

CONTEXT = 0.6 * 2**30  # bytes of a GPU that a process takes beside its tensors, for CUDA itself


def share(gpus: float, total: float) -> float:
    """The part of a GPU's memory that a process's tensors may take, so that others have theirs.

    Args:
        gpus: what the trial was given.
        total: bytes of the GPU.
    """
    return 1.0 if gpus >= 1 else max(gpus - CONTEXT / total, gpus / 2)


def cap(gpus: float) -> None:
    """Holds this process to its share of the GPU, which Ray does not; does nothing where it has a whole one or none."""
    if 0 < gpus < 1 and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(share(gpus, total))
