"""Contract tests over every model family, and the structure each docstring promises."""

import subprocess
import sys
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models import MODELS, build_model, model_class, options

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
SIZES = {"mlp": (2, 16), "autoencoder": (4, 48), "cnn": (3, 8)}  # depth, width: small ones that every family can have


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(name, in_shape=DIGITS, **sizes):
    depth, width = SIZES[name]
    return build_model(name, **{"depth": depth, "width": width, "in_shape": in_shape, "num_outputs": 10, **sizes})


def dense_units(model):
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return [linears[0].in_features, *(linear.out_features for linear in linears)]


@pytest.mark.parametrize("in_shape", [DIGITS, MNIST, CIFAR])
@pytest.mark.parametrize("name", MODELS)
def test_output_shape_and_range(name, in_shape):
    model = small(name, in_shape)
    y = model(torch.rand(5, *in_shape))
    if model.task == "reconstruction":
        assert y.shape == (5, *in_shape)
        assert 0 <= y.min() < y.max() <= 1
    else:
        assert model.task == "classification"
        assert y.shape == (5, 10)


@pytest.mark.parametrize("name", MODELS)
def test_images_of_a_batch_do_not_mix(name):
    model, x = small(name), torch.rand(6, *DIGITS)
    alone = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(model(x), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter(name):
    model = small(name)
    model(torch.rand(64, *DIGITS)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_is_overfitted(name):
    model = small(name)
    x, labels = torch.rand(16, *DIGITS), torch.randint(10, (16,))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def task_loss():
        y = model(x)
        return (y - x).square().mean() if model.task == "reconstruction" else nn.functional.cross_entropy(y, labels)

    start = task_loss().item()
    for _ in range(400):
        optimizer.zero_grad()
        task_loss().backward()
        optimizer.step()
    assert task_loss().item() < 0.05 * start


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(-1, 24),
    width=st.integers(-1, 70),
    in_shape=st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 20)),
    num_outputs=st.integers(0, 12),
)
def test_any_size_builds_or_is_refused_alike_on_meta(name, depth, width, in_shape, num_outputs):
    sizes = {"depth": depth, "width": width, "in_shape": in_shape, "num_outputs": num_outputs}
    try:
        with torch.device("meta"):
            sketch = build_model(name, **sizes)
    except ValueError as error:
        problem = str(error)
        assert any(problem.startswith(f"{key} = {value!r}:") for key, value in {**sizes, "downsample": 2}.items())
        with pytest.raises(ValueError) as real:  # noqa: PT011 - compared as a whole
            build_model(name, **sizes)
        assert str(real.value) == problem
        return
    model = build_model(name, **sizes)
    assert all(parameter.is_meta for parameter in sketch.parameters())
    assert {k: p.shape for k, p in sketch.named_parameters()} == {k: p.shape for k, p in model.named_parameters()}
    x = torch.rand(2, *in_shape)
    assert model(x).shape == (x.shape if model.task == "reconstruction" else (2, num_outputs))
    expected = {
        "mlp": depth + 1,
        "autoencoder": depth,
        "cnn": depth + 2,
    }
    assert sum(isinstance(module, nn.Linear | nn.Conv2d) for module in model.modules()) == expected[name]


@pytest.mark.parametrize("wrong", [0, -3, True, 2.0, "8", None])
@pytest.mark.parametrize("parameter", ["depth", "width", "num_outputs"])
@pytest.mark.parametrize("name", MODELS)
def test_a_size_that_is_none_is_refused_by_name(name, parameter, wrong):
    with pytest.raises(ValueError, match=rf"^{parameter} = {wrong!r}: must be an integer of at least 1"):
        small(name, **{parameter: wrong})


@pytest.mark.parametrize("wrong", [(8, 8), (1, 0, 8), (1, 8, 8.0), (1, 8, True)])
@pytest.mark.parametrize("name", MODELS)
def test_an_impossible_image_shape_is_refused(name, wrong):
    with pytest.raises(ValueError, match=r"^in_shape = .*\(channels, height, width\)"):
        small(name, in_shape=wrong)


def test_refusal_comes_before_any_weight():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="must be even"):
        build_model("autoencoder", depth=3, width=2**14, in_shape=(3, 256, 256), num_outputs=1)
    with pytest.raises(ValueError, match="downsample"):
        build_model("cnn", depth=40, width=2**14, in_shape=(1, 2, 2), num_outputs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_model_and_option_are_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="unknown model 'vit': choose one of mlp, autoencoder, cnn"):
        model_class("vit")
    with pytest.raises(ValueError, match="latents: autoencoder has no such option; its options: latent"):
        small("autoencoder", latents=8)
    with pytest.raises(ValueError, match="latent: mlp has no such option; its options: none"):
        small("mlp", latent=8)


def test_options_carry_types_and_defaults():
    assert options("mlp") == {}
    assert {k: (p.annotation, p.default) for k, p in options("autoencoder").items()} == {"latent": (int, 32)}
    assert {k: (p.annotation, p.default) for k, p in options("cnn").items()} == {
        "downsample": (int, 2),
        "hidden": (int | None, 64),
    }


def test_the_table_is_read_without_torch():
    code = "import sys, models; assert 'torch' not in sys.modules; print(sorted(models.MODELS))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(sorted(MODELS))


def test_mlp_depth_counts_hidden_layers():
    model = build_model("mlp", depth=3, width=20, in_shape=MNIST, num_outputs=10)
    assert dense_units(model) == [784, 20, 20, 20, 10]


