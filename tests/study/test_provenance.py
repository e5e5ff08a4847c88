"""The code of a study's runs; a study that is run with another code is in test_archive."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.study.provenance import all_tags, changes, code_at, environment, followed_by

OLD = {"sweep.version.torch": "2.5.0", "sweep.git_commit": "a1", "since": 100.0}
NEW = {"sweep.version.torch": "2.6.0", "sweep.git_commit": "a1", "since": 200.0}


def test_the_present_code_is_known_by_versions_and_commit() -> None:
    here = environment()
    assert here["sweep.version.optuna"] == importlib.metadata.version("optuna")
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", here["sweep.git_commit"])


def test_pages_of_results_that_have_been_written_since_the_commit_do_not_count(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    subprocess.run(["git", "clone", "--quiet", str(repository), str(tmp_path / "clone")], check=True)
    (tmp_path / "clone" / "sweep" / "study" / "provenance.py").write_text(
        (repository / "sweep" / "study" / "provenance.py").read_text()
    )
    who = ["-c", "user.name=a test", "-c", "user.email=a@test"]
    subprocess.run(
        ["git", *who, "commit", "--quiet", "--all", "--allow-empty", "-m", "x"], cwd=tmp_path / "clone", check=True
    )

    def commit() -> str:
        program = "from sweep.study.provenance import environment as e; print(e()['sweep.git_commit'])"
        words = [sys.executable, "-c", program]
        return subprocess.run(words, cwd=tmp_path / "clone", capture_output=True, text=True, check=True).stdout

    clean = commit()
    assert re.fullmatch("[0-9a-f]{40}\n", clean)
    for name in ("losses/RESULTS.md", "tests/evidence/RESULTS/space.json"):
        (tmp_path / "clone" / name).write_text("written anew")
    assert commit() == clean
    (tmp_path / "clone" / "losses" / "entropy.py").write_text("# changed")
    assert commit() == clean.strip() + "-dirty\n"


def test_the_users_sources_are_part_of_it_and_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that is finished is told of, and sent to MLflow, without them."""
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "module_of_a_user.py"
    module.write_text("def train(trial): ...")
    paths = ["module_of_a_user:train"]
    there, never = environment(import_paths=paths)["sweep.sources"], environment()["sweep.sources"]
    assert len({there, never}) == 2
    module.write_text("def train(trial): return 1")
    assert environment(import_paths=paths)["sweep.sources"] not in (there, never)
    module.unlink()
    assert (
        environment(import_paths=paths)["sweep.sources"]
        == environment(import_paths=["gone_module:train"])["sweep.sources"]
    )


def test_a_code_is_added_when_it_changes_and_again_when_it_changes_back() -> None:
    present = {k: v for k, v in NEW.items() if k != "since"}
    assert followed_by([OLD, NEW], present) == [OLD, NEW]
    for before in ([], [OLD], [NEW, OLD]):
        *kept, last = followed_by(before, present)
        assert kept == before
        assert {k: v for k, v in last.items() if k != "since"} == present
        assert float(last["since"]) > 200


def test_a_time_has_the_code_that_the_study_then_ran_with() -> None:
    assert [code_at([OLD, NEW], t)["sweep.version.torch"] for t in (150, 200, 300)] == ["2.5.0", "2.6.0", "2.6.0"]
    assert code_at([OLD, NEW], 50)["sweep.version.torch"] == "2.5.0"  # a clock that was set back
    assert code_at([], 50) == {}


def test_what_has_changed_is_said_in_few_words() -> None:
    assert changes(code_at([OLD], 0), code_at([NEW], 0)) == ["torch 2.5.0 -> 2.6.0"]
    assert changes({}, {"sweep.git_commit": "b2"}) == ["git_commit none -> b2"]
    assert all_tags([OLD, NEW, OLD]) == {"sweep.version.torch": "2.5.0, 2.6.0", "sweep.git_commit": "a1"}
