"""The entropy change of a convolution, in nats: pure functions of kernels, as `entropy.py` has them for matrices.

`F.conv2d` is a cross-correlation, so the tap c11 of the paper (arXiv 2308.14938) is the first tap of the kernel as it
is stored. The map from the outputs' anchors, the pixels under their first taps, is block triangular, and its diagonal
is K11, the matrix [out, in] of the first taps: its entropy change is n log|det K11|, n being the number of `anchors`.
That is exact for any stride and dilation, in groups, in 1 to 3 dimensions and transposed. `taps` and the `volume` of
`corner_blocks` are per anchor. Any other corner would serve as well; the centre would not. Kernels are
[out, in / groups, *sizes], those of transposed convolutions [in, out / groups, *sizes].
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from .entropy import at_least_float32

TAP_FLOOR = 1e-2  # gradients raise |c11| to at least this: about 0.3 of the median tap after initialisation


def corner_taps(weight: Tensor) -> Tensor:
    """Returns the taps c11 of kernels [a, b, *sizes], as a view [a, b]."""
    first: tuple[slice | int, ...] = (slice(None), slice(None), *(0,) * (weight.dim() - 2))
    return weight[first]


def corner_blocks(weight: Tensor, groups: int = 1, *, transposed: bool = False) -> Tensor:
    """Returns the matrices K11 of the first taps, as a view [groups, out / groups, in / groups].

    With as many channels out as in, the sum of their log|det K11| is exactly the layer's entropy change per anchor. For
    C_out != C_in their `volume` is a property of K11, not of the map; `minor` is exact for the leading channels alone.
    """
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

    The arguments are those of `nn.Conv1d` and its like; `in_shape` leaves the channels aside. Per axis of l pixels,
    stride s, dilation d, p taps and padding P, n counts the outputs o whose first tap lies on a real pixel,
    0 <= o s - P < l: floor((l - d (p - 1) - 1) / s) + 1 without padding. Padding by anything but zeros folds pixels
    back under other taps, so that only windows inside the image count. Transposed, n counts the inputs i whose first
    output exists, 0 <= i s - P < length of the output.

    Raises:
        ValueError: An unknown padding mode, or a transposed convolution padded by something else than zeros.

    Example:
        >>> anchors((28, 28), (3, 3)), anchors((28, 28), (3, 3), padding=1)
        (676, 729)
    """
    allowed = ("zeros",) if transposed else ("zeros", "circular", "reflect", "replicate")
    if padding_mode not in allowed:
        raise ValueError(f"padding_mode = {padding_mode!r}; allowed: {', '.join(allowed)}")
    options = ((x,) * len(in_shape) if isinstance(x, int) else x for x in (stride, dilation, output_padding))
    counts = []
    for index, (length, size, s, d, extra) in enumerate(zip(in_shape, kernel_size, *options, strict=True)):
        reach = d * (size - 1)
        before, after = _padding(padding, index, reach)
        if transposed:
            out_length = (length - 1) * s - before - after + reach + extra + 1
            counts.append(sum(0 <= i * s - before < out_length for i in range(length)))
        else:
            beyond = min(length, length - reach + (after if padding_mode == "zeros" else 0))
            counts.append(len(range(-before % s, beyond, s)))  # the pixels o s - before, o >= 0, that it may lie on
    return prod(counts)


def _padding(padding: Sequence[int] | int | str, axis: int, reach: int) -> tuple[int, int]:
    """Returns the padding before and after an axis; `same` puts the odd pixel after, as PyTorch does."""
    if padding == "same":
        return reach // 2, reach - reach // 2
    both = 0 if padding == "valid" else int(padding if isinstance(padding, int) else padding[axis])
    return both, both
