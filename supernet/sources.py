"""Where images come from: the embedded digits, a folder of images, Parquet files, or the Hugging Face hub.

A source only lists what there is; nothing is decoded before `RawSplit.open` is called.
"""

from __future__ import annotations

import glob
import logging
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

DIGITS = "digits"
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Of the held-out splits a source may have, the first that is there and labelled is the test split.
HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")
_KINDS = (
    f"Data is `{DIGITS}`, a folder with one subfolder of images for each class, "
    "a Parquet file or a folder of them, or a name on the Hugging Face hub."
)
# What Pillow's decoders raise on files that are cut short, garbled or absurdly large.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class DataError(ValueError):
    """The images cannot be had, or they cannot be used to train a classifier."""


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Images that are decoded one by one.

    Attributes:
        labels: int64 [N].
        source: how to get at image i, as it is stored.
        describe: what to call image i in a message.
        stamp: differs when an image does, as far as can be told without decoding any.
    """

    labels: NDArray[np.int64]
    source: Callable[[int], Image.Image]
    describe: Callable[[int], str]
    stamp: str

    def open(self, row: int) -> Image.Image:
        """Image `row`, decoded, upright, RGB.

        Raises:
            DataError: it is broken, too large for Pillow, or has more than 8 bits for each channel.
        """
        try:
            with self.source(row) as image:
                if image.mode in ("I", "F") or image.mode.startswith("I;"):
                    # Pillow would cut these off at 255 instead of scaling them.
                    raise ValueError(f"it has more than 8 bits for each channel (mode {image.mode}); save it with 8")
                return ImageOps.exif_transpose(image).convert("RGB")
        except _BROKEN as error:
            raise DataError(
                f"Cannot read {self.describe(row)}: {error}. It may be cut short, far too large or no image: replace "
                "or remove it."
            ) from error


@dataclass(frozen=True, eq=False)
class RawData:
    """All a source has, before splitting and resizing; `test` is None where the source holds nothing out."""

    name: str
    classes: tuple[str, ...]
    train: RawSplit
    test: RawSplit | None
    notes: tuple[str, ...] = ()


def open_source(source: str) -> RawData:
    """`digits`, an existing path, or else a hub name.

    Raises:
        DataError: none of these, or no labelled images there.
    """
    if source == DIGITS:
        return _digits()
    path = Path(source).expanduser()
    if path.is_dir():
        return _parquet(path) if _first_parquet(path) else _image_folder(path)
    if path.is_file():
        if path.suffix != ".parquet":
            raise DataError(f"{path} is a file, but not a .parquet file. {_KINDS}")
        return _parquet(path)
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or path.suffix == ".parquet":
        raise DataError(f"There is no file or folder {path}. {_KINDS}")
    if get_close_matches(source.lower(), [DIGITS], cutoff=0.75):
        raise DataError(f"Unknown data {source!r}. Did you mean {DIGITS}? {_KINDS}")
    return _tables(source, _load_tables(source))


def _digits() -> RawData:
    from sklearn.datasets import load_digits  # Takes seconds to import, and other data does without.

    bunch = load_digits()
    # Grey levels 0..16 become 0..255.
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return RawData(
        name=DIGITS,
        classes=tuple(str(name) for name in bunch.target_names),
        train=RawSplit(
            labels=bunch.target.astype(np.int64),
            source=lambda i: Image.fromarray(pixels[i]),
            describe=lambda i: f"digit {i}",
            stamp=DIGITS,
        ),
        test=None,
    )


def _image_folder(path: Path) -> RawData:
    train, held_out = path / "train", [name for name in HELD_OUT if (path / name).is_dir()]
    if not train.is_dir():
        # Without train/ a folder called `test` is a class like any other.
        train, held_out = path, []
    files = {"train": _labelled_files(train), **{name: _labelled_files(path / name) for name in held_out}}
    if not files["train"]:
        raise DataError(
            f"No images in {train}: expected a subfolder for each class with {', '.join(IMAGE_SUFFIXES)} files in it."
        )
    classes = sorted({label for found in files.values() for _, label in found})
    codes = {label: i for i, label in enumerate(classes)}

    def raw(split: str) -> RawSplit:
        found = files[split]
        labels = np.array([codes[label] for _, label in found], dtype=np.int64)
        return RawSplit(
            labels=labels,
            source=lambda i: Image.open(found[i][0]),
            describe=lambda i: str(found[i][0]),
            stamp=_stamp([file for file, _ in found], path),
        )

    test = next((name for name in held_out if files[name]), None)
    return RawData(
        name=path.resolve().name,
        classes=tuple(classes),
        train=raw("train"),
        test=raw(test) if test else None,
        notes=_split_notes(held_out, test),
    )


def _labelled_files(folder: Path) -> list[tuple[Path, str]]:
    """Images in the subfolders of `folder`, however deep, with the name of the subfolder; hidden ones are no data."""
    found = []
    for file in sorted(folder.glob("*/**/*")):
        parts = file.relative_to(folder).parts
        if file.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in parts) and file.is_file():
            found.append((file, parts[0]))
    return found


def _stamp(files: Sequence[Path], folder: Path) -> str:
    """A digest of the names below `folder`, the sizes and the times of last change."""
    digest = blake2b(digest_size=16)
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _first_parquet(folder: Path) -> Path | None:
    return next(folder.rglob("*.parquet"), None)


def _parquet(path: Path) -> RawData:
    if path.is_dir():
        return _tables(path.resolve().name, _load_tables(str(path)))
    # The library's own name for such a file, "parquet", would make it call a server to be counted.
    return _tables(path.stem, _load_tables(str(path.parent), data_files=glob.escape(path.name)))


def _load_tables(source: str, **files: str) -> Mapping[str, Any]:
    """The splits of a data set in the Hugging Face layout, by name. Only a hub name needs a network."""
    import datasets  # Takes seconds to import, and digits and image folders do without.
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    # What goes wrong is raised as well; logged, it would stand on the terminal twice.
    for library in ("datasets", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    where = str(Path(source, *files.values()))
    try:
        tables: Mapping[str, Any] = datasets.load_dataset(source, **files)
    except ConnectionError as error:
        raise DataError(
            f"There is no file or folder {where!r} here, and the Hugging Face hub cannot be reached to look for a data "
            f"set of that name. Check the network, or the spelling. {_KINDS}"
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().partition("\n")[0].rstrip(".")
        raise DataError(f"Cannot read data {where!r}: {reason} ({type(cause).__name__}). {_KINDS}") from error
    return tables


def _tables(name: str, tables: Mapping[str, Any]) -> RawData:
    """Picks the columns by their type, and the splits by their names."""
    if "train" not in tables:
        raise DataError(f"Data {name!r} has no split called train, only: {', '.join(tables)}.")
    features = tables["train"].features
    image = next((column for column, feature in features.items() if _is_image(feature)), None)
    label, note = _label_column(features)
    if image is None or label is None:
        columns = ", ".join(f"{column} ({_type_name(feature)})" for column, feature in features.items())
        raise DataError(
            f"Data {name!r} needs a column of images and one of class labels, but has: {columns}. "
            "Write it with `datasets`, with features Image() and ClassLabel()."
        )
    values = {split: table.data.column(label).to_pylist() for split, table in tables.items() if label in table.features}
    names = getattr(features[label], "names", None)
    if names is None:
        names = sorted({value for column in values.values() for value in column if value is not None})
        codes = {value: i for i, value in enumerate(names)}
        values = {split: [codes.get(value) for value in column] for split, column in values.items()}
    labels = {split: np.array([-1 if v is None else v for v in column], np.int64) for split, column in values.items()}
    if len(labels["train"]) == 0:
        raise DataError(f"Data {name!r} has no images in its train split.")
    if (labels["train"] < 0).any():
        raise DataError(f"Data {name!r} has images without a label in its train split (column {label}).")

    def raw(split: str) -> RawSplit:
        pictures = tables[split].data.column(image)
        return RawSplit(
            labels=labels[split],
            source=lambda i: _open_cell(pictures[i].as_py()),
            describe=lambda i: f"image {i} of {name}, split {split}",
            # The library's digest of the files, and of what it was made to do with them.
            stamp=tables[split]._fingerprint,
        )

    held_out = [split for split in HELD_OUT if split in tables]
    # Hubs often keep the labels of `test` to themselves: None or -1.
    test = next((split for split in held_out if len(labels.get(split, ())) and (labels[split] >= 0).all()), None)
    notes = note + _split_notes(held_out, test)
    return RawData(name, tuple(map(str, names)), raw("train"), raw(test) if test else None, notes)


def _split_notes(held_out: Sequence[str], test: str | None) -> tuple[str, ...]:
    unused = [split for split in held_out if split != test]
    return (f"Not used, because {test or 'part of train'} is the test split: {', '.join(unused)}.",) if unused else ()


def _type_name(feature: Any) -> str:
    return str(getattr(feature, "dtype", type(feature).__name__))


def _is_image(feature: Any) -> bool:
    """An Image feature, or the struct it is stored as, which is all that is left without Hugging Face metadata."""
    return type(feature).__name__ == "Image" or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _label_column(features: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The ClassLabel with most classes, else the only column of integers or strings; a note on any choice made."""
    labels = {column: feature.num_classes for column, feature in features.items() if hasattr(feature, "num_classes")}
    if labels:
        chosen = max(labels, key=lambda column: labels[column])
        return chosen, (f"Of the label columns {', '.join(labels)}, {chosen} is used.",) if len(labels) > 1 else ()
    plain = [c for c, f in features.items() if str(getattr(f, "dtype", "")).startswith(("int", "uint", "string"))]
    return (plain[0] if len(plain) == 1 else None), ()


def _open_cell(cell: Mapping[str, Any] | None) -> Image.Image:
    if cell is None:
        raise OSError("the cell is empty")
    return Image.open(BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"])
