"""Weights that are replaced, pruned, frozen or parametrised after the guidance was made; and those it refuses."""

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from sweep.losses import EntropyGuidance, GuidanceWarning
from sweep.losses.conv import taps
from sweep.losses.entropy import minor, volume, volume_and_gradient

from ..support.guidance_nets import added_gradients, dense_net, quiet_metrics

OPTIONS: dict[str, Any] = {"lambda1": 0.1, "max_ratio": None}


def replace_weight(model: nn.Sequential) -> None:
    model[2].weight = nn.Parameter(torch.randn(8, 8, dtype=torch.float64))


def replace_layer(model: nn.Sequential) -> None:
    model[2] = nn.Linear(8, 8).double()


def prune_layer(model: nn.Sequential) -> None:
    prune.random_unstructured(model[2], "weight", amount=0.5)


def unprune_layer(model: nn.Sequential) -> None:
    prune.remove(model[0], "weight")


def parametrise_layer(model: nn.Sequential) -> None:
    parametrizations.weight_norm(model[2])


def freeze_layer(model: nn.Sequential) -> None:
    model[2].requires_grad_(False)


def unfreeze_layer(model: nn.Sequential) -> None:
    model[4].requires_grad_(True)


def load_by_assignment(model: nn.Sequential) -> None:
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()}, assign=True)


def append_layer(model: nn.Sequential) -> None:
    model.append(nn.Linear(6, 6).double())


CHANGES = [
    replace_weight,
    replace_layer,
    prune_layer,
    unprune_layer,
    parametrise_layer,
    freeze_layer,
    unfreeze_layer,
    load_by_assignment,
    append_layer,
]


def net() -> nn.Sequential:
    """Three dense layers, the first one pruned, the last one frozen."""
    model = dense_net(50, 8, 8, 6)
    prune.random_unstructured(model[0], "weight", amount=0.5)
    model[4].requires_grad_(False)
    return model


@pytest.mark.parametrize("placebo", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_followed_from_the_next_epoch_on(
    change: Callable[[nn.Sequential], None], placebo: bool
) -> None:
    """As a guidance that is made afterwards guides it."""
    torch.manual_seed(0)
    model = net()
    guidance = EntropyGuidance(model, placebo=placebo, **OPTIONS)
    added_gradients(model, guidance)
    quiet_metrics(guidance)
    change(model)
    guidance.start_epoch()
    fresh = EntropyGuidance(model, placebo=placebo, **OPTIONS)
    expected = added_gradients(model, fresh)
    assert sum(bool(torch.count_nonzero(gradient)) for gradient in expected.values()) >= 1
    added = added_gradients(model, guidance)
    assert added.keys() == expected.keys()
    assert all(torch.equal(added[name], expected[name]) for name in expected)
    assert guidance.unguided == fresh.unguided
    assert quiet_metrics(guidance) == quiet_metrics(fresh)


def test_masked_entries_of_a_weight_that_is_pruned_late_are_untouched() -> None:
    model = dense_net(50, 8, 8, 6)
    guidance = EntropyGuidance(model, **OPTIONS)
    added_gradients(model, guidance)
    prune_layer(model)
    guidance.start_epoch()
    added = added_gradients(model, guidance)["2.weight_orig"]
    assert not torch.count_nonzero(added[model[2].weight_mask == 0])
    assert torch.count_nonzero(added)
    first_mask = model[2].weight_mask.clone()
    prune.random_unstructured(model[2], "weight", amount=0.5)  # a mask that changes is always followed
    guidance.start_epoch()
    added = added_gradients(model, guidance)["2.weight_orig"]
    assert not torch.equal(model[2].weight_mask, first_mask)
    assert not torch.count_nonzero(added[model[2].weight_mask == 0])


def test_a_frozen_weight_is_not_moved_by_guidance() -> None:
    model = dense_net(50, 8, 6)
    guidance = EntropyGuidance(model, **OPTIONS)
    added_gradients(model, guidance)
    model[0].requires_grad_(False)
    model.zero_grad()
    guidance.start_epoch()
    guidance.add_gradients()
    assert model[0].weight.grad is None
    assert torch.count_nonzero(model[2].weight.grad)


def test_what_comes_without_guidance_is_named_once() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(6, 5), "rnn": nn.GRUCell(4, 4)})
    with pytest.warns(GuidanceWarning, match="rnn.weight_ih, rnn.weight_hh .recurrent"):
        guidance = EntropyGuidance(model)
    model["late"] = nn.GRUCell(3, 3)
    with pytest.warns(GuidanceWarning, match=r"late.weight_ih, late.weight_hh .recurrent") as caught:
        guidance.start_epoch()
    assert len(caught) == 1
    assert "rnn.weight_ih" not in str(caught[0].message)
    assert {"rnn.weight_hh", "late.weight_hh"} <= guidance.unguided.keys()
    model["fc"].weight = nn.Parameter(torch.ones(5, 6))
    guidance.start_epoch()  # pytest makes an error of any warning


def test_a_layer_in_front_of_a_norm_is_named_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    with pytest.warns(GuidanceWarning, match="a normalisation follows.*: 0$"):
        guidance = EntropyGuidance(model)
    model.append(nn.Linear(4, 3))
    guidance.start_epoch()  # pytest makes an error of any warning
    assert [layer.name for layer in guidance.selected] == ["2", "3"]


