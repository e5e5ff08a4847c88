"""`sweep init` writes a study file that runs as it is, and shows true defaults; `sweep schema --write` completes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sweep import service
from sweep.config.errors import ConfigError
from sweep.config.settings import Settings
from sweep.config.study_file import parse_study, read_file, read_yaml
from sweep.models import MODELS, SHARED_OPTIONS
from sweep.models.blocks import ACTIVATIONS
from sweep.service import load_study
from sweep.service.starter import STARTS, write_starter

from ..conftest import Package
from ..support.commands import Ended, sweep_here
from ..support.image_files import image_folder, voc_folder

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

EXAMPLES = Path(__file__).parents[2] / "sweep/builtin/examples"
ONE = ("--trials", "1", "--set", "search.finalists.top=0")
NET = """
    from torch import nn

    class Net(nn.Sequential):
        '''A net.

        Args:
            slope: Of the activation below 0,
                and not above.
        '''

        def __init__(self, depth, width, in_shape, num_outputs, slope=0.1):
            super().__init__(nn.Flatten(), nn.Linear(64, num_outputs))
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path / "results", data=tmp_path / "data")


def data_for(model: str, folder: Path) -> str:
    """Digits, or for a network that needs masks a folder of them."""
    return str(voc_folder(folder, {"train": 12, "val": 4})) if model == "unet" else "digits"


def test_every_model_has_a_start() -> None:
    assert list(STARTS) == list(MODELS)
    assert re.findall(r"\w+", SHARED_OPTIONS["activation"].replace(" or ", " ")) == list(ACTIVATIONS)


@pytest.mark.parametrize("model", MODELS)
def test_the_file_has_no_warning_and_its_comments_are_the_defaults(
    model: str, settings: Settings, tmp_path: Path
) -> None:
    path = write_starter("first", settings, model=model, data=data_for(model, tmp_path / "data/streets"))
    config, warnings = load_study("first.yaml", settings)
    assert (config.name, config.model.name, warnings) == ("first", model, [])
    text = path.read_text()
    shown = re.sub(r"^( +)# (\w+: )", r"\1\2", text, flags=re.MULTILINE)
    before, after = read_file(path, "before"), read_yaml(shown, "after")
    assert {"optimizer", "seed"} == {"optimizer", "seed"} & after["training"].keys() - before["training"].keys()
    assert "dropout" in after["model"].keys() - before["model"].keys()
    with_defaults, problems = parse_study(after)
    assert problems == []
    assert with_defaults is not None
    same = {"model"}  # whose options a config keeps as they were given
    assert with_defaults.model_dump(exclude=same) == config.model_dump(exclude=same)
    trials = [each.trial({**dict.fromkeys(each.searched, 1), "training.lr": 0.1}) for each in (config, with_defaults)]
    assert trials[0].training == trials[1].training


def test_every_key_has_a_meaning(settings: Settings) -> None:
    text = write_starter("first", settings, model="conv_autoencoder", data="digits").read_text()
    keys = [line for line in text.splitlines()[2:] if re.match(r" *(# )?[\w.]+:", line)]
    assert len(keys) > 40
    assert [line for line in keys if not re.search(r"  # \w", line)] == []
    assert max(map(len, text.splitlines()[2:])) <= 120


