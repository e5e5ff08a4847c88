"""Weights that are trained and not guided: left out, named once, each with the reason; and what is refused."""

import itertools
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from sweep.losses import EntropyGuidance, GuidanceWarning
from sweep.losses.entropy import minor, volume
from sweep.losses.layers import guidable_layers
from sweep.models import MODELS, build_model

from ..support.guidance_nets import quiet_metrics


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The messages of the guidance warnings within."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(w.message) for w in caught if w.category is GuidanceWarning]


def quiet(model: nn.Module, **options: Any) -> EntropyGuidance:
    with recorded():
        return EntropyGuidance(model, **options)


def moved(model: nn.Module, guidance: EntropyGuidance) -> set[str]:
    """The names of parameters, shared ones under each name, to which guidance adds something."""
    model.zero_grad()
    guidance.add_gradients()
    parameters = model.named_parameters(remove_duplicate=False)
    return {name for name, p in parameters if p.grad is not None and torch.count_nonzero(p.grad)}


def matrices(model: nn.Module) -> set[str]:
    """The names of what is trained and a matrix or more."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {name for name, p in parameters if p.requires_grad and p.dim() >= 2}


class Raw(nn.Module):
    """Multiplies by a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.scale = nn.Parameter(torch.ones(4))


def hooked(kind: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        module: nn.Module = getattr(nn.utils, kind)(nn.Linear(4, 4))
    return module


def parametrised_gru() -> nn.Module:
    return parametrizations.orthogonal(nn.GRU(4, 4), "weight_hh_l0")


def pruned_raw() -> nn.Module:
    return prune.l1_unstructured(Raw(), "matrix", 0.5)  # type: ignore[no-any-return]


def parametrised_raw() -> nn.Module:
    raw = Raw()
    parametrize.register_parametrization(raw, "matrix", nn.Identity())
    return raw


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(4, 4)))  # type: ignore[no-any-return]


def empty_linear() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Linear(0, 4)


def sparse_linear() -> nn.Module:
    linear = nn.Linear(4, 4)
    linear.weight = nn.Parameter(torch.eye(4).to_sparse())
    return linear


LEFT_OUT: dict[str, tuple[Callable[[], nn.Module], list[str], str]] = {
    "gru": (lambda: nn.GRU(4, 4), ["weight_ih_l0", "weight_hh_l0"], "recurrent"),
    "lstm": (
        lambda: nn.LSTM(4, 5, proj_size=2, bidirectional=True),
        [f"weight_{part}_l0{way}" for way in ("", "_reverse") for part in ("ih", "hh", "hr")],
        "recurrent",
    ),
    "cell": (lambda: nn.LSTMCell(4, 4), ["weight_ih", "weight_hh"], "recurrent"),
    "parametrised gru": (
        parametrised_gru,
        ["weight_ih_l0", "parametrizations.weight_hh_l0.original"],
        "recurrent",
    ),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), ["weight"], "bilinear"),
    "embedding": (lambda: nn.Embedding(4, 4), ["weight"], "embedding"),
    "bag": (lambda: nn.EmbeddingBag(4, 4), ["weight"], "embedding"),
    "weight_norm": (lambda: hooked("weight_norm"), ["weight_g", "weight_v"], "hook.*parametrizations"),
    "spectral_norm": (lambda: hooked("spectral_norm"), ["weight_orig"], "hook.*parametrizations"),
    "raw": (Raw, ["matrix"], "raw parameter of Raw"),
    "pruned raw": (pruned_raw, ["matrix_orig"], "raw parameter of Raw"),
    "parametrised raw": (parametrised_raw, ["parametrizations.matrix.original"], "raw parameter of ParametrizedRaw"),
    "scripted": (scripted, ["0.weight"], "raw parameter of RecursiveScriptModule"),
    "list": (lambda: nn.ParameterList([torch.ones(2, 3), torch.ones(2)]), ["0"], "raw parameter of ParameterList"),
    "norm of images": (lambda: nn.LayerNorm((2, 3, 3)), ["weight", "bias"], "normalisation"),
    "empty": (empty_linear, ["weight"], "empty"),
    "sparse": (sparse_linear, ["weight"], "sparse"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_trained_and_not_guided_is_named_once_with_the_reason(kind: str) -> None:
    make, names, reason = LEFT_OUT[kind]
    model = nn.ModuleDict({"x": make(), "fc": nn.Linear(6, 5)})
    with recorded() as messages:
        guidance = EntropyGuidance(model, max_ratio=None)
        assert moved(model, guidance) == {"fc.weight"}
        guidance.start_epoch()
        quiet_metrics(guidance)
    (message,) = messages
    expected = [f"x.{name}" for name in names]
    assert list(guidance.unguided) == expected
    assert all(re.search(reason, why) for why in guidance.unguided.values())
    assert re.search(rf"{', '.join(map(re.escape, expected))} \([^)]*{reason}", message)
    assert "fc.weight" not in message


def test_biases_that_attention_appends_are_named() -> None:
    model = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    guidance = quiet(model)
    assert list(guidance.unguided) == ["bias_k", "bias_v"]
    assert all("raw parameter of MultiheadAttention" in why for why in guidance.unguided.values())


def test_reasons_are_told_together() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(6, 5), "a": nn.GRUCell(4, 4), "b": nn.RNNCell(4, 4), "raw": Raw()})
    with recorded() as messages:
        EntropyGuidance(model)
    (message,) = messages
    assert message.count("recurrent") == 1
    assert "a.weight_ih, a.weight_hh, b.weight_ih, b.weight_hh (recurrent" in message
    assert "raw.matrix (a raw parameter of Raw" in message


