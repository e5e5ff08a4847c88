"""Ray's door on one private Ray with two logical GPUs: what runs at once, where, and what a dead worker does.

Starting worker processes is what takes the time here, so two runs of the executor serve most of the tests.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import psutil
import pytest
import ray
from ray.tune.search import Searcher
from ray.util.placement_group import placement_group_table

from sweep.cluster import connect
from sweep.cluster.connect import connected
from sweep.config import filesystem
from sweep.config.errors import SweepError
from sweep.config.resources import Resources
from sweep.config.sections import DataConfig
from sweep.data.loading import load_dataset
from sweep.execution import tune_patches
from sweep.execution.dispatcher import MAX_LOSSES, Dispatcher
from sweep.execution.executor import Key, TrialRequest
from sweep.execution.slots import Slots
from sweep.execution.tune_adapters import Worker, _Scheduler, _Searcher, _StopAll, execute
from sweep.execution.tune_patches import WorkerCache
from sweep.execution.worker import RUN_TRIAL
from sweep.service import simulation
from sweep.study.distributions import distributions, random_point
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics, TrialReport
from sweep.training.trial import TrialPaths, run_trial

from ..support.processes import descendants, title
from ..support.trial_lists import ENDLESS, Trials, job

pytestmark = [
    pytest.mark.filterwarnings("default"),  # Ray's own deprecations are not ours
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A private Ray with 4 CPUs, 2 logical GPUs (A10G) and 4 GiB; a folder with one file per process that has GPUs."""
    folder = tmp_path_factory.mktemp("devices")

    def watch() -> None:
        def note() -> None:
            written = None
            while True:
                seen = os.environ.get("CUDA_VISIBLE_DEVICES")
                if seen and seen != written:
                    beside = folder / f".{os.getpid()}"
                    beside.write_text(seen)
                    beside.rename(folder / str(os.getpid()))
                    written = seen
                time.sleep(0.1)

        threading.Thread(target=note, daemon=True).start()

    options = {
        "num_cpus": 4,
        "num_gpus": 2,
        "resources": {"accelerator_type:A10G": 1},  # as Ray names what it finds
        "_memory": 4 * 2**30,
        "include_dashboard": False,
        "log_to_driver": False,
        "runtime_env": {"worker_process_setup_hook": watch},
    }
    connect._init("local", options)  # once more where the machine is too busy for the first time
    yield folder
    ray.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> TrialPaths:
    folder = tmp_path_factory.mktemp("workspace")
    load_dataset(DataConfig(name="digits"), root=folder, cache=folder / "cache")
    return TrialPaths(folder / "study", data=folder, cache=folder / "cache")


def ray_workers() -> list[psutil.Process]:
    """The processes of this test's own Ray that run a trial."""
    return [process for process in descendants(os.getpid()) if title(process).startswith("ray::Worker")]


# -- room ------------------------------------------------------------------------------------------------------------


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    started = time.monotonic()
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"):
        with pytest.raises(ConnectionError, match=f"{address}: no Ray cluster answers") as refusal, connected(address):
            pass
        assert "--address local" in str(refusal.value)
    assert time.monotonic() - started < 120  # Ray itself tries for minutes


def at_once(resources: Resources) -> int:
    return Slots(resources, n_waiting=lambda: 0, on_message=pytest.fail).count(0)


def asked(resources: Resources) -> dict[str, float]:
    room = Slots(resources, n_waiting=lambda: 0, on_message=pytest.fail)
    room.count(0)
    return room.resource_request()


