"""Connects to Ray for the time of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..config.errors import SweepError
from ..config.study_config import StudyConfig
from ..config.user_code import modules_to_send, packages

if TYPE_CHECKING:
    pass


@contextlib.contextmanager
def ray_session(address: str, config: StudyConfig, *, cpus: int | None = None) -> Iterator[None]:
    """Connects to Ray for a ``with`` block; what runs within uses this connection.

    Args:
        cpus: that a private Ray takes itself to have; by default those of this machine.

    Raises:
        SweepError: there is none at the address, or it cannot be used from here.
    """
    from ..cluster.connect import ClusterError, connected

    modules = modules_to_send() if config.import_paths else []
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(connected(address, modules if address == "local" else [*packages(), *modules], cpus))
        except ClusterError as error:
            raise SweepError("\n".join(error.problems)) from None
        yield
