"""The ways to a target: each measures there, by its name in `Target.runner`."""

from __future__ import annotations

import difflib
import importlib.util
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from targets.bundle import BundleRunner
from targets.local import LocalRunner
from targets.remote import RemoteRunner
from targets.rpc import RpcRunner
from targets.runner import Runner, RunnerError
from targets.shell import RemoteShell
from targets.target import EMULATED, LOCAL, Target, TargetError

DEADLINE_S = 30.0
# ssh says so itself if it does not reach the machine; adb has no status of its own.
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5")
_SSH_LOST, _ADB_LOST = (255,), (1, 255)
_SSH_FOLDER, _ADB_FOLDER = ".cache/netlathe", "/data/local/tmp/netlathe"


def _local(target: Target, address: str, deadline_s: float) -> Runner:
    return LocalRunner(target, deadline_s)


def _ssh(target: Target, address: str, deadline_s: float) -> Runner:
    if not address:
        raise TargetError("The runner ssh needs to know where to: write ssh:USER@HOST, as for ssh itself.")
    return RemoteRunner(RemoteShell((*_SSH, *shlex.split(address)), _SSH_LOST), _SSH_FOLDER, target.threads, deadline_s)


def _adb(target: Target, address: str, deadline_s: float) -> Runner:
    if importlib.util.find_spec("adbutils") is None:
        raise RunnerError('The runner adb needs adbutils. Install it with: pip install "netlathe[adb]"')
    from adbutils import adb_path

    adb = (adb_path(),)
    device = ("-s", address) if address else ()
    # What is connected by a network stays away once it was lost; what is plugged in comes back by itself.
    again = ((*adb, "disconnect", address), (*adb, "connect", address)) if ":" in address else ()
    shell = RemoteShell((*adb, *device, "shell", "-T"), _ADB_LOST, again)
    return RemoteRunner(shell, _ADB_FOLDER, target.threads, deadline_s)


def _bundle(target: Target, address: str, deadline_s: float) -> Runner:
    return BundleRunner(Path(address or f"bundle-{target.machine}"), target.threads, deadline_s)


def _rpc(target: Target, address: str, deadline_s: float) -> Runner:
    return RpcRunner(target, address, deadline_s)


def _emulated(target: Target, address: str, deadline_s: float) -> Runner:
    raise RunnerError(
        f"{target.name} is not this machine, and the time of an emulator says nothing of its. Say how it can be "
        "reached: --runner adb, --runner ssh:USER@HOST, or --runner bundle:FOLDER to carry a folder there."
    )


RUNNERS: dict[str, Callable[[Target, str, float], Runner]] = {
    LOCAL: _local,
    "ssh": _ssh,
    "adb": _adb,
    "bundle": _bundle,
    "rpc": _rpc,
    EMULATED: _emulated,
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
        TargetError: there is no such runner.
    """
    kind = runner.partition(":")[0]
    if kind not in RUNNERS:
        close = difflib.get_close_matches(kind, RUNNERS)
        meant = f"Did you mean {' or '.join(close)}? " if close else ""
        raise TargetError(f"Unknown runner {kind!r}. {meant}There are: {', '.join(RUNNERS)}.")
    return replace(target, name=f"{target.name}@{runner}", runner=runner)
