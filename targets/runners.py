"""The ways to a target: each measures there, by its name in `Target.runner`."""

from __future__ import annotations

import difflib
import importlib.util
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

from targets.bundle import BundleRunner
from targets.emulated import EmulatedRunner
from targets.local import LocalRunner
from targets.plugins import PluginLoader
from targets.remote import RemoteRunner
from targets.rpc import RpcRunner
from targets.runner import Form, Runner, RunnerError
from targets.shell import RemoteShell
from targets.target import AWAY, EMULATED, LOCAL, Target, TargetError, file_name

DEADLINE_S = 30.0
# Until adb has started its server and answered.
ADB_S = 60.0
# ssh says so itself if it does not reach the machine; adb has no status of its own.
_HERE = ("sh", "-c")
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5")
_SSH_LOST, _ADB_LOST = (255,), (1, 255)
_SSH_FOLDER, _ADB_FOLDER = ".cache/netlathe", "/data/local/tmp/netlathe"


def _loader(target: Target) -> tuple[PluginLoader | None, Form]:
    """A program for a GPU takes far longer to start than to measure."""
    return (PluginLoader(target), "plugin") if target.kind == "cuda" else (None, "program")


def _remote(target: Target, shell: RemoteShell, folder: str, deadline_s: float) -> RemoteRunner:
    loader, form = _loader(target)
    return RemoteRunner(shell, folder, target.threads, deadline_s, loader=loader, form=form)


def _local(target: Target, address: str, deadline_s: float) -> Runner:
    if target.kind == "cuda":
        # As on a machine elsewhere.
        return _remote(target, RemoteShell(_HERE, ()), str(Path(gettempdir()) / f"netlathe-{os.getuid()}"), deadline_s)
    return LocalRunner(target, deadline_s)


def _ssh(target: Target, address: str, deadline_s: float) -> Runner:
    if not address:
        raise TargetError("The runner ssh needs to know where to: write ssh:USER@HOST, as for ssh itself.")
    try:
        words = shlex.split(address)
    except ValueError as error:
        raise TargetError(f"ssh:{address} cannot be read ({error}). Mend its quotes.") from error
    return _remote(target, RemoteShell((*_SSH, *words), _SSH_LOST), _SSH_FOLDER, deadline_s)


def _adb(target: Target, address: str, deadline_s: float) -> Runner:
    adb = _find_adb()
    # What is connected by a network stays away once it was lost; what is plugged in comes back by itself.
    again = ((adb, "disconnect", address), (adb, "connect", address)) if ":" in address else ()
    shell = RemoteShell((adb, "-s", address, "shell", "-T"), _ADB_LOST, again)
    return _remote(target, shell, _ADB_FOLDER, deadline_s)


def _find_adb() -> str:
    if importlib.util.find_spec("adbutils") is None:
        raise RunnerError('The runner adb needs adbutils. Install it with: pip install "netlathe[adb]"')
    from adbutils import adb_path

    return str(adb_path())


def _connected_phone() -> str:
    """The serial number of the one phone that is connected."""
    try:
        done = subprocess.run([_find_adb(), "get-serialno"], capture_output=True, text=True, timeout=ADB_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RunnerError(f"adb did not answer within {ADB_S:.0f} s. `adb kill-server` may help.") from error
    if done.returncode:
        raise RunnerError(
            f"There is not one phone to measure on: {done.stderr.strip()}. Connect one and allow debugging on it, or "
            "name one of several: --runner adb:SERIAL."
        )
    return done.stdout.strip()


def _bundle(target: Target, address: str, deadline_s: float) -> Runner:
    loader, form = _loader(target)
    return BundleRunner(Path(address), target.threads, deadline_s, loader=loader, form=form)


def _rpc(target: Target, address: str, deadline_s: float) -> Runner:
    return RpcRunner(target, address, deadline_s)


def _emulated(target: Target, address: str, deadline_s: float) -> Runner:
    return EmulatedRunner(target, deadline_s)


def _away(target: Target, address: str, deadline_s: float) -> Runner:
    raise RunnerError(
        f"{target.name} is not this machine, and nothing emulates it. Run its netbench there, or say how it can be "
        f"reached: --runner {', or --runner '.join(target.ways)}."
    )


RUNNERS: dict[str, Callable[[Target, str, float], Runner]] = {
    LOCAL: _local,
    "ssh": _ssh,
    "adb": _adb,
    "bundle": _bundle,
    "rpc": _rpc,
    EMULATED: _emulated,
    AWAY: _away,
}


def find_runner(target: Target, deadline_s: float = DEADLINE_S) -> Runner:
    """What measures on a target; a call or a program that takes longer than `deadline_s` has failed.

    Raises:
        RunnerError: this machine cannot run code for it, or lacks what reaches it.
        TargetError: the runner lacks an address.
    """
    kind, _, address = target.runner.partition(":")
    return RUNNERS[kind](target, address, deadline_s)


def with_runner(target: Target, runner: str) -> Target:
    """The target, measured in another way: `adb`, `adb:SERIAL`, `ssh:USER@HOST`, `bundle:FOLDER`; its name says so.

    What is measured so never mixes with what was measured in other ways: the fingerprint names the runner.

    Raises:
        TargetError: there is no such runner, or it is none for the target's system.
        RunnerError: no phone, or more than one, is connected, and none was named.
    """
    kind, _, address = runner.partition(":")
    ways = [name for name in RUNNERS if name not in (EMULATED, AWAY)]
    if kind not in ways:
        close = difflib.get_close_matches(kind, ways)
        meant = f"Did you mean {' or '.join(close)}? " if close else ""
        raise TargetError(
            f"Unknown runner {kind!r}. {meant}There are: {', '.join(ways)}. A board without one is emulated."
        )
    if kind not in {way.partition(":")[0] for way in target.ways}:
        raise TargetError(
            f"The runner {kind} does not measure on {target.name}. Run its netbench there, or measure by one that "
            f"does: --runner {', or --runner '.join(target.ways)}."
        )
    # Under one name there is one machine, wherever the command is given.
    if kind == "adb" and not address:
        runner = f"adb:{_connected_phone()}"
    if kind == "bundle":
        runner = f"bundle:{Path(address or f'bundle-{file_name(target.machine)}').resolve()}"
    return replace(target, name=f"{target.name}@{runner}", runner=runner)