@pytest.mark.usefixtures("devices")
def test_room_is_counted_in_whole_trials() -> None:
    assert at_once(Resources(cpus=1, gpus=0)) == 4
    assert at_once(Resources(cpus=3, gpus=0)) == 1
    assert at_once(Resources(cpus=0.5, gpus=0.5)) == 4
    assert at_once(Resources(cpus=0.1, gpus=0.4)) == 4  # two on each GPU: the rests of both are not a share
    assert at_once(Resources(cpus=1, gpus=2)) == 1
    assert at_once(Resources(workers=2)) == 2
    assert asked(Resources(cpus=0.5, workers=2)) == {"CPU": 1}
    assert asked(Resources(cpus=2, gpus=2)) == {"CPU": 4, "GPU": 2}
    assert at_once(Resources(cpus=1, gpus=0, max_concurrent=3)) == 3
    # auto is one GPU where there are any.
    assert asked(Resources()) == {"CPU": 1, "GPU": 1}
    assert at_once(Resources()) == 2
    assert at_once(Resources(cpus=0.5, gpus=0, memory=1.5)) == 2
    assert at_once(Resources(cpus=0.5, gpus=0.5, memory=1.5, accelerator_type="A10G")) == 2


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        (Resources(gpus=3), "3 CPUs and 3 GPUs in its 3 processes, .* there is: 4 CPUs and 2 GPUs"),
        (
            Resources(workers=5),
            "5 CPUs in its 5 processes, .* there is: 4 CPUs .* Lower resources.cpus or resources.workers",
        ),
        (Resources(cpus=8, gpus=0), "8 CPUs, .* there is: 4 CPUs and 2 GPUs"),
        (
            Resources(gpus=0, memory=64),
            "1 CPU and 64 GiB of memory, .* there is: 4 CPUs, 2 GPUs and 4 GiB of memory",
        ),
        (
            Resources(gpus=3, accelerator_type="A10G"),
            r"3 CPUs and 3 GPUs \(A10G\) in its 3 processes, .* there is: .* 2 GPUs \(A10G\)",
        ),
        (Resources(accelerator_type="A100"), "accelerator_type: no node has A100; there are: A10G[.]$"),
    ],
)
def test_more_than_any_node_has_is_refused_with_what_there_is(
    place: TrialPaths, resources: Resources, asked: str
) -> None:
    source = Trials([job(place, 99, 1)])
    with pytest.raises(SweepError, match=asked):
        execute(source, resources, stop=threading.Event())
    assert not source.begun


@pytest.mark.usefixtures("devices")
def test_a_cluster_that_loses_its_nodes_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    room = Slots(Resources(), n_waiting=lambda: 5, on_message=said.append)
    monkeypatch.setattr("sweep.execution.slots.REFRESH_EVERY", 0.0)
    assert room.count(0) == 2
    with monkeypatch.context() as lost:
        lost.setattr("sweep.execution.slots.list_nodes", list)
        assert [room.count(2), room.count(2)] == [0, 0]
        [gone, notice] = said
        assert "has left the cluster" in gone
        assert "1 CPU and 1 GPU," in notice, "what auto was settled to"
        assert "Waiting for a node, for 15 minutes at most" in notice
    assert room.count(2) == 2
    assert re.search(r"has joined the cluster again after \d+ s$", said[-1])
    monkeypatch.setattr("sweep.execution.slots.list_nodes", list)
    assert room.count(2) == 0
    monkeypatch.setattr("sweep.execution.slots.NODE_TIMEOUT", 0.0)
    with pytest.raises(SweepError, match="nothing is lost: resume the study"):
        room.count(2)


def test_there_are_as_many_trials_as_the_room_of_the_moment_has(place: TrialPaths) -> None:
    room = 1
    source = Trials([job(place, n, 1) for n in range(9)])
    with Dispatcher(source, limit=lambda _: room, stop=threading.Event()) as bridge:
        for room, out in ((1, 1), (3, 3), (0, 3), (4, 4)):  # noqa: B007 (the bridge asks for it)
            deadline = time.monotonic() + 120
            while len(bridge.requests) < out and time.monotonic() < deadline:
                if isinstance(taken := bridge.next_trial(), TrialRequest):
                    bridge.requests[str(taken.key)] = taken
            assert len(bridge.requests) == out
            assert [bridge.next_trial() for _ in range(5)] == [None] * 5


# -- four half-GPU trials, then short ones, one of which has to be alone ----------------------------------------------


class FourThenShort(Trials):
    """The first four are endless, and end when each of them has reported: that is, when all run at once."""

    def __init__(self, jobs: list[TrialRequest]):
        super().__init__(jobs)
        self.taken: dict[int, list[dict[str, float]]] = {}  # most of all running ones, when it reports

    def enough(self, number: int) -> bool:
        groups = placement_group_table().values()
        taken = [asked for g in groups if g["state"] == "CREATED" for asked in g["bundles"].values()]
        self.taken[number] = max(self.taken.get(number, []), taken, key=len)
        return number < 4 and {0, 1, 2, 3} <= self.results.keys()


TOO_LARGE, ALONE = 9, 10  # trials


class Shared(NamedTuple):
    source: FourThenShort
    devices: list[str]
    """CUDA_VISIBLE_DEVICES of each worker process."""


