from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from supernet import sources
from supernet.data import DataError, ImageData, Split, iterate, load_data, normalise

PER_CLASS = 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not below tmp_path, which many tests use as the data set.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(seed: int, size: tuple[int, int] = (12, 12)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_classes(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = PER_CLASS, seed: int = 0
) -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(seed + 1000 * label + i).save(folder / name / f"{i:02}.png")
    return folder


def as_dataset(count: int = 2 * PER_CLASS, seed: int = 0, labels: list[int] | None = None) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "number": [f"n{i}" for i in range(count)],
            "kind": labels or [i % 2 for i in range(count)],
            "picture": [picture(seed + i) for i in range(count)],
        },
        features=datasets.Features(
            number=datasets.Value("string"), kind=datasets.ClassLabel(names=["cat", "dog"]), picture=datasets.Image()
        ),
    )


def everything(split: Split) -> torch.Tensor:
    return split.batch(torch.arange(len(split)))[0]


def splits(data: ImageData) -> tuple[Split, Split, Split]:
    return data.train, data.validation, data.test


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 16, seed=0)


def test_digits_are_rgb_images_of_the_resolution(digits: ImageData) -> None:
    images, labels = digits.train.batch(torch.tensor([3, 1]))
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert torch.equal(labels, digits.train.labels[[3, 1]])
    assert torch.equal(images[:, 0], images[:, 2])
    assert digits.classes == tuple("0123456789")
    assert (digits.name, digits.resolution) == ("digits", 16)


def test_digits_keep_their_grey_levels() -> None:
    data = load_data("digits", 8, seed=0)
    raw = sources.open_source("digits").train
    row = int(data.test.rows[7])
    # scikit-learn's levels 0..16 stretched to 0..255 must come back from the 8x8 image unchanged.
    expected = torch.from_numpy(np.asarray(raw.open(row)).copy())
    assert torch.equal(everything(data.test)[7].permute(1, 2, 0), expected)
    assert everything(data.train_all).max() == 255
    assert data.test.labels[7] == raw.labels[row]


def test_splits_have_their_shares_in_every_class(digits: ImageData) -> None:
    for digit in range(10):
        train, validation, test = (int((split.labels == digit).sum()) for split in splits(digits))
        total = train + validation + test
        # scikit-learn rounds each class up or down.
        assert abs(test - 0.25 * total) <= 1
        assert abs(validation - 0.2 * (total - test)) <= 1


def test_splits_never_overlap(digits: ImageData) -> None:
    rows = [set(split.rows.tolist()) for split in splits(digits)]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 1797
    assert set(digits.train_all.rows.tolist()) == rows[0] | rows[1]


def test_seed_moves_validation_but_never_test(digits: ImageData) -> None:
    again, other = load_data("digits", 16, seed=0), load_data("digits", 16, seed=1)
    for mine, same in zip(splits(digits), splits(again)):
        assert torch.equal(mine.rows, same.rows)
    assert torch.equal(digits.test.rows, other.test.rows)
    assert torch.equal(digits.train_all.rows, other.train_all.rows)
    assert not torch.equal(digits.validation.rows, other.validation.rows)


def test_digits_test_split_is_the_same_in_every_release(digits: ImageData) -> None:
    assert digits.test.rows[:8].tolist() == [21, 24, 28, 34, 35, 37, 39, 42]


@given(st.lists(st.integers(0, 255), min_size=12, max_size=12))
def test_normalise_is_the_documented_formula(values: list[int]) -> None:
    images = torch.tensor(values, dtype=torch.uint8).reshape(1, 3, 2, 2)
    expected = torch.tensor([(v / 255 - 0.5) / 0.5 for v in values]).reshape(1, 3, 2, 2)
    assert normalise(images).dtype == torch.float32
    # Three roundings of numbers up to 1, doubled by the last division.
    torch.testing.assert_close(normalise(images), expected, rtol=0, atol=6 * torch.finfo(torch.float32).eps)


def test_iterate_depends_on_the_generator_alone(digits: ImageData) -> None:
    generator = torch.Generator().manual_seed(5)
    list(iterate(digits.test, 100, generator))
    state = generator.get_state()
    second = list(iterate(digits.test, 100, generator))
    torch.manual_seed(99)
    resumed = list(iterate(digits.test, 100, generator.set_state(state)))
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(second, resumed, strict=True))
    first = list(iterate(digits.test, 100, torch.Generator().manual_seed(5)))
    assert not torch.equal(first[0][1], second[0][1])


