"""What was begun is gone on with wherever its images lie, and measured nowhere but where it was calibrated."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.evidence import Evidence, content
from pipeline.files import write_json
from supernet.data import load_data


def images(folder: Path, brightest: int = 255) -> Path:
    for label in ("dark", "light"):
        (folder / label).mkdir(parents=True)
        for number in range(8):
            pixels = np.full((4, 4), number if label == "dark" else brightest - number, np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def test_images_are_known_by_what_they_show(tmp_path: Path) -> None:
    here, there = images(tmp_path / "a" / "set"), images(tmp_path / "b" / "set")
    os.utime(there / "light" / "0.png", (1, 1))
    first, copied, other = (load_data(str(set_), 4, seed=0) for set_ in (here, there, images(tmp_path / "set", 254)))
    assert first.digest != copied.digest
    assert content(first) == content(copied) != content(other)
    assert content(load_data(str(here), 4, seed=1)) != content(first)


def test_nothing_is_measured_on_another_machine_than_was_calibrated(tmp_path: Path) -> None:
    evidence = Evidence("tiny", "digits", 0, tmp_path)
    write_json(evidence.folder / "baseline.json", {"machine": ["a faster one", *evidence.machine[1:]]})
    with pytest.raises(RuntimeError, match="a faster one"):
        evidence.measured({"baseline": evidence.scale.space.baseline})
    write_json(evidence.folder / "baseline.json", {"machine": evidence.machine})
    assert evidence.measured({"baseline": evidence.scale.space.baseline})["baseline"] > 0