def test_the_file_trains_in_this_process(settings: Settings, tmp_path: Path) -> None:
    write_starter("first", settings, model="autoencoder", data="digits")
    config, _ = load_study("first.yaml", settings)
    values = {"lambda1": 1e-3, "epsilon": 1e-2, "depth": 4, "width": 32, "training.lr": 3e-3}
    assert values.keys() == config.searched.keys()
    [*_, last] = service.train(config.trial(values), settings, tmp_path / "trial")
    assert (last.outcome, last.epochs[-1].epoch) == ("completed", 20)


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", MODELS)
def test_the_file_runs_one_trial(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def here(*words: str) -> Ended:
        return sweep_here(monkeypatch, capsys, tmp_path / "results", *words, SWEEP_DATA=str(tmp_path / "data"))

    data_for(model, tmp_path / "data/streets")
    wrote = here("init", "first", "--model", model, *(("--data", "streets") if model == "unet" else ()))
    assert (wrote.code, wrote.out) == (0, "Wrote first.yaml. Run it with: sweep run first.yaml\n")
    ran = here("run", "first.yaml", "--executor", "local", *ONE, "--json")
    assert ran.code == 0, ran.err
    [trial] = json.loads(ran.out)["trials"]
    assert (trial["outcome"], trial["epochs"]) == ("completed", 10 if model == "unet" else 20)


def test_a_folder_is_data_of_its_layout(settings: Settings, tmp_path: Path) -> None:
    image_folder(Path("bees"), {"train": (8, 8, 8), "val": (4, 4, 4)})
    write_starter("named.yaml", settings, model="cnn", data="bees")
    config, warnings = load_study("named.yaml", settings)
    assert (config.data.name, config.data.folder) == ("imagefolder", str(Path("bees").absolute()))
    assert warnings == []
    voc_folder(tmp_path / "data/streets", {"train": 12, "val": 4})
    write_starter("masks", settings, model="unet", data="streets")
    config, _ = load_study("masks.yaml", settings)
    assert (config.data.name, config.data.folder, config.data.year) == ("voc", "streets", 2007)


def test_a_model_of_ones_own(write_package: Package, settings: Settings) -> None:
    text = write_starter("mine", settings, model=f"{write_package(nets=NET)}.nets:Net", data="digits").read_text()
    assert re.search(r"^  # slope: 0.1 +# Of the activation below 0, and not above\.$", text, re.MULTILINE)
    config, problems = parse_study(read_yaml(text, "mine.yaml"))
    assert (config is None, problems) == (False, [])


@pytest.mark.exhaustive
def test_a_function_of_ones_own(write_package: Package, settings: Settings, tmp_path: Path) -> None:
    loop = f"{write_package(table=(EXAMPLES / 'table.py').read_text())}.table:train"
    text = write_starter("mine", settings, function=loop).read_text()
    config, warnings = load_study("mine.yaml", settings)
    assert (config.function, config.objective.metric, config.objective.direction) == (loop, "val_mse", "minimize")
    assert set(config.searched) == {"lambda1", "depth", "width", "lr"}
    assert warnings == []
    assert re.search(r"^  lr: .*  # Your code's: check the range", text, re.MULTILINE)
    values = {"lambda1": 1e-3, "depth": 2, "width": 16, "lr": 1e-2}
    [*_, last] = service.train(config.trial(values), settings, tmp_path / "trial")
    assert (last.outcome, last.epochs[-1].epoch) == ("completed", 20)
    for words, part in {("lop:train", "mlp"): "leave them out", ("nowhere:train", None): "no module nowhere"}.items():
        with pytest.raises(ConfigError, match=part):
            write_starter("other", settings, function=words[0], model=words[1])
    assert not Path("other.yaml").exists()


REFUSED = {
    ("a/b", "mpl", "digit"): [
        "3 problems",
        "'a/b' must start",
        "unknown model 'mpl' (did you mean mlp?)",
        "(did you mean digits?)",
    ],
    ("lock", "mlp", "digits"): ["'lock' is a name of the workspace's"],
    ("taken", "mlp", "digits"): ["taken.yaml exists"],
    ("first", "unet", "digits"): ["unet is for segmentation, on masks; digits has labels", "--data takes a folder"],
    ("first", "unet", "voc"): ["data.folder: required for voc", "--data takes a folder"],
    ("first", "nowhere.nets:Net", "digits"): ["there is no module nowhere"],
}


@pytest.mark.parametrize(("words", "parts"), REFUSED.items(), ids=map("-".join, REFUSED))
def test_what_does_not_fit_is_one_message_and_no_file(
    words: tuple[str, str, str],
    parts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    Path("taken.yaml").write_text("mine")
    name, model, data = words
    ended = sweep_here(monkeypatch, capsys, tmp_path / "results", "init", name, "--model", model, "--data", data)
    assert (ended.code, ended.out) == (2, "")
    for part in parts:
        assert part in ended.err
    assert [path.name for path in Path().iterdir()] == ["taken.yaml"]
    assert Path("taken.yaml").read_text() == "mine"


def test_the_schema_is_written_beside_a_study_file_and_named_in_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, settings: Settings
) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema: pip install jsonschema")
    written = write_starter("first", settings, model="mlp", data="digits").read_text()
    for _ in range(2):
        ended = sweep_here(monkeypatch, capsys, tmp_path / "results", "schema", "--write", "first.yaml")
        assert ended.code == 0, ended.err
        first, _, rest = Path("first.yaml").read_text().partition("\n")
        assert rest == written
        beside = Path(first.removeprefix("# yaml-language-server: $schema="))
        schema = json.loads(beside.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(read_file(Path("first.yaml"), "first"))
    assert not validator.is_valid({**read_file(Path("first.yaml"), "first"), "serch": {}})
    missing = sweep_here(monkeypatch, capsys, tmp_path / "results", "schema", "--write", "frist.yaml")
    assert missing.code == 2
    assert "frist.yaml: cannot be read" in missing.err


def test_an_unknown_study_leads_to_init_or_to_a_name_like_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, settings: Settings
) -> None:
    write_starter("first", settings, model="mlp", data="digits")
    for word, part in {
        "frist.yaml": "(did you mean first.yaml?)",
        "first": "(did you mean first.yaml?)",
        "zebra.yaml": "sweep init zebra",
        "zebra": "sweep init zebra",
    }.items():
        ended = sweep_here(monkeypatch, capsys, tmp_path / "results", "run", word)
        assert ended.code == 2
        assert f"error: {word}: " in ended.err
        assert part in ended.err


def test_doctor_checks_a_study_file_and_bundles_its_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, settings: Settings
) -> None:
    def doctor(*words: str) -> Ended:
        return sweep_here(monkeypatch, capsys, tmp_path / "results", "doctor", *words)

    write_starter("first", settings, model="mlp", data="digits")
    well = doctor("first.yaml", "--bundle", "bundle.json")
    assert well.code == 0
    assert re.search(r"ok +study +first: mlp on digits, 24 trials, searching lambda1, epsilon, depth, width", well.out)
    assert "first: no such study" in json.loads(Path("bundle.json").read_text())["studies"]["problem"]
    own = doctor(str(EXAMPLES / "table.yaml"))
    assert re.search(r"ok +study +table: table:train, 50 trials", own.out), own.out
    Path("bad.yaml").write_text(Path("first.yaml").read_text().replace("mlp ", "mpl ").replace("seeds:", "sedes:"))
    ill = doctor("bad.yaml")
    assert ill.code == 1
    assert re.search(r"FAIL study +bad.yaml: 2 problems", ill.out)
    assert "did you mean mlp?" in ill.out
    assert "did you mean seeds?" in ill.out