@pytest.mark.parametrize(("drop_last", "lengths"), [(False, [200, 200, 50]), (True, [200, 200])])
def test_iterate_covers_the_split(digits: ImageData, drop_last: bool, lengths: list[int]) -> None:
    batches = list(iterate(digits.test, 200, torch.Generator().manual_seed(0), drop_last))
    assert [len(labels) for _, labels in batches] == lengths
    if not drop_last:
        assert torch.equal(torch.cat([y for _, y in batches]).sort().values, digits.test.labels.sort().values)


def test_iterate_without_a_generator_keeps_the_order(digits: ImageData) -> None:
    images, labels = zip(*iterate(digits.test, 128))
    assert torch.equal(torch.cat(labels), digits.test.labels)
    assert torch.equal(torch.cat(images), normalise(everything(digits.test)))


def test_iterate_refuses_to_leave_out_everything(digits: ImageData) -> None:
    with pytest.raises(DataError, match="batch of 451 is more than the 450 images"):
        next(iterate(digits.test, 451, drop_last=True))


def test_image_folder_without_splits(tmp_path: Path) -> None:
    data = load_data(str(write_classes(tmp_path / "pets")), 12, seed=0)
    assert (data.name, data.classes, data.notes) == ("pets", ("cat", "dog"), ())
    assert len(data.train) + len(data.validation) + len(data.test) == 2 * PER_CLASS
    images, labels = data.train_all.batch(torch.tensor([0]))
    row = int(data.train_all.rows[0])
    expected = np.asarray(picture(1000 * int(labels[0]) + row % PER_CLASS))
    assert torch.equal(images[0].permute(1, 2, 0), torch.from_numpy(expected.copy()))


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_image_folder_with_its_own_held_out_split(tmp_path: Path, held_out: str) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / held_out, count=3, seed=500)
    data = load_data(str(tmp_path), 12, seed=0)
    assert len(data.test) == 6
    assert len(data.train_all) == 2 * PER_CLASS
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(everything(data.test)[4].permute(1, 2, 0), torch.from_numpy(np.asarray(picture(1501)).copy()))


def test_unused_held_out_split_is_noted(tmp_path: Path) -> None:
    for name in ("train", "test", "validation"):
        write_classes(tmp_path / name, seed=len(name))
    assert load_data(str(tmp_path), 12, 0).notes[0] == "Not used, because test is the test split: validation."


