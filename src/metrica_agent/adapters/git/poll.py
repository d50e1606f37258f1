"""One poll of one remote, blocking, to be run in a thread; ``abort`` ends it from another thread at once.

HTTP keeps its connection, and after the first poll sends ls-refs straight away: one request, one answer. A socket's
own time-out does not help against a server that trickles; so the deadline is kept by the loop, which calls ``abort``.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from metrica_agent.adapters.git import ls_refs, troubles
from metrica_agent.adapters.git.bundles import read_head
from metrica_agent.adapters.git.remote import Kind, Remote
from metrica_agent.adapters.git.ssh import ssh_command, ssh_environment
from metrica_agent.certificates import trust
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from metrica_agent.adapters.git.orders import SshOptions
    from metrica_fleet.identity import CommitId

USER_AGENT: Final = "git/metrica-agent"
"""GitHub serves clients whose name begins with git/."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_SPOKEN_BYTES: Final = 4096


class Line(Protocol):
    """A way to ask a remote for a branch."""

    def head(self, branch: str) -> CommitId | None:
        """Return the branch's commit, ``None`` when there is no such branch."""
        ...

    def abort(self) -> None:
        """End a running ``head`` from another thread; it then raises, and the line is of no more use."""
        ...

    def close(self) -> None:
        """Let go of what is kept between polls."""
        ...


def line_to(remote: Remote, *, ssh: SshOptions, seconds: float, ca_file: str | None) -> Line:
    """Return the way to ask ``remote``."""
    match remote.kind:
        case Kind.HTTP | Kind.HTTPS:
            return HttpLine(remote, seconds=seconds, ca_file=ca_file)
        case Kind.SSH:
            return SshLine(remote, ssh)
        case Kind.GIT:
            return TcpLine(remote, seconds=seconds)
        case Kind.FILE:
            return FolderLine(remote)


class _Bounded:
    """Reads exactly as much as asked for, and in all no more than a bound."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._left = MAX_ANSWER_BYTES

    def __call__(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise ls_refs.BadAnswerError(f"more than {MAX_ANSWER_BYTES} bytes of refs")
        data = self._read(size)
        if len(data) < size:
            raise EOFError("the connection ended in the middle of an answer")
        return data


def _asked(read: Callable[[int], bytes], write: Callable[[bytes], object], branch: str) -> CommitId | None:
    """Ask over a connection that stays open both ways: ssh and git."""
    greeting = ls_refs.read_greeting(read)
    if not ls_refs.speaks_v2(greeting):
        with suppress(OSError):  # the answer is complete; the server merely hears that nothing is wanted
            write(b"0000")
        return ls_refs.branch_in(greeting, branch)
    write(ls_refs.request(branch, object_format=ls_refs.object_format(greeting)))
    refs = ls_refs.read_refs(read)
    with suppress(OSError):  # likewise
        write(b"0000")
    return ls_refs.branch_in(refs, branch)


@contextmanager
def _telling(remote: Remote) -> Generator[None]:
    """Turn what can go wrong on any line into the troubles of the house."""
    try:
        yield
    except ls_refs.BadAnswerError as error:
        raise troubles.corrupt(remote, error) from error
    except ls_refs.SaidNoError as error:
        raise troubles.refused(remote, error) from error
    except ssl.SSLCertVerificationError as error:
        raise troubles.untrusted(remote, error.verify_message) from error
    except ssl.SSLEOFError as error:
        raise troubles.unreachable(remote, "it hung up while TLS was set up") from error
    except ssl.SSLError as error:
        raise troubles.no_tls(remote, error.reason or error) from error
    except TimeoutError as error:
        raise NotNow(f"{remote} did not answer in time", reason="git-timeout") from error
    except (EOFError, HTTPException) as error:
        raise troubles.unreachable(remote, str(error) or type(error).__name__) from error
    except OSError as error:
        raise troubles.from_os_error(remote, error) from error


class _Plug:
    """A second handle on a connected socket, by which another thread can shut it down."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._pulled = False

    def hold(self, connected: socket.socket) -> None:
        self.release()
        self._socket = connected.dup()
        if self._pulled:
            self.pull()

    def pull(self) -> None:
        self._pulled = True
        held = self._socket
        if held is not None:
            with suppress(OSError):  # not connected any more: nothing left to end
                held.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        held, self._socket = self._socket, None
        if held is not None:
            held.close()


