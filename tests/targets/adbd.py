"""A phone that is not there: the device's side of adb's protocol over TCP, without authentication.

What the host sends goes to a shell of this machine, whose disk is a folder. See protocol.txt and shell_protocol.h of
platform/packages/modules/adb.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

HEADER, PACKET = struct.Struct("<6I"), struct.Struct("<BI")
CNXN, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
VERSION, MOST_BYTES = 0x01000001, 1 << 16
BANNER = b"device::ro.product.name=nobody;ro.product.model=Nobody;features=shell_v2,cmd"
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
# Where a phone lets adb write.
DISK = "/data/local/tmp"


class Phone:
    """Listens on a port of its own; `path` has commands of its own.

    `unplug` and `restart` lose the connection; nothing runs on after a restart.
    """

    def __init__(self, disk: Path) -> None:
        self.path = ""
        self._disk = disk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connection: socket.socket | None = None
        self.processes: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def line(self, asked: str) -> str:
        """What runs instead of a line that was asked for: on this disk, with the phone's own commands first."""
        return f"PATH={self.path}:$PATH; {asked.replace(DISK, str(self._disk))}"

    def unplug(self) -> None:
        """Lose the connection."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def restart(self) -> None:
        """Lose the connection and everything that runs."""
        self.unplug()
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Away for good."""
        # A thread that waits for the next connection is told.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.restart()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                self._connection, _ = self._listener.accept()
                _Connection(self._connection, self).serve()


class _Connection:
    def __init__(self, peer: socket.socket, phone: Phone) -> None:
        self._peer, self._phone = peer, phone
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}

    def serve(self) -> None:
        with suppress(OSError, EOFError, ConnectionError):
            while True:
                command, first, second, length, _, _ = HEADER.unpack(self._read(HEADER.size))
                self._take(command, first, second, self._read(length))
        for stream in self._streams.values():
            stream.lost()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        with self._sending:
            self._peer.sendall(HEADER.pack(command, first, second, len(data), 0, command ^ 0xFFFFFFFF) + data)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._peer.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _take(self, command: int, theirs: int, ours: int, data: bytes) -> None:
        if command == CNXN:
            self.send(CNXN, VERSION, MOST_BYTES, BANNER)
        elif command == OPEN:
            service, _, line = data.rstrip(b"\0").decode().partition(":")
            if not service.startswith("shell,v2"):
                self.send(CLSE, 0, theirs)
                return
            number = len(self._streams) + 1
            self._streams[number] = _Stream(self, number, theirs, self._phone.line(line))
            self._phone.processes.append(self._streams[number].process)
        elif ours in self._streams:
            self._streams[ours].take(command, data)


class _Stream:
    """A line of shell, its standard streams in packets."""

    def __init__(self, connection: _Connection, ours: int, theirs: int, line: str) -> None:
        self._connection, self._ours, self._theirs = connection, ours, theirs
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(["sh", "-c", line], start_new_session=True, **pipes)  # type: ignore[call-overload]
        self._packets, self._taken = b"", threading.Semaphore(0)
        connection.send(OKAY, ours, theirs)
        threading.Thread(target=self._talk, daemon=True).start()

    def take(self, command: int, data: bytes) -> None:
        if command == OKAY:
            self._taken.release()
        elif command == CLSE:
            self.lost()
        elif command == WRTE:
            self._packets += data
            while len(self._packets) >= PACKET.size:
                kind, length = PACKET.unpack_from(self._packets)
                if len(self._packets) < PACKET.size + length:
                    break
                body = self._packets[PACKET.size : PACKET.size + length]
                self._packets = self._packets[PACKET.size + length :]
                self._stdin(kind, body)
            self._connection.send(OKAY, self._ours, self._theirs)

    def _stdin(self, kind: int, body: bytes) -> None:
        with suppress(BrokenPipeError, ValueError):
            if kind == STDIN:
                self.process.stdin.write(body)
                self.process.stdin.flush()
            elif kind == CLOSE_STDIN:
                self.process.stdin.close()

    def lost(self) -> None:
        """As a shell whose terminal is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGHUP)
        self._taken.release()

    def _talk(self) -> None:
        with suppress(OSError):
            errors = threading.Thread(target=self._hand_on, args=(STDERR, self.process.stderr), daemon=True)
            errors.start()
            self._hand_on(STDOUT, self.process.stdout)
            errors.join()
            status = self.process.wait()
            self._write(EXIT, bytes([status if status >= 0 else 128 - status]))
            self._connection.send(CLSE, self._ours, self._theirs)

    def _hand_on(self, kind: int, stream: object) -> None:
        with suppress(OSError):
            while data := stream.read1(MOST_BYTES // 2):  # type: ignore[attr-defined]
                self._write(kind, data)

    def _write(self, kind: int, data: bytes) -> None:
        self._connection.send(WRTE, self._ours, self._theirs, PACKET.pack(kind, len(data)) + data)
        self._taken.acquire()
