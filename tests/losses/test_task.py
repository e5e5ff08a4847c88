"""Task losses and metrics against scikit-learn and formulas written out; the meter against whole epochs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score, log_loss
from torch import Tensor

from sweep.losses.metrics import IGNORED
from sweep.losses.task import TASKS
from sweep.training.meter import Meter


def outputs_and_masks(
    seed: int, count: int = 5, classes: int = 4, side: int = 6, ignored: float = 0.3
) -> tuple[Tensor, Tensor]:
    """Logits [N, K, H, W] that are right more often than not, and masks [N, H, W] with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, classes, (count, side, side), generator=generator)
    logits = torch.randn(count, classes, side, side, generator=generator)
    logits = logits + 2 * torch.nn.functional.one_hot(masks, classes).permute(0, 3, 1, 2)
    masks[torch.rand(masks.shape, generator=generator) < ignored] = IGNORED
    return logits, masks


def metrics(task: str, output: Tensor, labels: Tensor, size: int, images: Tensor | None = None) -> dict[str, float]:
    """An epoch's metrics, in batches of a size."""
    meter = Meter(TASKS[task])
    for i in range(0, len(labels), size):
        part = slice(i, i + size)
        x = output if images is None else images
        loss = TASKS[task].loss(output[part], x[part], labels[part], 0.0)
        meter.update(loss, output[part], labels[part])
    return meter.compute("val")


# -- classification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_accuracy_and_cross_entropy_are_scikit_learns(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(501, 10, generator=generator), torch.randint(0, 10, (501,), generator=generator)
    values = metrics("classification", logits, labels, size)
    assert values["val_accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert values["val_loss"] == pytest.approx(log_loss(labels, logits.double().softmax(1), labels=range(10)), rel=1e-5)


def test_smoothing_moves_a_share_to_all_classes() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    shares = [0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]
    total = math.log(sum(math.exp(v) for v in (2, 0, -1)))
    expected = sum(share * (total - v) for share, v in zip(shares, (2, 0, -1), strict=True))
    assert float(TASKS["classification"].loss(logits, logits, labels, 0.1)) == pytest.approx(expected, rel=1e-6)
    pixel = logits.view(1, 3, 1, 1), labels.view(1, 1, 1)
    assert float(TASKS["segmentation"].loss(pixel[0], logits, pixel[1], 0.1)) == pytest.approx(expected, rel=1e-6)


# -- segmentation ------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from([0.0, 0.3, 0.9]), st.integers(1, 5))
def test_iou_is_scikit_learns_over_the_pixels_that_count(seed: int, classes: int, ignored: float, size: int) -> None:
    logits, masks = outputs_and_masks(seed, classes=classes, ignored=ignored)
    keep = masks != IGNORED
    if not keep.any():
        return
    expected = jaccard_score(masks[keep], logits.argmax(1)[keep], average="macro")
    assert metrics("segmentation", logits, masks, size)["val_iou"] == pytest.approx(expected, rel=1e-6)


def test_iou_by_hand() -> None:
    masks = torch.tensor([[[0, 0, 1], [1, 1, IGNORED]]])
    guesses = torch.tensor([[[0, 1, 1], [1, 0, 2]]])  # the ignored pixel's guess does not make class 2 occur
    logits = torch.nn.functional.one_hot(guesses, 4).permute(0, 3, 1, 2).float()
    assert metrics("segmentation", logits, masks, 1)["val_iou"] == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_pixel_loss_is_a_mean_over_the_pixels_that_count_however_they_are_batched(size: int) -> None:
    logits, masks = outputs_and_masks(3)
    masks[0] = IGNORED  # a whole image, and a whole batch of one
    masks[1, :, 1:] = IGNORED
    logs = torch.log_softmax(logits.double(), 1)
    n, i, j = np.nonzero((masks != IGNORED).numpy())
    expected = -logs[n, masks[n, i, j], i, j].mean()
    assert metrics("segmentation", logits, masks, size)["val_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_ignored_pixels_have_no_gradient() -> None:
    logits, masks = outputs_and_masks(1)
    logits.requires_grad_()
    TASKS["segmentation"].loss(logits, logits, masks, 0.1).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1) > 0
    assert torch.equal(moved, masks != IGNORED)
    logits.grad = None
    nothing = torch.full_like(masks, IGNORED)
    TASKS["segmentation"].loss(logits, logits, nothing, 0.0).backward()  # type: ignore[no-untyped-call]
    assert not logits.grad.any()  # type: ignore[attr-defined]


# -- the meter ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "segmentation", "reconstruction"])
def test_the_buffer_changes_no_number(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks = outputs_and_masks(2, count=23)
    if task == "classification":
        logits, masks = logits.mean((2, 3)), masks[:, 0, 0] % 4
    whole = metrics(task, logits, masks, 4, images=logits + 0.1)
    monkeypatch.setattr("sweep.training.meter.METER_BUFFER", 100)
    assert metrics(task, logits, masks, 4, images=logits + 0.1) == whole


def test_an_epoch_of_masks_is_counted_in_flat_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors alive in the meter after 10 and after 100 batches: as many, however long the epoch."""
    monkeypatch.setattr("sweep.training.meter.METER_BUFFER", 4000)
    logits, masks = outputs_and_masks(2)
    meter, held = Meter(TASKS["segmentation"]), []
    for _ in range(100):
        meter.update(torch.tensor(1.0), logits.clone(), masks.clone())
        held.append(sum(t.numel() for t in [*meter._outputs, *meter._labels]))
    assert max(held) <= 4000 + logits.numel() + masks.numel()
    assert max(held[:10]) == max(held[90:])


# -- the constant output of least loss ---------------------------------------------------------------------------------


def test_the_best_constant_masks_are_the_frequencies_of_the_pixels_that_count() -> None:
    _, masks = outputs_and_masks(seed=3, count=6)
    masks[masks == 2] = 0  # a class that does not occur
    task = TASKS["segmentation"]
    output = task.constant([(masks[:4], masks[:4]), (masks[4:], masks[4:])], 4)
    assert output.shape == (1, 4, 1, 1)
    counted = masks[masks != IGNORED].numpy()
    shares = np.bincount(counted, minlength=4) / len(counted)
    expanded = output.expand(task.output_shape(6, (1, 6, 6), 4))
    values = metrics("segmentation", expanded, masks, size=4)
    occurring = shares[shares > 0]
    assert values["val_loss"] == pytest.approx(-np.sum(occurring * np.log(occurring)), rel=1e-5)
    everywhere = np.full(len(counted), shares.argmax())
    assert values["val_iou"] == pytest.approx(jaccard_score(counted, everywhere, labels=[0, 1, 3], average="macro"))
    # No other constant is better.
    for step in torch.eye(4)[[0, 1, 3]] * 0.1:
        for moved in (expanded + step[:, None, None], expanded - step[:, None, None]):
            assert metrics("segmentation", moved, masks, size=6)["val_loss"] > values["val_loss"]
