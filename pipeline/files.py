"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from supernet.files import write_atomically

__all__ = ["read_json", "sha256", "write_atomically", "write_json"]


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
