"""RpcRunner: measures on a board that runs TVM's RPC server, reached directly or through a tracker."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping

from targets.child import Child
from targets.child_runner import ChildRunner
from targets.runner import RunnerError
from targets.target import Target, TargetError

OPEN = "NETLATHE_OPEN_RPC"
# A server ends a session, and whatever hangs in it, after so many times the deadline of a job; half of it is used.
SESSION_DEADLINES = 8
# A server that restarts is waited for; one that a session hangs in, for the session's end.
RETURN_S = 30.0
# A library of many megabytes, through a tunnel.
UPLOAD_S = 300.0
_ADDRESS = re.compile(r"(?P<host>[^/]+):(?P<port>\d+)(?:/(?P<key>.+))?")


class RpcRunner(ChildRunner):
    """Uploads libraries to a server and times them there, in one session as long as that lives.

    address: `HOST:PORT` of a server, or `HOST:PORT/KEY` of a tracker, which gives one of its boards of that key.

    Raises:
        TargetError: the address is none.
        RunnerError: it is not on this machine, and nobody said that this is meant.
    """

    afresh = False

    def __init__(
        self, target: Target, address: str, deadline_s: float, environ: Mapping[str, str] = os.environ
    ) -> None:
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise TargetError(f"{address!r} is no address: write rpc:HOST:PORT, or rpc:HOST:PORT/KEY for a tracker.")
        if not _loopback(found["host"]) and environ.get(OPEN) != "1":
            raise RunnerError(
                f"TVM's RPC has neither passwords nor encryption, and {found['host']} is another machine. Dig a tunnel "
                f"(`ssh -L {found['port']}:127.0.0.1:{found['port']} USER@{found['host']}`) and write rpc:127.0.0.1:"
                f"{found['port']}; or, in a network where you trust everybody, set {OPEN}=1."
            )
        self._address = address
        where = [found["host"], found["port"], found["key"] or ""]
        arguments = ["-m", "targets.rpc_child", *where, str(target.threads), str(deadline_s)]
        super().__init__(arguments, {**environ, "TVM_USE_RUNTIME_LIB": "1"}, deadline_s)
        self.start_deadline_s = SESSION_DEADLINES * deadline_s + 2 * RETURN_S

    def wait_until_loaded(self, child: Child) -> None:
        """See `ChildRunner`: after the upload, and the session before."""
        child.receive(self.start_deadline_s + UPLOAD_S)

    def not_started(self, why: str) -> str:
        """See `ChildRunner`."""
        return (
            f"Nothing answers at rpc:{self._address}: {why}. Start `python -m tvm.exec.rpc_server --host 127.0.0.1` on "
            "the board (with --tracker and --key for a tracker), where `pip install 'apache-tvm[rpc]'` puts it, and "
            "check the tunnel. A server of TVM 0.27 answers no "
            "more after a candidate that crashes; what was measured is kept, and the same command goes on."
        )


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
