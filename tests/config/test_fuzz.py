"""Whatever a user writes into a study file, `--set`, `enqueue` or `--where` gives a config or one listed error, soon.

`FUZZ_INPUTS=7500 pytest tests/config/test_fuzz.py` tries so many inputs of each of the four; `make torture` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep.analysis.conditions import parse_conditions
from sweep.config.errors import LONGEST, MOST_LISTED, SweepError
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import parse_study, read_yaml
from sweep.service import enqueue, load_study
from sweep.study.storages.catalog import get_storage
from sweep.study.study import Study

INPUTS = int(os.environ.get("FUZZ_INPUTS", "25"))  # of each test
SECONDS, BYTES = 2, 10**9  # of CPU time; of memory beyond what the process had
fuzzed = settings(
    max_examples=INPUTS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=INPUTS < 1000,
    database=None,
)

STUDY = """
name: fuzz
model: {name: mlp, dropout: 0.1}
data: {name: digits, train_size: 200}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-5, high: 1e-1, log: true}
  depth:   {low: 1, high: 3}
  width:   {choices: [8, 16]}
  training.init: {choices: [default, he]}
guidance: {every: 4, layers: {first: 2}}
training: {max_epochs: 2, batch_size: 64}
search: {trials: 4, design: 2, finalists: {top: 0}}
resources: {cpus: 1, gpus: auto}
"""
KEYS = [
    *("name", "model", "model.name", "model.depth", "model.dropout", "model.hidden", "data", "data.name", "task"),
    *("data.train_size", "data.val_fraction", "data.image_size", "data.augment", "task.kind", "task.loss"),
    *("task.metrics", "objective", "objective.metric", "objective.target", "objective.constant", "space", "depth"),
    *("lambda1", "lambda2", "epsilon", "width", "space.lambda1.low", "space.depth.high", "space.depth.step"),
    *("space.width.choices", "space.training.lr", "space.training.init", "space.model.dropout", "guidance"),
    *("guidance.every", "guidance.layers", "guidance.until", "guidance.max_ratio", "guidance.measure", "training"),
    *("training.lr", "training.seed", "training.batch_size", "training.max_epochs", "training.momentum", "search"),
    *("search.trials", "search.design", "search.design_seeds", "search.sampler", "search.hours", "search.finalists"),
    *("search.finalists.top", "resources", "resources.cpus", "resources.gpus", "resources.memory"),
    *("resources.max_concurrent", "resources.accelerator_type", "none", "search.int", "task.metrics.str"),
]
PIECES = [
    *("0", "-1", "1e308", "-1e308", "1e-320", "1e400", ".inf", "-.inf", ".nan", "18446744073709551616", "9" * 5000),
    *("1000000000", "0x" + "f" * 400, "8.0", "'8'", "'1e-3'", "''", "true", "null", "~", "yes", "paper", "2001-99-99"),
    *("{low: 1, high: 1000000000}", "{low: 1, high: 2, step: 1e-320}", "{low: '0', high: '1'}", "{low: 1, high: 512}"),
    *("{low: -1e308, high: 1e308}", "{choices: [1, 1.0, true, '1']}", "{choices: []}", "{low: {}, high: []}"),
    *("[" * 800, "[1, [2, {a: b}]]", "{}", "[]", "{first: 1000000000000}", "[a, '', 3]", "{a: " * 300, "&a [*a]", "*b"),
    *("!!int abc", "!!float x", "!!bool zz", "!!binary aa", "!!set {a}", "!x y", "!!python/object:os.system x", "="),
    *('"\\0"', '"\\e[31m"', '"\\ud800"', "[/red]", "x" * 30_000, "os:system", "a.b:c", "json:loads", "../x", "\t"),
    *("&a [x,x,x,x,x,x,x,x,x]", "[*a,*a,*a,*a,*a,*a,*a,*a]", "{<<: [{a: 1}, {b: 2}]}", "? [1]\n: 2", "3: 4", "<<"),
    *("{choices: [[1]]}", "# x", "--- a", "%", "é"),
]  # fmt: skip
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
nested = st.recursive(plain, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3))
values = st.sampled_from(PIECES) | nested.map(json.dumps) | st.text(max_size=20)
keys = st.sampled_from(KEYS) | st.text(max_size=10)
sets = st.lists(st.tuples(keys, values).map("=".join) | st.text(max_size=10), min_size=1, max_size=4)


@st.composite
def study_files(draw: st.DrawFn) -> str:
    """A study file of which some pieces are replaced, left out or doubled, or whole values by others."""
    if draw(st.booleans()):
        raw: Any = read_yaml(STUDY, "fuzz")
        for _ in range(draw(st.integers(1, 3))):
            *path, last = draw(st.sampled_from(KEYS)).split(".")
            at = raw
            for key in path:
                at = at[key] if isinstance(at, dict) and isinstance(at.get(key), dict) else raw
            at[last] = draw(nested)
        return json.dumps(raw)
    text = STUDY
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(values) + text[end:]
    return text


@contextlib.contextmanager
def one_outcome() -> Iterator[None]:
    """Fails unless a block ends, within the bounds, or raises a SweepError whose message is short."""
    memory, began = _peak(), time.process_time()
    try:
        yield
    except SweepError as error:
        lines = str(error).split("\n")
        assert len(lines) <= MOST_LISTED + 3
        assert max(map(len, lines)) <= LONGEST
    assert time.process_time() - began < SECONDS
    assert _peak() - memory < BYTES


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A workspace with the study, which has no trial yet."""
    found = Settings(workspace=tmp_path_factory.mktemp("fuzz"))
    config, problems = parse_study(read_yaml(STUDY, "fuzz"))
    assert config is not None, problems
    Study(config, get_storage(found.storage), workspace=found.workspace)
    (found.workspace / "study.yaml").write_text(STUDY)
    load_study(str(found.workspace / "study.yaml"), found)  # the first time prepares the data
    return found


