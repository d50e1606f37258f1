"""A TCP relay that counts what passes, payload and segments, so that traffic can be told without a packet sniffer."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
HEADER_BYTES = 52
"""Of a segment on IPv4: 20 of IP, 20 of TCP, 12 of TCP's time stamps."""
_SEGMENTS = struct.Struct("=136xII")
"""In ``struct tcp_info``: ``tcpi_segs_out`` and ``tcpi_segs_in``, acknowledgements included."""


@dataclass(frozen=True)
class Traffic:
    """What passed between a client and a relay."""

    payload_bytes: int
    segments: int

    @property
    def wire_bytes(self) -> int:
        """Payload and headers."""
        return self.payload_bytes + self.segments * HEADER_BYTES

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.payload_bytes + other.payload_bytes, self.segments + other.segments)

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(self.payload_bytes - before.payload_bytes, self.segments - before.segments)


@dataclass
class _Line:
    client: socket.socket
    server: socket.socket
    payload_bytes: int = 0
    segments: int = 0

    def count_segments(self) -> None:
        with suppress(OSError):  # it is closed: what was counted last stands
            info = self.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            self.segments = sum(_SEGMENTS.unpack_from(info))


@dataclass
class Relay:
    """Listens on ``port`` (0: any) and passes everything to ``target``; entered again, on the same port again."""

    target: int
    port: int = 0
    _lines: list[_Line] = field(default_factory=list["_Line"])
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])
    _listener: socket.socket = field(init=False)

    def __enter__(self) -> Self:
        self._listener = socket.create_server((HOST, self.port))
        self.port = int(self._listener.getsockname()[1])
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        for line in self._lines:
            for end in (line.client, line.server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for line in self._lines:
            line.client.close()
            line.server.close()

    @property
    def connections(self) -> int:
        """How many connections there were."""
        return len(self._lines)

    def traffic(self) -> Traffic:
        """Return what passed so far."""
        for line in self._lines:
            line.count_segments()
        return Traffic(sum(line.payload_bytes for line in self._lines), sum(line.segments for line in self._lines))

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self.target))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line = _Line(client, server)
                self._lines.append(line)
                self._begin(self._pump, line, client, server)
                self._begin(self._pump, line, server, client)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    @staticmethod
    def _pump(line: _Line, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                line.payload_bytes += len(data)
                sink.sendall(data)
        line.count_segments()
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