@pytest.fixture(scope="module")
def shared(devices: Path, place: TrialPaths) -> Shared:
    jobs = [job(place, n, ENDLESS) for n in range(4)] + [job(place, n, 3) for n in range(4, 9)]
    jobs.append(job(place, TOO_LARGE, 3, width=2**40))
    jobs[6].paths.folder.parent.mkdir(parents=True, exist_ok=True)
    jobs[6].paths.folder.write_text("a file where the checkpoints belong")
    source = FourThenShort([job(place, ALONE, 3, exclusive=True), *jobs])
    resources = Resources(cpus=0.5, gpus=0.5, memory=0.75, accelerator_type="A10G")
    execute(source, resources, stop=threading.Event())
    return Shared(source, sorted(file.read_text() for file in devices.glob("[0-9]*")))


def test_four_half_gpu_trials_run_at_once_on_two(shared: Shared) -> None:
    # None of them could end before all had reported; had they not run at once, the deadline would have ended them.
    assert not shared.source.timed_out
    assert shared.source.begun == list(range(11)), "trials start in the order they were asked"
    assert shared.source.left == []


def test_ray_is_asked_for_what_a_trial_needs(shared: Shared) -> None:
    each = {"CPU": 0.5, "GPU": 0.5, "memory": 0.75 * 2**30, "accelerator_type:A10G": 0.001}
    # When the last of the first four reports for the first time, none of them has ended.
    assert max((shared.source.taken[number] for number in range(4)), key=len) == [each] * 4
    assert shared.source.taken[ALONE] == [{**each, "GPU": 1}], "nothing else runs, and no worker waits for more"


def test_a_trial_without_enough_memory_says_so(shared: Shared) -> None:
    last = shared.source.results[TOO_LARGE][-1]
    assert (last.outcome, last.oom) == ("failed", "host")
    assert last.error is not None
    assert last.error.splitlines()[-1].startswith("out of memory on the host: lower training.batch_size or width")


def test_each_worker_sees_its_own_gpu_and_stays_warm(shared: Shared) -> None:
    # Ten trials in four processes, and the one that is alone on a whole GPU in one of its own.
    assert sorted(shared.devices.count(device) for device in "01") == [2, 3]
    hosts = {result.tags["sweep.host"] for results in shared.source.results.values() for result in results}
    assert hosts == {os.uname().nodename}


def test_every_epoch_comes_once_and_in_order(shared: Shared) -> None:
    for number in range(4):
        epochs = shared.source.epochs(number)
        assert epochs == list(range(1, len(epochs) + 1))
    for number in (4, 5, 7, 8, ALONE):
        assert shared.source.epochs(number) == [1, 2, 3]
        assert shared.source.outcome(number) == "completed"


def test_a_failing_trial_is_a_result_and_its_worker_goes_on(shared: Shared, place: TrialPaths) -> None:
    error = shared.source.results[6][-1].error
    assert shared.source.outcome(6) == "failed"
    assert error is not None
    assert error.startswith("Traceback")
    assert str(place.folder / "6") in error.splitlines()[-1]
    assert shared.source.outcome(8) == "completed"


def test_the_numbers_are_those_of_the_same_trial_in_this_process(shared: Shared, place: TrialPaths) -> None:
    here = TrialPaths(place.folder / "here", place.data, place.cache)
    expected = [m for report in run_trial(job(place, 7, 3).config, here) for m in report.epochs]
    got = [m for result in shared.source.results[7] for m in result.epochs]
    assert [{**m.values, "seconds": 0} for m in got] == [{**m.values, "seconds": 0} for m in expected]


@pytest.mark.usefixtures("devices")
def test_a_worker_is_told_its_share_of_a_gpu(place: TrialPaths) -> None:
    room = Slots(Resources(gpus=0.25), n_waiting=lambda: 0, on_message=pytest.fail)
    bridge = Dispatcher(Trials([job(place, 0, 1)]), limit=room.count, stop=threading.Event())
    with bridge:
        told = _Searcher(bridge, room, RUN_TRIAL).suggest("tune's id")
    assert isinstance(told, dict)
    assert json.loads(told["job"])["place"]["gpus"] == 0.25


# -- one trial at a time: a worker that is killed, and a stop -------------------------------------------------------


