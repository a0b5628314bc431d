"""Bytes on disk that all processes of a user share: what was made once need not be made again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import mkstemp

from platformdirs import user_cache_path

# Room is made at the first file that a process adds to a folder, and whenever it has added so many more.
ADDED = 256

_added: Counter[Path] = Counter()
_DIGEST = 32


def cache_folder(name: str) -> Path:
    """Where this user's processes keep things of one kind."""
    return user_cache_path("netlathe", appauthor=False) / name


def kept(folder: Path, key: str, make: Callable[[], bytes], most_bytes: int) -> bytes:
    """What `make` answers, or has answered for the same key in any process.

    A file that is damaged is made again; where nothing can be read or written there is no error, only no gain. Of
    more than `most_bytes` what was not used for longest goes.

    key: fit for a file's name, and different wherever the bytes may differ.
    """
    file = folder / key
    with suppress(OSError):
        content = file.read_bytes()
        if content[:_DIGEST] == _digest(content[_DIGEST:]):
            os.utime(file)
            return content[_DIGEST:]
    made = make()
    with suppress(OSError):
        _write(file, _digest(made) + made)
        before, _added[folder] = _added[folder], _added[folder] + 1
        if before % ADDED == 0:
            _make_room(folder, most_bytes)
    return made


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST).digest()


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all, whoever else writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        Path(part).replace(file)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _make_room(folder: Path, most_bytes: int) -> None:
    """Another process may do the same at the same time, so a file may be gone."""
    found = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            status = file.stat()
            found.append((status.st_mtime, status.st_size, file))
    total = 0
    for _, size, file in sorted(found, reverse=True):
        total += size
        if total > most_bytes:
            file.unlink(missing_ok=True)
