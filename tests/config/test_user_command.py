"""The command of a script: its words for a trial, its files, and what is wrong with it before any trial."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.cluster.connect import collect
from sweep.config import user_code
from sweep.config.settings import Settings
from sweep.config.study_file import json_schema, parse_study, to_yaml
from sweep.config.user_command import digest, files_to_send, fill
from sweep.service.preflight.space_checks import check_study
from sweep.study.provenance import changes, environment

STUDY: dict[str, Any] = {
    "name": "mine",
    "command": ["python", "train.py", "--lr", "{lr}"],
    "objective": {"metric": "val_loss", "direction": "minimize"},
    "space": {"lr": {"low": 0.1, "high": 1.0}},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with the script, and no other in which words of a command are searched for."""
    monkeypatch.setattr(user_code, "_folders", [])
    user_code.search_in(tmp_path)
    (tmp_path / "train.py").write_text("print(1)")
    return tmp_path


def problems_of(changed: dict[str, Any], settings: Settings | None = None) -> tuple[list[str], list[str]]:
    config, problems = parse_study({**STUDY, **changed})
    found, warnings = check_study(config, settings or Settings()) if config else ([], [])
    return problems + found, warnings


def test_words_have_values_and_the_paths_of_files(here: Path) -> None:
    values = {"lr": 1e-5, "on": True, "none": None, "act": "relu"}
    words = ["python3", "train.py", "--lr={lr}", "{on}{none}", "{act}", '{"lr": {"raw": 1}}', "{{lr}}", "other.py"]
    assert fill(words, values) == [
        sys.executable,
        str(here / "train.py"),
        "--lr=1e-05",
        "truenull",
        "relu",
        '{"lr": {"raw": 1}}',
        "{lr}",
        "other.py",
    ]
    (here / "a.yaml").touch()
    (here / "data").mkdir()
    words = ["sh", "train.py", "--config=a.yaml", "--of={of}", "{of}", "./data", "data", "--out=model.js"]
    file, folder = str(here / "a.yaml"), str(here / "data")
    found = [str(here / "train.py"), f"--config={file}", f"--of={file}", file, folder, "data", "--out=model.js"]
    assert fill(words, {"of": "a.yaml"}) == ["sh", *found]
    (here / "python").touch()
    assert fill(["sh", "python", "0.5"], {}) == ["sh", "python", "0.5"], "a word with neither an ending nor a slash"


def test_a_script_is_sent_alone_or_with_its_folder(here: Path) -> None:
    (here / "code" / "deep").mkdir(parents=True)
    (here / "code" / "deep" / "loop.jl").write_text("1")
    (here / "table.csv").write_text("1")
    assert files_to_send(["python", "train.py", "table.csv"]) == [str(here / "train.py")]
    assert files_to_send(["julia", "code/deep/loop.jl"]) == [str(here / "code")]
    assert files_to_send(["python", str(here / "train.py")]) == []
    assert files_to_send(["python", f"../{here.name}/train.py"]) == []


def test_a_worker_finds_what_it_was_sent(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "code").mkdir()
    (here / "code" / "loop.sh").write_text("1")
    command, sent = ["sh", "code/loop.sh", "train.py"], tmp_path / "sent"
    sent.mkdir()
    collect(files_to_send(command), sent)
    monkeypatch.setattr(user_code, "_folders", [])
    monkeypatch.syspath_prepend(str(sent))  # as Ray does with the code of a job
    assert fill(command, {}) == ["sh", str(sent / "code" / "loop.sh"), str(sent / "train.py")]


def test_a_changed_script_is_another_code(here: Path) -> None:
    command = ["python", "train.py"]
    before, first = environment(command), digest(command)
    (here / "train.py").write_text("print(2)")
    assert changes(before, environment(command)) == [f"script {first} -> {digest(command)}"]
    assert "sweep.script" not in environment()


def test_a_study_of_a_script_is_read_and_written(here: Path) -> None:
    config, problems = parse_study({**STUDY, "command": ["python", "train.py", 3, "{lr}"]})
    assert problems == []
    assert config is not None
    assert config.command == ("python", "train.py", "3", "{lr}")
    assert (config.kind, config.guided, config.subject) == ("command", False, "python train.py 3 {lr}")
    assert "function" not in config.identity()
    from sweep.config.study_file import read_yaml

    assert parse_study(read_yaml(to_yaml(config), "again")) == (config, [])
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema: pip install jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    assert validator.is_valid(STUDY)
    assert not validator.is_valid({**STUDY, "function": "a:b"})


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"command": ["python", "trian.py", "{lr}"]}, "command: there is no file trian.py in "),
        ({"command": ["python", "train.py", "{lrr}"]}, "command: {lrr} is no hyperparameter (did you mean lr?)"),
        ({"command": ["no-such-program", "{lr}"]}, "command: there is no program no-such-program on the PATH"),
        ({"command": ["./train.py", "{lr}"]}, "train.py is not executable: chmod +x ./train.py"),
        ({"command": "python train.py"}, "command: must be a list of words: [python, train.py, --lr, '{lr}']"),
        ({"command": ["python", {"lr": None}]}, "command: {'lr': None} must be a word: put it in quotes"),
        ({"command": []}, "command: "),
        ({"function": "a:b"}, "command: leave it out, or function: a study trains one of them"),
        ({"model": {"name": "mlp"}}, "model: leave it out: the study's function or command does without it"),
        ({"training": {"lr": 0.1}}, "training: lr: of no effect on code of your own"),
        ({"resources": {"workers": 2}}, "resources: a script is one process to this program"),
        ({"objective": {"metric": "lr", "direction": "minimize"}}, "'lr' is the name of a hyperparameter"),
        ({"space": {"lr": 1, "seed": 3}}, "space.seed: a name of this program's own"),
        ({"search": {"seeds": 2}}, "the command has no {seed}, nor does its script read SWEEP_SEED"),
        ({"search": {"design": 4, "design_seeds": 2}}, "the command has no {seed}"),
    ],
)
def test_what_is_wrong_is_told_before_any_trial(changed: dict[str, Any], problem: str) -> None:
    problems, _ = problems_of(changed)
    assert len(problems) == 1, problems
    assert problem in problems[0]


def test_a_script_may_read_the_seed_itself(here: Path) -> None:
    assert problems_of({"search": {"seeds": 2}, "command": ["python", "train.py", "{lr}", "{seed}"]}) == ([], [])
    (here / "train.py").write_text("import os; os.environ['SWEEP_SEED']")
    assert problems_of({"search": {"seeds": 2}}) == ([], [])


def test_a_file_that_a_script_will_write_need_not_be_there() -> None:
    assert problems_of({"command": ["python", "train.py", "{lr}", "--out", "model.js"]}) == ([], [])


def test_a_program_may_be_on_the_workers_of_a_cluster_alone() -> None:
    assert problems_of({"command": ["no-such-program", "{lr}"]}, Settings(address="ray://head:10001")) == ([], [])


def test_a_hyperparameter_that_nothing_reads_is_a_warning(here: Path) -> None:
    space = {"lr": {"low": 0.1, "high": 1.0}, "depth": {"low": 1, "high": 4}, "width": 8, "lambda1": 0.1}
    problems, [warning] = problems_of({"space": space})
    assert problems == []
    assert warning.startswith("space.depth cannot act: the command has no {depth}")
    (here / "train.py").write_text("import os; os.environ['SWEEP_HYPERPARAMETERS']")
    assert problems_of({"space": space}) == ([], [])