def test_unlabelled_test_folder_is_not_used(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    (tmp_path / "test").mkdir()
    picture(1).save(tmp_path / "test" / "x.png")
    data = load_data(str(tmp_path), 12, 0)
    assert data.notes == ("Not used, because part of train is the test split: test.",)
    assert len(data.test) == 6


def test_hidden_and_other_files_are_no_images(tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("meow")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / "cat" / ".thumbnails").mkdir()
    for hidden in (tmp_path / ".thumbnails", tmp_path / "cat" / ".thumbnails"):
        picture(0).save(hidden / "0.png")
    assert len(load_data(str(tmp_path), 12, 0).train_all) == 18


def test_images_equal_in_train_and_test_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", count=3, seed=PER_CLASS - 1)
    # Of the three test images in each class, the first has the seed of the last training image.
    assert load_data(str(tmp_path), 12, 0).notes == (
        "2 of 6 test images are, pixel by pixel, also among the training images.",
    )


def test_mixed_sizes_are_resized_and_noted(tmp_path: Path) -> None:
    write_classes(tmp_path)
    picture(1, size=(40, 20)).save(tmp_path / "cat" / "wide.png")
    data = load_data(str(tmp_path), 12, 0)
    assert data.notes == ("The images have 2 different sizes; all are resized to 12 x 12.",)


def test_the_shorter_side_is_scaled_and_the_centre_kept(tmp_path: Path) -> None:
    write_classes(tmp_path)
    # 32 x 8: red, then a green square in the middle, then blue; only the green one may be left.
    stripes = np.zeros((8, 32, 3), dtype=np.uint8)
    stripes[:, :12, 0] = stripes[:, 12:20, 1] = stripes[:, 20:, 2] = 255
    Image.fromarray(stripes).save(tmp_path / "cat" / "stripes.png")
    for held in splits(load_data(str(tmp_path), 8, 0)):
        for image in everything(held):
            if (image[1] == 255).all():
                assert (image[[0, 2]] == 0).all()
                return
    pytest.fail("no image shows the centre alone")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    write_classes(tmp_path)
    suffix = "tiff" if mode == "CMYK" else "png"
    picture(1).convert(mode).save(tmp_path / "cat" / f"other.{suffix}")
    assert everything(load_data(str(tmp_path), 12, 0).train).shape[1:] == (3, 12, 12)


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path)
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(tmp_path / "dog" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: it has more than 8 bits for each channel \(mode I;16\)"):
        load_data(str(tmp_path), 12, 0)


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_broken_image_is_named(tmp_path: Path, content: bytes | str) -> None:
    good = write_classes(tmp_path) / "dog" / "03.png"
    good.write_bytes(good.read_bytes()[:90] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"Cannot read .*dog/03\.png: .* replace or remove it"):
        load_data(str(tmp_path), 12, 0)


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_the_first_image_is_named_if_it_is_broken(tmp_path: Path, content: bytes | str) -> None:
    first = write_classes(tmp_path) / "cat" / "00.png"
    first.write_bytes(first.read_bytes()[:90] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"Cannot read .*cat/00\.png: .* replace or remove it"):
        sources.open_source(str(tmp_path)).train.open(0)


def test_an_oversized_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)
    # Pillow refuses more than twice its limit: 12 x 12 is still allowed.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    picture(0, size=(40, 10)).save(tmp_path / "cat" / "00.png")
    message = r"Cannot read .*cat/00\.png: Image size \(400 pixels\) exceeds limit .* far too large"
    with pytest.raises(DataError, match=message):
        sources.open_source(str(tmp_path)).train.open(0)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path), 12, 0)


def replace_image(folder: Path) -> None:
    picture(77).save(folder / "cat" / "03.png")


def relabel(folder: Path) -> None:
    (folder / "cat" / "03.png").rename(folder / "dog" / "03b.png")
    (folder / "dog" / "03.png").rename(folder / "cat" / "03.png")


def remove_image(folder: Path) -> None:
    (folder / "cat" / "03.png").unlink()


@pytest.mark.parametrize("change", [replace_image, relabel, remove_image])
def test_the_digest_of_a_folder_changes_with_its_images(tmp_path: Path, change: Callable[[Path], None]) -> None:
    source = str(write_classes(tmp_path))
    before = load_data(source, 12, 0).digest
    assert load_data(source, 12, 0).digest == before
    change(tmp_path)
    assert load_data(source, 12, 0).digest != before


def test_the_digest_of_parquet_changes_with_its_content(tmp_path: Path) -> None:
    file = tmp_path / "pets.parquet"
    digests = []
    for seed, labels in ((0, None), (1, None), (0, [1, 0] * PER_CLASS)):
        as_dataset(seed=seed, labels=labels).to_parquet(file)
        assert load_data(str(file), 12, 0).digest == load_data(str(file), 12, 0).digest
        digests.append(load_data(str(file), 12, 0).digest)
    assert len(set(digests)) == 3


def test_the_digest_changes_with_the_splits_and_the_resolution(digits: ImageData) -> None:
    assert load_data("digits", 16, seed=0).digest == digits.digest
    assert load_data("digits", 16, seed=1).digest != digits.digest
    assert load_data("digits", 8, seed=0).digest != digits.digest


def test_importing_the_search_imports_no_library_of_one_source() -> None:
    program = "import sys, supernet.search; print(*{'sklearn', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_importing_what_compiles_imports_nothing_that_only_trains() -> None:
    program = "import sys, pipeline.artefacts; print(*{'kornia', 'sklearn', 'datasets', 'xgboost'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    picture(0).save(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"No images in .*: expected a subfolder for each class"):
        load_data(str(tmp_path), 12, 0)


def test_one_class_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one class only, 'cat': .* at least two classes"):
        load_data(str(write_classes(tmp_path, ("cat",))), 12, 0)


