"""Hosts of the tests' own (`hosts.sh`), the servers and the cluster that run on them, and what must hold of a study."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
from optuna.storages import RDBStorage

from ..conftest import connections_closed
from ..support.invariants import flaws, left_by
from ..support.processes import kill, wait_for

SCRIPT = Path(__file__).with_name("hosts.sh")
CLONE = Path(__file__).parents[2]
HEAD = "10.77.0.1:6379"
STORAGE = "postgresql+psycopg://postgres@db/optuna"
STUDY = """
name: NAME
model: {name: mlp, width: 16}
data: {name: digits}
task: {metrics: {waiting: "waiting:waiting"}}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  depth: {low: 1, high: 2}
training: {max_epochs: 12, batch_size: 64}
search: {trials: TRIALS, design: 0, sampler: random, pruner: none, finalists: {top: 0}}
"""
POSTGRES = """
set -e
bin=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb | tail -1)")
mkdir /mnt/own/pg && chown postgres /mnt/own/pg && cd /
run() { setpriv --reuid=postgres --regid=postgres --clear-groups "$bin/$@"; }
run initdb -D /mnt/own/pg -A trust --no-sync >/dev/null
echo "host all all all trust" >>/mnt/own/pg/pg_hba.conf
run pg_ctl -D /mnt/own/pg -w -l /mnt/own/pg/log -o "-c listen_addresses=* -c fsync=off -k /tmp" start
run psql -h /tmp -c "CREATE DATABASE optuna"
"""
ALIVE = f"""
import time
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
client = GcsClient(address="{HEAD}")
while sum(node.state == GcsNodeInfo.ALIVE for node in client.get_all_node_info().values()) < 3:
    time.sleep(1)
"""
HELD = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND client_addr = %s::inet
"""
RUNNING = """
SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name = %s AND state = 'RUNNING'
"""
ENDED = """
SELECT count(*) FROM trials JOIN studies USING (study_id)
WHERE study_name = %s AND state IN ('COMPLETE', 'PRUNED', 'FAIL')
"""


def documented(start: str) -> str:
    """Returns the command of cluster/README.md that starts so, for these hosts."""
    page = (CLONE / "cluster" / "README.md").read_text()
    command = re.findall(rf"(?m)^    ({re.escape(start)}.*)$", page)[-1]
    return str(re.sub(r"HOST|127\.0\.0\.1", HEAD.split(":")[0], command))


