"""Labelled images in three splits, of one size, ready for training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from supernet.sources import DataError, RawData, RawSplit, open_source

__all__ = ["DataError", "ImageData", "Split", "iterate", "load_data", "normalise"]

# normalise(x) = (x / 255 - MEAN) / STD for every channel: [0, 255] becomes [-1, 1], whatever the data set.
MEAN = 0.5
STD = 0.5
# Pixels are kept in memory up to this; beyond it they are decoded batch by batch.
MEMORY_LIMIT_BYTES = 4 * 2**30
TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2
# With fewer, a class could be missing from the test or the validation part.
MIN_IMAGES_PER_CLASS = 8
# The test split must be the same for every seed, or networks could not be compared.
_TEST_SEED = 0
# Small images decode in less time than a thread takes to start on one.
_ROWS_PER_TASK = 32


@dataclass(frozen=True, eq=False)
class Split:
    """Images addressed by their position 0..N-1 in the split.

    Attributes:
        labels: int64 [N].
        rows: int64 [N], where each image stands in what `read` reads.
        read: rows [B] -> images uint8 [B, 3, R, R].
        stamp: differs when what `read` reads does.
    """

    labels: Tensor
    rows: Tensor
    read: Callable[[Tensor], Tensor]
    stamp: str

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, R, R] and labels int64 [B] at positions [B].

        Raises:
            DataError: an image that is decoded only now is broken.
        """
        return self.read(self.rows[indices]), self.labels[indices]

    @property
    def digest(self) -> str:
        """Hexadecimal; another one if an image was relabelled, replaced, added, removed or put into another split."""
        content = self.labels.numpy().tobytes() + self.rows.numpy().tobytes() + self.stamp.encode()
        return blake2b(content, digest_size=16).hexdigest()


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set cut in three: weights learn on `train`, the architecture on `validation`, `test` judges.

    `train_all` is `train` and `validation` together, for the final training. `notes` are sentences for the user.
    """

    name: str
    resolution: int
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    train_all: Split
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Hexadecimal; another one if the name, the resolution, the classes or any split is another."""
        parts = self.name, self.resolution, self.classes, self.train.digest, self.validation.digest, self.test.digest
        return blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def load_data(source: str, resolution: int, seed: int, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> ImageData:
    """Reads `source` (see `open_source`), resizes to `resolution` pixels and splits.

    Every image becomes RGB, its shorter side is scaled to `resolution` (bilinear), its centre is cropped. `test` is the
    source's own test or validation split, else 25 % of each class, the same for every seed. `validation` is 20 %
    of each class of what is left, drawn by `seed`.

    Raises:
        DataError: no such source, no images, one class, too few images of a class, or a broken image, with its name.
    """
    if resolution < 1:
        raise DataError(f"The resolution must be at least 1 pixel, got {resolution}.")
    raw = open_source(source)
    _check_classes(raw)
    stores = [raw.train] if raw.test is None else [raw.train, raw.test]
    in_memory = sum(len(store.labels) for store in stores) * 3 * resolution**2 <= memory_limit_bytes
    sizes: set[tuple[int, int]] = set()
    reads = [(_in_memory if in_memory else _on_demand)(store, resolution, sizes) for store in stores]

    rows = np.arange(len(raw.train.labels))
    if raw.test is None:
        train_rows, test_rows = _stratified(rows, raw.train.labels, TEST_SHARE, _TEST_SEED)
        test = _split(raw.train, test_rows, reads[0])
    else:
        train_rows, test = rows, _split(raw.test, np.arange(len(raw.test.labels)), reads[1])
    weight_rows, alpha_rows = _stratified(train_rows, raw.train.labels, VALIDATION_SHARE, seed)
    train_all = _split(raw.train, train_rows, reads[0])

    notes = list(raw.notes)
    if len(sizes) > 1:
        notes.append(f"The images have {len(sizes)} different sizes; all are resized to {resolution} x {resolution}.")
    if in_memory and (shared := _shared_images(train_all, test)):
        notes.append(f"{shared} of {len(test)} test images are, pixel by pixel, also among the training images.")
    return ImageData(
        name=raw.name,
        resolution=resolution,
        classes=raw.classes,
        train=_split(raw.train, weight_rows, reads[0]),
        validation=_split(raw.train, alpha_rows, reads[0]),
        test=test,
        train_all=train_all,
        notes=tuple(notes),
    )


def normalise(images: Tensor) -> Tensor:
    """uint8 [B, 3, R, R] -> float32 [B, 3, R, R], (x / 255 - 0.5) / 0.5."""
    return (images.to(torch.float32) / 255 - MEAN) / STD


def iterate(
    split: Split, batch_size: int, generator: torch.Generator | None = None, drop_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass: normalised images float32 [B, 3, R, R] and labels int64 [B].

    The order depends on the state of `generator` alone, and all of it is drawn before the first batch; without one the
    split's own order is kept. `drop_last` leaves out a last batch that is not full.

    Raises:
        DataError: `drop_last` would leave out everything; an image that is decoded only now is broken.
    """
    if drop_last and len(split) < batch_size:
        raise DataError(
            f"A batch of {batch_size} is more than the {len(split)} images of the split: take smaller batches."
        )
    order = torch.arange(len(split)) if generator is None else torch.randperm(len(split), generator=generator)
    end = len(split) - len(split) % batch_size if drop_last else len(split)
    for start in range(0, end, batch_size):
        images, labels = split.batch(order[start : start + batch_size])
        yield normalise(images), labels


def _check_classes(raw: RawData) -> None:
    counts = np.bincount(raw.train.labels, minlength=len(raw.classes))
    present = np.flatnonzero(counts)
    if len(raw.classes) == 1 or len(present) == 1:
        raise DataError(
            f"Data {raw.name!r} has one class only, {raw.classes[present[0]]!r}: there is nothing to tell apart. "
            "Images need at least two classes, each in a subfolder of its own."
        )
    fewest = int(counts.argmin())
    if counts[fewest] < MIN_IMAGES_PER_CLASS:
        raise DataError(
            f"Class {raw.classes[fewest]!r} of data {raw.name!r} has {counts[fewest]} training images, too few "
            f"to split: at least {MIN_IMAGES_PER_CLASS} are needed. Add images or leave the class out."
        )


def _stratified(
    rows: NDArray[np.int64], labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two sorted parts of `rows`, the second with `share` of each class."""
    from sklearn.model_selection import train_test_split  # Takes seconds to import.

    first, second = train_test_split(rows, test_size=share, random_state=seed, stratify=labels[rows])
    return np.sort(first), np.sort(second)


def _split(raw: RawSplit, rows: NDArray[np.int64], read: Callable[[Tensor], Tensor]) -> Split:
    return Split(labels=torch.from_numpy(raw.labels[rows]), rows=torch.from_numpy(rows), read=read, stamp=raw.stamp)


def _in_memory(raw: RawSplit, resolution: int, sizes: set[tuple[int, int]]) -> Callable[[Tensor], Tensor]:
    """Decodes all there is, now; adds every size met to `sizes`."""
    images = _on_demand(raw, resolution, sizes)(torch.arange(len(raw.labels)))
    return images.__getitem__


def _on_demand(raw: RawSplit, resolution: int, sizes: set[tuple[int, int]]) -> Callable[[Tensor], Tensor]:
    def decode(row: int) -> NDArray[np.uint8]:
        image = raw.open(row)
        sizes.add(image.size)
        # Scales the shorter side and crops the centre in one step.
        return np.asarray(ImageOps.fit(image, (resolution, resolution), Image.Resampling.BILINEAR))

    def read(rows: Tensor) -> Tensor:
        pixels = np.empty((len(rows), resolution, resolution, 3), dtype=np.uint8)

        def fill(start: int) -> None:
            for i in range(start, min(start + _ROWS_PER_TASK, len(rows))):
                pixels[i] = decode(int(rows[i]))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(fill, range(0, len(rows), _ROWS_PER_TASK)):
                pass
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    return read


def _shared_images(train: Split, test: Split) -> int:
    """How many test images equal some training image, pixel by pixel."""

    def digests(split: Split) -> Iterator[bytes]:
        for position in range(len(split)):
            image, _ = split.batch(torch.tensor([position]))
            yield blake2b(image.numpy().tobytes(), digest_size=16).digest()

    seen = set(digests(train))
    return sum(digest in seen for digest in digests(test))
