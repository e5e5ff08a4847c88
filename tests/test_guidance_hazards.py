"""EntropyGuidance where it is difficult: which layers, singular and NaN weights, low precision, warnings, bad input."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from losses import EntropyGuidance, GuidanceWarning
from losses.layers import guidable_layers

from .guidance_nets import added_gradients, dense_net, quiet_metrics, small_net, task_loss

# --- which layers ---


def test_a_tied_weight_counts_once() -> None:
    model = dense_net(50, 6, 6, 6)
    model[4].weight = model[2].weight
    assert [layer.name for layer in guidable_layers(model, "volume")] == ["0", "2"]
    separate = dense_net(50, 6, 6)
    separate.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("4")})
    tied = added_gradients(model, EntropyGuidance(model, max_ratio=None))
    alone = added_gradients(separate, EntropyGuidance(separate, max_ratio=None))
    torch.testing.assert_close(tied["2.weight"], alone["2.weight"], rtol=1e-6, atol=1e-12)


def test_frozen_and_pruned_weights_are_left_out() -> None:
    model = dense_net(50, 8, 8, 6)
    model[0].weight.requires_grad_(False)
    prune.random_unstructured(model[2], "weight", amount=0.5)
    assert [layer.name for layer in guidable_layers(model, "volume")] == ["4"]


def test_kinds_of_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, (1, 3)), nn.BatchNorm2d(4))
    assert [layer.kind for layer in guidable_layers(model, "volume")] == ["dense", "conv", "conv"]


def test_a_model_that_is_one_layer_has_a_name_in_the_metrics() -> None:
    assert "entropy/linear" in EntropyGuidance(nn.Linear(3, 2)).metrics()


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
        ("form", "target", "log, reciprocal"),
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


def test_a_model_without_a_layer_to_guide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no layer to guide.*nn.Linear.*nn.Conv2d"):
        EntropyGuidance(nn.Sequential(nn.LayerNorm(4), nn.ReLU()))
    with pytest.raises(ValueError, match=r"found: conv 0"):
        EntropyGuidance(nn.Sequential(nn.Conv2d(1, 1, 3)), lambda1=1e-3, lambda2=0.0)
    control = EntropyGuidance(nn.Sequential(nn.LayerNorm(4)), lambda1=0.0)
    control.add_gradients()
    assert control.metrics() == {}