class Program:
    """A command that runs on a host; what it prints goes to a file."""

    def __init__(self, hosts: Hosts, host: str, command: str):
        self.file = hosts.folder / f"{len(list(hosts.folder.glob('*.out')))}-{host}.out"
        with self.file.open("wb") as out:
            words = [SCRIPT, "at", host, "sh", "-c", command]
            self.process = subprocess.Popen(
                words, env=hosts.environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def out(self) -> str:
        return self.file.read_text()

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def end(self, seconds: float = 300) -> int:
        """Waits for the end; the exit status."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still runs after {seconds:g} s:\n{self.out}") from None

    def close(self) -> None:
        """Ends it, and all that came of it."""
        if not self.over:
            kill([*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)])
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the command; `nsenter`, which stops with it, does not go on with it."""
        (command,) = psutil.Process(self.process.pid).children()
        command.send_signal(number)
        if number == signal.SIGCONT:
            self.process.send_signal(number)


class Hosts:
    """Hosts: ``head``, ``w1`` and ``w2`` share a folder, ``db`` and ``web`` are for servers, ``cli`` sees nothing."""

    def __init__(self, folder: Path, tag: str = "es"):
        self.folder = folder
        self.environment = {
            "ROOT": str(folder),
            "CLONE": str(CLONE),
            "VENV": str(Path(sys.prefix).resolve()),
            "PYTHON": sys.base_prefix,
            "TAG": tag,
        }
        self._started = list[Program]()
        self._tracking = dict[str, str]()  # the variables of the MLflow server, once it runs
        self._call("down")  # of a run that was killed
        self._call("up")
        self.shared = folder / "shared"
        self.hold = self.shared / "hold"  # while this file exists, no trial gets to the end of its epoch

    def _call(self, *words: str) -> None:
        subprocess.run([SCRIPT, *words], env=self.environment, check=True)

    def start(self, host: str, command: str) -> Program:
        """Starts a shell command on a host."""
        self._started.append(Program(self, host, command))
        return self._started[-1]

    def run(self, host: str, command: str, seconds: float = 300) -> str:
        """Runs a shell command on a host to its end; what it has printed."""
        program = self.start(host, command)
        assert program.end(seconds) == 0, program.out
        return program.out

    def cut(self, *hosts: str) -> None:
        """Silence between a host and all others, or one other."""
        self._call("cut", *hosts)

    def deaf(self, host: str) -> None:
        """The host sends, and hears nothing."""
        self._call("deaf", host)

    def slow(self, milliseconds: int, percent: int) -> None:
        """Each frame takes so long, and so many are lost."""
        self._call("slow", str(milliseconds), str(percent))

    def heal(self) -> None:
        """All hear each other again."""
        self._call("heal")

    def close(self) -> None:
        """Ends the hosts, and all that runs in them."""
        self._call("down")
        for program in self._started:
            program.process.wait(timeout=30)

    # -- servers and cluster -------------------------------------------------------------------------------------------

    def start_database(self) -> None:
        """Starts PostgreSQL on ``db``."""
        self.run("db", POSTGRES)

    def query(self, query: str, *values: str) -> int:
        """Returns a number from the database, 0 before it has tables; also while ``db`` is cut off."""
        with psycopg.connect(f"host={self.folder}/db/tmp user=postgres dbname=optuna") as connection:
            try:
                row = connection.execute(query, values).fetchone()  # type: ignore[arg-type]
            except psycopg.errors.UndefinedTable:
                return 0
        assert row is not None
        return int(row[0])

    def ended(self, study: str) -> int:
        """Returns the number of a study's trials that have ended."""
        return self.query(ENDED, study)

    def start_tracking(self) -> None:
        """Starts an MLflow server with a password on ``web``, as documented; studies that start from now on use it."""
        server = self.start("web", f"cd /mnt/own && exec {documented('sweep services up')} --host 0.0.0.0")
        wait_for(lambda: server.over or "The password of" in server.out, "MLflow")
        assert not server.over, server.out
        file = self.folder / "web" / "own" / "results" / "services" / "services.env"
        self._tracking = dict(line.split("=", 1) for line in file.read_text().splitlines())

    def start_cluster(self) -> None:
        """Starts Ray on ``head``, ``w1`` and ``w2`` with a token, as documented, each again whenever it ends."""
        self.run("head", documented("ray get-auth-token"))
        token = (self.folder / "head" / "home" / ".ray" / "auth_token").read_text()
        for host in ("w1", "w2", "cli"):
            home = self.folder / host / "home" / ".ray"
            home.mkdir(parents=True)
            (home / "auth_token").write_text(token)
        for host, start, cpus in (("head", "--head", 0), ("w1", "--address", 1), ("w2", "--address", 1)):
            command = f"{documented(f'ray start {start}')} --num-cpus={cpus}"
            node = self.start(host, f"{documented('export RAY_')}; while :; do {command}; sleep 1; done")
            wait_for(lambda node=node: "This command will now block" in node.out, f"Ray on {host}")  # type: ignore[misc]
        self.wait_for_nodes()

    def wait_for_nodes(self) -> None:
        """Returns when all nodes are alive."""
        self.run("head", f"RAY_AUTH_MODE=token python -c '{ALIVE}'")

    # -- studies -------------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, str]:
        """The variables of a driver."""
        workspace = {"SWEEP_WORKSPACE": "/mnt/shared/results", "SWEEP_STORAGE": STORAGE, "SWEEP_REPORT": "false"}
        return {**workspace, **self._tracking}

    def write_study(self, folder: Path, name: str, trials: int) -> None:
        """Writes a study of trials of three seconds or more."""
        (folder / f"{name}.yaml").write_text(STUDY.replace("NAME", name).replace("TRIALS", str(trials)))
        shutil.copy(Path(__file__).with_name("waiting.py"), folder)

    def start_study(self, host: str, name: str, *words: str, trials: int) -> Program:
        """Runs a study in the shared folder."""
        self.write_study(self.shared, name, trials)
        given = " ".join(f"{key}={value}" for key, value in self.settings.items())
        return self.start(host, f"exec env {given} sweep run /mnt/shared/{name}.yaml {' '.join(words)}")

    def flaws(self, name: str, trials: int) -> list[str]:
        """Returns the flaws of a study that is over: budget, running trials, runs, values of an epoch; see `flaws`."""
        of_server = self.folder / "web" / "own" / "results"
        with connections_closed():
            storage = RDBStorage(STORAGE.replace("@db/", "@/") + f"?host={self.folder}/db/tmp")
            left = left_by(of_server if self._tracking else self.shared / "results", name, storage)
        return flaws(left, trials=trials, controls=0)
