"""The dense measures and the loss terms of losses/entropy.py against values computed another way."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.losses.entropy import minor, volume, volume_and_gradient
from sweep.losses.terms import FORMS

SHAPES = [(1, 1), (5, 5), (3, 8), (8, 3), (1, 6), (40, 64)]


def random_matrix(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).div(math.sqrt(columns)).to(dtype)


def ridged_volume_by_svd(weight: torch.Tensor, ridge: float) -> float:
    """1/2 sum log(sigma_i^2 + ridge^2 mean(sigma^2)), which needs no Gram matrix."""
    sigma = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    return 0.5 * float(np.log(sigma**2 + ridge**2 * np.mean(sigma**2)).sum())


@settings(max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 10_000))
def test_volume_is_the_sum_of_log_singular_values(rows: int, columns: int, ridge: float, seed: int) -> None:
    weight = random_matrix(rows, columns, seed)
    # A Gram matrix squares the condition number, so this random draw may cost some of float64's digits.
    condition = float(torch.linalg.cond(weight)) ** 2
    tolerance = max(1e-10, 1e-15 * condition) * max(1.0, abs(ridged_volume_by_svd(weight, ridge)))
    assert float(volume(weight, ridge)) == pytest.approx(ridged_volume_by_svd(weight, ridge), abs=tolerance)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (16, 16)])
def test_singular_matrices_give_minus_infinity_or_a_large_negative_number(shape: tuple[int, int]) -> None:
    found = []
    for seed in range(20):
        weight = random_matrix(*shape, seed=seed, dtype=torch.float32)
        regular = float(volume(weight))
        short = weight if shape[0] <= shape[1] else weight.mT
        short[1] = short[0]
        found.append(float(volume(weight)) - regular)
    assert max(found) < -4
    assert any(math.isfinite(value) for value in found)  # rounding hides it


@pytest.mark.parametrize("size", [4, 16, 64])
def test_square_volume_is_the_entropy_change_of_a_gaussian(size: int) -> None:
    weight, root = random_matrix(size, size, 1), random_matrix(size, size, 2)
    covariance = root @ root.mT
    entropy_before = 0.5 * torch.logdet(2 * math.pi * math.e * covariance)
    entropy_after = 0.5 * torch.logdet(2 * math.pi * math.e * weight @ covariance @ weight.mT)
    assert float(volume(weight)) == pytest.approx(float(entropy_after - entropy_before), rel=1e-9)


def test_volume_does_not_depend_on_the_order_of_the_units_and_minor_does() -> None:
    weight = random_matrix(3, 8)
    shuffled = weight[:, torch.tensor([7, 2, 5, 0, 1, 3, 6, 4])]
    assert float(volume(shuffled)) == pytest.approx(float(volume(weight)), abs=1e-12)
    assert abs(float(minor(shuffled)) - float(minor(weight))) > 0.1


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (5, 5)])
def test_minor_is_the_log_determinant_of_the_matrix_padded_by_the_identity(shape: tuple[int, int]) -> None:
    weight = random_matrix(*shape)
    rows, columns = shape
    padded = torch.eye(max(shape), dtype=torch.float64)
    padded[:rows, :columns] = weight
    assert float(minor(weight)) == pytest.approx(math.log(abs(float(torch.linalg.det(padded)))), rel=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_autograd_and_finite_differences(shape: tuple[int, int], ridge: float) -> None:
    weight = random_matrix(*shape, seed=3).requires_grad_()
    volume(weight, ridge).backward()
    assert weight.grad is not None
    h, gradient = volume_and_gradient(weight, ridge)
    assert float((gradient - weight.grad).norm() / weight.grad.norm()) < 1e-10
    assert float(h) == pytest.approx(float(volume(weight.detach(), ridge)), rel=1e-12)
    if ridge == 0:  # s is held constant in the gradient, so only here is it that of the SVD's formula
        direction = random_matrix(*shape, seed=4)
        step = 1e-6
        slope = (
            ridged_volume_by_svd(weight.detach() + step * direction, 0)
            - ridged_volume_by_svd(weight.detach() - step * direction, 0)
        ) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_by_the_singular_vectors(shape: tuple[int, int], ridge: float) -> None:
    """U diag(sigma / (sigma^2 + ridge^2 s)) V^T, with s the mean of sigma^2: without a ridge the pseudo-inverse."""
    weight = random_matrix(*shape, seed=5)
    u, sigma, v = np.linalg.svd(weight.numpy(), full_matrices=False)
    expected = (u * (sigma / (sigma**2 + ridge**2 * np.mean(sigma**2)))) @ v
    gradient = volume_and_gradient(weight, ridge)[1].numpy()
    assert np.linalg.norm(gradient - expected) / np.linalg.norm(expected) < 1e-10


@pytest.mark.parametrize("shape", [(128, 784), (128, 128), (512, 512), (1000, 1024), (1024, 1024)])
def test_ridged_float32_is_close_to_ridged_float64(shape: tuple[int, int]) -> None:
    weight = random_matrix(*shape, dtype=torch.float32)
    h, gradient = volume_and_gradient(weight, 0.1)
    exact_h, exact_gradient = volume_and_gradient(weight.double(), 0.1)
    assert h.dtype == gradient.dtype == torch.float32
    assert float(h) == pytest.approx(ridged_volume_by_svd(weight, 0.1), abs=1e-3)
    assert float(exact_h) == pytest.approx(ridged_volume_by_svd(weight, 0.1), rel=1e-10)
    assert float((gradient - exact_gradient).norm() / exact_gradient.norm()) < 5e-5


@pytest.mark.parametrize("shape", [(255, 300), (256, 256), (300, 259), (259, 300)])
def test_half_a_gram_matrix_is_enough(shape: tuple[int, int]) -> None:
    weight = random_matrix(*shape)
    with torch.no_grad():
        assert float(volume(weight, 0.1)) == pytest.approx(ridged_volume_by_svd(weight, 0.1), rel=1e-10)
    whole = weight.clone().requires_grad_()
    volume(whole, 0.1).backward()
    torch.testing.assert_close(volume_and_gradient(weight, 0.1)[1], whole.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(128, 128), (512, 512), (1024, 1024), (128, 784), (1000, 1024), (784, 128)])
def test_unridged_float32_is_usable(shape: tuple[int, int]) -> None:
    weight = random_matrix(*shape, dtype=torch.float32)
    h, gradient = volume_and_gradient(weight)
    assert float(h) == pytest.approx(ridged_volume_by_svd(weight, 0.0), abs=1e-3)
    exact = torch.linalg.pinv(weight.double()).mT
    assert float((gradient - exact).norm() / exact.norm()) < 1e-3


def test_batches_are_measured_matrix_by_matrix() -> None:
    weights = torch.stack([random_matrix(4, 6, seed) for seed in range(3)])
    weights[1] = 0
    h, gradient = volume_and_gradient(weights, 0.1)
    assert h.shape == (3,)
    for index in (0, 2):
        alone = volume_and_gradient(weights[index], 0.1)
        torch.testing.assert_close((h[index], gradient[index]), alone, rtol=1e-12, atol=0)
    assert h[1] == -math.inf


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_are_measured_in_float32(dtype: torch.dtype) -> None:
    weight = random_matrix(16, 16, dtype=dtype)
    h, gradient = volume_and_gradient(weight, 0.1)
    assert gradient.dtype == torch.float32
    assert float(h) == pytest.approx(ridged_volume_by_svd(weight, 0.1), abs=1e-4)


def test_autocast_changes_nothing() -> None:
    weight = random_matrix(16, 32, dtype=torch.float32)
    outside = volume_and_gradient(weight, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(volume_and_gradient(weight, 0.1), outside, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(6, 6), (4, 6), (6, 4)])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_zero_and_not_finite_weights_raise_nothing(shape: tuple[int, int], ridge: float) -> None:
    zero = torch.zeros(shape)
    assert float(volume(zero, ridge)) == float(volume_and_gradient(zero, ridge)[0]) == -math.inf
    for value in (math.nan, math.inf):
        weight = random_matrix(*shape, dtype=torch.float32)
        weight[1, 2] = value
        assert math.isnan(float(volume(weight, ridge)))
        assert math.isnan(float(volume_and_gradient(weight, ridge)[0]))


@pytest.mark.parametrize("shape", [(6, 6), (4, 6), (6, 4)])
@pytest.mark.parametrize("spoil", ["zero row", "repeated row", "zero column"])
def test_ridge_keeps_singular_matrices_finite(shape: tuple[int, int], spoil: str) -> None:
    weight = random_matrix(*shape, dtype=torch.float32)
    if spoil == "zero column":
        weight[:, 0] = 0
    else:
        weight[0] = 0 if spoil == "zero row" else weight[1]
    h, gradient = volume_and_gradient(weight, 0.1)
    assert float(h) == pytest.approx(ridged_volume_by_svd(weight, 0.1), abs=1e-4)
    assert gradient.isfinite().all()
    assert not torch.count_nonzero(gradient[0] if spoil == "zero row" else gradient[:, 0]) or "zero" not in spoil


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_gradcheck_of_the_measures(shape: tuple[int, int]) -> None:
    weight = random_matrix(*shape, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(volume, weight)
    assert torch.autograd.gradcheck(minor, weight)


@settings(max_examples=50)
@given(st.floats(-20, 20), st.floats(1e-6, 100))
def test_reciprocal_equals_its_formula(h: float, epsilon: float) -> None:
    value, slope = FORMS["reciprocal"]
    x = torch.tensor(h, dtype=torch.float64)
    gain = math.exp(h)
    assert float(value(x, epsilon)) == pytest.approx(1 / (gain + epsilon), rel=1e-10)
    assert float(slope(x, epsilon)) == pytest.approx(-gain / (gain + epsilon) ** 2, rel=1e-10)


@settings(max_examples=50)
@given(st.floats(-20, 20), st.floats(-5, 5))
def test_target_is_the_squared_distance(h: float, target: float) -> None:
    value, slope = FORMS["target"]
    x = torch.tensor(h, dtype=torch.float64)
    assert float(value(x, target)) == pytest.approx((h - target) ** 2, rel=1e-12)
    assert float(slope(x, target)) == pytest.approx(2 * (h - target), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_slope_is_the_derivative_of_the_term(form: str) -> None:
    h = torch.linspace(-12, 4, 30, dtype=torch.float64, requires_grad=True)
    value, slope = FORMS[form]
    (derivative,) = torch.autograd.grad(value(h, 1e-3).sum(), h)
    torch.testing.assert_close(slope(h.detach(), 1e-3), derivative, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("h", "expected"), [(-1000.0, 1000.0), (1000.0, 0.0), (-math.inf, 1000.0)])
def test_reciprocal_neither_overflows_nor_underflows(h: float, expected: float) -> None:
    value, slope = FORMS["reciprocal"]
    assert float(value(torch.tensor(h), 1e-3)) == pytest.approx(expected, rel=1e-5)
    assert float(slope(torch.tensor(h), 1e-3)) == 0
