"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """`write_atomically` for JSON that people can read.

    Raises:
        ValueError: a number is not finite; a result must not hold what no measurement gives.
    """
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if the content is damaged or is no object."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:  # JSONDecodeError and UnicodeDecodeError
        return None
    return content if isinstance(content, dict) else None


def sha256(path: Path) -> str:
    """The hash of a file's content, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
