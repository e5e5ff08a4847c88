"""Layers that have an entropy, layers that are guided, and weights that are computed."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from sweep.losses import EntropyGuidance, GuidanceWarning
from sweep.losses.entropy import volume
from sweep.losses.layers import guidable_layers, select
from sweep.losses.norm_detection import feeding_a_norm
from sweep.models import MODELS, build_model

from ..support.guidance_nets import added_gradients, dense_net, quiet_metrics, small_net, task_loss


def names(model: nn.Module, **measures: str) -> list[str]:
    return [layer.name for layer in guidable_layers(model, **measures)]


# --- kinds ---


def test_kinds_of_layers_and_what_is_measured() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4),
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 1, groups=2),
        nn.Conv2d(4, 6, (1, 3)),
        nn.Conv1d(6, 6, 3, groups=3),
        nn.Conv3d(4, 4, 2, groups=4),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.ConvTranspose1d(4, 6, 1),
        nn.MultiheadAttention(8, 2),
        nn.MultiheadAttention(8, 2, kdim=5, vdim=6),
        nn.BatchNorm2d(4),
        nn.Embedding(4, 4),
        nn.GRU(4, 4),
    )
    found = {layer.name: (layer.kind, layer.measure, layer.shape) for layer in guidable_layers(model)}
    by_channel = {layer.name: layer for layer in guidable_layers(model, "minor", "channels")}
    assert found == {
        "0": ("dense", "volume", (4, 3)),
        "1": ("dense", "volume", (6, 4)),
        "2": ("dense", "volume", (2, 3, 2)),
        "3": ("conv", "taps", (6, 4)),
        "4": ("conv", "taps", (6, 2)),
        "5": ("conv", "taps", (4, 1)),
        "6": ("conv", "taps", (4, 3)),
        "7": ("dense", "volume", (6, 4)),
        "8.in_proj": ("dense", "volume", (3, 8, 8)),
        "8.out_proj": ("dense", "volume", (8, 8)),
        "9.q_proj": ("dense", "volume", (8, 8)),
        "9.k_proj": ("dense", "volume", (8, 5)),
        "9.v_proj": ("dense", "volume", (8, 6)),
        "9.out_proj": ("dense", "volume", (8, 8)),
    }
    assert {name: layer.shape for name, layer in by_channel.items() if layer.kind == "conv"} == {
        "3": (4, 4),
        "4": (3, 2, 2),
        "5": (4, 1),  # depthwise: its channels are its taps
        "6": (2, 2, 2),
    }
    assert by_channel["5"].measure == "taps"


@pytest.mark.parametrize("conv_measure", ["taps", "channels"])
def test_every_kind_gets_a_finite_gradient_in_its_own_place(conv_measure: str) -> None:
    torch.manual_seed(0)
    model = nn.ModuleList(
        [
            nn.Conv1d(4, 4, 3),
            nn.Conv3d(2, 4, 2, groups=2),
            nn.ConvTranspose2d(4, 6, 3, groups=2),
            nn.Conv2d(3, 3, 2, groups=3),
            nn.ConvTranspose2d(4, 6, 1),
            nn.MultiheadAttention(8, 2),
        ]
    )
    guidance = EntropyGuidance(model, lambda2=1e-2, conv_measure=conv_measure, max_ratio=None)
    guidance.add_gradients()
    for module in model[:4]:
        gradient = module.weight.grad
        corner = gradient[(slice(None), slice(None), *(0,) * (gradient.dim() - 2))]
        assert gradient.isfinite().all()
        assert torch.count_nonzero(corner) == torch.count_nonzero(gradient) == corner.numel()
    assert torch.count_nonzero(model[4].weight.grad) == 24
    assert torch.count_nonzero(model[5].in_proj_weight.grad) == 3 * 64
    assert all(math.isfinite(value) for value in quiet_metrics(guidance).values())


def test_attention_is_measured_block_by_block() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2).double()
    blocks = attention.in_proj_weight.detach().chunk(3)
    expected = sum(float(torch.linalg.slogdet(block).logabsdet) for block in blocks) / 24
    metrics = EntropyGuidance(attention, ridge=0.0).metrics()
    assert metrics["entropy/multiheadattention.in_proj"] == pytest.approx(expected, rel=1e-10)


def test_a_model_that_is_one_layer_has_a_name_in_the_metrics() -> None:
    assert "entropy/linear" in EntropyGuidance(nn.Linear(3, 2)).metrics()


def test_a_lazy_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 is lazy.*run a batch"):
        EntropyGuidance(nn.Sequential(nn.LazyLinear(3)))


# --- weights that are shared, frozen or computed ---


def test_a_tied_weight_counts_once() -> None:
    model = dense_net(50, 6, 6, 6)
    model[4].weight = model[2].weight
    assert names(model) == ["0", "2"]
    separate = dense_net(50, 6, 6)
    separate.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("4")})
    tied = added_gradients(model, EntropyGuidance(model, max_ratio=None))
    alone = added_gradients(separate, EntropyGuidance(separate, max_ratio=None))
    torch.testing.assert_close(tied["2.weight"], alone["2.weight"], rtol=1e-6, atol=1e-12)


def test_empty_weights_are_left_out() -> None:
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Sequential(nn.Linear(0, 3), nn.Linear(3, 2))
    assert [layer.name for layer in guidable_layers(model)] == ["1"]


def test_frozen_weights_are_left_out() -> None:
    model = dense_net(50, 8, 8, 6)
    model[0].weight.requires_grad_(False)
    assert names(model) == ["2", "4"]


@pytest.mark.parametrize("amount", [0.5, 0.95])
def test_a_pruned_weight_is_guided_as_it_acts_and_its_masked_entries_are_untouched(amount: float) -> None:
    model = dense_net(50, 16, 16, 6)
    torch.manual_seed(0)
    prune.random_unstructured(model[2], "weight", amount=amount)
    mask = model[2].weight_mask
    guidance = EntropyGuidance(model, form="log", max_ratio=None)
    added = added_gradients(model, guidance)["2.weight_orig"]
    weight = (model[2].weight_orig.detach() * mask).requires_grad_()
    (-volume(weight, 0.1) / 16 * (1e-3 / 3)).backward()
    assert weight.grad is not None
    torch.testing.assert_close(added, weight.grad * mask, rtol=1e-9, atol=1e-14)
    assert torch.count_nonzero(added) > 0
    assert quiet_metrics(guidance)["entropy/2"] == pytest.approx(float(volume(weight.detach(), 0.1)) / 16, rel=1e-9)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).mT


def test_a_parametrised_weight_is_guided_through_what_it_is_computed_from() -> None:
    model = dense_net(50, 8, 8, 6)
    parametrize.register_parametrization(model[2], "weight", Symmetric())
    parametrizations.weight_norm(model[4])
    guidance = EntropyGuidance(model, form="log", max_ratio=None)
    added = added_gradients(model, guidance)
    loss = sum(-volume(model[index].weight, 0.1) / k for index, k in ((2, 8), (4, 6))) * (1e-3 / 3)
    computed = [name for name, _ in model.named_parameters() if "original" in name]
    assert len(computed) == 3
    expected = torch.autograd.grad(loss, [model.get_parameter(name) for name in computed])
    for name, gradient in zip(computed, expected, strict=True):
        torch.testing.assert_close(added[name], gradient, rtol=1e-9, atol=1e-14)


def test_measuring_a_parametrised_weight_does_not_change_it() -> None:
    model = dense_net(50, 8, 6)
    parametrizations.spectral_norm(model[0])
    guidance = EntropyGuidance(model)
    added_gradients(model, guidance)
    before = [buffer.clone() for buffer in model.buffers()]
    guidance.start_epoch()
    guidance.add_gradients()
    quiet_metrics(guidance)
    assert before
    assert all(torch.equal(was, now) for was, now in zip(before, model.buffers(), strict=True))
    assert model[0].parametrizations.weight.training


# --- which are guided ---


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("all", ["conv", "pointwise", "hidden", "out"]),
        ({"first": 2}, ["conv", "pointwise"]),
        ({"last": 1}, ["out"]),
        ({"first": 9}, ["conv", "pointwise", "hidden", "out"]),
        (["out", "conv"], ["conv", "out"]),
    ],
)
def test_layers_chooses_which_are_guided(choice: Any, expected: list[str]) -> None:
    model = small_net()
    guidance = EntropyGuidance(model, lambda2=1e-2, layers=choice, max_ratio=None)
    added = added_gradients(model, guidance)
    assert [name.removesuffix(".weight") for name, g in added.items() if torch.count_nonzero(g)] == expected
    metrics = quiet_metrics(guidance)
    assert {f"entropy/{name}" for name in ("conv", "pointwise", "hidden", "out")} <= metrics.keys()
    assert ("guidance/conv" in metrics) is ("conv" in expected)


def test_the_mean_is_over_the_chosen_layers() -> None:
    model = small_net()
    one = added_gradients(model, EntropyGuidance(model, layers=["out"], max_ratio=None))["out.weight"]
    three = added_gradients(model, EntropyGuidance(model, max_ratio=None))["out.weight"]
    torch.testing.assert_close(one, 3 * three, rtol=1e-9, atol=1e-14)


def test_a_name_means_the_layers_within_and_not_those_that_begin_alike() -> None:
    model = nn.ModuleDict({"net": dense_net(4, 4, 4), "net2": dense_net(4, 4)})
    layers = list(guidable_layers(model))
    assert [layer.name for layer in select(layers, ["net"])] == ["net.0", "net.2"]
    with pytest.raises(ValueError, match=r"no layer is called ne, net.1 .*layers: net.0, net.2, net2.0$"):
        select(layers, ["net", "ne", "net.1"])


# --- in front of a norm ---


class Lists(nn.Module):
    """Convolutions and norms in lists of their own, functions between, an output layer."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(2, 2, 3, padding=1) for _ in range(3)])
        self.norms = nn.ModuleList([norm(2) for _ in range(2)])
        self.out = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in itertools.zip_longest(self.convs, self.norms):
            x = F.relu(conv(x))
            x = x if norm is None else norm(F.max_pool2d(x, 1).view(x.shape))
        return self.out(x.mean((2, 3)))


