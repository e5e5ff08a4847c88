"""EntropyGuidance where it is difficult: which layers, singular and NaN weights, low precision, warnings, bad input."""

import copy
import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from sweep.losses import EntropyGuidance, GuidanceWarning
from sweep.losses.entropy import volume

from ..support.guidance_nets import added_gradients, batch, dense_net, quiet_metrics, small_net, task_loss

# --- hazards ---


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("spoil", ["zeros", "zero row", "repeated row"])
def test_singular_weights_raise_nothing_and_spoil_no_gradient(spoil: str, paper: bool) -> None:
    model = dense_net(50, 6, 6, 6, dtype=torch.float32)
    with torch.no_grad():
        weight = model[2].weight
        weight[0] = weight[1]
        if spoil != "repeated row":
            weight[0 if spoil == "zero row" else slice(None)] = 0
    guidance = (EntropyGuidance.paper if paper else EntropyGuidance)(model, epsilon=0.1)
    added = added_gradients(model, guidance)
    assert all(gradient.isfinite().all() for gradient in added.values())
    assert torch.count_nonzero(added["0.weight"])
    metrics = quiet_metrics(guidance)
    assert not any(math.isnan(value) for value in metrics.values())
    if spoil == "zeros":
        assert not torch.count_nonzero(added["2.weight"])
        assert metrics["guidance/skipped"] == 1
        assert metrics["entropy/2"] == -math.inf
    elif not paper:
        assert metrics["guidance/skipped"] == 0


def test_a_nan_weight_is_skipped_but_never_hidden() -> None:
    model = small_net()
    with torch.no_grad():
        model.hidden.weight[0, 0] = math.nan
        model.conv.weight[0, 0, 0, 0] = math.nan
    guidance = EntropyGuidance(model, lambda2=1e-3, max_ratio=None)
    model.zero_grad()
    guidance.add_gradients()
    assert model.out.weight.grad is not None
    assert model.hidden.weight.grad is not None
    assert torch.count_nonzero(model.out.weight.grad)
    assert not torch.count_nonzero(model.hidden.weight.grad)
    metrics = quiet_metrics(guidance)
    assert metrics["guidance/skipped"] == 2
    for name in ("entropy/hidden", "entropy/conv", "guidance/dense", "guidance/conv"):
        assert math.isnan(metrics[name])
    model.zero_grad()
    task_loss(model).backward()
    guidance.add_gradients()
    assert model.hidden.weight.grad.isnan().any()


def test_bf16_autocast_and_bf16_weights() -> None:
    model = small_net(dtype=torch.float32)
    expected = added_gradients(model, EntropyGuidance(model, lambda2=1e-3, max_ratio=None))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        guidance = EntropyGuidance(model, lambda2=1e-3, max_ratio=None)
        model.zero_grad()
        guidance.add_gradients()
        quiet_metrics(guidance)
    assert model.hidden.weight.grad is not None
    torch.testing.assert_close(model.hidden.weight.grad, expected["hidden.weight"], rtol=1e-3, atol=1e-8)
    low = copy.deepcopy(model).bfloat16()
    guidance = EntropyGuidance(low, lambda2=1e-3)
    task_loss(low).backward()
    guidance.add_gradients()
    assert all(
        p.grad is not None and p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in low.parameters()
    )
    assert math.isfinite(quiet_metrics(guidance)["guidance/ratio"])


def test_an_exact_zero_tap_is_moved() -> None:
    model = small_net()
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = 0
    added = added_gradients(model, EntropyGuidance(model, lambda1=0, lambda2=1e-3, epsilon=1e-6))
    assert float(added["conv.weight"][0, 0, 0, 0]) < 0  # descent makes it positive


def test_the_cap_holds_a_tap_that_sgd_would_throw() -> None:
    def largest_tap(max_ratio: float | None) -> float:
        model = small_net()
        with torch.no_grad():
            model.conv.weight[0, 0, 0, 0] = 1e-5
        guidance = EntropyGuidance(model, lambda1=0, lambda2=1, epsilon=1e-6, max_ratio=max_ratio)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(50):
            optimizer.zero_grad()
            task_loss(model).backward()
            guidance.add_gradients()
            optimizer.step()
        return float(model.conv.weight.detach().abs().max())

    assert largest_tap(1.0) < 2 < 10 < largest_tap(None)


