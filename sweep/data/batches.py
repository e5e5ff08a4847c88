"""Yields batches: a part of a data set in a seeded order, as float images on the device."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from .normalisation import Normalisation

CROP_PADDING = 8  # pixels of the image's side per pixel of padding: 4 at 32x32, 3 at 28x28, 1 at 8x8
PREFETCH_BATCHES = 2  # batches that are decoded ahead of the one in use
DRAWS = 5  # uniform random numbers that augment one image file

Share = tuple[int, int]  # (rank, number of processes): the part of each batch that one of several processes takes
WHOLE: Share = (0, 1)


@dataclass(frozen=True)
class DataPart(ABC):
    """Images and their labels, in memory or in files."""

    images: Any
    labels: Any

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.labels)

    def to(self, device: torch.device | str) -> Self:  # noqa: ARG002 (files stay on disk)
        """Returns the same part, resident on a device if it is in memory; on the CPU it stays the memory map."""
        return self

    def first(self, count: int) -> Self:
        """Returns the first ``count`` images of the stored order."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    @abstractmethod
    def uint8_batches(
        self,
        size: int,
        device: torch.device | str,
        shuffle: torch.Generator | None,
        augment: Sequence[str],
        share: Share = WHOLE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields every image once with its label, on the device; arguments as in `batches`, images are uint8."""


@dataclass(frozen=True)
class ArrayPart(DataPart):
    """A part whose images are one array, in memory or memory-mapped."""

    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]

    def to(self, device: torch.device | str) -> Self:
        """Returns the same part, resident on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def uint8_batches(
        self,
        size: int,
        device: torch.device | str,
        shuffle: torch.Generator | None,
        augment: Sequence[str],
        share: Share = WHOLE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields as `DataPart.uint8_batches` says."""
        images, labels = self.images, self.labels
        order = None if shuffle is None else torch.randperm(len(labels), generator=shuffle).to(images.device)
        for start in range(0, len(labels), size):
            count = min(size, len(labels) - start)
            own = rows_of(share, count)
            part = slice(start + own.start, start + own.stop)
            if order is None:
                x, y = images[part], labels[part]
            else:  # index_select copies whole images: on a CPU 15 times as fast as images[index]
                x, y = images.index_select(0, order[part]), labels.index_select(0, order[part])
            x, y = x.to(device), y.to(device)
            yield (_augment(x, augment, shuffle, count, own) if augment else x), y


@dataclass(frozen=True)
class StreamedPart(DataPart):
    """A part whose images are files. They are decoded in each epoch by threads, a few batches ahead."""

    images: NDArray[Any]  # key of each image for `load`, [N]
    labels: NDArray[Any]  # label of each image, or key of its mask for `load`, [N]
    # (input, label, augmentations, random numbers) -> image, uint8 [C, H, W], and label, [] or [H, W]
    load: Callable[[Any, Any, Sequence[str], Sequence[float]], tuple[Tensor, Tensor]]

    def uint8_batches(
        self,
        size: int,
        device: torch.device | str,
        shuffle: torch.Generator | None,
        augment: Sequence[str],
        share: Share = WHOLE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields as `DataPart.uint8_batches` says; draws all randomness here, so the threads' order does not matter."""
        order = torch.arange(self.size) if shuffle is None else torch.randperm(self.size, generator=shuffle)
        ahead: deque[tuple[int, list[Future[tuple[Tensor, Tensor]]]]] = deque()  # number of images, and the images
        # Decoding releases the interpreter lock; threads start at once, share the trial's memory and end with it.
        pool = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="decode")
        try:
            for start in range(0, self.size, size):
                part = order[start : start + size].tolist()
                draws = torch.rand(len(part), DRAWS if augment else 0, generator=shuffle).tolist()
                own = rows_of(share, len(part))
                jobs = list(zip(part, draws, strict=True))[
                    own.start : max(own.stop, own.start + 1)
                ]  # one has the shape
                images = [pool.submit(self.load, self.images[i], self.labels[i], augment, n) for i, n in jobs]
                ahead.append((own.stop - own.start, images))
                if len(ahead) > PREFETCH_BATCHES:
                    yield _collected(*ahead.popleft(), device)
            while ahead:
                yield _collected(*ahead.popleft(), device)
        finally:
            pool.shutdown(cancel_futures=True)


def _collected(
    count: int, images: list[Future[tuple[Tensor, Tensor]]], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    x, y = zip(*(image.result() for image in images), strict=True)
    return torch.stack(x)[:count].to(device), torch.stack(y)[:count].to(device)


def rows_of(share: Share, count: int) -> slice:
    """Returns the rows of a batch of ``count`` images that a share is; none if there are fewer images than processes.

    Example:
        >>> [rows_of((rank, 2), 5) for rank in range(2)]
        [slice(0, 2, None), slice(2, 5, None)]
    """
    rank, size = share
    return slice(count * rank // size, count * (rank + 1) // size)


def batches(
    part: DataPart,
    *,
    batch_size: int,
    device: torch.device | str,
    shuffle: torch.Generator | None,
    scale: int,
    augment: Sequence[str] = (),
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    share: Share = WHOLE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields one epoch of images, float32 [B, C, H, W], and labels, int64 [B], or masks, int64 [B, H, W].

    Args:
        shuffle: CPU generator of all randomness, so that an epoch is the same on every device; None: stored order.
        scale: stored value that becomes 1.0.
        augment: ``crop`` shifts each image by up to an eighth of its side and fills with zeros (image files: a random
            window, see `images.resize`); ``flip`` mirrors with probability 1/2. A mask moves with its image. Raises
            ValueError without ``shuffle``.
        normalize: mean and standard deviation of each channel, for images in [0, 1]; None leaves them in [0, 1].
        share: yields these rows of each batch alone; order and augmentation are those of the whole batch.

    Example:
        >>> part = ArrayPart(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0, 1, 2]))
        >>> for images, labels in batches(part, batch_size=2, device="cpu", shuffle=None, scale=255):
        ...     print(list(images.shape), float(images.max()), labels.tolist())
        [2, 1, 2, 2] 1.0 [0, 1]
        [1, 1, 2, 2] 1.0 [2]
    """
    if augment and shuffle is None:
        raise ValueError(f"augment = {augment!r}: needs a generator in shuffle to draw from")
    normalisation = Normalisation(scale, normalize).to(device)
    for images, y in part.uint8_batches(batch_size, device, shuffle, augment, share):
        yield normalisation(images), y.long()


def _augment(x: Tensor, augment: Sequence[str], generator: torch.Generator | None, count: int, own: slice) -> Tensor:
    """Augments the rows ``own`` of a batch of ``count`` images; draws the random numbers of the whole batch."""
    batch, _, height, width = x.shape
    if "crop" in augment:
        pad = min(height, width) // CROP_PADDING
        shifts = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)[:, own].to(x.device)
        windows = torch.nn.functional.pad(x, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        x = windows[torch.arange(batch, device=x.device), :, shifts[0], shifts[1]]  # [B, C, H, W]
    if "flip" in augment:
        mirrored = torch.randint(0, 2, (count, 1, 1, 1), generator=generator)[own].bool().to(x.device)
        x = torch.where(mirrored, x.flip(-1), x)
    return x
