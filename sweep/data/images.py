"""Decodes one image file and resizes it for the network, with torchvision's transforms."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..config.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
CROP_AREA = 0.25  # smallest share of the image; the usual twelfth slows trials of fewer than 100 epochs down
CROP_ASPECT = 4 / 3  # largest factor by which a crop's aspect differs from the target's
PREPARATION = "as RGB, the largest centred window with the aspect of size, resized to size (bilinear, antialiased)"
UNREADABLE = (OSError, SyntaxError, ValueError)  # Pillow's errors

Size = tuple[int, int]  # height, width


def decode(path: Path) -> Image.Image:
    """Reads an image file as RGB; raises DataError if it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                return Image.fromarray(_to_8_bits(path, image)).convert("RGB")
            return image.convert("RGB")
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an image ({error})") from None


def _to_8_bits(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """Scales grey values of 16 bits, or floats from 0 to 1, which Pillow would clip to 0 .. 255; refuses others."""
    values = np.array(image)
    if image.mode != "I" or image.format == "PPM":  # whose values Pillow stretches to 16 bits
        scaled = values * 255 if image.mode == "F" else values >> 8
        if scaled.min() >= 0 and scaled.max() <= 255:
            return np.round(scaled).astype(np.uint8)
    kind, allowed = ("floats", "0 to 1") if image.mode == "F" else ("integers of 32 bits", "8 or 16 bits")
    raise DataError(
        f"{path}: its pixels are {kind} from {values.min():g} to {values.max():g}, whose scale is unknown; convert the "
        f"images to {allowed}"
    )


def decode_mask(path: Path) -> Image.Image:
    """Reads a mask, whose pixels are labels or indices of a palette, as a grey image of labels; or raises DataError."""
    try:
        with Image.open(path) as image:
            mode, labels = image.mode, np.array(image)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as a mask ({error})") from None
    if mode not in ("L", "P"):
        raise DataError(f"{path} is not a mask: its pixels must be labels or indices of a palette, not {mode}")
    return Image.fromarray(labels)


def resize(
    image: Image.Image, size: Size, augment: Sequence[str], draws: Sequence[float], *, mask: bool = False
) -> Tensor:
    """Cuts a window out of an image and resizes it: uint8 [C, *size]; a mask follows its image if the draws are equal.

    The window is the largest centred one with the target's aspect. With ``crop`` it is a random one, as in
    torchvision's ``RandomResizedCrop`` (Szegedy et al., 2014). With ``flip`` the image is mirrored with
    probability 1/2.

    Args:
        draws: uniform numbers in [0, 1): area, aspect, down, right, flip; empty without augmentation.
        mask: pixels are labels, so they are not interpolated.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    window = _window(image.height, image.width, size, draws if "crop" in augment else None)
    mode = InterpolationMode.NEAREST if mask else InterpolationMode.BILINEAR
    image = F.resized_crop(image, *window, size=list(size), interpolation=mode)
    if "flip" in augment and draws[4] < 0.5:
        image = F.horizontal_flip(image)
    tensor: Tensor = F.pil_to_tensor(image)
    return tensor


def _window(height: int, width: int, size: Size, draws: Sequence[float] | None) -> tuple[int, int, int, int]:
    """Returns top, left, height and width of the window, in pixels."""
    aspect, down, right = size[1] / size[0], 0.5, 0.5
    if draws is None:
        rows, columns = (height, height * aspect) if height * aspect <= width else (width / aspect, width)
    else:
        area = height * width * (CROP_AREA + (1 - CROP_AREA) * draws[0])
        aspect *= math.exp((2 * draws[1] - 1) * math.log(CROP_ASPECT))
        rows, columns, down, right = math.sqrt(area / aspect), math.sqrt(area * aspect), draws[2], draws[3]
    tall, wide = (max(1, min(side, round(part))) for part, side in ((rows, height), (columns, width)))
    return round(down * (height - tall)), round(right * (width - wide)), tall, wide
