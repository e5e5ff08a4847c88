"""The entropy change of a convolution, in nats: pure functions of kernels, as `entropy.py` has them for matrices.

`F.conv2d` is a cross-correlation, so the tap c11 of the paper (arXiv 2308.14938) is the first tap of the kernel as it
is stored. The map from the outputs' anchors, the pixels under their first taps, is block triangular, and its diagonal
is K11, the matrix [out, in] of the first taps: its entropy change is n log|det K11|, n being the number of `anchors`.
That is exact for any stride and dilation, in groups, in 1 to 3 dimensions and transposed. `taps` and `channels` are per
anchor; n times as much is the whole map's. Any other corner would serve as well; the centre would not. Kernels are
[out, in / groups, *sizes], those of transposed convolutions [in, out / groups, *sizes].
"""

from collections.abc import Sequence
from itertools import repeat
from math import prod

import torch
from torch import Tensor

from .entropy import at_least_float32, volume

TAP_FLOOR = 1e-2  # gradients raise |c11| to at least this: about 0.3 of the median tap after initialisation
PADDING_MODES = ("zeros", "circular", "reflect", "replicate")


def corner_taps(weight: Tensor) -> Tensor:
    """Returns the taps c11 of kernels [a, b, *sizes], as a view [a, b]."""
    first: tuple[slice | int, ...] = (slice(None), slice(None), *repeat(0, weight.dim() - 2))
    return weight[first]


def corner_blocks(weight: Tensor, groups: int = 1, *, transposed: bool = False) -> Tensor:
    """Returns the matrices K11 of the first taps, as a view [groups, out / groups, in / groups]."""
    blocks = corner_taps(weight).view(groups, -1, weight.shape[1])
    return blocks.mT if transposed else blocks


def taps(weight: Tensor) -> Tensor:
    """Returns log|c11| [a, b] of every filter of kernels [a, b, *sizes], the paper's measure, nats.

    It is the entropy change per anchor of one filter by itself (arXiv 2308.14938). Their sum is that of the layer for
    depthwise convolutions only.
    """
    return corner_taps(at_least_float32(weight)).abs().log()


