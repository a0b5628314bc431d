"""Checkpoints: written atomically, checked by their hash, owned by one set of settings. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch

from supernet import parallel
from supernet.files import write_atomically

_MAGIC = b"netlathe-checkpoint/1 "

Notice = Callable[[str], None]
"""Takes a sentence that the user should see."""

log_notice: Notice = logging.getLogger(__name__).warning


class CheckpointError(RuntimeError):
    """The checkpoint belongs to something else, or cannot be written."""


Owner = Mapping[str, str | float]
"""What a checkpoint belongs to: every setting and input that its state depends on, by name."""


def save_checkpoint(path: Path, owner: Owner, state: Mapping[str, Any]) -> None:
    """Replace `path` by a checkpoint with `state` (tensors, numbers, text, lists and dicts of them).

    After a power cut or SIGKILL there is the old file or the new one, whole. Of several ranks the first writes.
    """
    if parallel.rank() != 0:
        return
    payload = io.BytesIO()
    torch.save({"owner": dict(owner), "state": dict(state)}, payload)
    body = payload.getvalue()
    write_atomically(path, _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def load_checkpoint(path: Path, owner: Owner, notice: Notice = log_notice) -> dict[str, Any] | None:
    """The state last saved for `owner`, or None where there is none.

    A corrupt file is moved aside to `<name>.corrupt-N`, and `notice` is told. Of several ranks all have to call this.

    Raises:
        CheckpointError: the checkpoint belongs to another owner.
    """
    found = path.read_bytes() if path.exists() else None
    # Nothing is moved before every rank has read it.
    parallel.wait()
    if found is None:
        return None
    header, _, body = found.partition(b"\n")
    if header != _MAGIC + hashlib.sha256(body).hexdigest().encode():
        if parallel.rank() == 0:
            aside = _free_name(path)
            path.replace(aside)
            notice(f"The checkpoint {path} is corrupt. It was moved to {aside.name}, and this stage starts over.")
        return None
    content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    saved = content["owner"]
    if different := [name for name in {**owner, **saved} if name not in owner or owner[name] != saved.get(name)]:
        raise CheckpointError(
            f"The checkpoint {path} belongs to another run: it has another {', '.join(different)}. "
            "Use another output folder, or delete the checkpoint to start over."
        )
    state: dict[str, Any] = content["state"]
    return state


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.corrupt-{n}") for n in count(1))
    return next(name for name in names if not name.exists())
