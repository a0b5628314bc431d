from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from pipeline.events import with_events
from pipeline.run_folder import EVENTS
from supernet import parallel


def masked(data: bytes) -> int:
    """TensorFlow's checksum of a record (tensorflow/core/lib/hash/crc32c.h)."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[Event]:
    """The events of a file, its checksums checked: length, its crc, content, its crc."""
    content = path.read_bytes()
    while content:
        (length,), (crc,) = struct.unpack("<Q", content[:8]), struct.unpack("<I", content[8:12])
        assert crc == masked(content[:8])
        body, (crc,) = content[12 : 12 + length], struct.unpack("<I", content[12 + length : 16 + length])
        assert crc == masked(body)
        yield Event.FromString(body)
        content = content[16 + length :]


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """(tag, step, value) of every file, in the order in which TensorBoard reads them: that of their names."""
    return [
        (value.tag, event.step, value.simple_value)
        for path in sorted(folder.iterdir())
        for event in records(path)
        for value in event.summary.value
    ]


def test_every_figure_is_a_scalar_of_its_epoch(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    progress = with_events(lambda stage, done, total, figures: seen.append((stage, done, total)), tmp_path / "events")
    progress("search", 1, 2, {"loss": 0.5, "entropy": 2.0})
    progress("search", 2, 2, {"loss": 0.25, "entropy": 1.0})
    assert seen == [("search", 1, 2), ("search", 2, 2)]
    assert scalars(tmp_path / "events") == [
        ("search/loss", 1, 0.5),
        ("search/entropy", 1, 2.0),
        ("search/loss", 2, 0.25),
        ("search/entropy", 2, 1.0),
    ]
    assert all(EVENTS in path.name for path in (tmp_path / "events").iterdir())


def test_a_resumed_search_goes_on_in_the_same_curves(tmp_path: Path) -> None:
    for done in range(9, 12):
        # As many processes, each of which is told one epoch.
        with_events(lambda *_: None, tmp_path)("search", done, 20, {"loss": 1.0 / 2**done})
    assert scalars(tmp_path) == [("search/loss", done, 1.0 / 2**done) for done in range(9, 12)]


def test_of_several_processes_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    with_events(lambda *_: None, tmp_path / "events")("search", 1, 2, {"loss": 0.5})
    assert not (tmp_path / "events").exists()