class Residual(nn.Module):
    """A branch whose sum is normalised, one whose output is, and one where something else reads the output too."""

    def __init__(self) -> None:
        super().__init__()
        self.summed = nn.Linear(4, 4)
        self.direct = nn.Linear(4, 4)
        self.shared = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.summed(x))
        x = F.layer_norm(self.direct(x), (4,))
        x = self.shared(x)
        return x * F.layer_norm(x, (4,))


class Undecided(Residual):
    """Depends on values, so that it cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class MyRMSNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() == 0 else x / x.square().mean().sqrt()


def test_layers_in_front_of_a_norm_are_found_however_they_are_written() -> None:
    assert feeding_a_norm(Lists()) == {"convs.0", "convs.1"}
    assert feeding_a_norm(Residual()) == {"direct"}
    assert feeding_a_norm(Undecided()) == {"shared"}  # by the order of the modules
    assert feeding_a_norm(nn.DataParallel(Lists())) == {"module.convs.0", "module.convs.1"}
    own = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), MyRMSNorm(), nn.Linear(4, 4), nn.Tanh(), MyRMSNorm())
    assert feeding_a_norm(own) & {"0", "3"} == {"0"}
    assert feeding_a_norm(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))) == set()
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert "linear2" in feeding_a_norm(block)  # PyTorch's own blocks are not traced


def test_tracing_draws_no_random_numbers() -> None:
    class Noisy(Lists):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand(()))

    model = Noisy()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert feeding_a_norm(model) == {"convs.0", "convs.1"}
    assert torch.equal(torch.rand(3), expected)


def test_layers_in_front_of_a_norm_are_left_out_and_it_is_said() -> None:
    model = Lists()
    with pytest.warns(GuidanceWarning, match=r"left out.*name them.*conv_form target.: convs.0, convs.1$") as caught:
        guidance = EntropyGuidance(model, lambda2=1e-2)
    assert len(caught) == 1
    assert [layer.name for layer in guidance.selected] == ["convs.2", "out"]
    added = {layer.name for layer in guidance._guided}
    assert added == {"convs.2", "out"}
    assert "entropy/convs.0" in guidance.metrics()
    quiet: list[dict[str, Any]] = [
        {"lambda2": 0.0},  # they would not be guided anyway
        {"lambda2": 1e-2, "conv_form": "target"},
        {"lambda2": 1e-2, "layers": ["convs"]},
        {"lambda2": 1e-2, "layers": {"first": 2}, "lambda1": 0.0},
    ]
    selected = [len(EntropyGuidance(model, **options).selected) for options in quiet]  # pytest makes errors of warnings
    assert selected == [2, 4, 3, 2]


def test_a_model_with_nothing_but_layers_in_front_of_a_norm_says_why_it_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"no layer to guide .found: dense 0 .not selected.*Left out, since.*: 0$"):
        EntropyGuidance(model)


# --- the families ---


@pytest.mark.parametrize("name", MODELS)
def test_guidance_finds_and_moves_the_layers_of_every_family(name: str) -> None:
    depth = {"autoencoder": 4, "conv_autoencoder": 4, "resnet": 20}.get(name, 2)
    model = build_model(
        name, depth=depth, width=32 if "autoencoder" in name else 8, in_shape=(3, 16, 16), num_outputs=5
    )
    guidance = EntropyGuidance(model, lambda1=1e-2, lambda2=1e-2, form="target", conv_form="target")
    total = sum(isinstance(m, nn.Linear | nn.modules.conv._ConvNd) for m in model.modules())
    assert len(guidance.selected) == total
    model(torch.rand(2, 3, 16, 16)).square().mean().backward()
    guidance.add_gradients()
    metrics = quiet_metrics(guidance)
    assert metrics["grad_norm/guidance"] > 0
    assert all(math.isfinite(value) for value in metrics.values())


def test_only_the_output_layer_of_a_resnet_is_not_in_front_of_a_norm() -> None:
    for depth in (18, 20):
        model = build_model("resnet", depth=depth, width=8, in_shape=(3, 16, 16), num_outputs=5)
        layers = set(names(model))
        assert len(layers) >= 20
        assert layers - feeding_a_norm(model) == {"fc"}


def test_a_layer_that_the_task_does_not_use_is_guided_all_the_same() -> None:
    model = nn.ModuleDict({"used": dense_net(50, 6), "unused": nn.Linear(3, 3)}).double()
    guidance = EntropyGuidance(model, max_ratio=None)
    task_loss(model["used"]).backward()
    guidance.add_gradients()
    assert model["unused"].weight.grad is not None
    assert quiet_metrics(guidance)["entropy/unused"] < 0