class Mortal(Trials):
    """Trial 0's worker dies after two reports; trial 1 is stopped after two reports."""

    def __init__(self, jobs: list[TrialRequest]):
        super().__init__(jobs)
        self.stop = threading.Event()
        self.before: list[int] = []  # epochs of trial 0 that were reported before its worker died
        self._over = threading.Event()
        self._killer = threading.Thread(target=self._kill)

    def __enter__(self) -> Mortal:
        self._killer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._killer.join()

    def enough(self, number: int) -> bool:
        if number == 1 and len(self.results[1]) == 2:
            self.stop.set()
        return number == 0 and bool(self.before) and self.epochs(0)[-1] > self.before[-1] + 1

    def _kill(self) -> None:
        while not self.before and not self._over.wait(0.02):
            if len(self.results.get(0, [])) >= 2:
                self.before = self.epochs(0)
                for process in ray_workers():
                    process.kill()


@pytest.fixture(scope="module")
def mortal(devices: Path, place: TrialPaths) -> Mortal:
    with Mortal([job(place, n, ENDLESS) for n in (0, 1, 2)]) as source:
        # Whatever the tests above have left is not for this run.
        for n, each in enumerate(source.left):
            source.left[n] = TrialRequest(
                each.key, each.config, TrialPaths(place.folder / f"m{n}", place.data, place.cache), 1
            )
        execute(source, Resources(gpus=0, max_concurrent=1), stop=source.stop)
    return source


def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(mortal: Mortal, place: TrialPaths) -> None:
    assert not mortal.timed_out
    saved = checkpoint.load_latest(place.folder / "m0")
    assert saved is not None
    assert [m.epoch for m in saved.history] == list(range(1, len(saved.history) + 1))
    # Nothing that was reported was trained again: those epochs still bear the times of the first worker.
    first = {m.epoch: m for result in reversed(mortal.results[0]) for m in result.epochs}
    assert len(mortal.before) >= 2
    assert saved.history[: len(mortal.before)] == [first[epoch] for epoch in mortal.before]
    assert len(saved.history) > len(mortal.before)


def test_a_stop_leaves_every_reported_epoch_in_a_checkpoint(mortal: Mortal, place: TrialPaths) -> None:
    assert 2 not in mortal.begun, "a trial was started after the stop"
    assert mortal.outcome(1) is None
    assert not mortal.given_up
    saved = checkpoint.load_latest(place.folder / "m1")
    assert saved is not None
    assert [m.epoch for m in saved.history] == mortal.epochs(1)


def test_losses_count_as_long_as_a_trial_makes_no_progress(place: TrialPaths) -> None:
    source = Trials([job(place, 0, ENDLESS)])
    with Dispatcher(source, limit=lambda _: 1, stop=threading.Event()) as bridge:

        def loses_its_worker(*epochs: int) -> None:
            given = bridge.next_trial()
            assert isinstance(given, TrialRequest)
            bridge.requests["tune's id"] = given
            if epochs:
                metrics = [EpochMetrics(epoch, {"val_loss": 1.0}, 0) for epoch in epochs]
                assert not bridge.on_report("tune's id", TrialReport(metrics))
            bridge.on_worker_lost("tune's id", "the node died")

        for epoch in range(1, 6):  # five nodes, and an epoch on each of them
            loses_its_worker(epoch)
        loses_its_worker()
        assert source.given_up == {}
        loses_its_worker()
        assert source.given_up == {0: "the node died\nthe worker died 3 times in the same epoch"}
        assert bridge.next_trial() == Searcher.FINISHED


