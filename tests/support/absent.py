"""Data sets, servers and programs that a machine may lack: tests that need one are skipped, and the run says so once.

A reason to skip is "THING: HOW TO HAVE IT". The last lines of a run show each reason once, with the number of tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

DATA = {
    "mnist": ("MNIST", "MNIST/raw"),
    "cifar10": ("CIFAR-10", "cifar-10-batches-py"),
    "camvid": ("CamVid", "camvid"),
    "hymenoptera": ("Ants and bees", "hymenoptera_data"),
}
"""The name of each real data set, and its folder in the data root."""

INITDB = "usr/lib/postgresql/*/bin/initdb"


def data_root(*names: str) -> Path:
    """Returns the folder of SWEEP_DATA, and skips the test if it lacks one of these data sets."""
    root = Path(os.environ.get("SWEEP_DATA", ".data")).absolute()
    for title, folder in (DATA[name] for name in names):
        if not (root / folder).is_dir():
            pytest.skip(f"{title}: set SWEEP_DATA to a folder that holds {folder}")
    return root


def postgres_url() -> str:
    """Returns the URL of a PostgreSQL server, and skips the test if there is none."""
    url = os.environ.get("TEST_POSTGRES_URL", "")
    if not url:
        pytest.skip("PostgreSQL: set TEST_POSTGRES_URL=postgresql+psycopg://USER@HOST:5432/DATABASE")
    return url


def chromium_path() -> str:
    """Returns the path of a Chromium, and skips the test if there is none."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("Chromium: apt-get install chromium")
    return found[0]


def hosts() -> None:
    """Skips the test if this machine cannot be made to look like several."""
    programs = ("ip", "nft", "unshare", "nsenter", "setpriv")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    there = all(shutil.which(name, path=path) for name in programs) and any(Path("/").glob(INITDB))
    isolated = ["unshare", "--net", "--mount", "nft", "list", "ruleset"]  # a container may refuse any part of it
    if not there or os.geteuid() or subprocess.run(isolated, env={**os.environ, "PATH": path}, check=False).returncode:
        pytest.skip("Hosts: Linux, as root, and apt-get install iproute2 nftables util-linux postgresql")


def lines(reasons: Iterable[str]) -> list[str]:
    """Returns one line for each reason to skip, those that skipped most tests first."""
    return [f"{count} skipped, {reason}" for reason, count in Counter(reasons).most_common()]
