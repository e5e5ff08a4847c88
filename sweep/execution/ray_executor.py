"""The executor on Ray, which is imported in the methods: it can start while the rest is still being imported."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from ..config.errors import ConfigError, SweepError
from ..config.resources import Resources
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..config.user_code import modules_to_send, packages
from ..config.user_command import files_to_send
from .executor import TrialSource
from .worker import RUN_TRIAL


class RayExecutor:
    """Runs trials on the nodes of a Ray cluster, or on a private Ray of this machine; see `Executor`."""

    def preload(self) -> None:
        """Imports Ray Tune."""
        from . import tune_adapters  # noqa: F401

    @contextlib.contextmanager
    def connect(self, config: StudyConfig, settings: Settings, *, cpus: int | None = None) -> Iterator[None]:
        """Connects to Ray at ``settings.address`` for a ``with`` block; ``cpus`` limits a private Ray."""
        from ..cluster.connect import ClusterError, connected

        modules = modules_to_send() if config.import_paths else []
        elsewhere = [*packages(), *modules, *files_to_send(config.command or ())]
        sent = modules if settings.address == "local" else elsewhere
        try:
            with connected(settings.address, sent, cpus):
                yield
        except ClusterError as error:
            raise SweepError("\n".join(error.problems)) from None

    def check(
        self, config: StudyConfig, settings: Settings, *, insecure: bool, on_message: Callable[[str], None]
    ) -> None:
        """Checks that a trial fits a node, and that every node of a cluster can work on the study."""
        from .cluster_checks import check_nodes

        if problems := check_nodes(config, settings, insecure=insecure, on_message=on_message):
            raise ConfigError(f"address {settings.address}", problems)

    def execute(
        self, source: TrialSource, resources: Resources, *, stop: threading.Event, run_trial: str = RUN_TRIAL
    ) -> None:
        """Runs the source's trials with Ray Tune, as many at once as the cluster has slots for."""
        from .tune_adapters import execute

        execute(source, resources, stop=stop, run_trial=run_trial)
