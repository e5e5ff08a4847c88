"""Contract tests over every model family, and the structure each docstring promises."""

import subprocess
import sys
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sweep.losses import EntropyGuidance
from sweep.models import MODELS, build_model, model_class, options
from sweep.models.blocks import ACTIVATIONS
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics

DIGITS, MNIST, CIFAR, ODD = (1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 11, 13)
SIZES = {  # depth, width: small ones that every family can have
    "mlp": (2, 16),
    "autoencoder": (4, 48),
    "cnn": (3, 8),
    "conv_autoencoder": (4, 16),
    "resnet": (20, 4),
    "unet": (2, 4),
}
KINDS = [*MODELS, "resnet-18"]  # a depth that is built another way, with projections


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(name, in_shape=DIGITS, **sizes):
    family, _, kind = name.partition("-")
    depth, width = SIZES[family]
    depth = int(kind or depth)
    return build_model(family, **{"depth": depth, "width": width, "in_shape": in_shape, "num_outputs": 10, **sizes})


def output_shape(model, x, num_outputs=10):
    """Of the model's task, for a batch x."""
    return {
        "classification": (len(x), num_outputs),
        "reconstruction": tuple(x.shape),
        "segmentation": (len(x), num_outputs, *x.shape[2:]),
    }[model.task]


def task_loss(model, x):
    """A batch's loss and the model's output, with labels 0, 1, ... in turn."""
    y = model(x)
    labels = torch.arange(y[:, 0].numel()).remainder(10).view(y[:, 0].shape)
    return (y - x).square().mean() if model.task == "reconstruction" else nn.functional.cross_entropy(y, labels), y


def dense_units(model):
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return [linears[0].in_features, *(linear.out_features for linear in linears)]


