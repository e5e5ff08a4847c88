"""The measures of losses/conv.py against explicit matrices of the convolutions."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sweep.losses.conv import TAP_FLOOR, anchors, corner_blocks, taps, taps_and_gradient
from sweep.losses.entropy import minor, volume

KINDS: dict[tuple[int, bool], type[nn.Module]] = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}


def convolution(
    axes: int, transposed: bool = False, channels_in: int = 1, channels_out: int = 1, **options: Any
) -> Any:
    torch.manual_seed(axes)
    return KINDS[axes, transposed](channels_in, channels_out, bias=False, dtype=torch.float64, **options)


def matrix(layer: Any, in_shape: tuple[int, ...]) -> Tensor:
    """The explicit matrix [outputs, inputs] of a layer, channels first in both."""
    size = layer.in_channels * math.prod(in_shape)
    images = torch.eye(size, dtype=torch.float64).reshape(size, layer.in_channels, *in_shape)
    with torch.no_grad():
        outputs: Tensor = layer(images)
    return outputs.flatten(1).T


def anchored(layer: Any, in_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Outputs and inputs, channels aside, that are joined by a first tap, in windows that see no folded pixel."""
    axes = len(in_shape)
    options = {name: getattr(layer, name) for name in ("kernel_size", "stride", "dilation")}
    if layer.transposed:
        options["output_padding"] = layer.output_padding
    single = convolution(axes, layer.transposed, padding=layer.padding, **options)
    with torch.no_grad():
        single.weight.zero_()
        single.weight.view(-1)[0] = 1
    first = matrix(single, in_shape)
    with torch.no_grad():
        single.weight.fill_(1)
    if layer.padding_mode != "zeros":
        first *= (matrix(single, in_shape).sum(1) == single.weight.numel())[:, None]
    outputs, inputs = first.nonzero(as_tuple=True)
    order = inputs.argsort()
    return outputs[order], inputs[order]


