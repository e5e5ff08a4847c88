"""A real cluster on this host, one head for all: connecting, what is found before the first trial, jobs, a lost head.

Commands run as a user's would, in processes of their own: Ray keeps what it knows of tokens for as long as one lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from sweep.cluster import jobs
from sweep.cluster.connect import ClusterError, collect, connected
from sweep.config import user_code as own
from sweep.config.errors import ConfigError
from sweep.config.user_code import packages
from sweep.execution.cluster_checks import check_workspace, prepare_data
from sweep.service.submission import prepare_confirmation, prepare_submission, settings_to_send

from ..support.commands import sweep_here
from ..support.invariants import assert_whole, left_by
from ..support.processes import Cluster, environment, wait_for

SECRET = "not-for-the-job-record"
STUDY = """
name: shared
model: {name: mlp}
data: {name: digits}
objective: {metric: val_loss, direction: minimize}
space: {lambda1: {low: 1e-5, high: 1e-1, log: true}, depth: 2, width: 8}
training: {max_epochs: 150, batch_size: 64}
search: {trials: 5, design: 0, sampler: random, pruner: none, finalists: {top: 0}}
"""


@dataclass
class Place:
    """The head of this file's tests, and where the commands run."""

    cluster: Cluster
    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "results"

    def call(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        given = {**self.cluster.environment, **variables}
        return subprocess.run(
            [sys.executable, *command],
            env={**environment(self.workspace, **given), "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def sweep(self, *words: str, code: int = 0, **variables: str) -> str:
        done = self.call("-m", "sweep", *words, **variables)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def job(self, command: str, *words: str, code: int = 0, **variables: str) -> str:
        return self.sweep(command, *words, f"--address={self.cluster.url}", code=code, **variables)

    def command_lines(self) -> list[str]:
        return [" ".join(process.cmdline()) for process in self.cluster.processes()]

    def jobs(self) -> list[dict[str, Any]]:
        return list(json.loads(self.job("jobs", "--json")))

    def problems(self, script: str = "", *, address: str = "", **variables: str) -> list[str]:
        """Returns the problems that connecting reports, after a script if one is given."""
        lines = f"""
            import json
            from sweep.cluster.connect import ClusterError, check_access, quiet
            {script}
            problems = []
            try:
                with quiet("ray"):
                    check_access({(address or self.cluster.address)!r})
            except ClusterError as error:
                problems = error.problems
            print(json.dumps(problems))
        """
        done = self.call("-c", textwrap.dedent(lines), **variables)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    # The driver of a job has its settings from the head: here from the file that is for passwords.
    home = folder / "home"
    home.mkdir()
    (home / "sweep.env").write_text(f"SWEEP_WORKSPACE={folder}/results\nMLFLOW_TRACKING_PASSWORD={SECRET}\n")
    with contextlib.closing(Cluster(folder, cpus=2, dashboard=True, HOME=str(home))) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def place(cluster: Cluster, folder: Path) -> Place:
    return Place(cluster, folder)


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster to which nodes are added. On one machine they share Ray's folder of code, and replace each other's."""
    folder = tmp_path_factory.mktemp("growing")
    with contextlib.closing(Cluster(folder, cpus=1)) as cluster:
        yield Place(cluster, folder)


# -- connecting --------------------------------------------------------------------------------------------------------


def test_a_token_is_enough_however_it_is_given(place: Place) -> None:
    file = place.cluster.environment["RAY_AUTH_TOKEN_PATH"]
    assert place.problems() == []
    assert place.problems(RAY_AUTH_TOKEN=Path(file).read_text(), RAY_AUTH_TOKEN_PATH="") == []


@pytest.mark.exhaustive
def test_a_missing_token_and_a_wrong_one_are_told_apart(place: Place, tmp_path: Path) -> None:
    nothing = {"RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    (missing,) = place.problems(**nothing)
    assert "asks for a token, and there is none" in missing
    (wrong,) = place.problems(**nothing, RAY_AUTH_TOKEN="wrong" * 8)
    assert "refuses the token" in wrong
    for problem in (missing, wrong):
        assert problem.startswith(f"address {place.cluster.address}: ")
        assert "RAY_AUTH_TOKEN_PATH" in problem
    assert "asks for a token" in place.job("jobs", code=2, **nothing)
    assert "refuses the token" in place.job("submit", "digits", code=2, **nothing, RAY_AUTH_TOKEN="wrong" * 8)
    said = place.sweep("run", "study.yaml", "--address", place.cluster.address, code=2, **nothing)
    assert f"error: {missing}" in said


def test_other_versions_of_ray_and_python_are_told_before_connecting(place: Place) -> None:
    pretend = """
            import os, ray
            client = ray._raylet.GcsClient(address=os.environ["WHERE"])
            known = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster"))
            other = dict(known, ray_version=os.environ["RAY"], python_version=os.environ["PYTHON"])
            client.internal_kv_put(b"CLUSTER_METADATA", json.dumps(other).encode(), True, b"cluster")
    """
    where = {"WHERE": place.cluster.address}
    told = place.problems(pretend, RAY="2.9.3", PYTHON="3.9.1", **where)
    assert place.problems(pretend, RAY=ray.__version__, PYTHON=platform.python_version(), **where) == []
    assert ["Ray 2.9.3" in told[0], "Python 3.9.1" in told[1], len(told)] == [True, True, 2]
    assert all("must be the same" in problem for problem in told)


def test_nobody_there_is_told_at_once(place: Place) -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"):
        (problem,) = place.problems(address=address)
        assert problem.startswith(f"address {address}: no Ray cluster answers (")
    assert "no Ray dashboard answers" in place.sweep("jobs", "--address", "http://127.0.0.1:1", code=2)


def test_the_code_is_sent_alone_and_is_what_the_workers_run(place: Place, tmp_path: Path) -> None:
    folder = collect(packages(), tmp_path / "code")
    files = [file for file in folder.rglob("*") if file.is_file()]
    sent = Path(shutil.make_archive(str(tmp_path / "sent"), "zip", folder))  # as Ray sends it
    assert sent.stat().st_size < 600_000
    assert {file.relative_to(folder).parts[0] for file in files} == {"sweep"}
    assert not {"slurm.sh", "compose.yaml", "Dockerfile", "rayjob.yaml", "README.md"} & {file.name for file in files}
    assert not any("__pycache__" in file.parts or file.name.startswith(".") for file in files)
    script = f"""
        import sweep.config.user_code
        from sweep.cluster.connect import connected
        from sweep.cluster.probe import ask_nodes
        with connected({place.cluster.address!r}, sweep.config.user_code.packages()):
            print([answer.value[0] for answer in ask_nodes(sweep.config.user_code.packages)][0])
    """
    done = place.call("-c", textwrap.dedent(script))
    assert "/working_dir_files/" in done.stdout, done.stdout + done.stderr


@pytest.mark.exhaustive
def test_who_waits_for_slow_nodes_is_told_of_them_once(place: Place) -> None:
    script = f"""
        import time
        from cluster import probe
        from sweep.cluster.connect import connected
        probe.SLOW_AFTER = 0.2
        with connected({place.cluster.address!r}, []):
            answers = probe.ask_nodes(time.sleep, 1.0, on_slow=lambda nodes: print("slow", *nodes))
            print("all", *[answer.node for answer in answers], *[answer.error for answer in answers if answer.error])
    """
    done = place.call("-c", textwrap.dedent(script))
    said = [line.split() for line in done.stdout.splitlines() if line.startswith(("slow", "all"))]
    assert [words[0] for words in said] == ["slow", "all"], done.stdout + done.stderr
    assert sorted(said[0][1:]) == sorted(said[1][1:]) != []


@pytest.mark.exhaustive
def test_nothing_of_ray_is_left_to_the_garbage_collector_when_the_connection_ends(place: Place) -> None:
    """A reference that another thread frees while Ray shuts down ends the process without a word of ours."""
    script = f"""
        import gc, ray
        from sweep.cluster.connect import connected
        shutdown = ray.shutdown
        def count():
            print("left:", len(ray._private.worker.global_worker.core_worker.get_all_reference_counts()))
            shutdown()
        ray.shutdown = count
        gc.disable()
        with connected({place.cluster.address!r}):
            cycle = [ray.put(1)]
            cycle.append(cycle)
            del cycle
    """
    done = place.call("-c", textwrap.dedent(script))
    assert done.stdout.strip() == "left: 0", done.stdout + done.stderr


def test_what_ray_says_of_a_lost_node_is_logged_and_not_printed(place: Place) -> None:
    """Pages, with the stack of a process of Ray's own, in the middle of what a command prints for programs."""
    script = f"""
        import logging, time
        import ray
        from ray._private.utils import publish_error_to_driver
        from sweep.cluster.connect import connected, logger
        logged = []
        logger.addFilter(lambda record: logged.append(record.getMessage()))
        logger.setLevel(logging.INFO)
        with connected({place.cluster.address!r}):
            for _ in range(400):  # until Ray listens
                publish_error_to_driver("node", "a page", ray._private.worker.global_worker.gcs_client)
                time.sleep(0.3)
                if "a page" in logged:
                    print("logged")
                    break
    """
    done = place.call("-c", textwrap.dedent(script))
    assert done.stdout.split() == ["logged"], done.stdout + done.stderr


def answers(place: Place, call: str, **variables: str) -> list[list[Any]]:
    """Returns what nodes answer to a call in a driver of its own: address, value, error, and how its clock is ahead."""
    script = f"""
        import json, os
        import tests.cluster.on_nodes as on_nodes
        from sweep.cluster.connect import connected
        from sweep.cluster.probe import ask_nodes
        from sweep.config.user_code import packages
        with connected({place.cluster.address!r}, [*packages(), os.path.dirname(os.path.dirname(on_nodes.__file__))]):
            print(json.dumps([[a.node, a.value, a.error, a.ahead] for a in {call}]))
    """
    done = place.call("-c", textwrap.dedent(script), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = re.findall(r"(?m)^\[\[.*$", done.stdout)  # Ray prints, too
    return list(json.loads(line))


@pytest.mark.exhaustive
def test_a_node_that_is_lost_while_it_is_asked_is_left_out(growing: Place) -> None:
    growing.cluster.add()
    lost = growing.cluster.last
    found = answers(growing, f"ask_nodes(on_nodes.lose, {lost!r})")
    assert len(found) >= 1
    assert [(value, error) for _, value, error, _ in found] == [("here", None)] * len(found)
    assert lost not in [node for node, *_ in found]


@pytest.mark.exhaustive
def test_a_node_that_joins_takes_the_code_of_a_run_after_another_run_of_it_has_ended(growing: Place) -> None:
    """Ray throws the code of an ended run away, here at once, and a node keeps a failure for ten minutes."""
    soon = {"RAY_RUNTIME_ENV_URI_PIN_EXPIRATION_S": "0"}
    assert answers(growing, "ask_nodes(on_nodes.lose, '')", **soon)
    growing.cluster.add()
    time.sleep(5)  # in which it would fetch what is not there
    found = answers(growing, "ask_nodes(on_nodes.lose, '')", **soon)
    assert [(value, error) for _, value, error, _ in found] == [("here", None)] * len(found)
    assert growing.cluster.last in [node for node, *_ in found]


@pytest.mark.exhaustive
def test_a_clock_that_is_wrong_is_found(growing: Place) -> None:
    found = answers(growing, "ask_nodes(on_nodes.lose, '')")
    assert [ahead for *_, ahead in found] == [0.0] * len(found)
    growing.cluster.add("env", f"PYTHONPATH={Path(__file__).parent / 'clock'}")
    ahead = {node: ahead for node, _, _, ahead in answers(growing, "ask_nodes(on_nodes.lose, '')")}
    assert 290 < ahead.pop(growing.cluster.last) <= 300
    assert set(ahead.values()) == {0.0}


def test_a_machine_that_is_no_node_is_told_so(place: Place) -> None:
    script = f"""
        from sweep.cluster.connect import is_local
        from sweep.cluster.ray_internals import enable_token, living_addresses
        enable_token()
        print(*sorted(living_addresses({place.cluster.address!r})))
        print(*map(is_local, ["127.0.0.2", "198.51.100.7"]))  # the second is nobody's, by RFC 5737
    """
    done = place.call("-c", textwrap.dedent(script))
    addresses, local = done.stdout.splitlines()
    assert place.cluster.address.partition(":")[0] in addresses.split()
    assert local == "True False"


# -- jobs --------------------------------------------------------------------------------------------------------------


def checkpoints(place: Place) -> int:
    return len(list(place.workspace.glob("shared/*/*/epoch-*.pt")))


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_study_is_submitted_stopped_and_goes_on_and_outlives_its_head(place: Place) -> None:
    first = json.loads(place.job("submit", "study.yaml", "--json"))
    assert first["study"] == "shared"
    assert f"runs already, as {first['id']}" in place.job("submit", "study.yaml", code=2)
    wait_for(lambda: checkpoints(place) > 0, "a checkpoint")

    record = urllib.request.Request(f"{place.cluster.url}/api/jobs/")
    token = Path(place.cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    record.add_header("Authorization", f"Bearer {token}")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(record) as answer:
        known = answer.read().decode()
    assert first["id"] in known
    assert SECRET not in known
    assert token not in known
    lines = place.command_lines()
    assert not any(SECRET in line or token in line for line in lines)
    assert any("-m sweep run study.yaml" in line for line in lines)

    assert f"{first['id']}: stopped" in place.job("stop", "shared")
    said = place.job("logs", first["id"])
    assert f"{first['id']}: driver on " in said
    assert "Interrupted after" in said
    assert "does not run" in place.job("stop", "shared")

    second = json.loads(place.job("submit", "study.yaml", "--json"))
    assert second["id"] != first["id"]
    wait_for(lambda: (place.workspace / "shared" / "0002").exists(), "the third trial")
    place.cluster.lose_head()
    assert place.jobs() == []

    place.job("submit", "study.yaml")
    assert "5 trials: 5 completed" in place.job("logs", "shared", "-f")
    assert [job["status"] for job in place.jobs()] == ["SUCCEEDED"]
    assert_whole(left_by(place.workspace, "shared"), "shared", trials=5, controls=0)

    confirming = json.loads(place.job("confirm", "study.yaml", "--submit", "--seeds=2", "--json"))
    assert confirming["study"] == "shared"
    assert f"runs already, as {confirming['id']}" in place.job("confirm", "shared", "--submit", code=2)
    wait_for(lambda: list(place.workspace.glob("shared.*/*/*/epoch-*.pt")), "a checkpoint of a baseline")
    assert any("-m sweep confirm shared --top 1 --seeds 2" in line for line in place.command_lines())
    assert f"{confirming['id']}: stopped" in place.job("stop", "shared")
    said = place.job("logs", "shared")
    assert f"{confirming['id']}: driver on " in said
    assert "Interrupted; nothing is lost" in said
    place.job("confirm", "shared", "--submit", "--seeds=2")
    assert "first over second" in place.job("logs", "shared", "-f")
    assert [job["status"] for job in place.jobs()] == ["SUCCEEDED", "STOPPED", "SUCCEEDED"]


@pytest.mark.exhaustive
def test_a_job_that_fails_is_one_where_it_is_followed(place: Place) -> None:
    place.job("submit", "no-such-study")
    assert "no-such-study: neither a file, nor a study in the storage" in place.job(
        "logs", "no-such-study", "-f", code=1
    )
    assert "no such job; there are: " in place.job("logs", "never-submitted", code=2)


def test_what_is_submitted_is_checked_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "_folders", [])  # where tests before have found code of their own
    Path("mine.yaml").write_text(STUDY.replace("width: 8", 'width: 8, "model.name": 3').replace("mlp", "mlp, depht: 2"))
    with pytest.raises(ConfigError) as caught:
        prepare_submission("mine.yaml", sets=["training.max_epochs=-1"], trials=2, design=4)
    assert "training.max_epochs" in str(caught.value)
    (tmp_path / "mypkg").mkdir()
    Path("mypkg/__init__.py").write_text("")
    Path("mypkg/scores.py").write_text("def half(outputs, targets):\n    return outputs.mean() * 0 + 0.5\n")
    Path("own.yaml").write_text(STUDY + 'task: {metrics: {half: "mypkg.scores:half"}}\n')
    found = prepare_submission("own.yaml", sets=["search.trials=7"], design=2, flags=["--insecure"])
    assert (found.study, found.words) == (
        "shared",
        ["run", "own.yaml", "--set=search.trials=7", "--insecure", "--design=2"],
    )
    confirmation = prepare_confirmation("own.yaml", ["--seeds", "4"])
    assert (confirmation.study, confirmation.words) == ("shared", ["confirm", "shared", "--seeds", "4"])
    assert (confirmation.modules, confirmation.file) == (found.modules, None)
    (tmp_path / "code").mkdir()
    found.write(tmp_path / "code")
    sent = {file.name for file in (tmp_path / "code").iterdir()}
    assert sent == {"sweep", "mypkg", "own.yaml"}


def test_a_confirmation_is_submitted_with_what_its_options_set_to_a_head_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = sweep_here(monkeypatch, capsys, tmp_path, "confirm", "digits", "--submit", "--address=127.0.0.1:6379")
    assert (ended.code, ended.out) == (2, "")
    assert "--address: with --submit, the HTTP address of the cluster's head" in ended.err
    sent = list[object]()
    monkeypatch.setattr(
        "sweep.cli.cluster.send", lambda found, given, address, **_: sent.append((found.words, given, address))
    )
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    options = ("--top=2", "--against=he, dropout", "--placebo", "--offline-ok", "--data=/data")
    words = ("confirm", "digits", "--submit", *options)
    ended = sweep_here(monkeypatch, capsys, tmp_path, *words, RAY_API_SERVER_ADDRESS="http://head:8265")
    assert ended.code == 0, ended.err
    words = ("confirm", "digits", "--top", "2", "--seeds", "8", "--against", "he,dropout", "--placebo", "--offline-ok")
    assert sent == [([*words], {"data": "/data"}, "http://head:8265")]


def test_a_password_is_not_sent() -> None:
    plain = {"storage": "postgresql+psycopg://me@db/optuna", "workspace": Path("/shared"), "data": None}
    assert settings_to_send(plain) == {"SWEEP_STORAGE": plain["storage"], "SWEEP_WORKSPACE": "/shared"}
    with pytest.raises(ConfigError) as caught:
        settings_to_send({"storage": f"postgresql+psycopg://me:{SECRET}@db/x", "tracking": f"http://a:{SECRET}@b"})
    assert len(caught.value.problems) == 2
    assert SECRET not in str(caught.value)
    assert "~/sweep.env" in str(caught.value)


def test_settings_that_are_given_win_over_those_of_the_head(tmp_path: Path) -> None:
    """The head's are in ~/sweep.env; the line is run as Ray does, by a shell, with a python that tells."""
    given = {"SWEEP_WORKSPACE": "/shared/with spaces", "SWEEP_OWNER": "me", "SWEEP_JOB": "digits-1"}
    (tmp_path / "sweep.env").write_text("SWEEP_WORKSPACE=/of/the/head\nSWEEP_STORAGE=of-the-head\n")
    (tmp_path / "python").write_text('#!/bin/sh\necho "$SWEEP_WORKSPACE|$SWEEP_OWNER|$SWEEP_STORAGE|$SWEEP_JOB|$*"\n')
    (tmp_path / "python").chmod(0o755)
    there = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    line = jobs.shell_command(["run", "digits"], given)
    done = subprocess.run(line, shell=True, env=there, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "/shared/with spaces|me|of-the-head|digits-1|-m sweep run digits\n"


@pytest.mark.parametrize("fails", [1, 2])
def test_a_node_of_our_own_that_does_not_start_in_time_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """As Ray says it, a plain Exception, where the machine is busy."""
    calls: list[str] = []

    def init(**_options: object) -> None:
        calls.append("init")
        if calls.count("init") <= fails:
            raise Exception("The current node timed out during startup. This could happen because ...")  # noqa: TRY002

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    told = pytest.raises(ClusterError, match=r"address local: Ray did not start .* Nothing is lost")
    with told if fails == 2 else contextlib.nullcontext(), connected("local"):
        assert calls == ["init", "shutdown", "init"]
    assert calls.count("init") == 2


class Tail:
    """A head whose connection is closed once in the middle of a job's log; then Ctrl-C comes, or the job ends."""

    def __init__(self, *, interrupted: bool):
        self._interrupted, self.opened, self.closed = interrupted, 0, 0

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        self.opened += 1
        try:
            for line in ("one\n", "two\n", "three\n")[: self.opened + 1]:
                yield line
            if self.opened == 2 and self._interrupted:
                signal.raise_signal(signal.SIGINT)
                await asyncio.sleep(60)
        finally:
            self.closed += 1

    def get_job_status(self, _job: str) -> SimpleNamespace:
        return SimpleNamespace(value="RUNNING" if self.opened < 2 else "SUCCEEDED")


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_log_is_followed_to_its_end_or_until_one_has_seen_enough(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, interrupted: bool
) -> None:
    head, seen = Tail(interrupted=interrupted), []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(jobs, "_client", lambda _address: contextlib.nullcontext(head))
    job = jobs.StudyJob("digits-1", "digits", "RUNNING", "", "", "")
    with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext():
        seen.extend(jobs.job_logs("http://head", job, follow=True))
    assert "".join(seen) == "one\ntwo\nthree\n"
    assert (head.opened, head.closed) == (2, 2)


# -- what a cluster lacks ----------------------------------------------------------------------------------------------


def test_a_node_says_what_it_does_not_see(tmp_path: Path) -> None:
    mark, root, cache = tmp_path / "results" / "mark", str(tmp_path), str(tmp_path / "cache")
    assert check_workspace(str(mark))[0].startswith(f"workspace: {mark.parent} ")
    mark.parent.mkdir()
    mark.touch()
    assert check_workspace(str(mark)) == []
    assert prepare_data({"name": "digits"}, root, cache) == []
    (problem,) = prepare_data({"name": "voc", "folder": "away", "image_size": 32, "num_classes": 3}, root, cache)
    assert problem.startswith("data: ")
    assert str(tmp_path / "away") in problem
    assert "Each node must have them, or SWEEP_DATA be s3://BUCKET/PREFIX" in problem
    (tmp_path / "mine").mkdir()
    (problem,) = prepare_data({"name": "imagefolder", "folder": "mine", "image_size": 32}, root, cache)
    assert "Each node" not in problem, "what is there, and wrong, is not helped by other nodes' having it"


@pytest.mark.exhaustive
def test_all_that_a_cluster_lacks_is_said_at_once(place: Place) -> None:
    """The second node sees an empty folder where the driver has its workspace, as machines do that share none."""
    hide = f'mount -t tmpfs none "{place.folder}/results" && exec "$@"'
    private = ["unshare", "--mount", "sh", "-c"]
    place.workspace.mkdir(exist_ok=True)
    if subprocess.run(
        [*private, f'mount -t tmpfs none "{place.workspace}"'], check=False, capture_output=True
    ).returncode:
        pytest.skip("Root: run as root, for a node that sees another file system")
    place.cluster.add(*private, hide, "sh")
    words = [
        "run",
        "study.yaml",
        "--set",
        "name=other",
        "--set",
        "resources.cpus=99",
        "--address",
        place.cluster.address,
    ]
    said = place.sweep(*words, code=2)
    problems = [line.removeprefix("  - ") for line in said.splitlines() if line.startswith("  - ")]
    assert [problem.partition(":")[0] for problem in problems] == ["resources", "storage", "tracking", "workspace"]
    room, storage, tracking, workspace = problems
    assert "99 CPUs" in room
    assert "2 CPUs" in room
    assert "journal:" in storage
    assert "postgresql+psycopg://" in storage
    assert "services up" in tracking
    assert str(place.workspace) in workspace
    assert re.search(r"\(node 127\.0\.0\.\d+\)$", workspace)
    assert not (place.workspace / "other").exists()
    assert "other" not in place.sweep("status", "--json")


@pytest.mark.exhaustive
@pytest.mark.cluster
def test_a_cluster_that_asks_for_no_token_is_refused_unless_insecure(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    with contextlib.closing(Cluster(tmp_path, cpus=1, token=False)) as cluster:
        open_place = Place(cluster, tmp_path)
        words = ["run", "study.yaml", "--set", "resources.cpus=99", "--address", cluster.address]
        refused = open_place.sweep(*words, code=2, HOME=str(tmp_path))
        assert "token: the cluster asks for none" in refused
        assert "--insecure" in refused
        taken = open_place.sweep(*words, "--insecure", code=2, HOME=str(tmp_path))
        assert "resources: " in taken
        assert "token: " not in taken