def weight_layers(model, *kinds):
    kinds = kinds or (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("in_shape", [DIGITS, MNIST, CIFAR, ODD])
@pytest.mark.parametrize("name", KINDS)
def test_output_shape_and_range(name, in_shape):
    model, x = small(name, in_shape), torch.rand(5, *in_shape)
    y = model(x)
    assert y.shape == output_shape(model, x)
    if model.task == "reconstruction":
        assert 0 <= y.min() < y.max() <= 1


@pytest.mark.parametrize("name", KINDS)
def test_images_of_a_batch_do_not_mix(name):
    model, x = small(name).eval(), torch.rand(6, *DIGITS)
    alone = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(model(x), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_every_parameter(name, batch_norm):
    model = small(name, batch_norm=batch_norm, activation="silu")  # ReLU may leave a few units dead
    task_loss(model, torch.rand(16, *DIGITS))[0].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 1e-8, key  # a bias in front of a norm has 1e-10, from rounding


@pytest.mark.parametrize("name", KINDS)
def test_one_batch_is_overfitted(name):
    model, x = small(name, (1, 4, 4)), torch.rand(16, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    start, _ = task_loss(model, x)
    for _ in range(400):
        optimizer.zero_grad()
        loss, _ = task_loss(model, x)
        if loss < 0.1 * start:
            return
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss went from {start:.3f} to {loss:.3f}")


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_initial_weights(name):
    def state(seed):
        torch.manual_seed(seed)
        return small(name).state_dict()

    first, again, other = state(1), state(1), state(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_holds_all_of_the_model(name, tmp_path):
    model, x = small(name), torch.rand(8, *DIGITS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    task_loss(model, x)[0].backward()
    optimizer.step()  # moves the statistics of norms too
    checkpoint.save(tmp_path / "attempt-01", [EpochMetrics(1, {}, 0)], {"model": model.state_dict()})
    other = small(name)
    other.load_state_dict(checkpoint.load_latest(tmp_path).state["model"])
    assert torch.equal(other.eval()(x), model.eval()(x))


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_autocast_trains_like_float32(name):
    model, x = small(name), torch.rand(32, *DIGITS)
    parameters = list(model.parameters())
    exact = torch.autograd.grad(task_loss(model, x)[0], parameters)
    with torch.autocast("cpu", torch.bfloat16):
        loss, y = task_loss(model, x)
    rough = torch.autograd.grad(loss, parameters)
    assert y.isfinite().all()
    assert all(g.dtype == torch.float32 for g in rough)
    exact, rough = (torch.cat([g.flatten() for g in gradients]) for gradients in (exact, rough))
    assert torch.cosine_similarity(exact, rough, dim=0) > 0.95


@pytest.mark.parametrize("name", KINDS)
def test_an_exported_program_takes_any_number_of_images(name):
    """As the best model of a study is stored; dimensions as MLflow declares them."""
    model, x = small(name, ODD).eval(), torch.rand(4, *ODD)
    dynamic = dict.fromkeys(range(x.ndim), torch.export.Dim.AUTO)
    program = torch.export.export(model, (x,), dynamic_shapes=(dynamic,)).module()
    more = torch.rand(7, *ODD)
    torch.testing.assert_close(program(more), model(more))


@pytest.mark.parametrize("name", KINDS)
def test_guidance_finds_the_layers(name):
    """Dense and 1x1 layers by the dense term, other convolutions by the convolutional one, each by its name."""
    model = small(name, batch_norm=False)
    modules = dict(model.named_modules())
    convs = [n for n in weight_layers(model, nn.Conv2d) if modules[n].kernel_size != (1, 1)]
    metrics = EntropyGuidance(model, lambda1=1e-3, lambda2=1e-3 if convs else 0).metrics()
    found = {key.removeprefix("entropy/") for key in metrics if key.startswith("entropy/")}
    assert found >= set(weight_layers(model, nn.Linear, nn.Conv2d))
    assert ("guidance/conv" in metrics) == bool(convs)
    assert "guidance/dense" in metrics


@pytest.mark.parametrize("name", MODELS)
def test_modules_stand_in_forward_order(name):
    """So that what follows a layer can be told from the model alone: a norm comes right after its layer."""
    model = small(name, CIFAR, batch_norm=True, dropout=0.1)
    leaves = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    called = []
    for key, module in leaves:
        module.register_forward_hook(lambda _module, _inputs, _y, key=key: called.append(key))
    model(torch.rand(2, *CIFAR))
    weighted = [key for key in dict.fromkeys(called) if hasattr(model.get_submodule(key), "weight")]
    registered = [key for key, module in leaves if hasattr(module, "weight")]
    assert weighted == registered
    norms = [
        i for i, key in enumerate(registered) if isinstance(model.get_submodule(key), nn.modules.batchnorm._BatchNorm)
    ]
    assert norms
    for i in norms:
        before, norm = (model.get_submodule(registered[j]) for j in (i - 1, i))
        assert before.weight.shape[0] == norm.num_features
        assert before.bias is None


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=30)
@given(data=st.data())
def test_any_size_builds_or_is_refused_alike_on_meta(name, data):
    sizes = {
        "depth": data.draw(st.sampled_from([18, 20, 21]) if name == "resnet" else st.integers(-1, 12)),
        "width": data.draw(st.integers(-1, 70 if "auto" in name else 9)),
        "in_shape": data.draw(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 20))),
        "num_outputs": data.draw(st.integers(0, 12)),
    }
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
    x = torch.rand(2, *sizes["in_shape"])
    assert model.eval()(x).shape == output_shape(model, x, sizes["num_outputs"])
    depth = sizes["depth"]
    expected = {
        "mlp": depth + 1,
        "autoencoder": depth,
        "cnn": depth + 2,
        "conv_autoencoder": depth + 2,
        "resnet": depth + (3 if depth == 18 else 0),  # projections are not counted
        "unet": 2 * (depth + 1) + 3 * depth + 1,
    }
    assert len(weight_layers(model)) == expected[name]


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


# -- the options that all families have --------------------------------------------------------------------------------


def reference(name):
    """The module of each activation, applied to a fixed batch, by formula."""
    x = torch.linspace(-3, 3, 41, dtype=torch.float64)
    return x, {
        "relu": x.clamp(min=0),
        "leaky_relu": torch.where(x > 0, x, 0.01 * x),
        "elu": torch.where(x > 0, x, x.exp() - 1),
        "gelu": x / 2 * (1 + torch.erf(x / 2**0.5)),
        "silu": x / (1 + (-x).exp()),
        "tanh": (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    }[name]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_their_formula(name):
    x, y = reference(name)
    torch.testing.assert_close(ACTIVATIONS[name]()(x), y)


@pytest.mark.parametrize("name", MODELS)
def test_the_activation_is_the_only_one(name):
    """Of tanh networks without biases the output changes its sign with the input, up to the last layer."""
    model = small(name, batch_norm=False, activation="tanh")
    kinds = {type(module) for module in model.modules()}
    assert nn.Tanh in kinds
    assert not kinds & ({type(make()) for make in ACTIVATIONS.values()} - {nn.Tanh})
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            nn.init.zeros_(parameter)
    x = torch.randn(3, *DIGITS)
    if name == "unet":  # max-pooling is not odd
        return
    y, mirrored = model(x), model(-x)
    zero = 1 - mirrored if model.task == "reconstruction" else -mirrored
    torch.testing.assert_close(y, zero)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_while_training_only(name):
    model, x = small(name, dropout=0.5), torch.rand(64, *DIGITS)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    same = small(name)
    same.load_state_dict(model.state_dict())  # dropout has no parameters and changes no name
    assert torch.equal(same.eval()(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_dropout_keeps_the_mean(name):
    """Scaled by 1 / (1 - p) while training: of a linear last layer the mean over many masks is the output in eval."""
    model, x = small(name, dropout=0.25), torch.rand(1, *DIGITS)
    drops = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p == 0.25]
    assert drops
    seen = []
    drops[-1].register_forward_hook(lambda _m, inputs, y: seen.append((inputs[0], y)))
    model.eval()
    drops[-1].train()
    model(x)
    values, dropped = seen[0]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], values[kept] / 0.75)


@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_normalises_each_hidden_feature(name):
    model = small(name, CIFAR, batch_norm=True)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(lambda _module, _inputs, y: seen.append(y))
    model(torch.rand(64, *CIFAR))
    assert seen
    for y in seen:
        y = y.transpose(0, 1).flatten(1)
        torch.testing.assert_close(y.mean(1), torch.zeros(len(y)), rtol=0, atol=1e-4)
        assert (y.var(1) < 1.1).all()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"activation": "swish"}, "activation = 'swish': must be one of relu, leaky_relu, elu, gelu, silu, tanh"),
        ({"activation": None}, "activation = None: must be one of relu"),
        ({"dropout": 1.0}, "dropout = 1.0: must be a number, 0 <= dropout < 1"),
        ({"dropout": -0.1}, "dropout = -0.1: must be a number"),
        ({"dropout": True}, "dropout = True: must be a number"),
        ({"dropout": "0.5"}, "dropout = '0.5': must be a number"),
        ({"batch_norm": 1}, "batch_norm = 1: must be true or false"),
        ({"activation": "swish", "dropout": 2}, "activation = 'swish': .*; dropout = 2: must be a number"),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_an_option_out_of_range_is_refused(name, option, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        small(name, **option)


# -- the families ------------------------------------------------------------------------------------------------------


def test_refusal_comes_before_any_weight():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="must be even"):
        build_model("autoencoder", depth=3, width=2**14, in_shape=(3, 256, 256), num_outputs=1)
    with pytest.raises(ValueError, match="downsample"):
        build_model("cnn", depth=40, width=2**14, in_shape=(1, 2, 2), num_outputs=1)
    with pytest.raises(ValueError, match="activation"):
        build_model("unet", depth=4, width=2**14, in_shape=(3, 256, 256), num_outputs=1, activation="swish")
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_model_and_option_are_refused_with_the_valid_ones():
    with pytest.raises(
        ValueError, match="unknown model 'vit': choose one of mlp, autoencoder, cnn, conv_autoencoder, resnet, unet, or"
    ):
        model_class("vit")
    with pytest.raises(ValueError, match="latents: autoencoder has no such option; its options: latent, act"):
        small("autoencoder", latents=8)
    with pytest.raises(ValueError, match=r"latent: mlp has no such option; its options: act.*, batch_norm"):
        small("mlp", latent=8)


