"""Folders of small images as users have them, for the tests that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(number: int, side: tuple[int, int] = (24, 32)) -> np.ndarray[Any, Any]:
    """An image [H, W, 3] of one colour with a brighter left half; the colour tells its number."""
    image = np.full((*side, 3), (number % 16 * 8, number // 16 * 8, 64), np.uint8)
    image[:, : side[1] // 2] += 100
    return image


def save(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}))


def image_folder(folder: Path, counts: dict[str, tuple[int, ...]]) -> Path:
    """A folder of classes a, b, c for each part, or right there for the part ''."""
    number = 0
    for part, sizes in counts.items():
        for name, size in zip("abc", sizes, strict=True):
            for _ in range(size):
                save(folder / part / name / f"{number:03d}.{('jpg', 'png', 'JPEG')[number % 3]}", picture(number))
                number += 1
    return folder


def voc_folder(folder: Path, counts: dict[str, int], *, palette: bool = True) -> Path:
    """Images of four vertical stripes, each of its label's colour; the masks say which, and leave a row out as 7."""
    base, random = folder / "VOCdevkit" / "VOC2007", np.random.default_rng(0)
    for part, count in counts.items():
        names = [f"{part}_{i:03d}" for i in range(count)]
        for name in names:
            labels = np.repeat(random.integers(0, 3, 4), 12).astype(np.uint8)
            mask = np.broadcast_to(labels, (36, 48)).copy()
            save(base / "JPEGImages" / f"{name}.jpg", np.eye(3, dtype=np.uint8)[mask] * 255)
            mask[-1] = 7
            image = Image.fromarray(mask)
            if palette:
                image = Image.frombytes("P", image.size, mask.tobytes())
                image.putpalette([9, 8, 7] * 256)
            (base / "SegmentationClass").mkdir(parents=True, exist_ok=True)
            image.save(base / "SegmentationClass" / f"{name}.png")
        (base / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
    return folder