def test_too_few_images_of_a_class(tmp_path: Path) -> None:
    write_classes(tmp_path)
    write_classes(tmp_path, ("owl",), count=7)
    with pytest.raises(DataError, match=r"Class 'owl' of data .* has 7 training images, too few to split: at least 8"):
        load_data(str(tmp_path), 12, 0)


def test_eight_images_of_a_class_are_enough_for_every_split(tmp_path: Path) -> None:
    write_classes(tmp_path, ("owl",), count=8)
    write_classes(tmp_path, ("ant", "bee", "cat"), count=29)
    for seed in range(5):
        for split in splits(load_data(str(tmp_path), 4, seed)):
            assert split.labels.unique().tolist() == [0, 1, 2, 3]


def test_resolution_must_be_positive() -> None:
    with pytest.raises(DataError, match="at least 1 pixel, got 0"):
        load_data("digits", 0, 0)


def test_decoding_on_demand_gives_the_same_images(tmp_path: Path) -> None:
    folder = str(write_classes(tmp_path / "train").parent)
    eager, lazy = load_data(folder, 12, 3), load_data(folder, 12, 3, memory_limit_bytes=0)
    for a, b in zip(splits(eager), splits(lazy)):
        assert torch.equal(everything(a), everything(b))
        assert torch.equal(a.labels, b.labels)


def test_broken_image_on_demand_is_named_when_it_is_read(tmp_path: Path) -> None:
    (write_classes(tmp_path) / "dog" / "03.png").write_bytes(b"")
    data = load_data(str(tmp_path), 12, 0, memory_limit_bytes=0)
    with pytest.raises(DataError, match=r"dog/03\.png"):
        [list(iterate(split, 4)) for split in splits(data)]


@pytest.mark.parametrize("held_out", [None, "test", "validation"])
def test_parquet_folder(tmp_path: Path, held_out: str | None) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    as_dataset().to_parquet(folder / "train-00000-of-00001.parquet")
    if held_out:
        as_dataset(6, seed=100).to_parquet(folder / f"{held_out}-00000-of-00001.parquet")
    data = load_data(str(folder), 12, 0)
    assert (data.name, data.classes, data.notes) == ("pets", ("cat", "dog"), ())
    assert len(data.test) == 6
    position = 3
    seed = position + 100 if held_out else int(data.test.rows[position])
    expected = torch.from_numpy(np.asarray(picture(seed)).copy())
    assert torch.equal(everything(data.test)[position].permute(1, 2, 0), expected)
    assert data.test.labels[position] == seed % 2


def test_parquet_file(tmp_path: Path) -> None:
    as_dataset().to_parquet(tmp_path / "pets[1].parquet")
    as_dataset(30).to_parquet(tmp_path / "test.parquet")
    data = load_data(str(tmp_path / "pets[1].parquet"), 12, 0)
    assert (data.name, data.classes, len(data.train_all)) == ("pets[1]", ("cat", "dog"), 18)


def test_parquet_written_without_features(tmp_path: Path) -> None:
    as_dataset().to_parquet(tmp_path / "with.parquet")
    table = pq.read_table(tmp_path / "with.parquet", columns=["kind", "picture"])
    kinds = pa.array([f"kind {kind}" for kind in table["kind"].to_pylist()])
    plain = table.set_column(0, "kind", kinds).replace_schema_metadata(None)
    pq.write_table(plain, tmp_path / "plain.parquet")
    data, expected = (load_data(str(tmp_path / name), 12, 0) for name in ("plain.parquet", "with.parquet"))
    assert data.classes == ("kind 0", "kind 1")
    assert torch.equal(data.train.labels, expected.train.labels)
    assert torch.equal(everything(data.train), everything(expected.train))


def test_held_out_split_without_labels_is_not_used(tmp_path: Path) -> None:
    as_dataset().to_parquet(tmp_path / "train.parquet")
    as_dataset(6, labels=[-1] * 6).to_parquet(tmp_path / "test.parquet")
    as_dataset(4, seed=50).to_parquet(tmp_path / "validation.parquet")
    data = load_data(str(tmp_path), 12, 0)
    assert len(data.test) == 4
    assert data.notes == ("Not used, because validation is the test split: test.",)