@pytest.mark.parametrize("max_ratio", [0.1, 1.0, None])
def test_a_parametrisation_may_train_a_single_number(max_ratio: float | None) -> None:
    """A learned scale, whose gradient is the largest of all."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * self.scale

    model = dense_net(50, 8, 6)
    with torch.no_grad():
        model[0].weight.mul_(20)
        model[2].weight.mul_(20)
    parametrize.register_parametrization(model[2], "weight", Scale())
    scale = model[2].parametrizations.weight[0].scale
    guidance = EntropyGuidance(model, lambda1=1e3, form="log", max_ratio=max_ratio)
    for _ in range(4):
        added = added_gradients(model, guidance)
        largest = max(model.named_parameters(), key=lambda item: float((item[1].grad - added[item[0]]).norm()))
        assert largest[1] is scale
    weight = model[2].parametrizations.weight.original.detach()
    (expected,) = torch.autograd.grad(-1e3 / 12 * volume(weight * scale, 0.1), scale)
    if max_ratio is None:
        torch.testing.assert_close(added["2.parametrizations.weight.0.scale"], expected)
    else:
        names = [name for name in added if "bias" not in name]
        norms = [
            sum(float(x.square().sum()) for x in parts) ** 0.5
            for parts in ([added[n] for n in names], [model.get_parameter(n).grad - added[n] for n in names])
        ]
        assert norms[0] == pytest.approx(max_ratio * norms[1], rel=1e-6)


def test_weight_decay_has_its_fixed_point() -> None:
    model = nn.Linear(6, 4, bias=False).double()
    guidance = EntropyGuidance(model, lambda1=0.01, form="log", ridge=0.0, every=1, max_ratio=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.04)
    for _ in range(2000):
        optimizer.zero_grad()
        guidance.add_gradients()
        optimizer.step()
    sigma = torch.linalg.svdvals(model.weight.detach())
    torch.testing.assert_close(sigma, torch.full_like(sigma, math.sqrt(0.01 / (4 * 0.04))), rtol=1e-6, atol=0)


def test_a_norm_takes_the_brake_off_and_target_puts_it_on_again() -> None:
    """The task does not hold the scale of weights behind a norm: guidance by log makes them grow, by target not."""

    def growth(**options: Any) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(50, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 6)).double()
        guidance = EntropyGuidance(model, lambda1=0.3, layers=["0"], max_ratio=None, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = float(model[0].weight.detach().norm())
        for _ in range(300):
            optimizer.zero_grad()
            task_loss(model).backward()
            guidance.add_gradients()
            optimizer.step()
        return float(model[0].weight.detach().norm()) / before

    held, free = growth(form="target", target=-0.5), growth(form="log")
    assert held < 1.3 < 1.7 < free


def test_guidance_under_a_grad_scaler_is_that_without() -> None:
    """Added after unscale_, it is not divided by the scale; a step whose gradients overflow is still left out."""
    results = []
    for scale in (1.0, 2.0**12):
        model = small_net(dtype=torch.float32)
        guidance = EntropyGuidance(model, lambda1=0.1, lambda2=0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for step in range(5):
            before = model.hidden.weight.detach().clone()
            optimizer.zero_grad()
            loss = task_loss(model) * (math.inf if step == 3 else 1)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            guidance.add_gradients()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(before, model.hidden.weight) is (step == 3)
        results.append(model.hidden.weight.detach())
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


# --- dead inputs ---


def dead_inputs(first: int) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """A network, inputs [16, 50] of which the first ones are always 0, and targets."""
    inputs, targets = batch()
    inputs = inputs.flatten(1)
    inputs[:, :first] = 0
    return dense_net(50, 60, 6), inputs, targets


@pytest.mark.parametrize("measure", ["volume", "minor"])
def test_the_entropy_of_a_layer_is_that_of_its_live_columns(measure: str) -> None:
    model, inputs, targets = dead_inputs(20)
    guidance = EntropyGuidance(model, measure=measure, ridge=0.0)
    with torch.no_grad():
        model[0].weight[:, :20] *= 1000  # as Adam grows what only guidance moves
    guidance.start_epoch()
    F.mse_loss(model(inputs), targets).backward()
    guidance.add_gradients()
    metrics = quiet_metrics(guidance)
    live = model[0].weight[:, 20:].detach()
    h = torch.linalg.svdvals(live if measure == "volume" else live[:30]).log().mean()
    assert metrics["entropy/0"] == pytest.approx(float(h), rel=1e-6)
    assert metrics["entropy/2"] == pytest.approx(
        float(EntropyGuidance(model, measure=measure, ridge=0.0).metrics()["entropy/2"])
    )
    assert quiet_metrics(guidance)["entropy/0"] > h + 1  # nothing was read since: all columns


def test_a_column_that_lives_once_in_an_epoch_is_alive() -> None:
    model, inputs, targets = dead_inputs(20)
    guidance = EntropyGuidance(model, lambda1=0.0)
    entropies = []
    for late in (False, True):
        guidance.start_epoch()
        for step in range(33):
            here = inputs.clone()
            if late and step == 32:
                here[0, :20] = 1.0
            model.zero_grad()
            F.mse_loss(model(here), targets).backward()
            guidance.add_gradients()
        entropies.append(guidance.metrics()["entropy/0"])
    assert entropies[0] != pytest.approx(entropies[1], rel=1e-3)
    assert entropies[1] == EntropyGuidance(model).metrics()["entropy/0"]


def test_watching_inputs_leaves_the_model_as_it_is() -> None:
    model, inputs, _ = dead_inputs(20)
    guidance = EntropyGuidance(model)
    guidance.start_epoch()
    assert not any(m._forward_pre_hooks or m._forward_hooks or m._backward_hooks for m in model.modules())
    exported = torch.export.export(model, (inputs,)).module()
    torch.testing.assert_close(exported(inputs), model(inputs))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    torch.testing.assert_close(twin(inputs), model(inputs))


# --- warnings ---


def test_the_literal_paper_form_on_real_layers_is_called_inert_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 784)
    )
    guidance = EntropyGuidance.paper(model)
    images = torch.rand(32, 784)
    for epoch in range(2):
        guidance.start_epoch()
        model.zero_grad()
        F.mse_loss(model(images), images).backward()
        guidance.add_gradients()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ratio = guidance.metrics()["guidance/ratio"]
        assert ratio < 1e-5
        assert [w.category for w in caught] == ([GuidanceWarning] if epoch == 0 else [])
        assert all("inert" in str(w.message) and "per_dimension" in str(w.message) for w in caught)


def test_dominant_guidance_is_told_before_the_cap_and_once() -> None:
    model = small_net()
    guidance = EntropyGuidance(model, lambda1=100.0)
    added_gradients(model, guidance)
    with pytest.warns(GuidanceWarning, match=r"dominant.*capped at 1.*max_ratio"):
        assert guidance.metrics()["guidance/ratio"] > 1
    added_gradients(model, guidance)
    guidance.start_epoch()
    added_gradients(model, guidance)
    guidance.metrics()  # pytest makes an error of any warning


# --- bad input ---


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("lambda1", -1e-3, ">= 0"),
        ("lambda2", math.nan, ">= 0"),
        ("lambda1", math.inf, "finite"),
        ("epsilon", 0.0, "> 0"),
        ("measure", "volumes", "volume, minor"),
        ("form", "exp", "log, reciprocal, target"),
        ("conv_form", "exp", "log, reciprocal, target"),
        ("conv_measure", "volume", "taps, channels"),
        ("target", math.inf, "finite"),
        ("layers", "first", "all, .first: n., .last: n. with n >= 1, or a list of names"),
        ("layers", {"first": 0}, "n >= 1"),
        ("layers", [], "names"),
        ("scale", "dimension", "per_dimension, determinant"),
        ("reduction", "max", "mean, sum"),
        ("ridge", -0.1, ">= 0"),
        ("every", 0, "auto"),
        ("every", "often", "auto"),
        ("max_ratio", 0.0, "None"),
        ("until", 0.0, "None"),
        ("until", 1.5, "<= 1"),
        ("batch_size", 0, ">= 1"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(option: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} = .*allowed: .*{allowed}"):
        EntropyGuidance(small_net(), **{option: value})


def test_all_bad_options_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"lambda1 = -1; allowed: .*; form = 'x'; allowed: .*; until = 2; allowed: "):
        EntropyGuidance(small_net(), lambda1=-1, form="x", until=2)


def test_a_model_without_a_layer_to_guide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no layer to guide.*found: none.*nn.Linear.*1x1.*nn.Conv1d.*transposed"):
        EntropyGuidance(nn.Sequential(nn.LayerNorm(4), nn.ReLU()))
    with pytest.raises(ValueError, match=r"found: conv 0"):
        EntropyGuidance(nn.Sequential(nn.Conv2d(1, 1, 3)), lambda1=1e-3, lambda2=0.0)
    with pytest.raises(ValueError, match=r"conv conv, dense pointwise .not selected., dense hidden .not selected."):
        EntropyGuidance(small_net(), layers={"first": 1})
    control = EntropyGuidance(nn.Sequential(nn.LayerNorm(4)), lambda1=0.0)
    control.add_gradients()
    assert control.metrics() == {}
