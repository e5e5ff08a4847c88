"""The accelerators that recipes can name: their names elsewhere, and the clouds' machines that have them."""

from typing import NamedTuple


class Accelerator(NamedTuple):
    """An accelerator's names in Ray, in Google Cloud and on nodes with NVIDIA's operator."""

    ray: str
    google: str
    products: tuple[str, ...]


class Machine(NamedTuple):
    """A cloud's machine type, and its resources."""

    name: str
    cpus: int
    gpus: int = 1
    memory: int = 0  # GiB; 0 if Ray asks the cloud


ACCELERATORS = {
    "t4": Accelerator("T4", "nvidia-tesla-t4", ("Tesla-T4",)),
    "l4": Accelerator("L4", "nvidia-l4", ("NVIDIA-L4",)),
    "a10g": Accelerator("A10G", "", ("NVIDIA-A10G",)),
    "a100": Accelerator("A100", "nvidia-tesla-a100", ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB")),
    "h100": Accelerator("H100", "nvidia-h100-80gb", ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe")),
}
MACHINES = {  # by cloud and accelerator; none: without a GPU
    "aws": {
        "t4": Machine("g4dn.xlarge", 4),
        "l4": Machine("g6.xlarge", 4),
        "a10g": Machine("g5.xlarge", 4),
        "a100": Machine("p4d.24xlarge", 96, 8),
        "h100": Machine("p5.4xlarge", 16),
        "none": Machine("m6i.xlarge", 4, 0),
    },
    "gcp": {
        "t4": Machine("n1-standard-4", 4, memory=15),
        "l4": Machine("g2-standard-4", 4, memory=16),
        "a100": Machine("a2-highgpu-1g", 12, memory=85),
        "h100": Machine("a3-highgpu-1g", 26, memory=234),
        "none": Machine("n2-standard-4", 4, 0, memory=16),
    },
}
