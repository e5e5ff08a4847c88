"""Studies on separate hosts whose network falls silent: what is promised holds, and what is lost is told."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator

import pytest

from ..support import absent
from ..support.processes import wait_for
from .hosts import HEAD, HELD, RUNNING, Hosts, Program, documented

pytestmark = [pytest.mark.hosts, pytest.mark.exhaustive, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Hosts with PostgreSQL on one."""
    absent.hosts()
    with contextlib.closing(Hosts(tmp_path_factory.mktemp("hosts"))) as hosts:
        hosts.start_database()
        yield hosts


@pytest.fixture(scope="module")
def cluster(hosts: Hosts) -> Hosts:
    """The hosts, with an MLflow server and a Ray cluster."""
    hosts.start_tracking()
    hosts.start_cluster()
    return hosts


def assert_exact(hosts: Hosts, study: Program, name: str, trials: int) -> None:
    """The study ends, and is whole."""
    assert study.end(300) == 0, study.out
    assert hosts.flaws(name, trials) == []


def test_a_driver_that_vanishes_with_the_lock_does_not_keep_it(hosts: Hosts) -> None:
    """Silence falls while a driver has the lock of the database: its server learns of it as the driver does."""
    study = hosts.start_study("w1", "vanished", "--executor", "local", trials=12)
    wait_for(lambda: study.over or hosts.ended("vanished") >= 1, "a trial")
    while True:
        assert not study.over, study.out
        if hosts.query(HELD, "10.77.0.2"):
            study.signal(signal.SIGSTOP)
            time.sleep(0.2)  # until the server has the receipt of all that it has sent
            if hosts.query(HELD, "10.77.0.2"):
                break
            study.signal(signal.SIGCONT)
    hosts.cut("w1", "db")
    study.signal(signal.SIGCONT)
    wait_for(lambda: not hosts.query(HELD, "10.77.0.2"), "the server to take the lock from a driver it cannot hear")
    hosts.heal()
    assert_exact(hosts, study, "vanished", 12)
    assert "cannot reach the storage (" in study.out
    assert re.search(r"reachable again after \d+ s", study.out)


@pytest.mark.slow
def test_ctrl_c_ends_a_driver_that_is_cut_off_from_its_database(hosts: Hosts) -> None:
    study = hosts.start_study("w1", "cutoff", "--executor", "local", trials=5)
    wait_for(lambda: study.over or hosts.ended("cutoff") >= 1, "a trial")
    hosts.cut("w1", "db")
    wait_for(lambda: study.over or "cannot reach the storage" in study.out, "the outage")
    study.signal(signal.SIGINT)
    assert study.end() == 130, study.out
    hosts.heal()
    again = hosts.start_study("w1", "cutoff", "--executor", "local", trials=5)
    assert_exact(hosts, again, "cutoff", 5)


@pytest.mark.usefixtures("cluster")
def test_a_machine_that_is_no_node_is_told_what_to_use(hosts: Hosts) -> None:
    refused = hosts.start("cli", f"sweep run digits --address {HEAD}")
    assert refused.end() == 2, refused.out
    assert "this machine is no node of that cluster" in refused.out
    assert "sweep submit" in refused.out


@pytest.mark.usefixtures("cluster")
def test_a_node_that_is_lost_before_the_first_trial_and_one_that_is_lost_in_a_trial_are_told_and_cost_nothing(
    hosts: Hosts,
) -> None:
    hosts.cut("w1")  # Ray notices in 15 s: the driver asks a node that is silent
    study = hosts.start_study("head", "nodes", "--address", HEAD, trials=4)
    wait_for(lambda: study.over or hosts.ended("nodes") >= 1, "a trial of the other node")
    hosts.hold.touch()
    hosts.heal()
    wait_for(lambda: study.over or "node 10.77.0.2 has joined the cluster" in study.out, "the node")
    hosts.cut("w2")
    wait_for(lambda: study.over or "node 10.77.0.3 has left the cluster" in study.out, "its loss")
    assert not study.over, study.out
    hosts.heal()
    hosts.hold.unlink()
    assert_exact(hosts, study, "nodes", 4)
    assert "raylet" not in study.out, "Ray's own dump in place of a sentence"


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_documented_commands_submit_follow_and_stop_a_study_from_a_machine_that_sees_nothing(hosts: Hosts) -> None:
    settings = "".join(f"{name}={value}\n" for name, value in hosts.settings.items())
    (hosts.folder / "head" / "home" / "sweep.env").write_text(settings)
    hosts.write_study(hosts.folder / "cli" / "own", "far", trials=6)
    submit = documented("sweep submit").replace("digits", "/mnt/own/far.yaml")
    hosts.run("cli", submit)
    wait_for(lambda: hosts.query(RUNNING, "far") >= 2, "two trials")
    hosts.hold.touch()  # not before: the check of the study calls the metric, too
    assert "running" in hosts.run("cli", documented("sweep jobs"))
    stop = hosts.start("cli", documented("sweep stop").replace("digits", "far"))
    logs = (hosts.folder / "head" / "tmp" / "ray").glob
    wait_for(lambda: any("Stopping" in log.read_text() for log in logs("session_2*/logs/job-driver-*")), "the stop")
    hosts.hold.unlink()
    assert stop.end() == 0, stop.out
    assert "Nothing is lost" in stop.out
    assert hosts.ended("far") < 6
    hosts.run("cli", submit)
    assert "far: 6 trials: 6 completed" in hosts.run("cli", documented("sweep logs").replace("digits", "far"))
    assert hosts.flaws("far", 6) == []
