"""A function that the tests of a cluster call on its nodes."""

import os
import signal

import psutil
import ray


def lose(address: str) -> str:
    """Loses the node of an address, with the process that this is called in; any other node answers."""
    if ray.util.get_node_ip_address() == address:
        raylet = next(p for p in psutil.Process().parents() if p.name() == "raylet")
        os.kill(raylet.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return "here"
