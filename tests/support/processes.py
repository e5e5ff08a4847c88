"""Real processes for tests that end them: the command line, a tracking server, a Ray cluster of several nodes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

from sweep.cluster.recipes import ENVIRONMENT
from sweep.tracking.server import serve

from .empty_store import with_store

HEAD = "f" * 51 + "00000"  # the id that Ray's provider of pretended nodes has for the head
DRAIN = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
head, address = sys.argv[1:]
gcs = GcsClient(address=head)
nodes = gcs.get_all_node_info().items()
[node] = [node.hex() for node, info in nodes if info.node_manager_address == address]
reason, deadline = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), int((time.time() + 120) * 1000)
accepted, why = gcs.drain_node(node, reason, "a spot machine's notice", deadline)
sys.exit(0 if accepted else why)
"""
FAIR = {"RAY_worker_niceness": "0"}  # by default 15: beside other lanes' work, Ray's workers would hardly run
PATIENCE = float(os.environ.get("TEST_PATIENCE", "400"))  # seconds; nothing here takes more than some tens


def environment(workspace: Path, **changes: str) -> dict[str, str]:
    """This process's, with a workspace of the test's own, nothing of the user's settings, and no report."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEP_", "MLFLOW_", "RAY_"))} | FAIR
    ours = {"SWEEP_WORKSPACE": str(workspace), "SWEEP_REPORT": "false", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return {**kept, **ours, **changes}


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Returns when a condition holds.

    Raises:
        TimeoutError: it does not, for very long.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)


def title(process: psutil.Process) -> str:
    """Returns a process's own title; empty if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return " ".join(process.cmdline()) or str(process.name())
    return ""


def is_training(process: psutil.Process) -> bool:
    """Returns True if a process is one of Ray's workers, within a step of a trial."""
    return title(process).startswith("ray::Worker.train")


def descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def ranks_of(pid: int) -> list[psutil.Process]:
    """Returns the other ranks of the trial that a process trains."""
    return [process for process in descendants(pid) if "sweep.training.distributed" in title(process)]


