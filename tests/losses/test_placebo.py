"""Placebo guidance: as large as the real one, the same whenever it is drawn again, and without a meaning."""

import pytest
import torch
from torch import Tensor, nn

from sweep.losses import EntropyGuidance
from sweep.losses.layers import guidable_layers

from ..support.guidance_nets import added_gradients, dense_net, quiet_metrics, small_net

UNCAPPED = {"every": 1, "max_ratio": None}


def added(model: nn.Module, *, seed: int = 0, **options: object) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return added_gradients(model, EntropyGuidance(model, **{"lambda1": 0.05, **UNCAPPED, **options}))  # type: ignore[arg-type]


@pytest.mark.parametrize("widths", [(50, 30, 6), (50, 20, 20, 6)])
def test_a_matrix_is_given_a_gradient_of_the_same_norm_and_singular_values(widths: tuple[int, ...]) -> None:
    model = dense_net(*widths)
    real, placebo = added(model), added(model, placebo=True)
    for name, gradient in real.items():
        torch.testing.assert_close(placebo[name].norm(), gradient.norm())
        torch.testing.assert_close(placebo[name].abs().sum(), gradient.abs().sum())
        if gradient.dim() == 2:
            torch.testing.assert_close(torch.linalg.svdvals(placebo[name]), torch.linalg.svdvals(gradient))
            assert not torch.equal(placebo[name], gradient)


def test_a_placebo_does_not_know_in_which_direction_entropy_grows() -> None:
    model = dense_net(50, 50, 6)
    real = added(model)["0.weight"]
    along = [
        float(torch.cosine_similarity(added(model, placebo=True, seed=seed)["0.weight"].flatten(), real.flatten(), 0))
        for seed in range(100)
    ]
    # Of random directions in 2,500 dimensions: standard deviation 1/50.
    assert max(map(abs, along)) < 5 / 50
    assert abs(sum(along) / 100) < 4 / 50 / 10


def test_it_is_drawn_by_the_seed_alone_and_draws_nothing_from_it() -> None:
    model = dense_net(50, 30, 6)
    first, again, other = (added(model, placebo=True, seed=seed)["0.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    added_gradients(model, EntropyGuidance(model, placebo=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_of_one_shape_have_frames_of_their_own() -> None:
    first, second = dense_net(50, 50), dense_net(50, 50)
    pair = nn.Sequential(first[0], nn.Tanh(), second[0], nn.Linear(50, 6)).double()
    real = added(pair)
    torch.testing.assert_close(real["0.weight"], real["2.weight"])
    gradients = added(pair, placebo=True)
    assert not torch.allclose(gradients["0.weight"], gradients["2.weight"])


def test_the_frame_stays_while_the_weights_move() -> None:
    """Or what is added would average out over a run, which the real gradient does not."""
    torch.manual_seed(0)
    linear = nn.Linear(40, 20)
    (real,) = guidable_layers(linear)
    twin = real.placebo(3)

    def gradients() -> tuple[Tensor, Tensor]:
        return tuple(layer.gradient(0.1, lambda h: -torch.ones_like(h))[1][0] for layer in (real, twin))  # type: ignore[return-value]

    before, turned_before = gradients()
    with torch.no_grad():
        linear.weight.add_(0.3 * torch.randn_like(linear.weight))
    after, turned_after = gradients()
    torch.testing.assert_close((turned_before * turned_after).sum(), (before * after).sum())


@pytest.mark.parametrize("options", [{}, {"conv_measure": "channels", "conv_form": "reciprocal", "epsilon": 0.1}])
def test_of_a_kernel_the_tap_in_the_middle_is_guided(options: dict[str, object]) -> None:
    """As the corner would be of the kernel whose corner is that tap."""
    model = small_net()
    placebo = added(model, placebo=True, lambda1=0.0, lambda2=0.02, **options)["conv.weight"]
    rolled = small_net()
    with torch.no_grad():
        rolled.conv.weight.copy_(model.conv.weight.roll((-1, -1), (2, 3)))
    expected = added(rolled, lambda1=0.0, lambda2=0.02, **options)["conv.weight"].roll((1, 1), (2, 3))
    torch.testing.assert_close(placebo, expected)
    assert torch.count_nonzero(placebo) == placebo[..., 1, 1].numel()


@pytest.mark.parametrize(
    ("layer", "lambdas"),
    [
        (nn.Conv2d(4, 6, 1), {"lambda1": 0.1}),  # a matrix for each pixel
        (nn.Conv2d(4, 6, 1, groups=2), {"lambda1": 0.1}),
        (nn.Conv2d(4, 4, 1, groups=4), {"lambda1": 0.0, "lambda2": 0.1}),  # taps, and no other ones
    ],
)
def test_a_kernel_of_one_tap_is_turned_as_a_matrix_is(layer: nn.Module, lambdas: dict[str, float]) -> None:
    def gradient(**options: bool) -> Tensor:
        torch.manual_seed(5)
        layer.zero_grad()
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        EntropyGuidance(layer, **UNCAPPED, **lambdas, **options).add_gradients()  # type: ignore[arg-type]
        return layer.weight.grad.clone()  # type: ignore[operator, union-attr, no-any-return]

    real, placebo = gradient(), gradient(placebo=True)
    torch.testing.assert_close(placebo.norm(), real.norm())
    assert not torch.equal(placebo, real)


def test_metrics_tell_the_networks_own_entropies() -> None:
    model = small_net()
    told = []
    for placebo in (False, True):
        guidance = EntropyGuidance(model, lambda1=0.05, lambda2=0.02, placebo=placebo)
        added_gradients(model, guidance)
        told.append(quiet_metrics(guidance))
    own = [{k: v for k, v in metrics.items() if not k.startswith(("grad_norm", "guidance/ratio"))} for metrics in told]
    assert own[0] == own[1]
    assert any(name.startswith("entropy/") for name in own[0])


def test_the_option_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="placebo = 'yes'; allowed: True or False"):
        EntropyGuidance(small_net(), placebo="yes")  # type: ignore[arg-type]