class Pauses(Trials):
    """Four trials, then none until all have ended and a second has passed, then four more."""

    def __init__(self, jobs: list[TrialRequest]):
        super().__init__(jobs)
        self.rounds: list[set[float]] = [set(), set()]  # process ids
        self.over = 0
        self.pause_until = 0.0

    def ask(self) -> TrialRequest | None:
        if len(self.left) == 4 and (self.over < 4 or time.monotonic() < self.pause_until):
            return None
        return super().ask()

    def report(self, key: Key, result: TrialReport) -> bool:
        self.rounds[key[1] // 4] |= {m.values["worker/pid"] for m in result.epochs}
        if result.outcome is not None:
            self.over += 1
            self.pause_until = time.monotonic() + 1.0
        return super().report(key, result)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("devices")
def test_workers_stay_through_a_moment_without_a_trial(tmp_path: Path) -> None:
    config = simulation.study_of(simulation.Load(8, 4, epochs=40, epoch_seconds=0.1))
    trial = config.trial(random_point(distributions(config.searched), seed=0, number=0))
    where = TrialPaths(tmp_path, tmp_path, tmp_path)
    source = Pauses([TrialRequest(("study", number), trial, where, attempt=1) for number in range(8)])
    execute(
        source, Resources(cpus=1, gpus=0), stop=threading.Event(), run_trial="sweep.training.simulated_trial:run_trial"
    )
    first, second = source.rounds
    assert len(first) == 4
    assert second == first, "four are ready, and no process was started anew"


class Idle(Trials):
    """Three of four trials end; then the worker of the fourth is killed with two of those that are idle."""

    def __init__(self, jobs: list[TrialRequest]):
        super().__init__(jobs)
        self.workers: list[list[float]] = [[], [], [], []]  # process ids, in the order in which trials had them
        self.since = 0.0  # when the last of them was met

    def report(self, key: Key, result: TrialReport) -> bool:
        super().report(key, result)
        mine = self.workers[key[1]]
        for pid in (m.values["worker/pid"] for m in result.epochs):
            if pid not in mine:
                mine.append(pid)
                self.since = time.monotonic()
        if key[1] < 3:  # when all four have a worker
            return all(self.workers) or self.timed_out
        if len(mine) == 1 and all(self.workers[:3]) and time.monotonic() - self.since > 2:  # the others are idle
            for pid in (*self.workers[0], *self.workers[1], *mine):
                psutil.Process(int(pid)).kill()
        return len(mine) > 1 or self.timed_out


@pytest.mark.exhaustive
@pytest.mark.usefixtures("devices")
def test_a_trial_that_loses_its_worker_has_an_idle_one_that_lives(tmp_path: Path) -> None:
    config = simulation.study_of(simulation.Load(4, 4, epochs=2000, epoch_seconds=0.2))
    trial = config.trial(random_point(distributions(config.searched), seed=0, number=0))
    where = TrialPaths(tmp_path, tmp_path, tmp_path)
    source = Idle([TrialRequest(("study", number), trial, where, attempt=1) for number in range(4)])
    execute(
        source, Resources(cpus=1, gpus=0), stop=threading.Event(), run_trial="sweep.training.simulated_trial:run_trial"
    )
    first, second, third, fourth = source.workers
    assert len({*first, *second, *third, *fourth}) == 4
    assert fourth[1:] == third, "neither one of the dead, nor one that was started anew"
    assert source.given_up == {}


def test_a_worker_without_a_trial_ends_after_a_while_or_where_it_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = WorkerCache()
    for name in ("a", "b", "c"):
        assert workers.cache_object("one CPU", name)
    assert list(workers.flush_cached_objects()) == []
    assert workers.pop_cached_object("one CPU") == "a"
    assert workers.pop_cached_object("a whole GPU") is None
    workers.increase_max("one CPU")  # a trial of their own kind waits
    assert list(workers.flush_cached_objects()) == []
    workers.increase_max("a whole GPU")
    assert list(workers.flush_cached_objects()) == ["b", "c"]
    workers.decrease_max("a whole GPU")
    for name in ("d", "e"):
        workers.cache_object("one CPU", name)
    assert list(workers.flush_cached_objects()) == []
    monkeypatch.setattr(tune_patches, "MAX_IDLE", -1.0)
    assert list(workers.flush_cached_objects()) == ["d"]
    assert list(workers.flush_cached_objects()) == [], "one is there for a trial that loses its own"
    assert list(workers.flush_cached_objects(force_all=True)) == ["e"]
    assert workers.num_cached_objects == 0


def test_a_trial_that_must_be_alone_waits_until_no_other_runs(place: TrialPaths) -> None:
    source = Trials([job(place, 0, 3, exclusive=True), job(place, 1, 3), job(place, 2, 3)])
    with Dispatcher(source, limit=lambda _: 2, stop=threading.Event()) as bridge:

        def takes(number: int) -> None:
            deadline = time.monotonic() + 120
            while not isinstance(taken := bridge.next_trial(), TrialRequest) and time.monotonic() < deadline:
                assert taken is None
            assert isinstance(taken, TrialRequest)
            assert taken.key[1] == number
            bridge.requests[str(number)] = taken

        def ends(number: int) -> None:
            assert bridge.on_report(str(number), TrialReport([], outcome="completed"))

        takes(1)
        takes(2)
        ends(1)
        assert [bridge.next_trial() for _ in range(20)] == [None] * 20, "trial 2 still runs"
        ends(2)
        takes(0)
        assert bridge.next_trial() is None
        ends(0)
        assert bridge.next_trial() == Searcher.FINISHED


def test_a_worker_that_ray_has_ended_for_memory_is_not_tried_again_beside_others(place: TrialPaths) -> None:
    source = Trials([job(place, 0, ENDLESS)])
    with Dispatcher(source, limit=lambda _: 1, stop=threading.Event(), retry_oom=True) as bridge:
        given = bridge.next_trial()
        assert isinstance(given, TrialRequest)
        bridge.requests["tune's id"] = given
        bridge.on_worker_lost("tune's id", "Task was killed due to the node running low on memory.")
    assert source.lacks == ["host"]
    assert source.given_up[0].splitlines()[-1].startswith("the worker died, out of memory on the host")


def test_a_trial_waits_while_other_programs_fill_the_memory_of_its_node(place: TrialPaths) -> None:
    full = "the node running low on memory: was 18.0GB used / 19.0GB limit. (pid=7, actual memory used=0.05GB)"
    source = Trials([job(place, 0, ENDLESS)])
    with Dispatcher(source, limit=lambda _: 1, stop=threading.Event(), retry_oom=True) as bridge:
        for _ in range(2 * MAX_LOSSES):
            given = bridge.next_trial()
            assert isinstance(given, TrialRequest)
            bridge.requests["tune's id"] = given
            bridge.on_worker_lost("tune's id", full)
            assert bridge.next_trial() is None, "it waits"
            bridge._retry_queue = [(0.0, request) for _, request in bridge._retry_queue]
    assert source.given_up == {}


# -- a full disk, and the driver's own errors ------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_ends_the_run_and_says_that_nothing_is_lost(
    place: TrialPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial keeps its row: it has not failed, and goes on when there is room."""
    full = job(TrialPaths(place.folder / "full", place.data, place.cache), 0, 3)
    (full.paths.folder / "attempt-01").mkdir(parents=True)
    no_room = uuid4()
    for epoch in (1, 2, 3):  # wherever the checkpoint is written, there is no room
        (full.paths.folder / "attempt-01" / f".epoch-{epoch:04d}.pt.{no_room.hex}.tmp").symlink_to("/dev/full")
    monkeypatch.setattr(filesystem, "uuid4", lambda: no_room)
    where = {"folder": str(full.paths.folder), "data": str(place.data), "cache": str(place.cache), "gpus": 0}
    worker = Worker(
        {
            "job": json.dumps(
                {
                    "config": full.config.model_dump(),
                    "place": where,
                    "attempt": 1,
                    "moves": 0,
                    "pruning_epochs": None,
                    "run_trial": RUN_TRIAL,
                    "folders": [],
                }
            )
        }
    )
    said = worker.step()
    source = Trials([])
    bridge = Dispatcher(source, limit=lambda _: 1, stop=threading.Event())
    bridge.requests["tune's id"] = full
    assert bridge.on_report("tune's id", TrialReport.from_json(said["report"]))
    assert bridge.ended
    assert isinstance(bridge.error, SweepError)
    assert "No space left on device" in str(bridge.error)
    assert "Nothing is lost: make room, then resume the study" in str(bridge.error)
    assert source.results == source.given_up == {}
    assert not list(full.paths.folder.rglob("*.pt"))


@pytest.mark.usefixtures("devices")
def test_an_error_of_the_source_ends_the_run_and_is_raised(place: TrialPaths) -> None:
    class Full(Trials):
        def ask(self) -> TrialRequest | None:
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        execute(Full([job(place, 98, 1)]), Resources(gpus=0), stop=threading.Event())


@pytest.mark.usefixtures("devices")
def test_tune_can_write_nothing_of_the_study() -> None:
    """Tune pickles its searcher and scheduler into a snapshot; a storage's password must not get there."""
    source = Trials([])
    source.password = "secret"  # type: ignore[attr-defined]
    room = Slots(Resources(), n_waiting=source.n_waiting, on_message=source.on_message)
    bridge = Dispatcher(source, limit=room.count, stop=threading.Event())
    for adapter in (_Searcher(bridge, room, RUN_TRIAL), _Scheduler(bridge, room), _StopAll(bridge)):
        assert b"secret" not in pickle.dumps(adapter)
