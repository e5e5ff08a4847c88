"""Weight profiles, against singular values and logarithms computed another way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sweep.analysis.weight_profile import load_profile, profile_weights
from sweep.analysis.weight_profile_figure import draw_profile
from sweep.config.errors import SweepError
from sweep.config.settings import Settings
from sweep.training.reports import EpochMetrics

from ..support.commands import Ended, sweep_here
from ..support.studies import Finished

pytestmark = pytest.mark.filterwarnings("default")  # Ray's and MLflow's own deprecations are not ours


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 32)
    )


def test_entropies_and_singular_values() -> None:
    weights = net().state_dict()
    profile = profile_weights("net", weights)
    assert [(layer.name, layer.kind) for layer in profile.layers] == [
        ("0", "conv"), ("2", "dense"), ("4", "dense"), ("5", "dense")
    ]  # fmt: skip
    for layer in profile.layers[1:]:
        matrix = weights[f"{layer.name}.weight"].double().flatten(1).numpy()
        singular = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(layer.values, singular, rtol=1e-4)
        k = len(singular)
        ridged = 0.5 * np.log(singular**2 + 0.1**2 * (singular**2).sum() / k).sum() / k
        assert layer.entropy == pytest.approx(ridged, abs=1e-5)
    kernel = weights["0.weight"].double().numpy()
    np.testing.assert_allclose(profile.layers[0].values, np.log(np.abs(kernel[:, :, 0, 0])).ravel(), rtol=1e-6)
    assert profile.layers[0].entropy == pytest.approx(np.log(np.abs(kernel[:, :, 0, 0])).mean(), rel=1e-6)


def test_outliers_are_beyond_the_fences_and_dead_taps_are_among_them() -> None:
    weight = torch.full((20, 5, 3, 3), 0.1)
    weight[:, :, 0, 0] *= torch.linspace(0.9, 1.1, 100).view(20, 5)
    weight[0, 0, 0, 0], weight[7, 3, 0, 0] = 0.0, -40.0
    [layer] = profile_weights("taps", {"conv.weight": weight}).layers
    assert sorted(layer.outliers) == pytest.approx([-np.inf, np.log(40.0)])
    inside = np.log(np.linspace(0.09, 0.11, 100)[1:])
    finite = layer.values[np.isfinite(layer.values)]
    quartiles = np.percentile(finite, [25, 50, 75])
    assert layer.box == pytest.approx([inside.min(), *quartiles, inside.max()], rel=1e-5)
    [dead] = profile_weights("dead", {"conv.weight": torch.zeros(2, 3, 3, 3)}).layers
    assert len(dead.outliers) == 6
    assert np.isnan(dead.box).all()


def test_a_network_without_such_weights_is_refused() -> None:
    with pytest.raises(SweepError, match="no dense or convolutional weights among weight, bias"):
        profile_weights("norm", nn.LayerNorm(3).state_dict())


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_drawn_of_any_network(tmp_path: Path, ending: str) -> None:
    history = [EpochMetrics(e, {"val_loss": 1.0, "entropy/4": -1.0 / e, "entropy/5": 0.1}, 0) for e in (1, 2, 3)]
    dead = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Linear(4, 4))
    for layer in dead:
        nn.init.zeros_(layer.weight)
    profiles = [profile_weights("guided", net().state_dict(), history), profile_weights("dead", dead.state_dict())]
    file = tmp_path / f"picture.{ending}"
    draw_profile(profiles, file)
    if ending == "png":
        with Image.open(file) as image:
            assert min(image.size) > 500
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100  # not blank
    else:
        text = file.read_text()
        assert "<svg" in text
    with pytest.raises(SweepError, match=r"picture.odd.*not supported"):
        draw_profile(profiles, tmp_path / "picture.odd")


def test_a_run_is_drawn_beside_its_control(
    tiny: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [finalist, *_] = [t for t in tiny.left.controls if t.user_attrs["kind"] == "finalist"]
    name, out = f"tiny.controls-{finalist.number:04d}", tmp_path / "run.png"
    ended: Ended = sweep_here(monkeypatch, capsys, tiny.workspace, "profile", name, "--out", str(out), "--json")
    assert ended.code == 0
    guided, control = json.loads(ended.out)
    assert guided["title"] == f"finalist {name}"
    number = int(control["title"].split("-")[-1])
    assert control["title"].startswith("control tiny.controls-")
    twin = tiny.left.controls[number].user_attrs
    assert (twin["kind"], twin["seed"]) == ("control", finalist.user_attrs["seed"])
    last = max(int(epoch) for epoch in guided["epochs"])
    counts = {layer["kind"]: len(layer.get("singular_values") or layer["taps"]) for layer in guided["layers"]}
    assert counts["conv"] == 5
    assert counts["dense"] == min(guided["layers"][-1]["shape"])
    logged = tiny.left.runs[name].history
    for layer in guided["layers"]:  # what the weights of the last epoch say is what the trial logged of them
        assert guided["epochs"][str(last)][layer["name"]] == logged[f"entropy/{layer['name']}"][-1][1]
        assert layer["entropy"] == pytest.approx(guided["epochs"][str(last)][layer["name"]], abs=2e-4)
    assert out.stat().st_size > 10_000
    text = sweep_here(monkeypatch, capsys, tiny.workspace, "profile", name, "--out", str(out)).out
    assert "entropy, nats per dimension" in text
    assert "singular values" in text


def test_a_checkpoint_and_a_network_by_its_import_path(tiny: Finished, tmp_path: Path) -> None:
    settings = Settings(workspace=tiny.workspace)
    [file, *_] = sorted((tiny.workspace / "tiny").glob("*/attempt-*/*.pt"))
    [profile] = load_profile(str(file), settings, {})
    assert profile.epochs
    [profile] = load_profile("torchvision.models:resnet18", settings, {})
    assert len(profile.layers) == 21
    [profile] = load_profile(
        "models.mlp:MLP", settings, {"depth": 2, "width": 8, "in_shape": (1, 4, 4), "num_outputs": 3}
    )
    assert [layer.shape for layer in profile.layers] == [(8, 16), (8, 8), (3, 8)]


def test_after_gc_the_best_are_drawn_and_of_the_others_it_is_said_why_not(
    tiny: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(tiny.workspace, tmp_path / "results"))
    best, *_, worst = sorted(tiny.left.trials, key=lambda t: t.value or 0)
    settings = Settings(workspace=copy)
    assert [p.title.split()[0] for p in load_profile(f"tiny-{best.number:04d}", settings, {})] == ["trial", "control"]
    assert sweep_here(monkeypatch, capsys, copy, "gc", "tiny", "--keep", "1").code == 0
    [profile] = load_profile(f"tiny-{best.number:04d}", settings, {})
    assert profile.title == f"trial tiny-{best.number:04d}, whose control has no weights left"
    file = next((copy / "tiny" / f"{worst.number:04d}").glob("*/*.pt"))
    for source in (f"tiny-{worst.number:04d}", str(file)):
        refused = sweep_here(monkeypatch, capsys, copy, "profile", source, "--out", str(tmp_path / "no.png"))
        assert refused.code == 2
        assert f"{file} holds its metrics alone; sweep gc has removed its weights" in refused.err


def test_sizes_are_given_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [word for size in ("depth=2", "width=8", "in_shape=[1,4,4]", "num_outputs=3") for word in ("--set", size)]
    words = ("profile", "models.mlp:MLP", *sizes, "--out", str(tmp_path / "mlp.png"), "--json")
    ended = sweep_here(monkeypatch, capsys, tmp_path, *words)
    assert ended.code == 0, ended.err
    assert [layer["shape"] for layer in json.loads(ended.out)[0]["layers"]] == [[8, 16], [8, 8], [3, 8]]
    refused = sweep_here(monkeypatch, capsys, tmp_path, "profile", "models.mlp:MLP", "--set", "depth")
    assert refused.code == 2
    assert "--set depth: must be key=value" in refused.err


def test_an_error_of_ones_own_network_is_told_by_its_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "profiled_net.py").write_text("def net(depth):\n    raise RuntimeError(f'no {depth}')\n")
    settings = Settings(workspace=tmp_path)
    with pytest.raises(SweepError, match=r"profiled_net\.py, line 2: RuntimeError: no 3\. Sizes are given as"):
        load_profile("profiled_net:net", settings, {"depth": 3})
    with pytest.raises(SweepError, match=r"profiled_net:net: TypeError: net\(\) missing 1 required .* 'depth'\. Sizes"):
        load_profile("profiled_net:net", settings, {})


BAD: dict[str, tuple[str, str]] = {
    "nothing": ("nonsense", "neither a run"),
    "unknown study": ("nobody-0001", "nobody: no such study"),
    "unknown trial": ("tiny-0099", "trials 0 to 5"),
    "no module": ("no.such:Net", "no module no"),
    "no attribute": ("torchvision.models:resnet51", "has no resnet51 .*did you mean resnet5?0|has no resnet51"),
    "sizes": ("models.mlp:MLP", "--set depth=4"),
    "no network": ("json:dumps", "json:dumps: "),
}


@pytest.mark.parametrize(("source", "message"), BAD.values(), ids=BAD.keys())
def test_bad_sources(tiny: Finished, source: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        load_profile(source, Settings(workspace=tiny.workspace), {})


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    with pytest.raises(SweepError, match=r"notes.txt: not a checkpoint"):
        load_profile(str(file), Settings(workspace=tmp_path), {})