def _dialled(connection: HTTPConnection) -> socket.socket:
    """Connect as ``HTTPConnection`` does, without the tables of international names for a name that is ASCII.

    They would stay in memory for good, 0.1 MiB. There is no proxy and no source address.
    """
    host = connection.host
    address = (host.encode() if host.isascii() else host, connection.port)
    sock = socket.create_connection(address, connection.timeout)  # pyright: ignore[reportArgumentType] typeshed forgets bytes
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class _Http(HTTPConnection):
    def __init__(self, remote: Remote, plug: _Plug, seconds: float) -> None:
        super().__init__(remote.host, remote.port, timeout=seconds)
        self._plug = plug

    def connect(self) -> None:
        self.sock = _dialled(self)
        self._plug.hold(self.sock)


class _Https(HTTPSConnection):
    def __init__(self, remote: Remote, plug: _Plug, seconds: float, context: ssl.SSLContext) -> None:
        super().__init__(remote.host, remote.port, timeout=seconds, context=context)
        self._plug, self._tls = plug, context

    def connect(self) -> None:
        self.sock = _dialled(self)
        self._plug.hold(self.sock)  # before the handshake, which may hang as well
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


class HttpLine:
    """A kept connection to an HTTP server."""

    def __init__(self, remote: Remote, *, seconds: float, ca_file: str | None) -> None:
        self._remote = remote
        self._plug = _Plug()
        self._known_v2: tuple[str | None] | None = None
        """The object format, once the server has said that it speaks v2."""
        if remote.kind is Kind.HTTPS:
            self._connection: HTTPConnection = _Https(remote, self._plug, seconds, trust(ca_file))
        else:
            self._connection = _Http(remote, self._plug, seconds)

    def head(self, branch: str) -> CommitId | None:
        """Return the branch's commit, ``None`` when there is no such branch."""
        try:
            with _telling(self._remote):
                return self._head(branch)
        except BaseException:
            self._known_v2 = None
            self.close()
            raise

    def _head(self, branch: str) -> CommitId | None:
        if self._known_v2 is None:
            greeting = self._greeting()
            if not ls_refs.speaks_v2(greeting):
                return ls_refs.branch_in(greeting, branch)
            self._known_v2 = (ls_refs.object_format(greeting),)
        body = ls_refs.request(branch, object_format=self._known_v2[0])
        answer = self._request("POST", "/git-upload-pack", "application/x-git-upload-pack-result", body)
        refs = ls_refs.read_refs(_Bounded(answer.read))
        self._finish(answer)
        return ls_refs.branch_in(refs, branch)

    def _greeting(self) -> list[bytes]:
        kind = "application/x-git-upload-pack-advertisement"
        answer = self._request("GET", "/info/refs?service=git-upload-pack", kind, None)
        greeting = ls_refs.read_greeting(_Bounded(answer.read))
        self._finish(answer)
        return greeting

    def _request(self, method: str, tail: str, kind: str, body: bytes | None) -> HTTPResponse:
        headers = {"User-Agent": USER_AGENT, "Accept": kind, "Git-Protocol": "version=2"}
        if body is not None:
            headers["Content-Type"] = "application/x-git-upload-pack-request"
        if self._remote.authorization is not None:
            headers["Authorization"] = self._remote.authorization
        answer = self._sent(method, self._remote.path + tail, body, headers)
        if answer.status != 200:  # noqa: PLR2004 the one status that is no trouble
            raise troubles.from_status(self._remote, answer.status, _lower(answer))
        if answer.getheader("Content-Type", "").partition(";")[0] != kind:
            raise troubles.refused(self._remote, "it speaks no smart HTTP; is the address that of a repository?")
        return answer

    def _sent(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> HTTPResponse:
        """Send a request; once more where the server has hung up on the kept connection in the meantime."""
        kept = self._connection.sock is not None  # pyright: ignore[reportUnnecessaryComparison] typeshed forgets None
        try:
            self._connection.request(method, path, body=body, headers=headers)
            return self._connection.getresponse()
        except (ConnectionError, HTTPException):
            if not kept:
                raise
            self._connection.close()
            self._connection.request(method, path, body=body, headers=headers)
            return self._connection.getresponse()

    def _finish(self, answer: HTTPResponse) -> None:
        """Leave the connection ready for the next request."""
        if answer.read(1):
            self._connection.close()

    def abort(self) -> None:
        """End a running ``head`` from another thread."""
        self._plug.pull()

    def close(self) -> None:
        """Close the kept connection."""
        self._connection.close()
        self._plug.release()


def _lower(answer: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


class TcpLine:
    """git://, which has neither secrecy nor proof: for trusted networks and tests."""

    def __init__(self, remote: Remote, *, seconds: float) -> None:
        self._remote, self._seconds = remote, seconds
        self._plug = _Plug()

    def head(self, branch: str) -> CommitId | None:
        """Return the branch's commit, ``None`` when there is no such branch."""
        remote = self._remote
        with (
            _telling(remote),
            socket.create_connection((remote.host, remote.port), timeout=self._seconds) as connected,
            connected.makefile("rb") as incoming,
        ):
            self._plug.hold(connected)
            host = f"host={remote.host}:{remote.port}".encode()
            hello = b"git-upload-pack " + remote.path.encode() + b"\0" + host + b"\0\0version=2\0"
            connected.sendall(f"{len(hello) + 4:04x}".encode() + hello)
            try:
                return _asked(_Bounded(incoming.read), connected.sendall, branch)
            finally:
                self._plug.release()

    def abort(self) -> None:
        """End a running ``head`` from another thread."""
        self._plug.pull()

    def close(self) -> None:
        """Nothing is kept."""


class SshLine:
    """The ``ssh`` binary, so that keys, hardware and configuration are those that the operator knows."""

    def __init__(self, remote: Remote, options: SshOptions) -> None:
        self._remote, self._options = remote, options
        self._running: subprocess.Popen[bytes] | None = None
        self._aborted = False

    def head(self, branch: str) -> CommitId | None:
        """Return the branch's commit, ``None`` when there is no such branch."""
        import shlex  # noqa: PLC0415 - of no use to other transports

        command = ssh_command(self._remote, self._options, f"git-upload-pack {shlex.quote(self._remote.path)}")
        pipe = subprocess.PIPE
        with (
            _telling(self._remote),
            subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=ssh_environment(), start_new_session=True
            ) as running,
        ):
            self._running = running
            if self._aborted:
                _kill_group(running)
            try:
                return self._talk(running, branch)
            finally:
                self._running = None
                _kill_group(running)

    def _talk(self, running: subprocess.Popen[bytes], branch: str) -> CommitId | None:
        if running.stdin is None or running.stdout is None or running.stderr is None:
            raise AssertionError("asked for pipes, got none")
        outgoing: IO[bytes] = running.stdin

        def write(data: bytes) -> None:
            outgoing.write(data)
            outgoing.flush()

        try:
            return _asked(_Bounded(running.stdout.read), write, branch)
        except (EOFError, BrokenPipeError, ls_refs.BadAnswerError) as error:
            said = running.stderr.read(_SPOKEN_BYTES).decode("utf-8", "replace")
            raise troubles.from_ssh(self._remote, said) from error

    def abort(self) -> None:
        """End a running ``head`` from another thread."""
        self._aborted = True
        running = self._running
        if running is not None:
            _kill_group(running)

    def close(self) -> None:
        """Nothing is kept."""


def _kill_group(running: subprocess.Popen[bytes]) -> None:
    if running.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


class FolderLine:
    """A repository on this machine, as a folder or as one file: a stick, a mirror, a test."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def head(self, branch: str) -> CommitId | None:
        """Return the branch's commit, ``None`` when there is no such branch."""
        if Path(self._remote.path).is_file():
            return self._in_bundle(branch)
        if not Path(self._remote.path).is_dir():
            raise troubles.unreachable(self._remote, "there is no such folder")
        from metrica_agent.adapters.git.store import branch_of_folder  # noqa: PLC0415 dulwich costs 9 MB: only where needed

        return branch_of_folder(self._remote, branch)

    def _in_bundle(self, branch: str) -> CommitId | None:
        try:
            with Path(self._remote.path).open("rb") as file:
                return read_head(file).refs.get(f"refs/heads/{branch}")
        except OSError as error:
            raise troubles.unreachable(self._remote, error.strerror or error) from error
        except ValueError as error:
            raise troubles.corrupt(self._remote, error) from error

    def abort(self) -> None:
        """Reading two small files can't be ended earlier."""

    def close(self) -> None:
        """Nothing is kept."""