def test_options_carry_types_and_defaults():
    own = {
        "mlp": {},
        "autoencoder": {"latent": (int, 32)},
        "cnn": {"downsample": (int, 2), "hidden": (int | None, 64)},
        "conv_autoencoder": {"latent": (int, 32), "downsample": (int, 2)},
        "resnet": {},
        "unet": {},
    }
    for name in MODELS:
        normed = name in ("resnet", "unet")
        knobs = {"activation": (str, "relu"), "dropout": (float, 0.0), "batch_norm": (bool, normed)}
        assert {k: (p.annotation, p.default) for k, p in options(name).items()} == {**own[name], **knobs}


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
    for layer in (module for module in model.conv if isinstance(module, nn.Conv2d)):
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


# -- convolutional autoencoder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "downsample", "in_shape", "sides"),
    [
        (4, 2, MNIST, [(14, 14), (7, 7), (14, 14), (28, 28)]),
        (2, 1, ODD, [(6, 7), (11, 13)]),
        (8, 2, CIFAR, [(32, 32), (16, 16), (8, 8), (8, 8), (8, 8), (16, 16), (32, 32), (32, 32)]),
        (6, 3, ODD, [(6, 7), (3, 4), (2, 2), (3, 4), (6, 7), (11, 13)]),
        (4, 0, DIGITS, [(8, 8)] * 4),
    ],
)
def test_conv_autoencoder_mirrors_the_sizes(depth, downsample, in_shape, sides):
    model = build_model(
        "conv_autoencoder", depth=depth, width=4, in_shape=in_shape, num_outputs=1, downsample=downsample, latent=5
    )
    seen, codes = [], []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, y: seen.append(tuple(y.shape[1:])))
    model.encoder.register_forward_hook(lambda _module, _inputs, y: codes.append(tuple(y.shape)))
    model(torch.rand(2, *in_shape))
    assert seen == [(4, *side) for side in sides[:-1]] + [in_shape]
    assert codes == [(2, 5)]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 3}, "depth = 3: .* must be even"),
        ({"depth": 2}, r"depth = 2: must be at least 2 \* downsample = 4, for the layers that resize the image"),
        ({"depth": 8, "downsample": 4}, r"downsample = 4: at most 3 for an image of 8x8 \(depth = 8\)"),
        ({"latent": 0}, "latent = 0: must be an integer of at least 1"),
    ],
)
def test_conv_autoencoder_refusals(sizes, message):
    with pytest.raises(ValueError, match=message):
        small("conv_autoencoder", **sizes)


