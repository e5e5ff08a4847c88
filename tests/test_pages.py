"""Every page: its size, links, commands and code. What needs a cloud or a head is only parsed, and named."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from ruamel.yaml import YAML

from sweep.cli.app import app
from sweep.config.sections import DataConfig
from sweep.config.study_config import StudyConfig

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "sweep/README.md",
    "sweep/config/README.md",
    "sweep/study/README.md",
    "sweep/analysis/README.md",
    "sweep/analysis/report/README.md",
    "sweep/training/README.md",
    "losses/README.md",
    "models/README.md",
    "cluster/README.md",
]
LARGEST = 12 * 1024  # bytes
MADE = """import sweep
short = ["search.design=2", "search.finalists.top=0", "training.max_epochs=2"]
sweep.run("digits", trials=4, sets=short, options=sweep.RunOptions(executor="local"))
"""  # the study that blocks about results read
# Commands that are parsed here and not run, with the test that runs them or the reason why none does.
NOT_RUN = {
    r"--address (HOST|http|10\.|127\.|\$|ray:)": "tests/cluster/test_cluster.py runs and submits on a cluster",
    r"s3://": "tests/config/test_filesystem.py runs on a stand-in for S3",
    r"^sweep cluster (render|secrets)": "tests/cluster/test_recipes.py renders and validates every recipe",
    r"^sweep services up": "tests/tracking/test_server.py starts it",
    r"^sweep ui": "tests/cli/test_cli.py serves it until it is interrupted",
    r"^sweep simulate": "tests/service/test_simulation.py runs a smaller one",
    r"^sweep (jobs|logs|stop)\b": "tests/cluster/test_cluster.py",
    r"NAME|STUDY": "a name of the reader's",
    r"digits|mnist": "tests/service/test_sweep.py runs the built-in studies shorter",
}


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of indented blocks and of fenced bash that run `sweep`."""
    outside = re.sub(r"^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for line in re.findall(r"^    (.+)$", outside, re.MULTILINE) if "make " not in line]
    lines += [line.strip() for block in blocks(page, "(?:bash|sh)") for line in block.splitlines()]
    found = [re.search(r"(?:^|[;(\s])(sweep [^|>#)]+)", line) for line in lines if not line.startswith("#")]
    return [match.group(1).strip() for match in found if match]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short(page: str) -> None:
    assert len(text(page).encode()) <= LARGEST


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", text(page)):
        if target and "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text(page), re.M)}
    assert [a for a in re.findall(r"\]\(#([^)]+)\)", text(page)) if a not in anchors] == []


@pytest.mark.parametrize(("page", "command"), [(page, line) for page in PAGES for line in commands(page)])
def test_a_command_has_the_options_that_a_page_gives_it(page: str, command: str) -> None:
    words, parser = shlex.split(command.rstrip(".`"))[1:], typer.main.get_command(app)
    while hasattr(parser, "commands"):
        parser = parser.commands[words.pop(0)]
    parser.make_context(command, words)  # parses, and calls nothing


WITHOUT_SPACE = {
    "name": "page",
    "model": {"name": "mlp", "width": 8},
    "data": {"name": "digits"},
    "objective": {"metric": "val_loss", "direction": "minimize"},
}


@pytest.mark.parametrize("page", PAGES)
def test_yaml_is_what_a_study_file_takes(page: str) -> None:
    for block in blocks(page, "yaml"):
        raw = YAML(typ="safe", pure=True).load(block)
        if raw is not None and {"name", "space"} <= set(raw):
            StudyConfig.model_validate(raw)
        elif raw is not None and set(raw) == {"data"}:
            DataConfig.model_validate(raw["data"])
        elif raw is not None and set(raw) == {"space"}:
            StudyConfig.model_validate({**WITHOUT_SPACE, **raw})
        else:
            assert raw is None, f"a block that no test reads: {block}"


def test_every_key_of_a_study_file_is_explained() -> None:
    page, schema = text("sweep/config/README.md"), StudyConfig.model_json_schema()
    sections = {"ModelConfig": "model", "DataConfig": "data", "TaskConfig": "task", "Objective": "objective"}
    sections |= {"GuidanceConfig": "guidance", "TrainingConfig": "training", "SearchConfig": "search"}
    sections |= {"Resources": "resources", "FinalistsConfig": "search.finalists"}
    keys = [f"{prefix}.{key}" for name, prefix in sections.items() for key in schema["$defs"][name]["properties"]]
    keys += [key for key in schema["properties"] if key not in sections.values()]
    assert [key for key in keys if f"`{key}`" not in page and key != "search.finalists"] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's study file, in which its commands run one after the other."""
    folder = tmp_path_factory.mktemp("reader")
    [study] = [block for block in blocks("README.md", "yaml") if block.startswith("name: first")]
    (folder / "first.yaml").write_text(study)
    return folder


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
def test_the_commands_of_the_readme_run_in_their_order(folder: Path) -> None:
    ran = []
    for command in commands("README.md"):
        if any(re.search(pattern, command) for pattern in NOT_RUN):
            continue
        words = [str(Path(sys.executable).with_name("sweep")), *shlex.split(command)[1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        ran.append(command.split()[1])
    assert {"run", "status", "best", "sensitivity", "report", "resume", "confirm"} <= set(ran)
    assert (folder / "best.yaml").is_file()


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", ["README.md", "sweep/analysis/README.md"])
def test_python_of_the_pages_runs(page: str, folder: Path) -> None:
    """Blocks that need no network, loader or loop of the reader's own, in a workspace with a study `digits`."""
    ran = 0
    for block in blocks(page, "python"):
        if "optimizer" in block:  # tests/losses/test_own_loops.py runs those
            continue
        words = [sys.executable, "-W", "ignore", "-c", block]
        if ran == 0 and page != "README.md":
            words[-1] = f"{MADE}{block}"
        done = subprocess.run(
            words, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
        ran += 1
    assert ran
