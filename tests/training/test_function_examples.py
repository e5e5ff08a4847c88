"""The examples of training functions: few lines from a plain loop; pruned, resumed and confirmed."""

from __future__ import annotations

import difflib
import importlib.util
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import sweep
from sweep.config.study_file import parse_study, read_file, read_yaml
from sweep.config.trial_config import TrialConfig
from sweep.config.user_code import search_in
from sweep.service.preflight.space_checks import check_study

from ..support.training import curve, train

EXAMPLES = Path(sweep.__file__).parent / "builtin" / "examples"
EPOCHS = 3
FULL = [
    pytest.param("lightning_digits", marks=pytest.mark.exhaustive),  # imports of seconds
    pytest.param("huggingface_text", marks=pytest.mark.exhaustive),
]

pytestmark = pytest.mark.filterwarnings("default")  # the libraries' own are not ours


@pytest.fixture(autouse=True)
def _found() -> Iterator[None]:
    search_in(EXAMPLES)
    before = threading.enumerate()
    yield
    left = [thread for thread in threading.enumerate() if thread.name == "trial" and thread not in before]
    assert left == [], "a thread is left"


def example(name: str, **values: object) -> TrialConfig:
    if library := {"lightning_digits": "lightning", "huggingface_text": "transformers"}.get(name):
        pytest.importorskip(library, reason=f"{library}: pip install -e .[examples]")
    config, problems = parse_study(read_file(EXAMPLES / f"{name}.yaml", name))
    assert config is not None, problems
    assert check_study(config, sweep.Settings()) == ([], [])
    least = {
        each: d.low if hasattr(d, "low") else d.choices[0]  # type: ignore[union-attr]
        for each, d in config.searched.items()
    }
    trial = config.trial({**least, "lr": 0.01})
    training = trial.training.model_copy(update={"max_epochs": EPOCHS})
    return trial.model_copy(update={"training": training, **values})


@pytest.mark.parametrize("name", ["table", "sequence", "graph", *FULL])
def test_an_example_is_resumed_to_the_same_numbers_and_confirmed(name: str, tmp_path: Path) -> None:
    trial = example(name)
    whole = train(trial, tmp_path / "whole")
    assert (whole[-1].outcome, list(curve(whole))) == ("completed", [1, 2, 3])
    first = train(trial, tmp_path / "parts", reports=1)
    assert len(curve(first)) < EPOCHS
    assert curve(train(trial, tmp_path / "parts", attempt=2)) == curve(whole)
    metric = f"test_{trial.objective.metric.removeprefix('val_')}"
    pair = curve(train(example(name, test=True), tmp_path / "pair"))
    assert all(metric in values for values in pair.values())
    assert {n: v for n, v in pair[EPOCHS].items() if n != metric} == curve(whole)[EPOCHS]


@pytest.mark.parametrize("name", ["lightning_digits", "huggingface_text"])
@pytest.mark.exhaustive
def test_a_library_guides_by_the_callback(name: str, tmp_path: Path) -> None:
    guided = curve(train(example(name), tmp_path / "a"))
    control = curve(train(example(name).control, tmp_path / "b"))
    assert guided[1]["guidance/ratio"] > 0
    assert "guidance/ratio" not in control[1]


def test_the_callbacks_are_imported_by_statements_without_a_cost() -> None:
    code = """
        import sys
        import sweep.integrations
        assert not {"torch", "lightning", "transformers"} & {*sys.modules}
    """
    if importlib.util.find_spec("lightning"):
        code += """
        from sweep.integrations import lightning
        import sweep.integrations.lightning as again
        assert again is lightning is sweep.integrations.lightning
        assert [name for name in sys.modules if name.endswith("integrations.lightning")] == [lightning.__name__]
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=Path(sweep.__file__).parents[1])


def test_ten_lines_make_a_plain_loop_a_trial() -> None:
    before, after = ((EXAMPLES / f"{name}.py").read_text().splitlines() for name in ("plain_loop", "table"))
    start = before.index("def train():")
    changed = [
        line[2:]
        for line in difflib.ndiff(before[start : before.index('if __name__ == "__main__":')], after[start:])
        if line.startswith("+ ") and '"""' not in line
    ]
    assert 0 < len(changed) <= 10, changed


def test_the_plain_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("plain_loop", EXAMPLES / "plain_loop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.train()
    assert len(capsys.readouterr().out.splitlines()) == 30


def test_the_function_of_the_page_trains(tmp_path: Path) -> None:
    page = (Path(sweep.__file__).parent / "training" / "README.md").read_text()
    [code], [study, _] = (
        re.findall(rf"^```{of}\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for of in ("python", "yaml")
    )
    (tmp_path / "page_of_functions.py").write_text(code)
    search_in(tmp_path)
    config, problems = parse_study(read_yaml(study.replace("mypkg.loop", "page_of_functions"), "the page"))
    assert config is not None, problems
    trial = config.trial({"lambda1": 1e-3, "depth": 2, "lr": 1e-3}).model_copy(update={"test": True})
    reports = train(trial, tmp_path / "trial")
    assert reports[-1].outcome == "completed"
    assert curve(reports)[30]["val_mse"] < curve(reports)[1]["val_mse"]