def test_finest_of_several_labels_is_used(tmp_path: Path) -> None:
    coarse = datasets.Dataset.from_dict(
        {"coarse": [0] * 24}, features=datasets.Features(coarse=datasets.ClassLabel(names=["pet"]))
    )
    datasets.concatenate_datasets([coarse, as_dataset()], axis=1).to_parquet(tmp_path / "train.parquet")
    data = load_data(str(tmp_path), 12, 0)
    assert data.classes == ("cat", "dog")
    assert data.notes == ("Of the label columns coarse, kind, kind is used.",)


def test_parquet_without_images_lists_its_columns(tmp_path: Path) -> None:
    as_dataset().remove_columns("picture").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"needs a column of images .* has: number \(string\), kind \(int64\)\."):
        load_data(str(tmp_path), 12, 0)


def test_parquet_without_a_train_split(tmp_path: Path) -> None:
    as_dataset().to_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataError, match="has no split called train, only: test"):
        load_data(str(tmp_path), 12, 0)


def test_training_images_without_a_label(tmp_path: Path) -> None:
    as_dataset(labels=[-1, *[0, 1] * 11, 0]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"images without a label in its train split \(column kind\)"):
        load_data(str(tmp_path), 12, 0)


def test_parquet_without_rows(tmp_path: Path) -> None:
    as_dataset().select([]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r'Cannot read data .*: Instruction "train" corresponds to no data'):
        load_data(str(tmp_path), 12, 0)


def test_broken_image_in_parquet_is_named(tmp_path: Path) -> None:
    as_dataset().to_parquet(tmp_path / "train.parquet")
    table = pq.read_table(tmp_path / "train.parquet")
    cells = table["picture"].to_pylist()
    cells[2], cells[5] = {"bytes": b"broken", "path": None}, None
    broken = pa.array(cells, table["picture"].type)
    pq.write_table(table.set_column(2, "picture", broken), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"Cannot read image 2 of .*, split train: cannot identify"):
        load_data(str(tmp_path), 12, 0)
    cells[2] = cells[3]
    pq.write_table(table.set_column(2, "picture", pa.array(cells, table["picture"].type)), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"Cannot read image 5 of .*, split train: the cell is empty"):
        load_data(str(tmp_path), 12, 0)


def test_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"Cannot read data '.*bad\.parquet': "):
        load_data(str(tmp_path / "bad.parquet"), 12, 0)
    (tmp_path / "pets.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"pets\.zip is a file, but not a \.parquet file"):
        load_data(str(tmp_path / "pets.zip"), 12, 0)


def test_local_data_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object) -> None:
        pytest.fail(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (tmp_path / "pets").mkdir()
    as_dataset().to_parquet(tmp_path / "pets" / "train.parquet")
    write_classes(tmp_path / "folder")
    for source in (
        "digits",
        str(tmp_path / "pets"),
        str(tmp_path / "pets" / "train.parquet"),
        str(tmp_path / "folder"),
    ):
        assert len(load_data(source, 8, 0).train) > 0


@pytest.mark.parametrize("source", ["/no/such/folder", "./pets", "~/nothing-here", "a/b/c", "pets.parquet"])
def test_missing_path(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"There is no file or folder .*a name on the Hugging Face hub"):
        load_data(source, 12, 0)


@pytest.mark.parametrize("source", ["digit", "Digits", "digts"])
def test_near_miss_of_digits(source: str) -> None:
    with pytest.raises(DataError, match=rf"Unknown data '{source}'\. Did you mean digits\?"):
        load_data(source, 12, 0)


def test_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str) -> datasets.DatasetDict:
        asked.append(name)
        return datasets.DatasetDict(train=as_dataset(), test=as_dataset(6, seed=100))

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = load_data("someone/pets", 12, 0)
    assert asked == ["someone/pets"]
    assert (data.name, len(data.test)) == ("someone/pets", 6)


def test_hub_data_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(train=as_dataset().select([])))
    with pytest.raises(DataError, match="Data 'someone/pets' has no images in its train split"):
        sources.open_source("someone/pets")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise ConnectionError(name)

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="no file or folder 'mnist' here, and the Hugging Face hub cannot be reached"):
        load_data("mnist", 12, 0)


def test_hub_refusal_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        DataError,
        match=r"Cannot read data 'a/b': Dataset 'a/b' doesn't exist on the Hub \(DatasetNotFoundError\)\. Data is",
    ):
        load_data("a/b", 12, 0)