# -- residual networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [(20, 16, 0.27), (32, 16, 0.46), (44, 16, 0.66), (56, 16, 0.85), (110, 16, 1.7)],  # arXiv 1512.03385, table 6
)
def test_resnet_has_the_parameters_of_the_paper(depth, width, millions):
    with torch.device("meta"):
        model = build_model("resnet", depth=depth, width=width, in_shape=CIFAR, num_outputs=10)
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005 if millions < 1 else 0.05)


@pytest.mark.parametrize(("depth", "in_shape"), [(18, (3, 72, 80)), (34, (3, 65, 65)), (18, CIFAR)])
def test_resnet_18_and_34_are_torchvisions(depth, in_shape):
    """The same network: weights fit by name, outputs agree. On small images the stem is replaced."""
    from torchvision.models import resnet18, resnet34

    theirs = {18: resnet18, 34: resnet34}[depth](num_classes=10)
    if in_shape == CIFAR:
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
    ours = build_model("resnet", depth=depth, width=64, in_shape=in_shape, num_outputs=10)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, *in_shape)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x), rtol=1e-4, atol=1e-4)


def test_resnet_of_cifar_by_its_definition():
    """Every block adds its input, subsampled and padded with zero channels where the sizes change, to F(x)."""
    model = small("resnet", CIFAR).eval()
    x = torch.rand(2, *CIFAR)
    f = nn.functional

    def conv_norm(x, conv, norm, stride=1):
        y = f.conv2d(x, conv.weight, stride=stride, padding=1)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (y - norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    y = conv_norm(x, model.conv1, model.bn1).relu()
    for k, stage in enumerate([model.layer1, model.layer2, model.layer3]):
        for i, block in enumerate(stage):
            stride = 2 if k and not i else 1
            added = torch.zeros(len(y), 4 * 2**k, *(side // stride for side in y.shape[2:]))
            before = (added.shape[1] - y.shape[1]) // 2
            added[:, before : before + y.shape[1]] = y[:, :, ::stride, ::stride]
            inner = conv_norm(y, block.conv1, block.bn1, stride).relu()
            y = (conv_norm(inner, block.conv2, block.bn2) + added).relu()
    assert y.shape == (2, 16, 8, 8)
    expected = y.mean((2, 3)) @ model.fc.weight.T + model.fc.bias
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 16, 19, 50])
def test_resnet_names_the_depths_there_are(depth):
    with pytest.raises(ValueError, match=rf"^depth = {depth}: must be one of 18, 20, 32, 34, 44, 56, 110$"):
        small("resnet", depth=depth)


# -- U-Net -------------------------------------------------------------------------------------------------------------


def test_unet_by_its_definition():
    """With sizes that do not divide: poolings round down, and the last row or column is repeated."""
    model, x, f = small("unet", ODD, batch_norm=False), torch.rand(2, *ODD), nn.functional

    def double(level, x):
        first, second = (m for m in level if isinstance(m, nn.Conv2d))
        x = f.conv2d(x, first.weight, first.bias, padding=1).relu()
        return f.conv2d(x, second.weight, second.bias, padding=1).relu()

    top = double(model.down[0], x)  # 11 x 13
    middle = double(model.down[1], f.max_pool2d(top, 2))  # 5 x 6
    low = double(model.down[2], f.max_pool2d(middle, 2))  # 2 x 3
    assert [tuple(t.shape[1:]) for t in (top, middle, low)] == [(4, 11, 13), (8, 5, 6), (16, 2, 3)]
    for level, skip in zip(model.up, (middle, top), strict=True):
        # Each pixel becomes 2x2 of its own: the kernel is a matrix from channels to channels x 4.
        up = torch.einsum("bihw,ioyx->bohywx", low, level.up.weight).flatten(4).flatten(2, 3)
        up = up + level.up.bias.view(-1, 1, 1)
        rows, columns = (
            torch.arange(side).clamp(max=up.shape[axis] - 1) for axis, side in ((2, skip.shape[2]), (3, skip.shape[3]))
        )
        low = double(level.conv, torch.cat([skip, up[:, :, rows][:, :, :, columns]], 1))
    expected = torch.einsum("bchw,kc->bkhw", low, model.output.weight[:, :, 0, 0]) + model.output.bias.view(-1, 1, 1)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_unet_has_the_parameters_of_the_paper():
    """31.03 M for one channel and two classes, as counted in many places; from the paper's figure 1."""
    with torch.device("meta"):
        model = build_model("unet", depth=4, width=64, in_shape=(1, 572, 572), num_outputs=2, batch_norm=False)
    convs = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 1024)]
    convs += [
        (1024, 1024),
        (1024, 512),
        (512, 512),
        (512, 256),
        (256, 256),
        (256, 128),
        (128, 128),
        (128, 64),
        (64, 64),
    ]
    ups = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    expected = sum(9 * n * m + m for n, m in convs) + sum(4 * n * m + m for n, m in ups) + 64 * 2 + 2
    assert sum(p.numel() for p in model.parameters()) == expected
    assert round(expected / 1e6, 2) == 31.03


@pytest.mark.parametrize("depth", [4, 9])
def test_unet_refuses_more_poolings_than_the_image_allows(depth):
    with pytest.raises(ValueError, match=rf"^depth = {depth}: at most 3 for an image of 11x13$"):
        small("unet", ODD, depth=depth)
