"""Run: a folder with a config, one result per stage, and a manifest of hashes that says what can be trusted.

Every file appears whole or not at all; nothing is ever deleted, only moved into `superseded/`.
"""

from __future__ import annotations

import fcntl
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.config import RunConfig, make_config
from pipeline.files import read_json, sha256, write_atomically, write_json

FORMAT = "netlathe-run/3"
RESULT = "result.json"

# A checkpoint is only read by the stage that wrote it, so a finished stage does not depend on it; on the event files
# that TensorBoard reads nothing does.
CHECKPOINT, EVENTS = ".checkpoint", "tfevents"

Say = Callable[[str], None]


class RunFolderError(RuntimeError):
    """The folder cannot be used for this run."""


class Run:
    """An open run folder; no other process can open it until `close` (or the end of this process, however it ends)."""

    def __init__(self, folder: Path, config: RunConfig, *, resume: bool, say: Say) -> None:
        """Create the folder, or take up the one that is there.

        Raises:
            RunFolderError: the folder holds something else, another run, this run without `resume`, no run with
                `resume`, or is in use.
        """
        self.folder, self.config, self._say = folder, config, say
        _refuse_foreign(folder)
        if resume and not (folder / "config.json").exists():
            raise RunFolderError(
                f"There is no run in {folder} to go on with. Name the folder of one with --out, or leave out --resume "
                "to start one."
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("w")
        try:
            # The kernel releases the lock when the process dies, SIGKILL included: no stale lock files.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_up(resume)
        except BlockingIOError as error:
            self.close()
            raise RunFolderError(
                f"Another process is writing into {folder}. Wait until it ends, or choose another folder with --out."
            ) from error
        except RunFolderError:
            self.close()
            raise
        self._stages: dict[str, dict[str, Any]] = self._read_manifest()

    def _take_up(self, resume: bool) -> None:
        if not (self.folder / "config.json").exists():
            write_json(self.folder / "config.json", {"format": FORMAT, **self.config.model_dump()})
            return
        differences = _differences(stored_config(self.folder), self.config)
        if differences:
            raise RunFolderError(
                f"{self.folder} holds another run ({'; '.join(differences)}). "
                "Choose another folder with --out, or give the options of that run."
            )
        if not resume:
            raise RunFolderError(
                f"{self.folder} already holds this run. "
                "Add --resume to go on with it, or choose another folder with --out."
            )

    def _read_manifest(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "manifest.json"
        if not path.exists():
            return {}
        content = read_json(path)
        if content is None or content.get("format") != FORMAT:
            moved = self._move_aside(path)
            self._say(f"{path} is damaged; it was moved to {moved} and every stage is done again.")
            return {}
        stages: dict[str, dict[str, Any]] = content["stages"]
        return stages

    def perform(self, stage: str, needs: Sequence[str], work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """The result of a stage: the stored one if it and all it rests on are unchanged, else that of `work(folder)`.

        needs: the stages, performed before, whose outputs this one reads.
        work: writes its files into the folder it is given and returns the result; after a kill it is called again with
            the same folder, where it finds its checkpoint.
        """
        folder = self.folder / stage
        inputs = {"config.json": sha256(self.folder / "config.json")}
        for need in needs:
            inputs |= self._stages[need]["outputs"]
        reason = self._mistrust(stage, inputs)
        if reason is None and self._stages.get(stage, {}).get("outputs"):
            stored: dict[str, Any] = json.loads((folder / RESULT).read_bytes())
            return stored
        if reason is not None:
            moved = self._move_aside(folder)
            self._say(f"Stage {stage} is done again: {reason}. What was there is now in {moved}.")
        self._record(stage, {"inputs": inputs, "outputs": {}})
        folder.mkdir(exist_ok=True)
        result = work(folder)
        write_json(folder / RESULT, result)
        self._record(stage, {"inputs": inputs, "outputs": self._hashes(folder)})
        return result

    def _mistrust(self, stage: str, inputs: dict[str, str]) -> str | None:
        """Why what is in the folder of a stage cannot be used; None if it can, or if there is nothing."""
        entry = self._stages.get(stage)
        if entry is None:
            return "it is not in the manifest" if (self.folder / stage).exists() else None
        if not (self.folder / stage).exists():
            del self._stages[stage]
            return None
        changed = sorted(name for name in inputs | entry["inputs"] if inputs.get(name) != entry["inputs"].get(name))
        if changed:
            return f"it was made from another {', '.join(changed)}"
        for name, expected in entry["outputs"].items():
            path = self.folder / name
            if not path.is_file():
                return f"{name} is missing"
            if sha256(path) != expected:
                return f"{name} is not what the stage wrote"
        return None

    def _hashes(self, folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        counted = (path for path in files if CHECKPOINT not in path.name and EVENTS not in path.name)
        return {str(path.relative_to(self.folder)): sha256(path) for path in counted}

    def _record(self, stage: str, entry: dict[str, Any]) -> None:
        self._stages[stage] = entry
        write_json(self.folder / "manifest.json", {"format": FORMAT, "stages": self._stages})

    def _move_aside(self, path: Path) -> Path:
        place = self.folder / "superseded"
        place.mkdir(exist_ok=True)
        return path.rename(next(p for i in itertools.count(1) if not (p := place / f"{path.name}-{i}").exists()))

    def close(self) -> None:
        """Let other processes open the folder."""
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stored_config(folder: Path) -> RunConfig:
    """The config of the run in a folder.

    Raises:
        RunFolderError: there is none, or it cannot be read.
        ConfigError: it has unknown or impossible options.
    """
    path = folder / "config.json"
    content = read_json(path) if path.exists() else None
    if content is None or content.pop("format", None) != FORMAT:
        raise RunFolderError(f"{folder} is not a run folder: it has no readable config.json that `netlathe run` wrote.")
    return make_config(**content)


def default_folder(config: RunConfig, root: Path, *, resume: bool) -> Path:
    """`root/NAME`; where that is taken `root/NAME-2`, and so on. With `resume` the last that is there."""
    names = (root / (config.name if i == 1 else f"{config.name}-{i}") for i in itertools.count(1))
    taken = list(itertools.takewhile(Path.exists, names))
    if resume and taken:
        return taken[-1]
    return root / (config.name if not taken else f"{config.name}-{len(taken) + 1}")


def claim_folder(folder: Path, owner: str) -> None:
    """Make sure that `owner` overwrites only its own: the folder is new, empty, or was claimed by it before.

    Raises:
        RunFolderError: the folder holds a run or anything else.
    """
    if (folder / "config.json").exists():
        raise RunFolderError(f"{folder} holds a run, which would be overwritten. Choose another folder with --out.")
    mark = folder / ".netlathe"
    if not (mark.is_file() and mark.read_bytes() == owner.encode()):
        _refuse_foreign(folder)
        write_atomically(mark, owner.encode())


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file. Choose a folder with --out.")
    if folder.exists() and not (folder / "config.json").exists() and any(p.name[0] != "." for p in folder.iterdir()):
        raise RunFolderError(
            f"{folder} is not empty and is not a run (it has no config.json) or an output of this command. "
            "Choose another folder with --out."
        )


def _differences(stored: RunConfig, wanted: RunConfig) -> list[str]:
    pairs = ((name, getattr(stored, name), value) for name, value in wanted)
    return [f"{name} is {there} there, {here} here" for name, there, here in pairs if there != here]