def test_layers_in_front_of_a_norm_are_told_in_the_same_warning() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    model.cell = nn.GRUCell(4, 4)
    with recorded() as messages:
        guidance = EntropyGuidance(model)
    (message,) = messages
    assert re.search(r"cell.weight_ih, cell.weight_hh \(recurrent.*a normalisation follows.*: 0$", message)
    assert guidance.unguided["0.weight"] == "a normalisation follows"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"conv.weight": "lambda2 is 0"}),
        ({"lambda1": 0.0, "lambda2": 1.0}, {"fc.weight": "lambda1 is 0", "out.weight": "lambda1 is 0"}),
        (
            {"lambda1": 0.0},
            {n: f"lambda{1 + (n == 'conv.weight')} is 0" for n in ("conv.weight", "fc.weight", "out.weight")},
        ),
        ({"layers": ["out"]}, {"conv.weight": "not among layers", "fc.weight": "not among layers"}),
        ({"layers": {"first": 2}, "lambda2": 1.0}, {"out.weight": "not among layers"}),
    ],
)
def test_what_the_user_leaves_out_is_told_without_a_warning(
    options: dict[str, Any], expected: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.ModuleDict({"conv": nn.Conv2d(2, 2, 3), "fc": nn.Linear(6, 5), "out": nn.Linear(5, 2)})
    with caplog.at_level(logging.INFO, "sweep.losses"):
        guidance = EntropyGuidance(model, **options)  # pytest makes an error of any warning
    assert guidance.unguided == expected
    (record,) = [r.getMessage() for r in caplog.records if "not guided" in r.getMessage()]
    assert all(name in record and why in record for name, why in expected.items())


def test_of_a_computed_weight_what_is_no_matrix_is_not_named() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.scale

    model = nn.ModuleDict({"fc": nn.Linear(6, 5), "out": nn.Linear(5, 2)})
    parametrize.register_parametrization(model["out"], "weight", Scale())
    guidance = EntropyGuidance(model, layers=["fc"])
    assert guidance.unguided == {"out.parametrizations.weight.original": "not among layers"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layers": ["fc"]}, False),
        ({"layers": ["body"]}, True),  # what was asked for has a part that is not guided
        ({"layers": {"last": 1}}, True),
        ({"lambda1": 0.0}, False),
    ],
)
def test_what_was_not_to_be_guided_is_no_warning(options: dict[str, Any], told: bool) -> None:
    body = nn.ModuleDict({"rnn": nn.GRUCell(4, 4), "fc": nn.Linear(4, 4)})
    model = nn.ModuleDict({"body": body, "fc": nn.Linear(6, 5)})
    with recorded() as messages:
        guidance = EntropyGuidance(model, **options)
    assert bool(messages) is told
    assert "recurrent" in guidance.unguided["body.rnn.weight_hh"]


def test_frozen_weights_and_vectors_are_not_named() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(6, 5), "old": nn.GRU(4, 4).requires_grad_(False), "norm": nn.LayerNorm(4)})
    assert EntropyGuidance(model).unguided == {}


def test_a_model_without_a_layer_to_guide_says_what_it_has() -> None:
    with pytest.raises(ValueError, match=r"no layer to guide.*found: none.*weight_ih_l0, weight_hh_l0 \(recurrent"):
        EntropyGuidance(nn.GRU(4, 4))


def test_a_name_of_what_is_not_guided_is_refused_with_the_reason() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(6, 5), "rnn": nn.GRU(4, 4)})
    with pytest.raises(ValueError, match=r"no layer is called rnn .*rnn.weight_ih_l0 is recurrent"):
        EntropyGuidance(model, layers=["rnn"])


