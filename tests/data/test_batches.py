"""Batches: every image once, in a reproducible order, converted and augmented without a copy too many."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sweep.config.sections import DataConfig
from sweep.data.batches import ArrayPart, batches
from sweep.data.loading import load_dataset


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_dataset(DataConfig(name="digits"), root=Path("/nonexistent"), cache=tmp_path_factory.mktemp("cache"))


def numbered(count, in_shape=(1, 4, 4)):
    """Images that each hold one value, their label: so one tells which image a batch has."""
    labels = torch.arange(count)
    return ArrayPart(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, *in_shape).contiguous(), labels)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_an_epoch_has_every_image_once_with_its_label():
    split = numbered(103)
    seen = []
    for x, y in batches(split, batch_size=10, device="cpu", shuffle=generator(), scale=1):
        assert torch.equal(x[:, 0, 0, 0].long(), y)
        seen.append(y)
    assert [len(y) for y in seen] == [10] * 10 + [3]
    order = torch.cat(seen)
    assert order.tolist() != list(range(103))
    assert sorted(order.tolist()) == list(range(103))


def test_without_a_generator_the_order_is_kept():
    labels = [y for _, y in batches(numbered(25), batch_size=8, device="cpu", shuffle=None, scale=1)]
    assert torch.cat(labels).tolist() == list(range(25))
    assert [len(y) for y in labels] == [8, 8, 8, 1]


def test_values(digits):
    x, y = next(batches(digits.train, batch_size=50, device="cpu", shuffle=None, scale=16))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    expected = digits.train.images[:50].numpy().astype(np.float64) / 16
    np.testing.assert_array_equal(x.numpy(), expected)  # sixteenths are exact
    assert x.max() == 1

    mean, std = (0.2, 0.3, 0.4), (0.5, 0.25, 0.1)
    images = torch.randint(0, 256, (7, 3, 5, 6), dtype=torch.uint8)
    (x, _), *_ = batches(
        ArrayPart(images, torch.zeros(7).long()),
        batch_size=9,
        device="cpu",
        shuffle=None,
        scale=255,
        normalize=(mean, std),
    )
    expected = (images.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(x.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_stored_images_are_not_touched(digits, shuffle):
    before = digits.train.images.clone()
    for x, _ in batches(digits.train, batch_size=500, device="cpu", shuffle=generator() if shuffle else None, scale=16):
        x.fill_(3)
    assert torch.equal(digits.train.images, before)


def test_epochs_differ_and_continue_from_a_saved_generator():
    split, source = numbered(60, (1, 16, 16)), generator(5)

    def epoch(source):
        arguments = {"batch_size": 7, "device": "cpu", "scale": 1, "augment": ("crop", "flip")}
        return torch.cat([x for x, _ in batches(split, shuffle=source, **arguments)])

    first, state = epoch(source), source.get_state()
    second = epoch(source)
    assert not torch.equal(first, second)
    resumed = torch.Generator()
    resumed.set_state(state)
    assert torch.equal(epoch(resumed), second)
    assert torch.equal(epoch(generator(5)), first)


@pytest.mark.parametrize("side", [8, 28, 32])
def test_crops_are_all_shifts_of_the_image_in_zeros(side):
    pad = side // 8
    image = np.random.Generator(np.random.PCG64(0)).integers(1, 256, (2, side, side + 3), dtype=np.uint8)
    frame = np.zeros((2, side + 2 * pad, side + 3 + 2 * pad), np.uint8)
    frame[:, pad : pad + side, pad : pad + side + 3] = image
    windows = {
        frame[:, dy : dy + side, dx : dx + side + 3].tobytes(): (dy, dx)
        for dy in range(2 * pad + 1)
        for dx in range(2 * pad + 1)
    }
    split = ArrayPart(torch.from_numpy(image).expand(3000, -1, -1, -1), torch.zeros(3000).long())
    seen = set()
    for x, _ in batches(split, batch_size=300, device="cpu", shuffle=generator(), scale=1, augment=("crop",)):
        assert x.shape == (300, 2, side, side + 3)
        seen |= {windows[one.tobytes()] for one in x.numpy().astype(np.uint8)}
    assert len(seen) == (2 * pad + 1) ** 2


def test_flips_mirror_half_of_the_images_left_to_right():
    image = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    mirrored = torch.from_numpy(image.numpy()[:, :, ::-1].copy())
    split = ArrayPart(image.expand(2000, -1, -1, -1), torch.zeros(2000).long())
    count = 0
    for x, _ in batches(split, batch_size=200, device="cpu", shuffle=generator(), scale=1, augment=("flip",)):
        for one in x.byte():
            assert torch.equal(one, image) or torch.equal(one, mirrored)
            count += torch.equal(one, mirrored)
    assert 900 < count < 1100  # 4.5 standard deviations


def test_augmentation_keeps_images_apart():
    """Each image is shifted within itself: no pixel of another one moves in."""
    split = numbered(200, (1, 8, 8))
    for x, y in batches(split, batch_size=64, device="cpu", shuffle=generator(), scale=1, augment=("crop", "flip")):
        values = x.flatten(1)
        assert torch.equal(values.max(1).values.long(), y)
        assert ((values == 0) | (values == y[:, None])).all()
    with pytest.raises(ValueError, match="needs a generator"):
        next(batches(split, batch_size=64, device="cpu", shuffle=None, scale=1, augment=("flip",)))


def test_a_resident_split_gives_the_same_batches(digits):
    resident = digits.train.to("cpu")
    assert resident.images.data_ptr() == digits.train.images.data_ptr()
    for (x, y), (x2, y2) in zip(
        batches(digits.train, batch_size=99, device="cpu", shuffle=generator(), scale=16),
        batches(resident, batch_size=99, device="cpu", shuffle=generator(), scale=16),
        strict=True,
    ):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