def taps_and_gradient(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log|c11|, finite for an exact zero too, and its slope sign(c11) / max(|c11|, TAP_FLOOR), both [a, b].

    The floor bounds the gradient near c11 = 0, the pole of `taps`. sign(0) is +1, or an exact zero would never move.
    """
    tap = corner_taps(at_least_float32(weight.detach()))
    magnitude = tap.abs()
    gradient = torch.where(tap < 0, -1.0, 1.0) / magnitude.clamp_min(TAP_FLOOR)
    return magnitude.clamp_min(torch.finfo(tap.dtype).tiny).log(), gradient


def channels(weight: Tensor, groups: int = 1, ridge: float = 0.0) -> Tensor:
    """Returns the sum of the log singular values of K11, by group [groups], of kernels [a, b, *sizes], nats.

    With as many channels out as in it is log|det K11|, and the sum over the groups is exactly the layer's entropy
    change per anchor (ridge = 0). For C_out != C_in it is a property of K11, not of the map; the entropy change of the
    leading channels alone is `minor(corner_blocks(weight, groups))`, exactly. For the ridge see `volume`.
    """
    return volume(corner_blocks(weight, groups), ridge)


def anchors(
    in_shape: Sequence[int],
    kernel_size: Sequence[int],
    *,
    stride: Sequence[int] | int = 1,
    dilation: Sequence[int] | int = 1,
    padding: Sequence[int] | int | str = 0,
    padding_mode: str = "zeros",
    transposed: bool = False,
    output_padding: Sequence[int] | int = 0,
) -> int:
    """Returns the number n of anchors: the times that K11 stands on the diagonal of the triangular part of the map.

    The arguments are those of `nn.Conv1d` to `nn.Conv3d` and of the transposed ones, one value per axis or one for all;
    `in_shape` leaves the channels aside.
    Per axis of l pixels, stride s, dilation d, p taps and padding P, n counts the outputs o whose first tap lies on a
    real pixel, 0 <= o s - P < l: floor((l - d (p - 1) - 1) / s) + 1 of them without padding. Padding by anything but
    zeros folds pixels back under the other taps, so that only windows inside the image count. Transposed, n counts the
    inputs i whose first output exists, 0 <= i s - P < length of the output.

    Raises:
        ValueError: An unknown padding mode, or a transposed convolution padded by something else than zeros.

    Example:
        >>> anchors((28, 28), (3, 3)), anchors((28, 28), (3, 3), padding=1)
        (676, 729)
    """
    if padding_mode not in PADDING_MODES or (transposed and padding_mode != "zeros"):
        allowed = "zeros" if transposed else ", ".join(PADDING_MODES)
        raise ValueError(f"padding_mode = {padding_mode!r}; allowed: {allowed}")
    axes = len(in_shape)
    options = (_per_axis(value, axes) for value in (stride, dilation, output_padding))
    counts = []
    for index, (length, size, s, d, extra) in enumerate(zip(in_shape, kernel_size, *options, strict=True)):
        reach = d * (size - 1)
        before, after = _padding(padding, index, reach)
        if transposed:
            out_length = (length - 1) * s - before - after + reach + extra + 1
            counts.append(sum(0 <= i * s - before < out_length for i in range(length)))
        else:
            outside = after if padding_mode == "zeros" else 0
            last = min(length - 1, length + outside - 1 - reach)  # the last pixel that the first tap may lie on
            first = -before % s  # the first one: those are all o s - before, o >= 0
            counts.append(max(0, (last - first) // s + 1))
    return prod(counts)


def circular(weight: Tensor, in_shape: Sequence[int], *, groups: int = 1, dilation: Sequence[int] | int = 1) -> Tensor:
    """Returns the entropy change of the whole map with circular padding and stride 1, by group [groups], nats.

    The map is block circulant: its singular values are those of the kernel's discrete Fourier transform [out / g,
    in / g] at each of the prod(in_shape) frequencies. So h is the sum over the frequencies of log|det|, or of the log
    singular values if C_out != C_in (see `volume`). No other padding, and no stride, has such a closed form for the
    whole map: zero padding, reflecting and replicating have the anchors' part alone, see `anchors`.

    Raises:
        ValueError: A kernel is wider than the image.
    """
    blocks = at_least_float32(weight).reshape(groups, -1, *weight.shape[1:])
    sizes, steps = weight.shape[2:], _per_axis(dilation, len(in_shape))
    spread = [step * (size - 1) + 1 for size, step in zip(sizes, steps, strict=True)]
    if any(wide > length for wide, length in zip(spread, in_shape, strict=True)):
        raise ValueError(f"the kernel spans {spread} pixels, the image has {list(in_shape)}; it must not be wider")
    kernel = blocks.new_zeros(*blocks.shape[:3], *in_shape)
    holes = tuple(slice(0, wide, step) for wide, step in zip(spread, steps, strict=True))
    kernel[:, :, :, *holes] = blocks
    frequencies = torch.fft.fftn(kernel, dim=tuple(range(3, kernel.dim()))).flatten(3).permute(0, 3, 1, 2)
    singular_values: Tensor = torch.linalg.svdvals(frequencies)
    return singular_values.log().sum((-2, -1))


def _per_axis(value: Sequence[int] | int, axes: int) -> Sequence[int]:
    return (value,) * axes if isinstance(value, int) else value


def _padding(padding: Sequence[int] | int | str, axis: int, reach: int) -> tuple[int, int]:
    """Returns the padding before and after an axis; `same` puts the odd pixel after, as PyTorch does."""
    if padding == "same":
        return reach // 2, reach - reach // 2
    if padding == "valid":
        return 0, 0
    both = int(padding if isinstance(padding, int) else padding[axis])
    return both, both
