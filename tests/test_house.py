"""The house rules that no linter holds: folders, sizes of files and functions, and how docstrings begin."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from .support import lanes

ROOT = Path(__file__).parents[1]
FOLDERS = {
    *("cli", "service", "analysis", "study", "execution", "tracking", "integrations", "training", "data", "config"),
    "builtin",
}
PROGRAM = ("models", "losses", "cluster")  # folders of the repository that are found in sweep, too
LINES, LINES_OF_A_FUNCTION = 350, 60
QUESTIONS = ("What", "Whether", "How", "Where", "Who", "Which")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    """Returns the Python files of some folders, each once, although links lead to some of them twice."""
    found = [
        Path(where, name)
        for folder in folders
        for where, _, names in os.walk(ROOT / folder)
        for name in names
        if name.endswith(".py")
    ]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


def documented(tree: ast.Module) -> list[tuple[int, str]]:
    """Returns the line and the text of each docstring of a file."""
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | Function))
    return [(getattr(node, "lineno", 1), text) for node in nodes if (text := ast.get_docstring(node))]


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.fixture(scope="module")
def product() -> dict[Path, str]:
    """The text of each file of the program."""
    found = {path: path.read_text() for path in sources("sweep", *PROGRAM)}
    assert len(found) > 50
    return found


def test_the_top_of_the_repository_has_nine_names() -> None:
    git = shutil.which("git")
    listed = git and subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if not listed or listed.returncode:
        pytest.skip("git: run the tests in a clone, where git is installed")
    top = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    kept = {"pyproject.toml", "sweep", "models", "losses", "cluster", "tests", "README.md", "Makefile", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} == kept


def test_sweep_has_eleven_folders_and_two_modules() -> None:
    entries = [entry for entry in (ROOT / "sweep").iterdir() if entry.name[0] not in "._" or entry.suffix == ".py"]
    assert {entry.name for entry in entries if entry.is_dir() and not entry.is_symlink()} == FOLDERS
    assert {entry.name for entry in entries if entry.is_symlink()} == set(PROGRAM)
    assert {entry.name for entry in entries if entry.suffix == ".py"} == {"__init__.py", "__main__.py"}


def test_every_package_is_installed() -> None:
    """A wheel has the packages that are listed, and no other."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(p.relative_to(ROOT).parts[:-1]) for p in (ROOT / "sweep").rglob("__init__.py")}
    linked = {f"sweep.{name}" for name in PROGRAM}
    assert there - {"sweep.cli.launcher"} | linked == {name for name in listed if name.split(".")[0] == "sweep"}


def test_no_file_is_long(product: dict[Path, str]) -> None:
    lengths = {str(path.relative_to(ROOT)): len(text.splitlines()) for path, text in product.items()}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_functions_fit_a_screen(product: dict[Path, str]) -> None:
    long = {}
    for path, text in product.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                long |= {f"{place(path, node.lineno)} {node.name}": length} if length > LINES_OF_A_FUNCTION else {}
    assert long == {}


@pytest.mark.parametrize("folder", sorted(FOLDERS - {"builtin", "cli", "integrations"}))
def test_a_folder_re_exports_its_face(folder: str) -> None:
    package = importlib.import_module(f"sweep.{folder}")
    lines = (ROOT / "sweep" / folder / "__init__.py").read_text()
    names = getattr(package, "__all__", None) or re.findall(r'"(\w+)"(?=:|[,)])', lines)
    assert names
    for name in names:
        assert getattr(package, name) is not None, name


def test_no_docstring_opens_with_a_question_word() -> None:
    asking = []
    for path in sources("sweep", *PROGRAM, "tests"):
        for line, text in documented(ast.parse(path.read_text())):
            word = text.split(maxsplit=1)[0].strip(",.:;")
            asking += [f"{place(path, line)} {text.splitlines()[0]}"] if word in QUESTIONS else []
    assert asking == []


def test_the_linter_holds_the_vendors_without_an_exception() -> None:
    """`lint-imports` checks them; here is that each vendor has its contract, and that none has an exception."""
    settings = (ROOT / "pyproject.toml").read_text()
    assert "ignore_imports" not in settings
    for vendor in ("optuna", "mlflow", "ray"):
        assert f'forbidden_modules = ["{vendor}"]' in settings


def test_the_tests_that_are_named_for_their_time_are_there() -> None:
    for name in (*lanes.LONGEST, *lanes.SLOW, *lanes.ELSEWHERE):
        file, _, function = name.partition("::")
        assert f"def {function}" in (ROOT / file).read_text(), name