def restricted(layer: Any, in_shape: tuple[int, ...]) -> tuple[Tensor, int]:
    """The part of a layer's matrix from the anchors to their outputs, and how many they are."""
    outputs, inputs = anchored(layer, in_shape)
    whole = matrix(layer, in_shape)
    pixels = math.prod(in_shape)
    rows = (torch.arange(layer.out_channels)[:, None] * (len(whole) // layer.out_channels) + outputs).flatten()
    columns = (torch.arange(layer.in_channels)[:, None] * pixels + inputs).flatten()
    return whole[rows][:, columns], len(inputs)


def geometry(layer: Any) -> dict[str, Any]:
    names = ("kernel_size", "stride", "dilation", "padding", "padding_mode", "transposed", "output_padding")
    return {name: getattr(layer, name) for name in names}


CASES: list[tuple[int, dict[str, Any], tuple[int, ...]]] = [
    (2, {"kernel_size": 3}, (8, 7)),
    (2, {"kernel_size": 3, "stride": 2}, (8, 7)),
    (2, {"kernel_size": (2, 3), "stride": (1, 2), "dilation": (2, 1)}, (7, 6)),
    (2, {"kernel_size": 3, "padding": 1}, (8, 8)),
    (2, {"kernel_size": 3, "padding": 1, "stride": 2}, (7, 8)),
    (2, {"kernel_size": 5, "padding": 4}, (6, 6)),
    (2, {"kernel_size": (2, 4), "padding": "same"}, (6, 5)),
    (2, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, (6, 6)),
    (2, {"kernel_size": 3, "padding": 1, "padding_mode": "replicate", "stride": 2}, (6, 6)),
    (2, {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}, (6, 6)),
    (1, {"kernel_size": 4, "stride": 3, "padding": 2}, (14,)),
    (3, {"kernel_size": 2, "stride": (1, 2, 1)}, (4, 4, 3)),
    (1, {"kernel_size": 3, "transposed": True, "stride": 2, "padding": 1, "output_padding": 1}, (7,)),
    (2, {"kernel_size": 3, "transposed": True, "stride": 2, "padding": 1}, (4, 5)),
    (2, {"kernel_size": (3, 2), "transposed": True, "padding": (2, 0), "dilation": 2}, (5, 4)),
    (3, {"kernel_size": 2, "transposed": True}, (3, 2, 3)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("axes", "options", "in_shape"), CASES)
def test_taps_are_the_entropy_change_per_anchor(axes: int, options: dict[str, Any], in_shape: tuple[int, ...]) -> None:
    layer = convolution(axes, **options)
    with torch.no_grad():
        layer.weight.view(-1)[0] = -6.0  # dominant, since the condition of the explicit matrix grows as c11^-n
    part, count = restricted(layer, in_shape)
    assert anchors(in_shape, **geometry(layer)) == count > 0
    assert count * float(taps(layer.weight.detach())) == pytest.approx(
        float(torch.linalg.slogdet(part).logabsdet), rel=1e-8
    )


@pytest.mark.parametrize(("in_shape", "kernel", "count"), [((8, 8), 3, 49), ((8, 8), 5, 36)])
def test_anchors_of_a_same_convolution(in_shape: tuple[int, int], kernel: int, count: int) -> None:
    assert anchors(in_shape, (kernel, kernel), padding="same") == count
    assert anchors(in_shape, (kernel, kernel), padding=kernel // 2) == count


@settings(max_examples=150)
@given(st.data())
def test_anchors_are_those_of_the_explicit_map(data: st.DataObject) -> None:
    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(low, high)) for _ in range(axes))

    axes = data.draw(st.integers(1, 2))
    transposed = data.draw(st.booleans())
    options: dict[str, Any] = {"kernel_size": each(1, 4), "stride": each(1, 3), "dilation": each(1, 2)}
    options["padding"] = each(0, 4)
    if transposed:
        options["output_padding"] = each(0, 2)
    else:
        options["padding_mode"] = data.draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    in_shape = each(2, 8)
    layer = convolution(axes, transposed, **options)
    try:
        matrix(layer, in_shape)
    except (RuntimeError, ValueError):
        assume(False)  # PyTorch refuses these sizes
    _, inputs = anchored(layer, in_shape)
    assert anchors(in_shape, **geometry(layer)) == len(inputs)


@pytest.mark.parametrize(("axes", "transposed"), list(itertools.product((1, 2, 3), (False, True))))
@pytest.mark.parametrize("groups", [1, 2])
def test_channels_are_the_entropy_change_per_anchor(axes: int, transposed: bool, groups: int) -> None:
    layer = convolution(axes, transposed, 4, 4, kernel_size=2, groups=groups, stride=2 if axes < 3 else 1)
    with torch.no_grad():
        corner_blocks(layer.weight, groups)[:] *= 12
    part, count = restricted(layer, (5, 4, 3)[:axes])
    h = volume(corner_blocks(layer.weight.detach(), groups))
    assert h.shape == (groups,)
    assert count * float(h.sum()) == pytest.approx(float(torch.linalg.slogdet(part).logabsdet), rel=1e-8)


def test_channels_of_a_depthwise_convolution_are_its_taps() -> None:
    layer = convolution(2, False, 3, 3, kernel_size=2, groups=3)
    with torch.no_grad():
        layer.weight[:, 0, 0, 0] = torch.tensor([4.0, -5.0, 6.0])
    part, count = restricted(layer, (5, 5))
    assert count == 16
    assert 16 * float(taps(layer.weight.detach()).sum()) == pytest.approx(
        float(torch.linalg.slogdet(part).logabsdet), rel=1e-8
    )
    torch.testing.assert_close(volume(corner_blocks(layer.weight, 3)), taps(layer.weight).flatten())


def test_taps_of_several_channels_are_no_entropy_change_and_channels_are() -> None:
    weight = convolution(2, False, 6, 6, kernel_size=3).weight.detach()
    exact = float(torch.linalg.slogdet(weight[:, :, 0, 0]).logabsdet)
    assert float(volume(corner_blocks(weight)).sum()) == pytest.approx(exact, rel=1e-10)
    assert abs(float(taps(weight).sum()) - exact) > 10


def test_the_minor_of_the_channels_is_that_of_the_leading_channels_of_each_group() -> None:
    """As an augmented map: the leading inputs are replaced by the outputs, the others are kept."""
    layer = convolution(1, False, 6, 4, kernel_size=2, groups=2)
    with torch.no_grad():
        corner_blocks(layer.weight, 2)[:] *= 12
    part, count = restricted(layer, (5,))
    leading = torch.tensor([0, 1, 3, 4])  # of the inputs 0-2 of the first group and 3-5 of the second one
    columns = (leading[:, None] * count + torch.arange(count)).flatten()
    expected = float(torch.linalg.slogdet(part[:, columns]).logabsdet)
    assert count * float(minor(corner_blocks(layer.weight.detach(), 2)).sum()) == pytest.approx(expected, rel=1e-8)


def test_blocks_of_transposed_layers_are_out_by_in() -> None:
    layer = convolution(2, True, 6, 4, kernel_size=3, groups=2)
    blocks = corner_blocks(layer.weight, 2, transposed=True)
    assert blocks.shape == (2, 2, 3)
    impulse = torch.zeros(1, 6, 1, 1, dtype=torch.float64)
    impulse[0, 4] = 1  # the second input of the second group
    torch.testing.assert_close(layer(impulse)[0, 2:, 0, 0], blocks[1, :, 1])


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize(("out", "groups"), [(4, 1), (4, 2), (2, 1), (6, 2)])
def test_gradcheck_of_channels_and_taps(out: int, groups: int, ridge: float) -> None:
    weight = convolution(1, False, 4, out, kernel_size=2, groups=groups).weight
    if ridge == 0:  # with one, the gradient holds s constant
        assert torch.autograd.gradcheck(lambda w: volume(corner_blocks(w, groups)), weight)
    assert torch.autograd.gradcheck(taps, weight)
    assert volume(corner_blocks(weight, groups), ridge).isfinite().all()


def test_gradient_of_taps_is_one_over_c11_above_the_floor_and_bounded_below_it() -> None:
    kernel = torch.zeros(6, 1, 3, 3)
    kernel[:, 0, 0, 0] = torch.tensor([2.0, -0.5, 0.02, 0.001, -1e-30, 0.0])
    kernel[:, 0, 1, 1] = 7.0
    h, gradient = taps_and_gradient(kernel)
    expected = torch.tensor([0.5, -2.0, 50.0, 1 / TAP_FLOOR, -1 / TAP_FLOOR, 1 / TAP_FLOOR])
    torch.testing.assert_close(gradient.flatten(), expected)
    torch.testing.assert_close(h[:5], taps(kernel)[:5])
    assert math.isfinite(float(h[5]))
    assert float(taps(kernel)[5]) == -math.inf  # the measure itself has no floor


def test_an_unknown_padding_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"padding_mode = 'mirror'; allowed: zeros, circular, reflect, replicate"):
        anchors((4,), (3,), padding_mode="mirror")
    with pytest.raises(ValueError, match=r"padding_mode = 'circular'; allowed: zeros$"):
        anchors((4,), (3,), padding_mode="circular", transposed=True)
