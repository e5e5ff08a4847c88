"""The entropy change of a dense layer, activation aside, in nats: pure functions of its matrix.

`conv.py` has those of convolutions, `terms.py` the loss terms. Everything works with log-determinants: the determinant
itself of a freshly initialised layer of 128 units is 0 in float32.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

STRIPS = 256  # rows from which on half a Gram matrix is faster than a whole one


def leading_block(weight: Tensor) -> Tensor:
    """Returns the leading block [..., k, k] of a matrix [..., m, n], k = min(m, n), as a view.

    W' of arXiv 2308.14938 pads the matrix to a square one with rows or columns of the identity; det W' is the
    determinant of this block.
    """
    k = min(weight.shape[-2:])
    return weight[..., :k, :k]


def minor(weight: Tensor, ridge: float = 0.0) -> Tensor:
    """Returns log|det W'| [...] of matrices W [..., m, n], W' being W padded to a square one (arXiv 2308.14938).

    It is the entropy change of the leading inputs given the others, so it depends on the order of the units. For the
    ridge see `volume`.
    """
    return volume(leading_block(weight), ridge)


def volume(weight: Tensor, ridge: float = 0.0) -> Tensor:
    """Returns the sum of the log singular values [...] of matrices W [..., m, n]: the log volume gain of y = W x, nats.

    h = 1/2 log det(G + ridge^2 s I), with G the k x k Gram matrix (W W^T for m <= n, else W^T W), k = min(m, n), and s
    the mean of G's diagonal, held constant in the gradient. For ridge = 0 it is the entropy change H(Wx) - H(x) exactly
    when m = n (log|det W|) or m > n, and for m < n when the input is white. A ridge (0.1) keeps h finite for singular
    matrices, and keeps the gradient of square ones from being that of their smallest singular value alone.

    It is computed in float32 at least, outside autocast. Singular matrices give -inf, or a large negative number beside
    that of regular ones where rounding hides that they are singular; weights that are not finite give NaN.

    Raises:
        ValueError: The matrices are complex.

    Example:
        >>> volume(torch.diag(torch.tensor([1.0, 2.0, 4.0])))  # log 8
        tensor(2.0794)
    """
    with _no_autocast(weight):
        matrix = at_least_float32(weight)
        return _log_det(matrix) if _is_lu(matrix, ridge) else _half_log_det(*_factorise(matrix, ridge))


def volume_and_gradient(weight: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Returns `volume` [...] and its derivative by W [..., m, n], from one factorisation and without autograd.

    dh/dW = (G + ridge^2 s I)^-1 W for m <= n, else W (G + ridge^2 s I)^-1; W^-T for square W without a ridge. If h is
    not finite the gradient means nothing; the caller must check.
    """
    with _no_autocast(weight), torch.no_grad():
        matrix = at_least_float32(weight)
        if _is_lu(matrix, ridge):
            return _log_det(matrix), torch.linalg.inv_ex(matrix).inverse.mT
        factor, info, mean_square = _factorise(matrix, ridge)
        # cholesky_inverse raises at an exact zero; any other number will do if there is no factor.
        factor.diagonal(dim1=-2, dim2=-1).masked_fill_((info != 0)[..., None], 1)
        inverse = torch.cholesky_inverse(factor)
        gradient = inverse @ matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix @ inverse
        return _half_log_det(factor, info, mean_square), gradient


def at_least_float32(weight: Tensor) -> Tensor:
    """Returns the weight itself, or in float32 if its type is less precise: factorisations refuse bfloat16.

    Raises:
        ValueError: The weight is complex.
    """
    if weight.is_complex():
        raise ValueError(f"complex weights ({weight.dtype}) are not measured; the formulas are those of real ones")
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()


def _no_autocast(weight: Tensor) -> AbstractContextManager[object]:
    device = weight.device.type
    # Leaving none would take 10 us, as much as a small product.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _is_lu(matrix: Tensor, ridge: float) -> bool:
    # The Gram matrix squares the condition number: without a ridge, float32 gradients of square matrices of 1024 are
    # wrong by 10 %.
    return ridge == 0 and matrix.shape[-2] == matrix.shape[-1]


def _log_det(matrix: Tensor) -> Tensor:
    # On CUDA slogdet may give finite numbers for NaN matrices (pytorch #154312).
    return torch.where(matrix.isfinite().all(-1).all(-1), torch.linalg.slogdet(matrix).logabsdet, torch.nan)


def _factorise(matrix: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the ridged Gram matrix's Cholesky factor [..., k, k], LAPACK's info [...] (0: success) and s [...]."""
    gram = _lower_gram(matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    mean_square = diagonal.detach().sum(-1, keepdim=True) / diagonal.shape[-1]
    if ridge > 0:
        diagonal.add_(ridge**2 * mean_square)
    factor, info = torch.linalg.cholesky_ex(gram)
    return factor, info, mean_square[..., 0]


def _half_log_det(factor: Tensor, info: Tensor, mean_square: Tensor) -> Tensor:
    """Returns half the log determinant [...] from what `_factorise` returns; -inf without a factor."""
    h = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).masked_fill(info != 0, -torch.inf)
    return torch.add(h, mean_square, alpha=0)  # NaN if a weight is not finite


def _lower_gram(rows: Tensor) -> Tensor:
    """Returns the Gram matrix [..., k, k] of rows [..., k, l]; only its lower triangle is valid."""
    # On a CPU, strips of a large one that end at the diagonal take 5/8 of the time; autograd needs the whole.
    k = rows.shape[-2]
    if k < STRIPS or rows.dim() > 2 or rows.device.type != "cpu" or torch.is_grad_enabled():
        return rows @ rows.mT
    gram = rows.new_empty(k, k)
    for end in range(k, 0, -(k // 4)):
        start = max(0, end - k // 4)
        torch.mm(rows[start:end], rows[:end].mT, out=gram[start:end, :end])
    return gram