def mixed() -> nn.Module:
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    twin = nn.Linear(4, 4)
    twin.weight = shared.weight
    return nn.ModuleDict(
        {
            "convs": nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 2, groups=2)),
            "attention": nn.MultiheadAttention(8, 2, kdim=5, vdim=6, add_bias_kv=True),
            "block": nn.TransformerDecoderLayer(8, 2, 16),
            "rnn": nn.LSTM(4, 4, num_layers=2),
            "shared": shared,
            "twin": twin,
            "raw": Raw(),
            "normed": parametrizations.weight_norm(nn.Linear(5, 4)),
            "pruned": prune.l1_unstructured(nn.Linear(5, 4), "weight", 0.5),
            "frozen": nn.Linear(3, 3).requires_grad_(False),
            "adaptive": nn.AdaptiveLogSoftmaxWithLoss(8, 6, [2, 4], div_value=2.0),
        }
    )


@pytest.mark.parametrize(
    "options", [{}, {"lambda2": 1.0}, {"lambda1": 0.0, "lambda2": 1.0}, {"layers": ["convs", "block"]}, {"lambda1": 0}]
)
def test_what_is_trained_is_guided_or_named_never_both(options: dict[str, Any]) -> None:
    model = mixed()
    guidance = quiet(model, max_ratio=None, **options)
    assert moved(model, guidance) | set(guidance.unguided) == matrices(model)
    assert not moved(model, guidance) & set(guidance.unguided)
    assert all(guidance.unguided.values())


@pytest.mark.parametrize("name", MODELS)
def test_every_family_is_guided_or_named(name: str) -> None:
    depth = {"autoencoder": 4, "conv_autoencoder": 4, "resnet": 20}.get(name, 2)
    model = build_model(
        name, depth=depth, width=32 if "autoencoder" in name else 8, in_shape=(3, 16, 16), num_outputs=5
    )
    guidance = quiet(model, lambda2=1e-2, max_ratio=None)
    assert moved(model, guidance) | set(guidance.unguided) == matrices(model)
    assert set(guidance.unguided.values()) <= {"a normalisation follows"}


# --- weights that are shared ---


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.tokens(tokens))))  # type: ignore[no-any-return]


def test_a_weight_that_is_shared_with_an_embedding_is_left_out_and_said() -> None:
    model = LanguageModel()
    with recorded() as messages:
        guidance = EntropyGuidance(model, max_ratio=None)
    assert [layer.name for layer in guidance.layers] == ["body"]
    assert moved(model, guidance) == {"body.weight"}
    (message,) = messages
    assert re.search(r"tokens.weight \([^)]*embedding", message)
    assert re.search(r"head.weight \([^)]*shared with the embedding tokens", message)
    with pytest.raises(ValueError, match=r"no layer is called head .*shared with the embedding tokens"):
        EntropyGuidance(model, layers=["head"])
    assert not any("head" in name for name in quiet_metrics(guidance))


def test_a_pruned_embedding_keeps_its_shared_weight_out() -> None:
    model = LanguageModel()
    prune.l1_unstructured(model.tokens, "weight", 0.3)
    model.head.weight = model.tokens.weight_orig
    guidance = quiet(model)
    assert [layer.name for layer in guidance.layers] == ["body"]
    assert "shared with the embedding tokens" in guidance.unguided["head.weight"]


def test_a_parameter_of_two_parametrisations_guides_the_first_and_names_the_other() -> None:
    class Mixed(nn.Module):
        def __init__(self, mix: nn.Linear) -> None:
            super().__init__()
            self.mix = mix

        def forward(self, weight: Tensor) -> Tensor:
            return self.mix(weight)  # type: ignore[no-any-return]

    mix = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(4, 6))
    for layer in model:
        parametrize.register_parametrization(layer, "weight", Mixed(mix))
    guidance = quiet(model, max_ratio=None)
    assert [layer.name for layer in guidance.layers] == ["0"]
    assert list(guidance.unguided) == ["1.parametrizations.weight.original"]
    assert "another layer" in guidance.unguided["1.parametrizations.weight.original"]


# --- x @ W: Hugging Face's Conv1D ---


