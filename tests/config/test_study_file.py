"""Reading study files: YAML 1.2, options on top, and every problem at once, each with its place and what is allowed."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sweep.config.errors import ConfigError, SweepError
from sweep.config.search_space import Range
from sweep.config.sections import GuidanceConfig
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import built_in, built_in_names, json_schema, override, parse_study, read_file, read_yaml
from sweep.service import load_study

STUDY = """
name: mnist-autoencoder
model: {name: autoencoder, latent: 32}
data: {name: mnist}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-5, high: 1e-1, log: true}
  lambda2: 0.0
  epsilon: {low: 1e-3, high: 10, log: true}
  depth:   {low: 2, high: 8, step: 2}
  width:   {choices: [128, 256]}
  training.lr: {low: 1e-4, high: 1e-2, log: true}
  training.init: {choices: [default, he]}
guidance: default
training: {max_epochs: 20, batch_size: 256, optimizer: adam, seed: 0}
search: {trials: 64, design: 32, sampler: tpe, pruner: median, finalists: {top: 3, seeds: 3}}
resources: {cpus: 1, gpus: auto}
"""


def config_of(text: str, sets: list[str] | None = None) -> StudyConfig:
    raw, misplaced = override(read_yaml(text, "study.yaml"), sets or [])
    config, problems = parse_study(raw)
    assert problems == misplaced == []
    assert config is not None
    return config


def problems_of(changes: str, sets: list[str] | None = None) -> list[str]:
    raw = {**read_yaml(STUDY, "study.yaml"), **read_yaml(changes, "changes")}
    raw, misplaced = override(raw, sets or [])
    config, problems = parse_study(raw)
    assert (config is None) == bool(problems)
    return misplaced + problems


def one_about(problems: list[str], *words: str) -> None:
    """Exactly one of the problems begins with the first word (the key path), and has all the others."""
    path, *others = words
    about = [p for p in problems if p.startswith(f"{path}: ")]
    assert len(about) == 1, problems
    for word in others:
        assert word in about[0]


# -- YAML --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E3", 1000.0), ("1.5e+3", 1500.0), (".5", 0.5), ("010", 10), ("yes", "yes"), ("on", "on")],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = read_yaml(f"x: {text}", "study.yaml")["x"]
    assert (read, type(read)) == (value, type(value))


def test_the_study_file_of_the_readme() -> None:
    config = config_of(STUDY)
    assert config.space["lambda1"] == Range(low=1e-5, high=0.1, log=True)
    assert repr(config.space["epsilon"]) == repr(Range(low=1e-3, high=10.0, log=True))
    assert config.guidance == GuidanceConfig()
    assert (config.search.trials, config.search.finalists.top, config.search.finalists.tuned) == (64, 3, 8)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nmodel: {name: mlp\ndata: 3\n", 3),
        ("name: a\n\n  model: b\n", 3),
        ("name: a\nspace:\n\tlambda1: 1\n", 3),
        ("name: a\nname: b\n", 2),
        ("name: 'a\n", 2),
    ],
)
def test_a_syntax_error_names_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as error:
        read_yaml(text, "my.yaml")
    assert str(error.value).startswith("my.yaml: 1 problem")
    assert error.value.problems[0].startswith(f"line {line}, column ")
    assert "not valid YAML" in error.value.problems[0]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "3", "a: 1\n---\nb: 2\n"])
def test_what_is_not_one_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_yaml(text, "study.yaml")


@pytest.mark.parametrize("text", ["x: !!python/object/apply:os.getcwd []", "x: !Custom 3"])
def test_tags_make_no_objects(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(text, "study.yaml")


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # unknown keys, with the nearest one or all that are allowed
        ("serch: {trials: 3}", ("serch", "unknown key", "did you mean search?", "objective")),
        ("foo: 1", ("foo", "unknown key", "allowed: name, function, command, model")),
        ("training: {optimiser: adam}", ("training.optimiser", "did you mean optimizer?")),
        ("search: {finalists: {topp: 3}}", ("search.finalists.topp", "did you mean top?", "seeds")),
        ("guidance: {lambda3: 1}", ("guidance.lambda3", "unknown key", "did you mean lambda")),
        ("space: {lamda1: 0.1}", ("space.lamda1", "unknown hyperparameter", "did you mean lambda1?")),
        ("space: {lr: 0.1}", ("space.lr", "unknown hyperparameter", "did you mean training.lr?")),
        ("space: {model.width: 64}", ("space.model.width", "unknown hyperparameter", "did you mean width?")),
        ("space: {width: [64, 128]}", ("space.width", "must be one value", "{choices: [64, 128]}")),
        ("space: {training.max_epochs: 3}", ("space.training.max_epochs", "unknown hyperparameter")),
        ("space: {training.seed: 3}", ("space.training.seed", "unknown hyperparameter")),
        ("space: {guidance.lambda1: 3}", ("space.guidance.lambda1", "unknown hyperparameter", "lambda1")),
        ("space: {lambda1: {low: 1, high: 2, stpe: 1}}", ("space.lambda1.stpe", "did you mean step?", "log")),
        ("space: {width: {choice: [8]}}", ("space.width", "low and high, or choices")),
        ("space: {width: {choices: [1], log: true}}", ("space.width.log", "unknown key", "choices")),
        # wrong types
        ("training: {max_epochs: many}", ("training.max_epochs", "integer", "'many'")),
        ("training: {max_epochs: 2.5}", ("training.max_epochs", "2.5")),
        ("training: {lr: [1]}", ("training.lr", "number")),
        ("training: 3", ("training", "mapping", "3")),
        ("model: autoencoder", ("model", "mapping", "'autoencoder'")),
        ("space: [1]", ("space", "mapping")),
        ("data: {name: mnist, augment: crop}", ("data.augment", "list", "'crop'")),
        ("data: {name: mnist, augment: [crop, flop]}", ("data.augment.1", "'crop' or 'flip'", "'flop'")),
        ("search: {trials: true}", ("search.trials", "true")),
        ("guidance: {every: 2.5}", ("guidance.every", "auto", "2.5")),
        ("guidance: {every: often}", ("guidance.every", "auto", "'often'")),
        ("resources: {gpus: some}", ("resources.gpus", "auto", "'some'")),
        ("guidance: papr", ("guidance", "'papr'", "default, paper")),
        ("name: 3", ("name", "string", "3")),
        ("space: {lambda1: {low: tiny, high: 1}}", ("space.lambda1.low", "number", "'tiny'")),
        ("space: {lambda1: {low: 0.1, high: 1, log: maybe}}", ("space.lambda1.log", "'maybe'")),
        ("space: {lambda1: {high: 1}}", ("space.lambda1.low", "required")),
        ("space: {lambda1: tiny}", ("space.lambda1", "'tiny'", "number")),
        ("space: {lambda1: [1, 2]}", ("space.lambda1", "[1, 2]", "number")),
        ("space: {width: {choices: 8}}", ("space.width.choices", "list", "8")),
        ("space: {width: {choices: []}}", ("space.width.choices", "at least 1")),
        ("space: {width: {choices: [8, 8.0]}}", ("space.width.choices", "differ")),
        ("space: {depth: {low: 1.5, high: 3}}", ("space.depth", "1.5", "whole number")),
        ("space: {depth: 0}", ("space.depth", "0", "at least 1")),
        ("space: {depth: null}", ("space.depth", "None", "at least 1")),
        # ranges
        ("space: {lambda1: {low: 1, high: 0.1}}", ("space.lambda1", "low (1.0)", "below high (0.1)")),
        ("space: {lambda1: {low: 1, high: 1}}", ("space.lambda1", "low (1.0)", "below high (1.0)")),
        ("space: {lambda1: {low: 0, high: 1, log: true}}", ("space.lambda1", "log scale", "low > 0", "0.0")),
        ("space: {depth: {low: 1, high: 9, log: true, step: 2}}", ("space.depth", "log and step")),
        ("space: {depth: {low: 1, high: 9, step: 0}}", ("space.depth", "step", "above 0")),
        ("space: {lambda1: {low: -1, high: 1}}", ("space.lambda1", "-1.0", "greater than or equal to 0")),
        ("space: {training.lr: {choices: [0.1, 0]}}", ("space.training.lr", "0.0", "greater than 0")),
        ("space: {training.optimizer: {choices: [adam, sdg]}}", ("space.training.optimizer", "'sdg'", "'sgd'")),
        # names with a list of valid ones
        (
            "search: {sampler: tpee}",
            (
                "search.sampler",
                "'tpe', 'random', 'qmc', 'gp' or 'grid' or an import path, package.module:name",
                "'tpee'",
            ),
        ),
        ("search: {pruner: asha}", ("search.pruner", "'none', 'median', 'successive_halving' or 'hyperband'", "asha")),
        ("objective: {metric: val_loss, direction: up}", ("objective.direction", "'minimize' or 'maximize'", "'up'")),
        ("training: {optimizer: adm}", ("training.optimizer", "'adam', 'adamw' or 'sgd'", "'adm'")),
        # values
        ("training: {lr: -1}", ("training.lr", "greater than 0", "-1")),
        ("training: {batch_size: 0}", ("training.batch_size", "1", "0")),
        ("data: {name: mnist, val_fraction: 1}", ("data.val_fraction", "less than 1", "1")),
        ("resources: {gpus: 1.5}", ("resources.gpus", "fraction", "whole number")),
        ("search: {trials: 3, design: 4}", ("search.design", "design (4)", "trials (3)")),
        ("objective: {direction: minimize}", ("objective.metric", "required")),
        *(
            (f"name: {name}", ("name", "must start with a letter or digit"))
            for name in ("a/b", "'../a'", "a b", "'.hidden'", "'a\\b'", "a.controls", "é", "''")
        ),
    ],
)
def test_a_problem_says_where_it_is_and_what_is_allowed(changes: str, words: tuple[str, ...]) -> None:
    problems = problems_of(changes)
    assert len(problems) == 1, problems
    one_about(problems, *words)


def test_all_problems_are_said_at_once() -> None:
    problems = problems_of(
        """
        name: a/b
        model: 3
        objective: {metric: val_loss, direction: up, at: first}
        space: {lambda1: {low: 1, hihg: 2}, lamda2: 3, depth: {low: 1, high: .inf}, width: {low: 4, high: 2},
                epsilon: {low: -2, high: -3, log: true}}
        guidance: {epsilon: 0, every: 0}
        training: {optimizer: adm, lr: x}
        search: {trials: 2, sampler: tpee, finalists: {top: -1}}
        resources: {cpus: 0}
        serch: 1
        """
    )
    paths = [
        "name",
        "model",
        "objective.direction",
        "objective.at",
        "space.lambda1.hihg",
        "space.lambda1.high",
        "space.lamda2",
        "space.depth",
        "space.width",
        "guidance.epsilon",
        "guidance.every",
        "training.optimizer",
        "training.lr",
        "search.sampler",
        "search.finalists.top",
        "resources.cpus",
        "serch",
    ]
    for path in paths:
        one_about(problems, path)
    assert [p for p in problems if p.startswith("space.epsilon: ")] == [
        "space.epsilon: low (-2.0) must be below high (-3.0)",
        "space.epsilon: a log scale needs low > 0, not -2.0",
    ]
    assert len(problems) == len(paths) + 2


def test_a_size_is_given_once() -> None:
    problems = problems_of("model: {name: mlp, depth: 3, width: 8}\nspace: {depth: 3, width: {choices: [8, 16]}}")
    assert problems == [f"space.{size}: given in model too; keep one of them" for size in ("depth", "width")]


def test_what_only_models_and_data_know_is_said_beside_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: a b\nmodel: {name: mpl}\ndata: {name: minst}\nobjective: {metric: x, direction: up}\nspace: {depth: 0}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_study(str(path), Settings(workspace=tmp_path / "results"))
    message = str(error.value)
    assert message.startswith(f"{path}: 5 problems\n")
    one_about(error.value.problems, "model.name", "unknown model 'mpl'", "did you mean mlp?", "mlp, autoencoder, cnn")
    one_about(error.value.problems, "data.name", "unknown data 'minst'", "did you mean mnist?", "cifar100")
    for path_of_key in ("name", "objective.direction", "space.depth"):
        one_about(error.value.problems, path_of_key)
    assert all(f"\n  - {problem}" in message for problem in error.value.problems)


def test_one_kind_of_problem_does_not_hide_another(tmp_path: Path) -> None:
    """Options, values, values that do not agree with each other, and what only models and data know."""
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: a b\nmodel: {name: mlp, depth: 2, hiden: 3}\ndata: {name: digits, train_size: 5000}\n"
        "objective: {metric: val_los, direction: up}\nspace: {depth: 3, width: 8}\n"
        "search: {trials: 2, design: 3, sampler: tpee}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_study(str(path), Settings(workspace=tmp_path / "results"), sets=["lr", "search.trials=1"])
    starts = ("--set lr", "name", "model.hiden", "data.train_size = 5000", "objective.metric", "objective.direction")
    for start in (*starts, "space.depth", "search.design", "search.sampler"):
        assert len([p for p in error.value.problems if p.startswith(f"{start}: ")]) == 1, (start, error.value.problems)
    assert len(error.value.problems) == len(starts) + 3
    assert any("design (3) must not exceed trials (1)" in p for p in error.value.problems)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: !!int abc", "line 1, column 7: 'abc' is not a whole number"),
        ("name: !!int ''", "'' is not a whole number"),
        ("name: !!float abc", "'abc' is not a number"),
        ("\nname: !!bool zz", "line 2, column 7: 'zz' is not true or false"),
        ("name: !!binary YQ==", "tag:yaml.org,2002:binary"),
        (f"name: {'1' * 5000}", "is not a whole number"),
        (f"name: 0x{'f' * 5000}", "at most 64 bits"),
        ("training: {seed: 18446744073709551616}", "line 1, column 18: a whole number has at most 64 bits"),
        (f"name: {'[' * 800}{']' * 800}", "more than 32 levels"),
        ("name: " + "{a: " * 3000 + "}" * 3000, "more than 32 levels"),
        ("name: &a [*a]", "more than 32 levels"),
        (LAUGHS, "more than 10,000 values, aliases unfolded"),
        (f"name: {'x' * 70_000}", "70,006 characters; at most 65,536 are read"),
        ('name: "\\e[31m"', "a text must not have the character"),
        ('name: "\\ud800"', "a text must not have the character"),
        ("3: 4", "line 1, column 1: a key must be a text"),
        ("? [a]\n: 4", "a key must be a text"),
    ],
)
def test_what_is_no_plain_data_is_refused_at_once_and_briefly(text: str, words: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError) as error:
        read_yaml(text, "study.yaml")
    assert time.process_time() - began < 1
    assert len(error.value.problems) == 1
    assert words in error.value.problems[0]
    assert len(str(error.value)) < 700


def test_a_file_of_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: {'x' * 3_000_000}")
    with pytest.raises(SweepError, match="3,000,006 bytes; a study file has at most 262,144"):
        read_file(path, "study.yaml")


def test_a_date_is_the_text_that_was_written() -> None:
    assert read_yaml("name: 2001-02-03\ntags: [2001-99-99]", "study.yaml") == {
        "name": "2001-02-03",
        "tags": ["2001-99-99"],
    }


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ("space: {lambda1: {low: '0', high: 1}}", "space.lambda1.low"),
        ("space: {training.lr: {low: 1, high: '2'}}", "space.training.lr.high"),
        ("space: {lambda1: {choices: ['0.1', 0.1]}}", "space.lambda1"),
        ("space: {lambda1: '0.1'}", "space.lambda1"),
        ("search: {trials: '4'}", "search.trials"),
        ("resources: {gpus: '1'}", "resources.gpus"),
        ("guidance: {every: '8'}", "guidance.every"),
        ("training: {seed: 'nan'}", "training.seed"),
    ],
)
def test_a_text_is_no_number(changes: str, path: str) -> None:
    problems = problems_of(changes)
    assert len(problems) == 1, problems
    one_about(problems, path, "must be a number, not the text '", "remove the quotes")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("space: {depth: 1e308}", ("space.depth", "at most 512")),
        ("space: {depth: {low: 1, high: 1000000000}}", ("space.depth", "1000000000", "at most 512")),
        ("space: {width: 100000000}", ("space.width", "100000000", "at most 10,000,000")),
        ("model: {name: mlp, width: 100000000}", ("model.width", "100000000", "10000000")),
        ("space: {lambda1: {low: 1, high: 2, step: 1e-320}}", ("space.lambda1", "1e-320", "1,000,000th of high - low")),
        ("space: {model.x: {low: -1e308, high: 1e308}}", ("space.model.x", "too large")),
        ("training: {seed: 4294967296}", ("training.seed", "less than 4294967296")),
        ("training: {max_epochs: 1000001}", ("training.max_epochs", "1000000")),
        ("resources: {cpus: 1e308}", ("resources.cpus", "1024", "1e+308")),
        ("resources: {cpus: 1e-9}", ("resources.cpus", "0.01", "1e-09")),
        ("resources: {gpus: 1e-9}", ("resources.gpus", "0.01", "1024")),
        ("resources: {memory: 1e-320}", ("resources.memory", "0.01")),
        ("search: {trials: 100001}", ("search.trials", "100000")),
    ],
)
def test_a_number_that_nothing_can_do_is_refused_with_the_bound(changes: str, words: tuple[str, ...]) -> None:
    problems = problems_of(changes)
    assert len(problems) == 1, problems
    one_about(problems, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("none: 0", ("none", "unknown key", "allowed: name, function, command, model")),
        ("str: {a: 1}", ("str", "unknown key")),
        ("search: {finalists: {int: 1}}", ("search.finalists.int", "unknown key", "allowed: top")),
        ("space: {width: {low: 1, high: 2, bool: true}}", ("space.width.bool", "unknown key")),
        ("task: {metrics: {float: 3}}", ("task.metrics.float", "must be a valid string")),
        ("space: {width: {choices: [1, [2]]}}", ("space.width.choices.1", "must be a valid")),
    ],
)
def test_a_key_may_have_the_name_of_a_type(changes: str, words: tuple[str, ...]) -> None:
    one_about(problems_of(changes), *words)


def test_fewer_trials_than_the_design_shrink_it_in_proportion(tmp_path: Path) -> None:
    config, notes = load_study("digits", Settings(workspace=tmp_path), trials=28)  # of 112 trials, 80 of the design
    assert (config.search.trials, config.search.design) == (28, 20)
    assert "search.design: 20 of 28 trials, as 80 of 112 before" in notes
    config, notes = load_study("digits", Settings(workspace=tmp_path), trials=90)
    assert (config.search.trials, config.search.design) == (90, 80)
    assert not [note for note in notes if note.startswith("search.design")]


@pytest.mark.parametrize("trials", ["'4'", "null", "{}", "true"])
def test_design_trials_are_added_to_numbers_alone(tmp_path: Path, trials: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("trials: 64", f"trials: {trials}"))
    with pytest.raises(ConfigError, match=r"1 problem\n  - search\.trials: must be a "):
        load_study(str(path), Settings(workspace=tmp_path / "results", data=tmp_path), design=4)


def test_a_message_neither_repeats_a_long_value_nor_lists_everything() -> None:
    long = ConfigError("study.yaml", [f"name: {'x' * 100_000} must start with a letter"] * 1_000)
    assert len(str(long).splitlines()) == 52
    assert str(long).endswith("\n  - and 950 more")
    assert all(len(line) <= 600 for line in str(long).splitlines())
    assert "must start with a letter" in str(long).splitlines()[1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("name: Käse".encode("latin-1"), "line 1 is not UTF-8 (byte 0xe4); save it as UTF-8"),
        (STUDY.encode("utf-16"), "line 1 is not UTF-8 (byte 0xff)"),
        (STUDY.encode() + b"# \xff\n", f"line {STUDY.count(chr(10)) + 1} is not UTF-8"),
    ],
)
def test_a_file_that_is_not_utf8_says_where(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(data)
    with pytest.raises(SweepError, match=re.escape(f"{path}: {words}")):
        load_study(str(path), Settings(workspace=tmp_path / "results"))


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(STUDY.encode("utf-8-sig"))
    assert read_file(tmp_path / "study.yaml", "study.yaml") == read_yaml(STUDY, "study.yaml")


# -- options on top ----------------------------------------------------------------------------------------------------


def test_a_hyperparameter_is_fixed_by_its_name() -> None:
    config = config_of(STUDY, ["lambda1=1e-2", "width=64", "training.lr=1e-3", "training.init=he"])
    fixed = {"lambda1": 0.01, "width": 64, "training.lr": 1e-3, "training.init": "he"}
    assert config.constants == {"lambda2": 0.0, **fixed}
    assert set(config.searched) == {"epsilon", "depth"}


def test_a_hyperparameter_that_the_file_does_not_search_is_fixed_too() -> None:
    config = config_of(STUDY.replace("  width:   {choices: [128, 256]}\n", ""), ["width=8"])
    assert config.constants == {"lambda2": 0.0, "width": 8}


def test_a_searched_size_of_a_stored_study_is_fixed_in_its_space() -> None:
    """A study that comes from the storage has every key, ``model.depth: null`` too."""
    stored, _ = parse_study(read_yaml(STUDY, "study.yaml"))
    assert stored is not None
    assert stored.model.depth is None
    changed, problems = override(stored.model_dump(mode="json"), ["depth=4"])
    fixed, more = parse_study(changed)
    assert (problems, more) == ([], [])
    assert fixed is not None
    assert fixed.constants["depth"] == 4


def test_a_size_is_fixed_where_the_file_gives_it() -> None:
    text = STUDY.replace("latent: 32", "latent: 32, depth: 4").replace("  depth:   {low: 2, high: 8, step: 2}\n", "")
    config = config_of(text, ["depth=6"])
    assert config.trial({"width": 128}).model["depth"] == 6


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("training.max_epochs=3", "training.max_epochs", 3),
        ("training.weight_decay=1e-4", "training.weight_decay", 1e-4),
        ("search.finalists.top=0", "search.finalists.top", 0),
        ("name=other", "name", "other"),
        ("model.latent=16", "model.latent", 16),
        ("guidance=paper", "guidance.measure", "minor"),
        ("guidance.measure=minor", "guidance.measure", "minor"),
        ("guidance.max_ratio=null", "guidance.max_ratio", None),
        ("objective.target=0.02", "objective.target", 0.02),
        ("data.augment=[crop, flip]", "data.augment", ("crop", "flip")),
        ("space.lambda1.low=1e-6", "space.lambda1.low", 1e-6),
        ("space.training.lr.high=0.5", "space.training.lr.high", 0.5),
        ("space.width.choices=[32, 64, 128]", "space.width.choices", (32, 64, 128)),
        ("space.depth={low: 4, high: 6}", "space.depth.low", 4),
        ("lambda2={low: 1e-5, high: 1, log: true}", "space.lambda2.log", True),
        ("space.training.grad_clip=1", "space.training.grad_clip", 1.0),
    ],
)
def test_an_option_changes_one_place(option: str, path: str, value: Any) -> None:
    before, after = config_of(STUDY), config_of(STUDY, [option])
    assert before != after
    section, _, rest = path.partition(".")
    if section == "space":
        name = next(n for n in after.space if rest == n or rest.startswith(f"{n}."))
        here: Any = after.space[name]
        rest = rest.removeprefix(name).removeprefix(".")
        assert {n: d for n, d in after.space.items() if n != name} == {
            n: d for n, d in before.space.items() if n != name
        }
        assert after.model_copy(update={"space": before.space}) == before
    else:
        here = getattr(after, section)
        assert after.model_copy(update={section: getattr(before, section)}) == before
    for part in rest.split(".") if rest else []:
        here = getattr(here, part)
    assert (here, type(here)) == (value, type(value))


def test_an_option_starts_from_the_preset_that_the_file_names() -> None:
    paper = config_of(STUDY.replace("guidance: default", "guidance: paper"))
    changed = config_of(STUDY.replace("guidance: default", "guidance: paper"), ["guidance.max_ratio=2"])
    assert changed.guidance == paper.guidance.model_copy(update={"max_ratio": 2.0})


def test_later_options_win_and_the_file_is_left_alone() -> None:
    raw = read_yaml(STUDY, "study.yaml")
    once, _ = override(raw, ["space.lambda1.low=1e-6", "training.lr=1", "training.lr=2"])
    assert once["space"]["lambda1"]["low"] == 1e-6
    assert once["space"]["training.lr"] == 2
    assert raw == read_yaml(STUDY, "study.yaml")


def test_all_bad_options_are_said_at_once() -> None:
    sets = ["foo", "=3", "name.x=3", "space.lambda2.low=1", "width=[1", "training.seed=7"]
    changed, problems = override(read_yaml(STUDY, "study.yaml"), sets)
    assert changed["training"]["seed"] == 7  # what can be applied is, so that nothing else is said of it
    assert len(problems) == 5
    one_about(problems, "--set foo", "key=value")
    one_about(problems, "--set =3", "key=value")
    one_about(problems, "--set name.x", "no such place")
    one_about(problems, "--set space.lambda2.low", "no such place")
    one_about(problems, "--set width", "not valid YAML")


def test_a_misspelt_option_is_a_problem_of_the_study() -> None:
    one_about(problems_of("{}", ["training.optimiser=sgd"]), "training.optimiser", "did you mean optimizer?")


# -- built-in studies and the schema -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", built_in_names())
def test_a_built_in_study_has_its_own_name_and_nothing_wrong(name: str) -> None:
    path = built_in(name)
    assert path is not None
    assert config_of(path.read_text()).name == name


@pytest.mark.parametrize("name", ["nothing", "../studies/digits", "digits.yaml", "", "."])
def test_no_other_name_is_built_in(name: str) -> None:
    assert "digits" in built_in_names()
    assert built_in(name) is None


def described(schema: dict[str, Any], tree: Any, path: str = "") -> list[str]:
    """Paths of a study that the schema does not describe."""
    root = json_schema()
    options = [schema]
    while any("$ref" in o or "anyOf" in o for o in options):
        options = [root["$defs"][o["$ref"].split("/")[-1]] if "$ref" in o else o for o in options]
        options = [member for o in options for member in o.get("anyOf", [o])]
    if not isinstance(tree, dict):
        return []
    missing = []
    for key, value in tree.items():
        of_key = [o["properties"][key] for o in options if key in o.get("properties", {})] or [
            o["additionalProperties"] for o in options if isinstance(o.get("additionalProperties"), dict)
        ]
        is_open = any(o.get("additionalProperties") is True for o in options)
        missing += [f"{path}{key}"] if not of_key and not is_open else []
        missing += described({"anyOf": of_key}, value, f"{path}{key}.") if of_key else []
    return missing


@pytest.mark.parametrize("text", [STUDY, *(built_in(name).read_text() for name in built_in_names())])  # type: ignore[union-attr]
def test_the_schema_describes_every_key_of_a_study(text: str) -> None:
    raw = YAML(typ="safe", pure=True).load(text)
    assert described(json_schema(), raw) == []
    assert described(json_schema(), {**raw, "serch": 1}) == ["serch"]
    assert described(json_schema(), {"space": {"lambda1": {"lo": 1}}, "search": {"finalists": {"topp": 1}}}) == [
        "space.lambda1.lo",
        "search.finalists.topp",
    ]


def test_the_schema_accepts_what_is_accepted() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema: pip install jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    texts = [STUDY, STUDY.replace("guidance: default", "guidance: paper")]
    for text in [*texts, *(built_in(name).read_text() for name in built_in_names())]:  # type: ignore[union-attr]
        assert list(validator.iter_errors(read_yaml(text, "study.yaml"))) == []
    for wrong in ("guidance: papr", "serch: 1", "training: {lr: x}", "objective: {metric: val_loss, direction: up}"):
        assert list(validator.iter_errors({**read_yaml(STUDY, "a"), **read_yaml(wrong, "b")})) != []
