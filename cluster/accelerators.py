"""The accelerators that recipes can name: their names elsewhere, and the clouds' machines that have them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A cloud's machine type, and its resources."""

    name: str
    cpus: int
    gpus: int = 1
    memory: int = 0  # GiB; 0 if Ray asks the cloud


@dataclass(frozen=True)
class Accelerator:
    """An accelerator's names in Ray, in Google Cloud and on nodes with NVIDIA's operator, and machines that have it."""

    ray: str
    google: str
    products: tuple[str, ...]
    aws: Machine | None = None
    gcp: Machine | None = None


ACCELERATORS = {
    "t4": Accelerator(
        "T4", "nvidia-tesla-t4", ("Tesla-T4",), Machine("g4dn.xlarge", 4), Machine("n1-standard-4", 4, memory=15)
    ),
    "l4": Accelerator(
        "L4", "nvidia-l4", ("NVIDIA-L4",), Machine("g6.xlarge", 4), Machine("g2-standard-4", 4, memory=16)
    ),
    "a10g": Accelerator("A10G", "", ("NVIDIA-A10G",), Machine("g5.xlarge", 4)),
    "a100": Accelerator(
        "A100",
        "nvidia-tesla-a100",
        ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"),
        aws=Machine("p4d.24xlarge", 96, 8),
        gcp=Machine("a2-highgpu-1g", 12, memory=85),
    ),
    "h100": Accelerator(
        "H100",
        "nvidia-h100-80gb",
        ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe"),
        aws=Machine("p5.4xlarge", 16),
        gcp=Machine("a3-highgpu-1g", 26, memory=234),
    ),
}
WITHOUT_GPU = {"aws": Machine("m6i.xlarge", 4, 0), "gcp": Machine("n2-standard-4", 4, 0, 16)}