class Conv1D(nn.Module):
    """As transformers has it, weight [in, out]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


def pair(*widths: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The same network of Conv1D and of nn.Linear."""
    torch.manual_seed(0)
    turned, straight = [], []
    for inputs, outputs in itertools.pairwise(widths):
        conv1d, linear = Conv1D(outputs, inputs).double(), nn.Linear(inputs, outputs).double()
        with torch.no_grad():
            linear.weight.copy_(conv1d.weight.T)
            linear.bias.copy_(conv1d.bias)
        turned += [conv1d, nn.Tanh()]
        straight += [linear, nn.Tanh()]
    return nn.Sequential(*turned), nn.Sequential(*straight)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"measure": "minor", "ridge": 0.0, "every": 1, "max_ratio": None},
        {"form": "target", "target": 0.5, "scale": "determinant", "reduction": "sum"},
        {"layers": {"first": 1}, "lambda1": 0.1},
    ],
)
def test_conv1d_is_guided_as_the_linear_with_the_transposed_weight(options: dict[str, Any]) -> None:
    turned, straight = pair(9, 7, 7, 3)
    inputs = torch.randn(16, 9, dtype=torch.float64)
    inputs[:, :2] = 0  # dead columns
    results = []
    for model in (turned, straight):
        guidance = EntropyGuidance(model, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            guidance.add_gradients()
            optimizer.step()
        results.append(quiet_metrics(guidance))
    assert results[0] == pytest.approx(results[1], rel=1e-9)
    for ours, theirs in zip(turned[::2], straight[::2], strict=True):
        torch.testing.assert_close(ours.weight.T, theirs.weight, rtol=1e-9, atol=1e-12)


def test_conv1d_is_measured_as_its_map() -> None:
    conv1d = Conv1D(3, 8).double()
    weight = conv1d.weight.detach().T
    (layer,) = guidable_layers(conv1d)
    assert (layer.kind, layer.shape) == ("dense", (3, 8))
    assert float(layer.entropy(0.0).detach()) == pytest.approx(float(volume(weight)), rel=1e-12)
    (layer,) = guidable_layers(conv1d, "minor")
    assert float(layer.entropy(0.0).detach()) == pytest.approx(float(minor(weight)), rel=1e-12)


def test_conv1d_in_front_of_a_norm_is_left_out_as_a_linear_is() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.direct, self.summed, self.norm = Conv1D(4, 4), Conv1D(4, 4), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.layer_norm(self.direct(x), (4,))
            return self.norm(x + self.summed(x))  # type: ignore[no-any-return]

    assert [layer.name for layer in quiet(Block()).left_out] == ["direct"]


def test_a_pruned_or_parametrised_conv1d_is_guided_as_it_acts() -> None:
    torch.manual_seed(0)
    pruned, turned = Conv1D(3, 8), Conv1D(4, 8)
    prune.random_unstructured(pruned, "weight", 0.5)
    parametrizations.weight_norm(turned)
    model = nn.ModuleList([pruned, turned])
    guidance = EntropyGuidance(model, max_ratio=None)
    names = {f"1.parametrizations.weight.original{i}" for i in (0, 1)}
    assert moved(model, guidance) == {"0.weight_orig", *names}
    assert not torch.count_nonzero(pruned.weight_orig.grad[pruned.weight_mask == 0])
    metrics = quiet_metrics(guidance)
    for index, layer in enumerate(model):
        weight = layer.weight.detach().T
        assert metrics[f"entropy/{index}"] == pytest.approx(float(volume(weight, 0.1)) / min(weight.shape), rel=1e-5)


@pytest.mark.parametrize("sizes", [{"nf": 3}, {"nf": 3, "nx": 4}], ids=["no nx", "weight [out, in]"])
@pytest.mark.parametrize("computed", [False, True])
def test_a_module_that_resembles_conv1d_and_is_none_is_named(sizes: dict[str, int], computed: bool) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            vars(self).update(sizes)
            self.weight = nn.Parameter(torch.ones(3, 4))

    other = Other()
    if computed and "nx" not in sizes:
        parametrize.register_parametrization(other, "weight", nn.Identity())
    guidance = quiet(nn.ModuleList([nn.Linear(4, 4), other]))
    assert len(guidance.unguided) == 1
    assert "raw parameter of" in next(iter(guidance.unguided.values()))


def test_gpt2_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="Transformers: pip install -e .[examples]")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=32)
    model = transformers.GPT2LMHeadModel(config)
    with recorded() as messages:
        guidance = EntropyGuidance(model, max_ratio=None)
    blocks = [
        f"transformer.h.{i}.{part}" for i in (0, 1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert [layer.name for layer in guidance.selected] == blocks
    assert [layer.shape for layer in guidance.selected] == 2 * [(24, 8), (8, 8), (32, 8), (8, 32)]
    assert list(guidance.unguided) == ["transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"]
    assert "shared with the embedding transformer.wte" in guidance.unguided["lm_head.weight"]
    (message,) = messages
    assert all(name in message for name in guidance.unguided)
    tokens = torch.randint(32, (2, 8))
    model(tokens, labels=tokens).loss.backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    guidance.add_gradients()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p.grad, before[name])}
    assert changed == {f"{name}.weight" for name in blocks}


