"""One image: decoded as Pillow does, cut and resized as drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sweep.config.errors import DataError
from sweep.data import images
from sweep.data.images import resize

SIZE = (12, 16)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
def test_decoding_gives_rgb_as_pillow_does(tmp_path: Path, suffix: str, mode: str) -> None:
    allowed = {"jpg": ("RGB", "L", "CMYK"), "png": ("RGB", "L", "RGBA", "P", "I;16"), "webp": ("RGB", "RGBA")}
    if mode not in allowed[suffix]:
        return
    ramp = np.linspace(0, 255, 32 * 24).reshape(24, 32).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], 2)).convert(mode.replace("I;16", "L"))
    if mode == "I;16":
        image = Image.fromarray(np.array(image).astype(np.uint16) * 257)
    path = tmp_path / f"image.{suffix}"
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    ours = images.decode(path)
    assert (ours.mode, ours.size) == ("RGB", (32, 24))
    with Image.open(path) as stored:
        expected = np.array(stored) / 257 if mode == "I;16" else np.array(stored.convert("RGB")).astype(float)
    expected = np.stack([expected] * 3, 2) if expected.ndim == 2 else expected
    assert np.abs(np.array(ours) - expected).max() <= 1


RAMP = np.linspace(0, 1, 32 * 24).reshape(24, 32)


@pytest.mark.parametrize("kind", ["float.tif", "wide.pgm", "wide.tif", "twelve.pgm"])
def test_grey_values_of_16_bits_and_floats_are_scaled(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind.endswith("pgm"):  # values of 12 bits in a file that says so
        most = 4095 if kind == "twelve.pgm" else 65535
        path.write_bytes(b"P5\n32 24\n%d\n" % most + np.round(RAMP * most).astype(">u2").tobytes())
    else:
        pixels = RAMP.astype(np.float32) if kind == "float.tif" else np.round(RAMP * 65535).astype(np.uint16)
        Image.fromarray(pixels).save(path)
    ours = np.array(images.decode(path))
    assert np.abs(ours - 255 * RAMP[..., None]).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (RAMP.astype(np.float32) * 255, "floats from 0 to 255, whose scale is unknown; convert the images to 0 to 1"),
        (RAMP.astype(np.float32) - 0.5, "floats from -0.5 to 0.5"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "floats from nan to nan"),
        (np.round(RAMP * 4000).astype(np.int32), "integers of 32 bits from 0 to 4000, whose scale is unknown; convert"),
    ],
)
def test_values_of_unknown_scale_are_refused(tmp_path: Path, pixels: Any, words: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "image.tif")
    with pytest.raises(DataError, match=words):
        images.decode(tmp_path / "image.tif")


@pytest.mark.parametrize(
    ("side", "box"), [((24, 32), (0, 0, 32, 24)), ((24, 60), (14, 0, 46, 24)), ((48, 32), (0, 12, 32, 36))]
)
def test_without_augmentation_the_largest_window_in_the_middle_is_resized(side: Any, box: Any) -> None:
    rows, columns = np.indices(side)
    pixels = np.stack([rows * 4, columns * 4, (rows + columns) * 2], 2).astype(np.uint8)
    ours = resize(Image.fromarray(pixels), SIZE, (), ())
    expected = Image.fromarray(pixels).crop(box).resize(SIZE[::-1], Image.Resampling.BILINEAR)
    assert ours.shape == (3, *SIZE)
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.array(expected).astype(int)).max() <= 1


uniform = st.floats(0, 1, exclude_max=True)


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.none() | st.lists(uniform, min_size=5, max_size=5),
)
def test_windows_lie_within_the_image(side: tuple[int, int], size: tuple[int, int], draws: list[float] | None) -> None:
    top, left, height, width = images._window(*side, size, draws)
    assert min(height, width) >= 1
    assert min(top, left) >= 0
    assert top + height <= side[0]
    assert left + width <= side[1]


def test_random_windows_have_areas_aspects_and_places_as_drawn() -> None:
    side, draws = (400, 400), torch.rand(4000, 5, generator=torch.Generator().manual_seed(0)).tolist()
    windows = np.array([images._window(*side, (50, 50), each) for each in draws])
    top, left, height, width = windows.T
    area, aspect = height * width / 160_000, np.log(width / height)
    assert area.min() > 0.24
    assert np.quantile(area, [0.1, 0.5, 0.9]) == pytest.approx([0.325, 0.625, 0.9], abs=0.03)
    assert np.abs(aspect).max() < np.log(4 / 3) + 0.01
    assert aspect.mean() == pytest.approx(0, abs=0.01)
    room = np.minimum(400 - height, 400 - width) > 50
    down, right = (top / (400 - height).clip(1))[room], (left / (400 - width).clip(1))[room]
    for place in (down, right):
        assert np.quantile(place, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.04)
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.06
