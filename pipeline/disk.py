"""Free disk space, asked before a run starts rather than found out when it fails."""

from __future__ import annotations

import shutil
from pathlib import Path

# A digits run leaves about 30 MB; checkpoints of the largest preset (weights, momentum, Adam state) about 400 MB.
NEEDED_BYTES = 500 * 2**20


class DiskSpaceError(RuntimeError):
    """The disk of the output folder is too full to start."""


def require_free_space(folder: Path, needed_bytes: int = NEEDED_BYTES) -> None:
    """Check the disk that `folder` is, or will be, on.

    Raises:
        DiskSpaceError: fewer than `needed_bytes` are free.
    """
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise DiskSpaceError(
            f"Only {free / 2**20:.0f} MB are free where {folder} is; a run needs {needed_bytes / 2**20:.0f} MB "
            "for checkpoints and results. Free some space, or choose another disk with --out."
        )
