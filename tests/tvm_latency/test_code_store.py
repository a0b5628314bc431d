from __future__ import annotations

import os
from pathlib import Path

import pytest

from tvm_latency import code_store
from tvm_latency.code_store import kept

MUCH = 1 << 20


def made() -> bytes:
    raise AssertionError("it was there")


def test_what_was_made_is_found(tmp_path: Path) -> None:
    assert kept(tmp_path / "new", "key", lambda: b"content", MUCH) == b"content"
    assert kept(tmp_path / "new", "key", made, MUCH) == b"content"
    assert kept(tmp_path / "new", "other", lambda: b"", MUCH) == b""
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"key", "other"}


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 100])
def test_what_is_damaged_is_made_again(tmp_path: Path, damage: bytes) -> None:
    kept(tmp_path, "key", lambda: b"content", MUCH)
    (tmp_path / "key").write_bytes(damage)
    assert kept(tmp_path, "key", lambda: b"content", MUCH) == b"content"
    assert kept(tmp_path, "key", made, MUCH) == b"content"


def test_where_nothing_can_be_kept_it_is_made_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for content in (b"one", b"two"):
        assert kept(tmp_path / "file" / "folder", "key", lambda content=content: content, MUCH) == content  # type: ignore[misc]


def test_an_error_of_what_makes_it_is_not_hidden(tmp_path: Path) -> None:
    calls = []

    def fail() -> bytes:
        calls.append(1)
        raise OSError("no compiler")

    with pytest.raises(OSError, match="no compiler"):
        kept(tmp_path, "key", fail, MUCH)
    assert calls == [1]
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert kept(tmp_path, "key", lambda: b"content", MUCH) == b"content"
    assert not list(tmp_path.iterdir())


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_store, "ADDED", 1)
    size = len(b"content") + code_store._DIGEST
    for age, key in enumerate(("first", "second", "third")):
        kept(tmp_path, key, lambda: b"content", MUCH)
        os.utime(tmp_path / key, (age, age))
    assert kept(tmp_path, "first", made, MUCH)  # used now
    kept(tmp_path, "fourth", lambda: b"content", 3 * size)
    assert {file.name for file in tmp_path.iterdir()} == {"first", "third", "fourth"}