@fuzzed
@given(text=study_files())
def test_a_study_file_is_a_config_or_a_listed_error(text: str, here: Settings) -> None:
    file = here.workspace / "fuzzed.yaml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    with one_outcome():
        config, _ = load_study(str(file), here)
        assert isinstance(config, StudyConfig)
        assert StudyConfig.model_validate_json(config.model_dump_json()) == config  # as the storage keeps it


@fuzzed
@given(changes=sets, trials=st.none() | st.integers(1), design=st.integers(0))
def test_options_give_a_config_or_a_listed_error(
    changes: list[str], trials: int | None, design: int, here: Settings
) -> None:
    with one_outcome():
        load_study(str(here.workspace / "study.yaml"), here, sets=changes, trials=trials, design=design)


@fuzzed
@given(changes=st.lists(st.tuples(st.sampled_from(["lambda1", "depth", "width", "training.init"]) | keys, values)))
def test_enqueue_queues_a_trial_of_the_space_or_lists_errors(changes: list[tuple[str, str]], here: Settings) -> None:
    with one_outcome():
        _, queued = enqueue("fuzz", here, ["=".join(pair) for pair in changes])
        assert all(type(queued[name]) is int for name in ("depth", "width") if name in queued)
        assert type(queued.get("lambda1", 1.0)) is float
        assert queued.get("depth", 1) in (1, 2, 3)
        assert queued.get("width", 8) in (8, 16)
        assert queued.get("training.init", "he") in ("he", "default")


names = st.sampled_from(["depth", "lambda1", "training.init", "x", "depth.y.z"])
signs = st.sampled_from(["<", "<=", "==", "!=", ">", "in", "not in", "is", "=", "<>", "and"])
sides = names | values | st.sampled_from(["{[1]}", "{1: [2]}", "(1, 'he')", "1j", "b'x'", "9**9**9", "-" * 300 + "1"])
clauses = st.tuples(sides, signs, sides).map(" ".join)


@fuzzed
@given(text=st.lists(clauses, min_size=1, max_size=3).map(" and ".join) | st.text())
def test_where_is_a_condition_or_a_listed_error(text: str) -> None:
    with one_outcome():
        conditions = parse_conditions(text, {"depth": 0, "lambda1": 0, "training.init": 0})
        assert all(condition(value) in (True, False) for condition in conditions.values() for value in (3, 0.1, "he"))