# --- adapters ---


class LoraLinear(nn.Module):
    """A stand-in of the structure of PEFT's `lora.Linear`, which is not installed: names, containers, zero B."""

    adapter_layer_names = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")

    def __init__(self, base_layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.scaling = {"default": 2.0}
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base_layer.out_features, bias=False)})
        self.lora_embedding_A = nn.ParameterDict({})
        self.lora_embedding_B = nn.ParameterDict({})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: Tensor) -> Tensor:
        update = self.lora_B["default"](self.lora_A["default"](self.lora_dropout["default"](x)))
        return self.base_layer(x) + update * self.scaling["default"]  # type: ignore[no-any-return]


class LohaLinear(nn.Module):
    """A stand-in for another kind of PEFT's layers, whose matrices are in dictionaries of parameters."""

    adapter_layer_names = ("hada_w1_a", "hada_w1_b")

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.hada_w1_a = nn.ParameterDict({"default": torch.ones(6, 2)})
        self.hada_w1_b = nn.ParameterDict({"default": torch.ones(2, 6)})


class LoralibLinear(nn.Linear):
    """A stand-in of the structure of loralib's: a subclass of nn.Linear with two matrices more."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.lora_A = nn.Parameter(torch.randn(2, 6))
        self.lora_B = nn.Parameter(torch.zeros(6, 2))


class TorchtuneLinear(nn.Module):
    """A stand-in of the structure of torchtune's: a weight beside two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.lora_a, self.lora_b = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)


class BareLora(nn.Module):
    """A base layer and two factors, as many projects write it themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(6, 6)
        self.lora_A, self.lora_B = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)


LORA = ["x.lora_A.default.weight", "x.lora_B.default.weight"]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: LoraLinear(nn.Linear(6, 6)), LORA),
        (lambda: LoraLinear(nn.Linear(6, 6)).requires_grad_(), ["x.base_layer.weight", *LORA]),
        (lambda: LohaLinear(nn.Linear(6, 6)), ["x.base_layer.weight", "x.hada_w1_a.default", "x.hada_w1_b.default"]),
        (LoralibLinear, ["x.weight", "x.lora_A", "x.lora_B"]),
        (TorchtuneLinear, ["x.weight", "x.lora_a.weight", "x.lora_b.weight"]),
        (BareLora, ["x.base_layer.weight", "x.lora_A.weight", "x.lora_B.weight"]),
    ],
    ids=["PEFT", "PEFT, base trained too", "LoHa", "loralib", "torchtune", "bare"],
)
def test_an_adapter_and_its_base_are_left_out_and_said(make: Callable[[], nn.Module], names: list[str]) -> None:
    """The factors are no entropy change of the layer; nor is the base, which acts with the update added."""
    model = nn.ModuleDict({"x": make(), "fc": nn.Linear(6, 5)})
    with recorded() as messages:
        guidance = EntropyGuidance(model, max_ratio=None)
    assert moved(model, guidance) == {"fc.weight"}
    assert set(guidance.unguided) == set(names)
    assert all("adapter" in why for why in guidance.unguided.values())
    assert len(messages) == 1
    assert not any("x." in name for name in quiet_metrics(guidance))


def test_a_model_of_which_only_adapters_are_trained_is_refused_with_the_reason() -> None:
    model = nn.Sequential(LoraLinear(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 5).requires_grad_(False))
    with pytest.raises(ValueError, match=r"no layer to guide.*0.lora_A.default.weight.*adapter"):
        EntropyGuidance(model)


def test_what_only_sounds_like_an_adapter_is_guided() -> None:
    """A `base_layer` of timm's DLA; a parametrisation that adds a product of low rank, which acts as it is measured."""

    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(5, 2))

        def forward(self, weight: Tensor) -> Tensor:
            return weight + self.lora_B @ self.lora_A

    model = nn.ModuleDict({"base_layer": nn.Linear(6, 6), "fc": nn.Linear(6, 5)})
    parametrize.register_parametrization(model["fc"], "weight", LowRank())
    guidance = EntropyGuidance(model, max_ratio=None)  # pytest makes an error of any warning
    assert moved(model, guidance) == matrices(model)
    weight = model["fc"].weight.detach()
    assert quiet_metrics(guidance)["entropy/fc"] == pytest.approx(float(volume(weight, 0.1)) / 5, rel=1e-6)