def test_a_model_that_has_lost_what_was_guided_is_refused() -> None:
    model = dense_net(4, 4)
    guidance = EntropyGuidance(model)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no layer to guide"):
        guidance.start_epoch()


def test_a_model_that_stays_is_not_searched_again() -> None:
    model = net()
    guidance = EntropyGuidance(model, **OPTIONS)
    layers = guidance.layers
    with torch.no_grad():
        model[2].weight.mul_(2)
    model.load_state_dict(model.state_dict())
    model.to(torch.float32)
    guidance.start_epoch()
    assert guidance.layers is layers


# --- refused: complex weights ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(4, 4, dtype=torch.complex64),
        lambda: nn.Conv2d(2, 2, 3, dtype=torch.complex128),
        lambda: nn.Conv1d(2, 2, 1, dtype=torch.complex64),
        lambda: parametrizations.orthogonal(nn.Linear(4, 4, dtype=torch.complex64)),
    ],
    ids=["linear", "convolution", "pointwise", "unitary"],
)
@pytest.mark.parametrize("lambda1", [0.0, 0.1])
def test_complex_weights_are_refused(make: Callable[[], nn.Module], lambda1: float) -> None:
    model = nn.ModuleDict({"real": nn.Linear(4, 4), "x": make()})
    with pytest.raises(ValueError, match=r"x has complex weights \(torch.complex\d+\).*EntropyGuidance\(model.part\)"):
        EntropyGuidance(model, lambda1=lambda1)
    model["x"].requires_grad_(False)
    assert [x.name for x in EntropyGuidance(model).layers] == ["real"]


@pytest.mark.parametrize("measure", [volume, minor, volume_and_gradient, taps])
def test_measures_refuse_complex_matrices(measure: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ValueError, match=r"complex.*real"):
        measure(torch.eye(3, dtype=torch.complex64))


def test_a_real_weight_that_is_computed_from_complex_ones_is_guided() -> None:
    class Magnitude(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.abs()

    torch.manual_seed(0)
    linear = nn.Linear(4, 3, dtype=torch.complex128)
    parametrize.register_parametrization(linear, "weight", Magnitude(), unsafe=True)
    original = linear.parametrizations.weight.original
    guidance = EntropyGuidance(linear, form="log", lambda1=1.0, max_ratio=None)
    guidance.add_gradients()
    (expected,) = torch.autograd.grad(-volume(original.abs(), 0.1) / 3, original)
    torch.testing.assert_close(original.grad, expected)


# --- refused: sharded weights ---


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


REFUSED = r"{} is sharded.*whole.*DistributedDataParallel"


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("lambda1", [0.0, 0.1])
def test_fsdp2_is_refused(lambda1: float) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = dense_net(50, 8, 6)
    guidance = EntropyGuidance(model, lambda1=lambda1)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match=REFUSED.format("0.weight")):
        EntropyGuidance(model, lambda1=lambda1)
    with pytest.raises(ValueError, match=REFUSED.format("0.weight")):
        guidance.start_epoch()  # sharded afterwards


@pytest.mark.usefixtures("one_process")
def test_tensor_parallel_is_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = parallelize_module(dense_net(50, 8, 6), init_device_mesh("cpu", (1,)), {"2": ColwiseParallel()})
    with pytest.raises(ValueError, match=REFUSED.format("2.weight")):
        EntropyGuidance(model)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_fsdp1_is_refused(use_orig_params: bool) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one process, and of what comes after FSDP1
        inner = FullyShardedDataParallel(
            dense_net(50, 8), device_id=torch.device("cpu"), use_orig_params=use_orig_params
        )
    model = nn.Sequential(inner, nn.Linear(8, 6))
    with pytest.raises(ValueError, match=REFUSED.format("0")):
        EntropyGuidance(model)


@pytest.mark.parametrize("shape", [(0,), (17,)], ids=["partitioned away", "a part in a row"])
def test_a_weight_that_is_no_matrix_is_refused_as_a_shard(shape: tuple[int, ...]) -> None:
    """As DeepSpeed's ZeRO 3 and FSDP1 leave weights between uses; neither can be run in one process on a CPU."""
    model = dense_net(50, 8, 6)
    model[2].weight = nn.Parameter(torch.zeros(shape))
    with pytest.raises(ValueError, match=REFUSED.format("2.weight")):
        EntropyGuidance(model)


@pytest.mark.usefixtures("one_process")
def test_ddp_is_guided_as_the_model_within() -> None:
    model, twin = dense_net(50, 8, 6), dense_net(50, 8, 6)
    wrapped = nn.parallel.DistributedDataParallel(model)
    guidance, own = EntropyGuidance(wrapped, **OPTIONS), EntropyGuidance(twin, **OPTIONS)
    guidance.add_gradients()
    own.add_gradients()
    assert [layer.name for layer in guidance.layers] == ["module.0", "module.2"]
    assert all(
        torch.equal(a.grad, b.grad)
        for a, b in zip(model.parameters(), twin.parameters(), strict=True)
        if b.grad is not None
    )


def test_a_lazy_norm_of_a_model_does_not_disturb() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.LazyBatchNorm1d())
    assert [re.sub(r"\W", "", layer.name) for layer in EntropyGuidance(model).layers] == ["0"]
