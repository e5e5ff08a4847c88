"""A generator function that several processes train: the numbers of one, exact resume, and what ends the trial."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

import sweep
from sweep.config.errors import FunctionError
from sweep.config.filesystem import glob_files, read_bytes
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import parse_study, read_yaml
from sweep.config.trial_config import TrialConfig
from sweep.training.attempt_files import logged
from sweep.training.reports import RankLostError, TrialPaths
from sweep.training.trial import run_trial

from ..conftest import Package
from ..support.processes import ranks_of
from ..support.training import curve, train
from ..support.trial_lists import ENDLESS

pytestmark = pytest.mark.slow
LOOPS = """
import torch
import torch.distributed as dist
from torch import nn

x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
y = x.square().sum(1, keepdim=True)


def counted(guidance):
    found, cache = [], guidance._cache
    compute = cache._compute
    cache._compute = lambda index: (found.append(index), compute(index))[1]
    return found


def fit(trial, model, dropout=0.0):
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1)).to(trial.device)
    model = model(network)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    guidance = trial.guidance(model, batch_size=10)
    computed = counted(guidance)
    for epoch in trial.epochs(model=model, optimizer=optimizer):
        print(f"rank {trial.rank} of {trial.world_size}, epoch {epoch}")
        for batch in torch.randperm(300).split(10):
            rows = trial.shard(batch)
            loss = (model(x[rows]) - y[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            guidance.add_gradients()
            optimizer.step()
        network.eval()
        rows = trial.shard(torch.arange(300, 400))
        with torch.no_grad():
            error = (network(x[rows]) - y[rows]).square().mean()
        network.train()
        trial.log(computed=len(computed), own=network[0].weight.sum())
        yield {"error": error}


def line(trial):
    yield from fit(trial, trial.distributed)


def torchs(trial):
    yield from fit(trial, nn.parallel.DistributedDataParallel if trial.world_size > 1 else nn.Identity)


def dropping(trial):
    \"\"\"Each rank draws other numbers in an epoch, and all of them meet at the end.\"\"\"
    try:
        for metrics in fit(trial, trial.distributed, dropout=0.3):
            torch.rand(trial.rank)
            yield metrics
    finally:
        dist.barrier()


def unaware(trial):
    yield from fit(trial, lambda model: model)


def names(trial):
    for metrics in fit(trial, trial.distributed):
        yield metrics if trial.rank else {**metrics, "extra": 1.0}


def shorter(trial):
    for metrics in fit(trial, trial.distributed):
        if trial.rank:
            return
        yield metrics


def longer(trial):
    for metrics in fit(trial, trial.distributed):
        yield metrics
        if not trial.rank:
            return
"""


@pytest.fixture
def package(write_package: Package) -> Iterator[str]:
    """The package with the functions. After the test no rank is left."""
    yield write_package(loops=LOOPS)
    assert ranks_of(os.getpid()) == []
    assert not dist.is_initialized()


def config_of(package: str, function: str, workers: int, max_epochs: int = 3) -> TrialConfig:
    study = StudyConfig.model_validate(
        {
            "name": "mine",
            "function": f"{package}.loops:{function}",
            "objective": {"metric": "error", "direction": "minimize"},
            "space": {"lambda1": 0.1},
            "guidance": {"every": 1},
            "training": {"max_epochs": max_epochs},
            "resources": {"workers": workers},
        }
    )
    return study.trial({})


def test_two_ranks_have_the_numbers_of_one_process_and_divide_guidance(package: str, tmp_path: Path) -> None:
    one, two = (curve(train(config_of(package, "line", workers), tmp_path / str(workers))) for workers in (1, 2))
    assert one[3]["guidance/ratio"] > 0
    assert one[3]["error"] < one[1]["error"]
    for epoch, values in one.items():
        computed = values.pop("computed")
        assert computed == 2 * 30 * epoch
        assert two[epoch].pop("computed") == computed / 2, "each of the two layers is computed on one rank"
        assert two[epoch] == pytest.approx(values, rel=1e-4)
    [log] = [path for path, _ in logged(tmp_path / "2")]
    assert read_bytes(log).decode().splitlines() == [f"rank 0 of 2, epoch {epoch}" for epoch in (1, 2, 3)]
    assert len(glob_files(tmp_path / "2", "*/epoch-*.pt")) == 2, "the last two, of rank 0"


def test_the_function_of_the_page_trains_alike_in_two_processes(write_package: Package, tmp_path: Path) -> None:
    page = (Path(sweep.__file__).parent / "training" / "README.md").read_text()
    code, study, diff = (
        re.search(rf"^```{of}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]
        for of in ("python", "yaml", "diff")
    )
    for old, new in re.findall(r"^-(.*\n)((?:^\+.*\n)+)", diff, re.MULTILINE):
        assert code.count(old) == 1
        code = code.replace(old, re.sub(r"^\+", "", new, flags=re.MULTILINE))
    config, problems = parse_study(read_yaml(study.replace("mypkg", write_package(loop=code)), "the page"))
    assert config is not None, problems
    trial = config.trial({"lambda1": 1e-3, "depth": 2, "lr": 1e-3})
    trial = trial.model_copy(update={"training": trial.training.model_copy(update={"max_epochs": 3})})
    one, two = (curve(train(trial.model_copy(update={"workers": n}), tmp_path / str(n))) for n in (1, 2))
    assert all(two[epoch] == pytest.approx(values, rel=1e-4) for epoch, values in one.items())


def test_a_rank_that_is_killed_takes_the_trial_with_it_at_once(package: str, tmp_path: Path) -> None:
    paths = TrialPaths(tmp_path, tmp_path, tmp_path)
    reports = run_trial(config_of(package, "line", 2, ENDLESS), paths, interval=0.0)
    next(reports)
    [other] = ranks_of(os.getpid())
    other.kill()
    with pytest.raises(RankLostError, match="rank 1 was killed: SIGKILL"):
        list(reports)


def test_a_function_that_never_divides_its_work_is_refused(package: str, tmp_path: Path) -> None:
    message = r"trains in 2 processes, each on its own: it is to call model = trial.distributed\(model\)"
    with pytest.raises(FunctionError, match=message):
        train(config_of(package, "unaware", 2), tmp_path)


@pytest.mark.exhaustive
def test_a_stopped_function_goes_on_bit_for_bit(package: str, tmp_path: Path) -> None:
    dropping = config_of(package, "dropping", 2, 6)
    whole = curve(train(dropping, tmp_path / "whole"))
    assert len(curve(train(dropping, tmp_path / "parts", reports=1))) < 6
    parts = curve(train(dropping, tmp_path / "parts", attempt=2))
    for values in (*whole.values(), *parts.values()):
        del values["computed"]  # by this process
    assert parts == whole


@pytest.mark.exhaustive
def test_a_loop_may_wrap_its_model_itself(package: str, tmp_path: Path) -> None:
    own, ours = (curve(train(config_of(package, name, 2), tmp_path / name)) for name in ("torchs", "line"))
    assert own == ours


@pytest.mark.exhaustive
def test_rank_0_may_end_the_trial_before_the_last_epoch(package: str, tmp_path: Path) -> None:
    reports = train(config_of(package, "longer", 2), tmp_path)
    assert (reports[-1].outcome, list(curve(reports))) == ("completed", [1])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("names", "rank 1 reports .*error, g.* and rank 0 .*error, extra, g"),
        ("shorter", "rank 1 reports no epoch, and rank 0 computed, "),
    ],
)
def test_a_rank_that_reports_otherwise_fails_the_trial(
    function: str, message: str, package: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=rf"(?s)in the process of rank 1:.*FunctionError: {message}"):
        train(config_of(package, function, 2), tmp_path)