def test_mlp_is_linear_maps_with_relu_between():
    model, x = small("mlp"), torch.rand(4, *DIGITS)
    y = x.reshape(4, 64).double()
    weights = [(m.weight.double(), m.bias.double()) for m in model.modules() if isinstance(m, nn.Linear)]
    for i, (weight, bias) in enumerate(weights):
        y = y @ weight.T + bias
        y = y.clamp(min=0) if i < len(weights) - 1 else y
    torch.testing.assert_close(model(x).double(), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("depth", "width", "latent", "units"),
    [
        (2, 7, 32, [784, 32, 784]),
        (4, 128, 32, [784, 128, 32, 128, 784]),
        (8, 256, 32, [784, 256, 128, 64, 32, 64, 128, 256, 784]),
        (8, 64, 32, [784, 64, 32, 32, 32, 32, 32, 64, 784]),
        (6, 100, 10, [784, 100, 50, 10, 50, 100, 784]),
        (4, 32, 32, [784, 32, 32, 32, 784]),
    ],
)
def test_autoencoder_units(depth, width, latent, units):
    model = build_model("autoencoder", depth=depth, width=width, in_shape=MNIST, num_outputs=10, latent=latent)
    assert dense_units(model) == units


def test_autoencoder_width_does_not_act_at_depth_2():
    narrow, wide = (sum(p.numel() for p in small("autoencoder", depth=2, width=w).parameters()) for w in (1, 512))
    assert narrow == wide


def test_autoencoder_is_the_measured_protocol():
    """ReLU between all weight layers, the code included, and a sigmoid at the end."""
    model, x = small("autoencoder"), torch.rand(4, *DIGITS)
    y = x.reshape(4, 64).double()
    weights = [(m.weight.double(), m.bias.double()) for m in model.modules() if isinstance(m, nn.Linear)]
    for i, (weight, bias) in enumerate(weights):
        y = y @ weight.T + bias
        y = y.clamp(min=0) if i < len(weights) - 1 else 1 / (1 + torch.exp(-y))
    torch.testing.assert_close(model(x).double(), y.reshape(x.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 5}, "depth = 5: .* must be even"),
        ({"width": 31}, "width = 31: must be at least latent = 32 at depth 4"),
        ({"latent": 0}, "latent = 0: must be an integer of at least 1"),
        ({"latent": False}, "latent = False: must be an integer of at least 1"),
    ],
)
def test_autoencoder_refusals(sizes, message):
    with pytest.raises(ValueError, match=message):
        small("autoencoder", **sizes)


@pytest.mark.parametrize(
    ("depth", "downsample", "in_shape", "sides"),
    [
        (4, 2, CIFAR, [32, 16, 8, 8]),
        (2, 2, DIGITS, [4, 2]),
        (6, 2, DIGITS, [8, 8, 4, 4, 2, 2]),
        (3, 0, DIGITS, [8, 8, 8]),
        (5, 1, MNIST, [28, 28, 14, 14, 14]),
        (20, 3, CIFAR, [32] * 5 + [16] * 5 + [8] * 5 + [4] * 5),
        (3, 3, DIGITS, [4, 2, 1]),
    ],
)
def test_cnn_halves_the_image_evenly_over_the_depth(depth, downsample, in_shape, sides):
    model = build_model("cnn", depth=depth, width=4, in_shape=in_shape, num_outputs=10, downsample=downsample)
    seen = []
    for layer in model.conv:
        layer.register_forward_hook(lambda _module, _inputs, y: seen.append(tuple(y.shape[1:])))
    model(torch.rand(2, *in_shape))
    assert seen == [(4, side, side) for side in sides]


def test_cnn_has_one_dense_hidden_layer_or_none():
    assert dense_units(small("cnn", width=8)) == [32, 64, 10]
    assert dense_units(small("cnn", width=8, hidden=20)) == [32, 20, 10]
    assert dense_units(small("cnn", width=8, hidden=None)) == [32, 10]
    assert dense_units(small("cnn", width=8, downsample=3)) == [8, 64, 10]  # the image has shrunk to one pixel


def test_cnn_of_24_layers_trains_in_shape():
    model = build_model("cnn", depth=24, width=8, in_shape=CIFAR, num_outputs=100, downsample=3)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # PyTorch's own initialisation lets a plain network of this depth fade out
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    model(torch.rand(8, *CIFAR)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 1}, r"depth = 1: must be at least downsample = 2"),
        ({"depth": 4, "downsample": 4}, r"downsample = 4: at most 3 for an image of 8x8 \(depth = 4\)"),
        ({"depth": 4, "in_shape": (3, 64, 3)}, r"downsample = 2: at most 1 for an image of 64x3"),
        ({"downsample": -1}, r"downsample = -1: must be an integer of at least 0"),
        ({"downsample": True}, r"downsample = True: must be an integer of at least 0"),
        ({"hidden": 0}, r"hidden = 0: must be an integer of at least 1"),
    ],
)
def test_cnn_refusals(sizes, message):
    with pytest.raises(ValueError, match=message):
        small("cnn", **sizes)


def test_parameters_are_counted_by_hand():
    assert sum(p.numel() for p in small("mlp").parameters()) == (64 + 1) * 16 + 17 * 16 + 17 * 10
    conv = (9 + 1) * 8 + 2 * (9 * 8 + 1) * 8
    assert sum(p.numel() for p in small("cnn").parameters()) == conv + (32 + 1) * 64 + 65 * 10
    assert sum(p.numel() for p in small("autoencoder").parameters()) == 65 * 48 + 49 * 32 + 33 * 48 + 49 * prod(DIGITS)