class Command:
    """``python -m sweep`` in a process group of its own, as a shell starts it; what it prints goes to a file."""

    _numbers = itertools.count()

    def __init__(self, workspace: Path, *words: str, **changes: str):
        if words[0] == "run" and "MLFLOW_TRACKING_URI" not in changes:
            with_store(workspace)
        self.file = workspace.parent / f"output-{next(self._numbers):03d}.txt"
        with self.file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sweep", *words],
                env=environment(workspace, **changes),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.family: dict[int, psutil.Process] = {}  # all processes that came of it: its Ray's

    @property
    def out(self) -> str:
        return self.file.read_text()

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def says(self, start: str) -> bool:
        """Returns True if it has printed a line that starts so."""
        return f"\n{start}" in f"\n{self.out}"

    def look(self) -> list[psutil.Process]:
        """The processes that have come of it up to now."""
        self.family.update({child.pid: child for child in descendants(self.process.pid)})
        return list(self.family.values())

    def training(self) -> list[psutil.Process]:
        """The processes of its Ray that are within a step of a trial now."""
        return [process for process in self.look() if is_training(process)]

    def alive(self) -> list[str]:
        """Names of the processes that are left of it."""
        return [title(process).split()[0] for process in self.family.values() if title(process)]

    def signal(self, number: signal.Signals) -> None:
        """Ctrl-C reaches a terminal's whole process group; all other signals go to the driver alone."""
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGINT:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def end(self, seconds: float = PATIENCE) -> int:
        """Waits for the end; the exit status."""
        return self.process.wait(timeout=seconds)

    def close(self) -> None:
        """Ends whatever is left, by process id."""
        kill([*self.look(), psutil.Process(self.process.pid)] if not self.over else self.family.values())
        self.process.wait()


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class TrackingServer:
    """An MLflow server on a workspace's own store, which can be stopped and started again."""

    def __init__(self, workspace: Path):
        self._workspace, self._process = workspace, None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns at once; see `ready`."""
        self._workspace.mkdir(parents=True, exist_ok=True)
        store, artifacts = f"sqlite:///{self._workspace}/mlflow.db", self._workspace / "artifacts"
        command, variables = serve(store, artifacts, port=self.port)
        with (self._workspace.parent / "server.log").open("ab") as log:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                command, env=variables, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def up(self) -> bool:
        return self._process is not None

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{self.url}/health", timeout=1).close()
            return True
        return False

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is None:
            return
        os.killpg(self._process.pid, number)  # a session of its own: only what was started here
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


class Cluster:
    """A Ray head, and nodes of one CPU each, on loopback addresses of this host.

    Attributes:
        address: of the head.
        url: of its dashboard, which has the jobs.
        environment: what reaches it: the token.
        last: address of the node that was added last.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cpus: int = 0,
        dashboard: bool = False,
        token: bool = True,
        grows: int = 0,
        **variables: str,
    ):
        """Starts the head.

        Args:
            grows: nodes of one CPU that its autoscaler adds, at most, and takes away when nothing runs there.
            variables: of the environment of all its processes.
        """
        variables = {name: value for name, value in ENVIRONMENT.items() if "health_check" in name} | variables
        file = folder / "token"
        file.write_text(secrets.token_hex(32))
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)} if token else {}
        # A folder of its own: the address that jobs find in it is this cluster's, and no other's.
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._variables = {"RAY_TMPDIR": self._temporary.name, **FAIR, **variables}
        if not token:
            self._variables["RAY_AUTH_MODE"] = "disabled"
        self._log = folder / "cluster.log"
        self._hosts = itertools.count(2)
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._killed: list[subprocess.Popen[bytes]] = []
        host, port, web, client = f"127.0.0.{next(self._hosts)}", free_port(), free_port(), free_port()
        self.address, self.url, self.client = f"{host}:{port}", f"http://{host}:{web}", f"ray://{host}:{client}"
        shown = [f"--dashboard-host={host}", f"--dashboard-port={web}"] if dashboard else ["--include-dashboard=false"]
        self._words = ["--head", f"--port={port}", f"--num-cpus={cpus}", f"--ray-client-server-port={client}", *shown]
        if grows:
            self._words.append(f"--autoscaling-config={self._growing(folder, grows)}")
            self._variables |= {
                "RAY_enable_autoscaler_v2": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_FAKE_CLUSTER": "1",
                "RAY_NODE_TYPE_NAME": "ray.head.default",
                "RAY_CLOUD_INSTANCE_ID": HEAD,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
            }
        self._head = self._start(*self._words)

    def _growing(self, folder: Path, most: int) -> Path:
        """Writes the configuration of an autoscaler whose machines are processes on this one; JSON is YAML."""
        module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
        provider = {"type": "external", "module": module, "gcs_address": self.address, "launch_multiple": True}
        provider |= dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True)
        worker = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": most}
        types = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}, "worker": worker}
        config = {"cluster_name": "growing", "provider": provider, "available_node_types": types, "max_workers": most}
        config |= {"head_node_type": "ray.head.default", "idle_timeout_minutes": 0.05, "upscaling_speed": 100}
        setup = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
        start = ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
        config |= {name: [] for name in (*setup, *start)} | {name: {} for name in ("auth", "docker", "file_mounts")}
        file = folder / "autoscaler.yaml"
        file.write_text(json.dumps(config))
        return file

    def _start(self, *words: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Starts a node.

        Args:
            before: a command that runs the node's.
        """
        host = self.address.partition(":")[0] if "--head" in words else f"127.0.0.{next(self._hosts)}"
        self.last = host
        beside = Path(sys.executable).parent
        agent = f"--dashboard-agent-listen-port={free_port()}"  # by default one for all the Rays of a machine
        words = (*words, f"--node-ip-address={host}", agent, "--disable-usage-stats")
        command = [*before, str(beside / "ray"), "start", *words]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SWEEP_", "MLFLOW_"))}
        path = {"PATH": f"{beside}:{os.environ['PATH']}"}  # where jobs find Python
        seen = self._log.read_text().count("--block") if self._log.exists() else 0
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--block"],
                env={**kept, **path, **self._variables, **self.environment, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # It says so when all of the node's processes run.
        wait_for(lambda: process.poll() is not None or self._log.read_text().count("--block") > seen, "a Ray node")
        assert process.poll() is None, self._log.read_text()
        return process

    def add(self, *before: str) -> None:
        """Starts one more node, by another command if one is given; returns when it runs."""
        self._nodes.append(self._start(f"--address={self.address}", "--num-cpus=1", before=before))

    def processes(self) -> list[psutil.Process]:
        """All of it."""
        running = [node.pid for node in [self._head, *self._nodes] if node.poll() is None]
        return [process for pid in running for process in [psutil.Process(pid), *descendants(pid)]]

    def raylets(self) -> int:
        """Returns the number of nodes that run, the head included."""
        return sum(title(process).split(" ")[0].endswith("/raylet") for process in self.processes())

    def lose_head(self) -> None:
        """Kills the head with all that runs on it, and starts another in its place, which knows nothing of it."""
        family = descendants(self._head.pid)
        self._head.kill()
        kill(family)
        self._head.wait()
        psutil.wait_procs(family, timeout=PATIENCE)
        self._head = self._start(*self._words)

    def training(self) -> list[psutil.Process]:
        """The processes that are within a step of a trial now."""
        return [p for node in self._nodes for p in descendants(node.pid) if is_training(p)]

    def busy(self) -> set[int]:
        """Process ids of the nodes beside the head that are within a step of a trial now."""
        return {node.pid for node in self._nodes if any(is_training(p) for p in descendants(node.pid))}

    def kill_node(self) -> int:
        """Kills the raylet of a node that trains, and with it the node; returns how many trials were on it."""
        for node in self._nodes:
            family = descendants(node.pid)
            training = sum(is_training(p) for p in family)
            raylets = [p for p in family if title(p).split(" ")[0].endswith("/raylet")]
            if training and raylets:
                kill(raylets)
                self._nodes.remove(node)
                self._killed.append(node)
                return training
        return 0

    def clear(self) -> None:
        """Kills the nodes beside the head."""
        for node in self._nodes:
            kill(descendants(node.pid))
            self._killed.append(node)
        self._nodes.clear()

    def freeze_node(self) -> list[psutil.Process]:
        """Stops all processes of a node that trains, as those of a machine that hangs; returns them."""
        for node in self._nodes:
            family = descendants(node.pid)
            if any(is_training(p) for p in family):
                for process in family:
                    process.suspend()
                return family
        return []

    def drain_node(self) -> None:
        """Tells Ray that the node which was added last will be taken away, as a spot machine's notice would."""
        ended = subprocess.run(
            [sys.executable, "-c", DRAIN, self.address, self.last],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr

    def close(self) -> None:
        for node in [*self._killed, *self._nodes, self._head]:
            kill([*descendants(node.pid), psutil.Process(node.pid)] if node.poll() is None else [])
            node.wait()
        self._temporary.cleanup()


_given: set[int] = set()  # ports, of which no other node of this process may have one


def free_port() -> int:
    """Returns a port above those of Ray's workers and below those that Linux gives out: nothing takes it soon."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)  # drawn: other processes look for one at the same time
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class ObjectStore:
    """A moto server, a stand-in for S3: objects in memory, over HTTP, by S3's own API; one bucket.

    Attributes:
        environment: what a user sets to reach it.
        url: of the bucket.
    """

    def __init__(self, folder: Path):
        port, self.url = free_port(), "s3://bucket"
        with (folder / "moto.log").open("wb") as log:
            command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        wait_for(self._ready, "the object store")

    def _ready(self) -> bool:
        """Makes the bucket."""
        with contextlib.suppress(OSError):
            request = urllib.request.Request(f"{self.endpoint}/bucket", method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
            return True
        return False

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
