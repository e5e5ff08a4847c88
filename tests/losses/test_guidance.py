"""EntropyGuidance in plain training loops, against autograd of the literal loss and its own promises."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweep.losses import EntropyGuidance
from sweep.losses.conv import taps
from sweep.losses.entropy import volume
from sweep.losses.layers import MAX_EVERY, MIN_EVERY, guidable_layers

from ..support.guidance_nets import SmallNet, added_gradients, dense_net, quiet_metrics, small_net, task_loss

# --- the formulas ---


def padded(weight: Tensor) -> Tensor:
    side = max(weight.shape)
    return torch.cat(
        [
            torch.cat([weight, torch.eye(side, dtype=weight.dtype)[: weight.shape[0], weight.shape[1] :]], dim=1),
            torch.eye(side, dtype=weight.dtype)[weight.shape[0] :],
        ]
    )


def paper_loss(model: SmallNet, lambda1: float, lambda2: float, epsilon: float) -> Tensor:
    """The formulas of arXiv 2308.14938, with determinants."""
    matrices = [model.pointwise.weight[:, :, 0, 0], model.hidden.weight, model.out.weight]
    dense = sum(1 / (torch.linalg.det(padded(matrix)).abs() + epsilon) for matrix in matrices)
    conv = (1 / (model.conv.weight[..., 0, 0].abs() + epsilon)).mean()
    return lambda1 * dense + lambda2 * conv


def gain(matrix: Tensor, ridge: float) -> Tensor:
    """Geometric mean of the ridged singular values."""
    variances = torch.linalg.svdvals(matrix).square()
    return (variances + ridge**2 * variances.detach().mean()).log().mean().div(2).exp()


def dense_matrices(model: SmallNet) -> list[Tensor]:
    return [model.pointwise.weight[:, :, 0, 0], model.hidden.weight, model.out.weight]


def volume_loss(model: SmallNet, lambda1: float, lambda2: float, epsilon: float, ridge: float) -> Tensor:
    """Mean of 1 / (geometric-mean gain + epsilon) over the dense layers, of -log|c11| over the filters."""
    dense = torch.stack([1 / (gain(matrix, ridge) + epsilon) for matrix in dense_matrices(model)]).mean()
    return lambda1 * dense - lambda2 * model.conv.weight[..., 0, 0].abs().log().mean()


def channels_loss(model: SmallNet, lambda1: float, lambda2: float, target: float) -> Tensor:
    """Squared distance from a target, of dense layers; reciprocal, of K11."""
    dense = torch.stack([(gain(matrix, 0.1).log() - target) ** 2 for matrix in dense_matrices(model)]).mean()
    return lambda1 * dense + lambda2 / (gain(model.conv.weight[..., 0, 0], 0.1) + 0.1)


def log_minor_loss(model: SmallNet, lambda1: float, lambda2: float) -> Tensor:
    dense = torch.stack([-torch.linalg.det(padded(m)).abs().log() / min(m.shape) for m in dense_matrices(model)]).mean()
    return lambda1 * dense + lambda2 * (model.conv.weight[..., 0, 0].abs().log() - 0.5).square().mean()


def determinant_loss(model: SmallNet, lambda1: float, target: float) -> Tensor:
    return (
        lambda1
        * torch.stack([(m.svd().S.log().sum() - target * min(m.shape)) ** 2 for m in dense_matrices(model)]).sum()
    )


@pytest.mark.parametrize(
    ("options", "literal"),
    [
        (
            {"lambda1": 0.05, "lambda2": 0.03, "epsilon": 0.1},
            lambda model: volume_loss(model, 0.05, 0.03, 0.1, 0.1),
        ),
        (
            {"lambda1": 1e-3, "lambda2": 2e-3, "epsilon": 0.5, "paper": True},
            lambda model: paper_loss(model, 1e-3, 2e-3, 0.5),
        ),
        (
            {"lambda1": 0.02, "lambda2": 0.01, "measure": "minor", "form": "log", "ridge": 0.0}
            | {"conv_form": "target", "target": 0.5},
            lambda model: log_minor_loss(model, 0.02, 0.01),
        ),
        (
            {"lambda1": 0.02, "lambda2": 0.01, "form": "target", "target": 0.5, "epsilon": 0.1}
            | {"conv_measure": "channels", "conv_form": "reciprocal"},
            lambda model: channels_loss(model, 0.02, 0.01, 0.5),
        ),
        (
            {"lambda1": 0.02, "form": "target", "target": 0.1, "scale": "determinant", "reduction": "sum", "ridge": 0},
            lambda model: determinant_loss(model, 0.02, 0.1),
        ),
    ],
    ids=["default", "paper", "log minor", "target, channels", "target determinant"],
)
def test_every_1_equals_autograd_of_the_literal_loss_after_10_sgd_steps(
    options: dict[str, Any], literal: Callable[[SmallNet], Tensor]
) -> None:
    guided = small_net()
    with torch.no_grad():  # away from the floor, under which the gradient is meant to differ
        guided.conv.weight[..., 0, 0] = guided.conv.weight[..., 0, 0].sign() * (
            guided.conv.weight[..., 0, 0].abs() + 0.2
        )
    reference = copy.deepcopy(guided)
    options = {"every": 1, "max_ratio": None, **options}
    guidance = (EntropyGuidance.paper if options.pop("paper", False) else EntropyGuidance)(guided, **options)
    for _ in range(10):
        for model, loss in ((guided, task_loss(guided)), (reference, task_loss(reference) + literal(reference))):
            model.zero_grad()
            loss.backward()
            if model is guided:
                guidance.add_gradients()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.05 * parameter.grad
    for (name, ours), theirs in zip(guided.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    unguided = small_net()
    assert not torch.allclose(guided.hidden.weight, unguided.hidden.weight, rtol=1e-3)


@pytest.mark.parametrize(
    ("target", "step"), [(-3.0, 1e-4), (-7.0, 1e-5)], ids=["above the floor of gradients", "below it"]
)
def test_taps_come_to_their_target(target: float, step: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, dtype=torch.float64)
    options: dict[str, Any] = {"conv_form": "target", "target": target, "every": 1, "max_ratio": None}
    guidance = EntropyGuidance(conv, lambda1=0.0, lambda2=step, **options)
    for _ in range(3000):
        conv.weight.grad = torch.zeros_like(conv.weight)
        guidance.add_gradients()
        with torch.no_grad():
            conv.weight -= conv.weight.grad
    expected = torch.full((4, 2), target, dtype=torch.float64)
    torch.testing.assert_close(taps(conv.weight.detach()), expected, atol=1e-3, rtol=0)


def test_metrics_are_the_terms_entropies_and_norms() -> None:
    model = small_net()
    guidance = EntropyGuidance(model, lambda1=0.05, lambda2=0.03, epsilon=0.1, every=1, max_ratio=None)
    model.zero_grad()
    task_loss(model).backward()
    weights = [module.weight for module in (model.conv, model.pointwise, model.hidden, model.out)]
    task = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]).norm()
    added = added_gradients(model, guidance)
    norm = torch.cat([gradient.flatten() for gradient in added.values()]).norm()
    metrics = quiet_metrics(guidance)
    model.requires_grad_(False)
    assert metrics["grad_norm/task"] == pytest.approx(float(task), rel=1e-6)
    assert metrics["grad_norm/guidance"] == pytest.approx(float(norm), rel=1e-6)
    assert metrics["guidance/ratio"] == pytest.approx(float(norm / task), rel=1e-6)
    assert metrics["guidance/dense"] == pytest.approx(float(volume_loss(model, 1, 0, 0.1, 0.1)), rel=1e-6)
    assert metrics["guidance/conv"] == pytest.approx(float(volume_loss(model, 0, 1, 0.1, 0.1)), rel=1e-6)
    assert metrics["entropy/hidden"] == pytest.approx(float(gain(model.hidden.weight, 0.1).log()), rel=1e-6)
    assert metrics["entropy/conv"] == pytest.approx(float(model.conv.weight[..., 0, 0].abs().log().mean()), rel=1e-6)
    assert {name for name in metrics if name.startswith("entropy/")} == {
        f"entropy/{name}" for name in ("conv", "pointwise", "hidden", "out")
    }
    assert "grad_norm/task" not in guidance.metrics()  # nothing happened since


@pytest.mark.parametrize("lambda1", [1e-3, 10.0])
def test_lambda_scales_what_is_added_and_not_the_terms(lambda1: float) -> None:
    model = small_net()
    unit, guidance = (EntropyGuidance(model, lambda1=value, max_ratio=None) for value in (1.0, lambda1))
    one, scaled = added_gradients(model, unit), added_gradients(model, guidance)
    torch.testing.assert_close(scaled["hidden.weight"], lambda1 * one["hidden.weight"], rtol=1e-6, atol=1e-14)
    assert quiet_metrics(guidance)["guidance/dense"] == quiet_metrics(unit)["guidance/dense"]


def test_sum_is_the_mean_times_the_number_of_layers_of_the_term() -> None:
    model = small_net()
    mean = added_gradients(model, EntropyGuidance(model, lambda2=1e-3, max_ratio=None))
    total = added_gradients(model, EntropyGuidance(model, lambda2=1e-3, max_ratio=None, reduction="sum"))
    torch.testing.assert_close(total["out.weight"], 3 * mean["out.weight"], rtol=1e-9, atol=1e-16)
    torch.testing.assert_close(total["conv.weight"], mean["conv.weight"], rtol=1e-9, atol=1e-16)
    assert torch.count_nonzero(total["conv.weight"]) == 8  # the corner taps alone
    assert not torch.count_nonzero(total["out.bias"])


# --- caching ---


def test_gradients_are_cached_and_refreshed_in_turn() -> None:
    model = dense_net(50, 8, 8, 8, 6)
    guidance = EntropyGuidance(model, every=4, max_ratio=None)
    names = [f"{index}.weight" for index in (0, 2, 4, 6)]
    fresh: list[list[bool]] = []
    previous: dict[str, Tensor] = {}
    for step in range(9):
        added = added_gradients(model, guidance)
        fresh.append([step == 0 or not torch.allclose(added[name], previous[name], rtol=1e-6) for name in names])
        previous = added
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.05)
    assert fresh[0] == [True] * 4
    assert fresh[1:] == [[step % 4 == index for index in range(4)] for step in range(1, 9)]


def test_an_epoch_starts_with_fresh_gradients_so_that_a_new_instance_continues_it() -> None:
    model = small_net()
    options: dict[str, Any] = {"lambda1": 0.1, "lambda2": 0.1, "every": 32}
    guidance = EntropyGuidance(model, **options)
    first = added_gradients(model, guidance)
    with torch.no_grad():
        model.hidden.weight.mul_(1.5)
    guidance.start_epoch()
    continued = added_gradients(model, guidance)
    resumed = added_gradients(model, EntropyGuidance(model, **options))
    assert not torch.allclose(continued["hidden.weight"], first["hidden.weight"])
    for name, gradient in continued.items():
        assert torch.equal(gradient, resumed[name]), name


@pytest.mark.parametrize("shape", [(10, 64), (32, 784), (128, 784), (256, 256), (512, 512), (1024, 1024), (4096, 4096)])
def test_auto_spaces_computations_by_shape_and_batch_size_alone(shape: tuple[int, int]) -> None:
    (layer,) = guidable_layers(nn.Linear(*shape, device="meta"))
    (turned,) = guidable_layers(nn.Linear(*reversed(shape), device="meta"))
    intervals = [layer.refresh_interval(batch_size) for batch_size in (1, 32, 128, 512, 100_000)]
    assert intervals == [turned.refresh_interval(batch_size) for batch_size in (1, 32, 128, 512, 100_000)]
    assert intervals == sorted(intervals, reverse=True)
    assert all(MIN_EVERY <= every <= MAX_EVERY and every & (every - 1) == 0 for every in intervals)
    assert intervals[-1] == MIN_EVERY


def test_an_interval_beyond_all_runs_takes_neither_time_nor_memory() -> None:
    guidance = EntropyGuidance(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), every=10**15)
    assert len(guidance.selected) == 2


@pytest.mark.parametrize(
    ("shape", "every"),
    [((784, 32), 32), ((784, 128), 32), ((128, 128), 32), ((784, 256), 64), ((256, 256), 64), ((1024, 1024), 128)],
)
def test_auto_at_batch_128(shape: tuple[int, int], every: int) -> None:
    (layer,) = guidable_layers(nn.Linear(*shape, device="meta"))
    assert layer.refresh_interval(128) == every


def test_the_interval_does_not_change_what_is_learned_by_much() -> None:
    finals = {}
    for every in (1, 8, 32):
        model = dense_net(50, 16, 16, 6)
        guidance = EntropyGuidance(model, lambda1=1e-2, every=every)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(200):
            optimizer.zero_grad()
            task_loss(model).backward()
            guidance.add_gradients()
            optimizer.step()
        finals[every] = float(volume(model[0].weight.detach(), 0.1))
    control = float(volume(dense_net(50, 16, 16, 6)[0].weight.detach(), 0.1))
    assert finals[1] - control > 1
    assert finals[8] == pytest.approx(finals[1], rel=0.05)
    assert finals[32] == pytest.approx(finals[1], rel=0.05)


# --- the cap and the end ---


@pytest.mark.parametrize("max_ratio", [0.1, 1.0])
def test_max_ratio_caps_at_every_step_and_keeps_the_direction(max_ratio: float) -> None:
    model = small_net()
    free = added_gradients(model, EntropyGuidance(model, lambda1=100.0, lambda2=1.0, max_ratio=None))
    guidance = EntropyGuidance(model, lambda1=100.0, lambda2=1.0, max_ratio=max_ratio)
    weights = ("conv.weight", "pointwise.weight", "hidden.weight", "out.weight")
    for step in range(3):
        capped = added_gradients(model, guidance)
        guided = {name: p.grad for name, p in model.named_parameters()}
        flat = torch.cat([capped[name].flatten() for name in weights])
        task = torch.cat([(guided[name] - capped[name]).flatten() for name in weights])
        assert float(flat.norm() / task.norm()) == pytest.approx(max_ratio, rel=1e-6)
        if step == 0:
            free_flat = torch.cat([free[name].flatten() for name in weights])
            assert float(F.cosine_similarity(flat, free_flat, dim=0)) == pytest.approx(1, rel=1e-9)
        with torch.no_grad():  # the task's gradient changes, the cached one stays
            model.out.bias.add_(1.0)


def test_a_ratio_below_the_cap_is_left_alone() -> None:
    model = small_net()
    free = added_gradients(model, EntropyGuidance(model, lambda1=1e-4, max_ratio=None))
    capped = added_gradients(model, EntropyGuidance(model, lambda1=1e-4, max_ratio=1.0))
    torch.testing.assert_close(capped, free, rtol=1e-9, atol=1e-16)


def test_without_a_task_gradient_the_cap_leaves_nothing() -> None:
    model = small_net()
    guidance = EntropyGuidance(model)
    model.zero_grad()
    guidance.add_gradients()
    assert all(not torch.count_nonzero(p.grad) for p in model.parameters() if p.grad is not None)


def test_weights_without_a_gradient_are_guided_too() -> None:
    model = small_net()
    guidance = EntropyGuidance(model, max_ratio=None)
    model.zero_grad()
    guidance.add_gradients()
    assert model.hidden.weight.grad is not None
    assert torch.count_nonzero(model.hidden.weight.grad) == model.hidden.weight.numel()


def test_until_ends_guidance_and_not_the_metrics() -> None:
    model = small_net()
    guidance = EntropyGuidance(model, until=0.25)
    assert torch.count_nonzero(added_gradients(model, guidance, progress=0.2499)["hidden.weight"])
    assert not torch.count_nonzero(added_gradients(model, guidance, progress=0.25)["hidden.weight"])
    guidance.metrics()
    guidance.start_epoch()
    added_gradients(model, guidance, progress=0.5)
    metrics = guidance.metrics()
    assert metrics["grad_norm/task"] > 0
    assert "guidance/ratio" not in metrics


def test_a_control_adds_nothing_and_reports_the_same_task_norm() -> None:
    model = small_net()
    control, guidance = EntropyGuidance(model, lambda1=0.0), EntropyGuidance(model, lambda1=1e-3)
    weights = [layer.parameters[0] for layer in guidable_layers(model)]
    norms = []
    for _ in range(40):
        for part in (control, guidance):
            added = added_gradients(model, part)
            if part is control:
                assert all(not torch.count_nonzero(gradient) for gradient in added.values())
                norms.append(float(torch.cat([weight.grad.flatten() for weight in weights]).norm()))
        with torch.no_grad():
            model.out.bias.add_(0.1)
    of_control, of_guided = control.metrics(), guidance.metrics()
    assert of_control["grad_norm/task"] == of_guided["grad_norm/task"]
    assert of_control["grad_norm/task"] == pytest.approx((norms[0] + norms[32]) / 2, rel=1e-9)
    assert norms[0] != pytest.approx(norms[32], rel=0.1)
    for name in ("guidance/dense", "guidance/conv", "entropy/conv", "entropy/out"):
        assert of_control[name] == of_guided[name]
    assert "guidance/ratio" not in of_control
