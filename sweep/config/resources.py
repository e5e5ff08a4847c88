"""The section ``resources`` of a study file: what one trial needs of a machine."""

import math
import sys
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from .section import STORED, Section
from .sections import MOST_TRIALS

LEAST, MOST_UNITS = 0.01, 1024  # of a trial's CPUs and GPUs; LEAST also of its GiB


class Resources(Section):
    """The resources of one trial."""

    cpus: float = Field(
        1,
        ge=LEAST,
        le=MOST_UNITS,
        description="CPU cores of each process of the trial; also the number of its threads, at least one.",
    )
    gpus: float | Literal["auto"] = Field(
        "auto",
        description="GPUs; a fraction shares one GPU and its memory; several train with DistributedDataParallel; auto: "
        "one if there is any.",
    )
    workers: int = Field(
        1, ge=1, le=MOST_UNITS, description="Processes that train one trial on CPUs, with DistributedDataParallel."
    )
    memory: float | None = Field(
        None, ge=LEAST, le=1_000_000, description="GiB of main memory that are reserved for a trial."
    )
    accelerator_type: str | None = Field(None, min_length=1, description="Accelerator to run on, by Ray's name: A10G.")
    max_concurrent: int | None = Field(
        None, ge=1, le=MOST_TRIALS, description="Trials at once; default: as many as fit, at any time."
    )
    retry_oom: bool = Field(
        False, description="Retry a trial that ran out of memory once, alone, and on a whole GPU if it had a share."
    )

    def retries(self, memory: str) -> bool:
        """Returns True if a trial that ran out of memory is retried alone; False if it had a whole GPU already."""
        return self.retry_oom and (memory != "GPU" or (self.gpus != "auto" and self.gpus < 1))

    def room(self, cpus: float, gpus: float, gpus_per_trial: float, memory: float = math.inf) -> int:
        """Returns the number of trials that fit on a machine with these CPUs, GPUs and memory (GiB)."""
        by_gpus = _fit(gpus, gpus_per_trial) if gpus_per_trial else sys.maxsize
        by_memory = int(memory / self.memory + 1e-9) if self.memory and memory < math.inf else sys.maxsize
        return min(_fit(cpus, self.total_cpus), by_gpus, by_memory)

    @field_validator("gpus")
    @classmethod
    def _whole_or_fraction(cls, gpus: float | str, info: ValidationInfo) -> float | str:
        possible = gpus in ("auto", 0) or LEAST <= float(gpus) < 1 or gpus in range(1, MOST_UNITS + 1)
        if not possible and info.context != STORED:
            raise ValueError(f"must be 0, a fraction from {LEAST} on, a whole number up to {MOST_UNITS}, or auto")
        return gpus

    @field_validator("workers")
    @classmethod
    def _on_cpus(cls, workers: int, info: ValidationInfo) -> int:
        if workers > 1 and info.data.get("gpus", "auto") not in ("auto", 0):
            raise ValueError(
                "are processes on CPUs: set resources.gpus to 0, or leave workers out: each GPU has its own"
            )
        return workers

    def require_batch(self, smallest: float) -> None:
        """Raises ValueError if a batch of the ``smallest`` size has fewer than two images for each process."""
        if self.processes > 1 and smallest < 2 * self.processes:
            raise ValueError(
                f"{self.processes} processes for one trial need a training.batch_size of at least "
                f"{2 * self.processes}, two images each; it is {smallest:g}"
            )

    def gpus_per_trial(self, there: float) -> float:
        """Returns the GPUs of one trial; ``auto`` is one if there are any and `workers` do not train on CPUs."""
        return float(self.gpus) if self.gpus != "auto" else float(there >= 1 and self.workers == 1)

    @property
    def processes(self) -> int:
        """Processes that train one trial: `workers`, or one for each GPU."""
        return max(self.workers, 1 if self.gpus == "auto" else int(self.gpus))

    @property
    def total_cpus(self) -> float:
        """CPU cores of all processes of one trial."""
        return self.cpus * self.processes

    @property
    def threads(self) -> int:
        """Threads of each process of a trial; part of its identity, because the last bits of sums depend on them."""
        return max(1, int(self.cpus))


def _fit(there: float, asked: float) -> int:
    """Returns the number of times that a demand fits; a share of a GPU is never split over two GPUs."""
    each = int(1 / asked + 1e-9) * int(there) if asked < 1 else 0
    return each or int(there / asked + 1e-9)
