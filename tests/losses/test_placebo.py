"""Placebo guidance: as large as the real one, the same whenever it is drawn again, and without a meaning."""

import itertools

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


SIZES = [(3, 3), (4, 4), (2, 3), (1, 4), (2, 2), (1, 2)]


def exact_taps(size: tuple[int, int]) -> set[tuple[int, int]]:
    """The taps t of a kernel for which n log|t| is the entropy change of the map from the pixels under them."""
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 1, size, bias=False).double()
    images = torch.eye(36, dtype=torch.float64).reshape(36, 1, 6, 6)
    with torch.no_grad():
        conv.weight.copy_(1 + torch.rand_like(conv.weight))
        outputs = conv(images)
    height, width = outputs.shape[2:]
    exact = set()
    for row, column in itertools.product(*map(range, size)):
        under = outputs.reshape(6, 6, -1)[row : row + height, column : column + width].reshape(height * width, -1)
        expected = height * width * conv.weight[0, 0, row, column].detach().log()
        if torch.isclose(torch.linalg.slogdet(under).logabsdet, expected, rtol=1e-6):
            exact.add((row, column))
    return exact


@pytest.mark.parametrize("size", SIZES)
def test_the_entropy_change_is_exact_at_the_corners_of_a_kernel_and_at_no_other_tap(size: tuple[int, int]) -> None:
    assert exact_taps(size) == set(itertools.product(*({0, each - 1} for each in size)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conv_measure", ["taps", "channels"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_placebo_guides_no_tap_at_which_the_entropy_change_is_exact(
    size: tuple[int, int], conv_measure: str, transposed: bool
) -> None:
    """Unless it is turned: a kernel of at most two taps along each axis has no other taps."""
    torch.manual_seed(0)
    conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(3, 4, size).double()
    gradients = []
    for placebo in (False, True):
        conv.zero_grad()
        options = {"lambda1": 0.0, "lambda2": 0.1, "conv_measure": conv_measure, "placebo": placebo}
        EntropyGuidance(conv, **UNCAPPED, **options).add_gradients()  # type: ignore[arg-type]
        assert conv.weight.grad is not None
        gradients.append(conv.weight.grad.clone())
    real, placebo_gradient = gradients
    taps = {(row, column) for _, _, row, column in placebo_gradient.nonzero().tolist()}
    assert len(taps) == 1
    if max(size) > 2:
        assert not taps & exact_taps(size)
        return
    assert taps == {(0, 0)}
    turned, straight = placebo_gradient[:, :, 0, 0], real[:, :, 0, 0]
    torch.testing.assert_close(torch.linalg.svdvals(turned), torch.linalg.svdvals(straight))
    torch.testing.assert_close(turned.abs().flatten().sort().values, straight.abs().flatten().sort().values)
    assert not torch.allclose(turned, straight)


def test_a_turned_kernel_does_not_know_in_which_direction_entropy_grows() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 12, 2).double()
    (layer,) = guidable_layers(conv)
    _, (real,) = layer.gradient(0.1, lambda h: -torch.ones_like(h))
    turned = [layer.placebo(seed).gradient(0.1, lambda h: -torch.ones_like(h))[1][0] for seed in range(100)]
    along = [float(torch.cosine_similarity(gradient.flatten(), real.flatten(), 0)) for gradient in turned]
    assert max(map(abs, along)) < 5 / 12  # of random directions in 144 dimensions: standard deviation 1/12
    assert abs(sum(along) / 100) < 4 / 12 / 10


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
