"""How the child reaches a remote: dulwich's clients, with the time-outs and limits that they lack."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar
from typing import Protocol as TypingProtocol

import urllib3
from dulwich.client import (
    FetchPackResult,
    GitClient,
    HttpGitClient,
    LocalGitClient,
    SSHGitClient,
    SSHVendor,
    SubprocessWrapper,
    TCPGitClient,
)
from dulwich.errors import GitProtocolError, HangupException, NotGitRepository
from dulwich.objects import ObjectID
from dulwich.protocol import Protocol

from metrica_agent.adapters.git import troubles
from metrica_agent.adapters.git.bundles import Head, read_head
from metrica_agent.adapters.git.poll import USER_AGENT
from metrica_agent.adapters.git.remote import Kind, Remote
from metrica_agent.adapters.git.ssh import ssh_command, ssh_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from dulwich.object_store import ObjectStoreGraphWalker
    from dulwich.refs import Ref

    from metrica_agent.adapters.git.orders import SshOptions
    from metrica_fleet.errors import NotNow
    from metrica_fleet.identity import CommitId

    class Heard(TypingProtocol):
        """A file's ``read``."""

        def __call__(self, size: int | None = -1, /) -> bytes: ...

    Read = Callable[[int], bytes]
    Write = Callable[[bytes], int]
    Overhearing = Callable[[Read], Heard]

CONNECT_S: Final = 15.0
SILENCE_S: Final = 60.0
"""A server that says nothing for so long is given up; one that trickles meets the whole fetch's deadline."""
_WELL: Final = 200
_NO_REFS: Final = (b"refs/heads/-",)
"""What no branch can be called: we know already what we want."""
_NO_SUCH_COMMIT: Final = ("not our ref", "unadvertised object", "no such commit")
_CHUNK_BYTES: Final = 64 * 1024
_Data = TypeVar("_Data")
_Written = TypeVar("_Written")
_LAST_LINES: Final = 1000
"""Of a remote that has hung up, so many are read for its reason."""


def talk_to(remote: Remote, *, ssh: SshOptions, ca_file: str | None) -> Talk | Handed:
    """Return the way to have a pack from ``remote``."""
    if remote.kind is Kind.FILE and Path(remote.path).is_file():
        return Handed(remote)
    return Talk(remote, ssh=ssh, ca_file=ca_file)


class Handed:
    """A file of ``git bundle``: it gives all that it has, whatever is asked for."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def needs(self) -> tuple[CommitId, ...]:
        """Return the commits that the pack builds on. Raises NotNow: ``git-corrupt``."""
        with Path(self._remote.path).open("rb") as file:
            return self._read_head(file).needs

    def ask_for(self, commit: CommitId, walker: ObjectStoreGraphWalker, write: Write, depth: int | None) -> None:
        """Have the pack. Raises NotNow: ``git-corrupt``."""
        del commit, walker, depth
        with Path(self._remote.path).open("rb") as file:
            self._read_head(file)
            while chunk := file.read(_CHUNK_BYTES):
                write(chunk)

    def _read_head(self, file: IO[bytes]) -> Head:
        try:
            return read_head(file)
        except ValueError as error:
            raise troubles.corrupt(self._remote, error) from error


class Talk:
    """A client for one remote, and what the remote said in refusal: dulwich loses that in protocol v2."""

    def __init__(self, remote: Remote, *, ssh: SshOptions, ca_file: str | None) -> None:
        self._remote = remote
        self._refusal = ""
        self._client, self._path = self._reached(ssh, ca_file)

    def _reached(self, ssh: SshOptions, ca_file: str | None) -> tuple[GitClient, str]:
        remote = self._remote
        match remote.kind:
            case Kind.HTTP | Kind.HTTPS:
                return _Http(remote, ca_file, self._overhearing), ""
            case Kind.SSH:
                vendor = _Ssh(remote, ssh, self._overhearing)
                return SSHGitClient(remote.host, vendor=vendor, quiet=True), remote.path
            case Kind.GIT:
                return _Tcp(remote, self._overhearing), remote.path
            case Kind.FILE:
                return _Folder(quiet=True), remote.path

    def ask_for(self, commit: CommitId, walker: ObjectStoreGraphWalker, write: Write, depth: int | None) -> None:
        """Have the remote send a pack with ``commit`` and what ``walker`` does not claim to have.

        Raises:
            NotNow: ``git-*`` or ``commit-missing``.
        """

        def wanted(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
            del refs, depth  # what the branch points at by now is the next poll's matter
            return [ObjectID(commit.encode())]

        with closing(self._client), self._telling(commit):
            self._client.fetch_pack(self._path, wanted, walker, write, depth=depth, ref_prefix=_NO_REFS)

    def needs(self) -> tuple[CommitId, ...]:
        """Return nothing: a server is told what is here, and builds on that."""
        return ()

    def _overhearing(self, read: Read) -> Heard:
        def reading(size: int | None = -1, /) -> bytes:
            data = read(-1 if size is None else size)
            if data.startswith(b"ERR "):
                self._refusal = data[4:].decode("utf-8", "replace").strip()[:300]
            return data

        return reading

    @contextmanager
    def _telling(self, commit: CommitId) -> Generator[None]:
        try:
            yield
        except GitProtocolError as error:
            raise self._said(commit, error) from error
        except NotGitRepository as error:
            raise troubles.refused(self._remote, "there is no repository at this address") from error
        except urllib3.exceptions.TimeoutError as error:
            raise troubles.timed_out(self._remote, "any more", SILENCE_S) from error
        except urllib3.exceptions.HTTPError as error:
            raise troubles.unreachable(self._remote, error) from error

    def _said(self, commit: CommitId, error: GitProtocolError) -> NotNow:
        said = self._refusal or str(error)[:300]
        if any(mark in said for mark in _NO_SUCH_COMMIT):
            return troubles.commit_missing(self._remote, commit)
        if isinstance(error.__cause__, (urllib3.exceptions.HTTPError, OSError)) and not self._refusal:
            return troubles.unreachable(self._remote, "the connection was lost in the middle of an answer")
        if isinstance(error, HangupException) and not self._refusal:
            lines = [bytes(line) for line in error.stderr_lines or []]
            return troubles.from_ssh(self._remote, b"\n".join(lines).decode("utf-8", "replace"))
        return troubles.refused(self._remote, said)


class _Http(HttpGitClient):
    def __init__(self, remote: Remote, ca_file: str | None, overhearing: Overhearing) -> None:
        super().__init__(remote.base_url, pool_manager=_Pool(remote, ca_file), quiet=True)
        self._overhearing = overhearing

    def _http_request(self, *rest: Any, **named: Any) -> tuple[Any, Read]:  # noqa: ANN401 handed through
        answer, read = super()._http_request(*rest, **named)
        return answer, self._overhearing(read)

    def close(self) -> None:
        self.pool_manager.clear()


class _Pool(urllib3.PoolManager):
    """Connections that neither retry nor follow nor go elsewhere, and that name what is wrong.

    A remote may name other addresses to take packs from (packfile-uris), asked or not; credentials would go there.
    """

    def __init__(self, remote: Remote, ca_file: str | None) -> None:
        headers = {"User-Agent": USER_AGENT}
        if remote.authorization is not None:
            headers["Authorization"] = remote.authorization
        timeout = urllib3.Timeout(connect=CONNECT_S, read=SILENCE_S)
        super().__init__(headers=headers, retries=False, timeout=timeout, ca_certs=ca_file)
        self._remote = remote

    def request(self, method: str, url: str, *rest: Any, **named: Any) -> urllib3.BaseHTTPResponse:  # noqa: ANN401
        if not url.startswith(f"{self._remote.base_url}/"):
            raise troubles.refused(self._remote, "it sends the device to another address")
        try:
            answer = super().request(method, url, *rest, **named)
        except urllib3.exceptions.SSLError as error:
            distrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            raise (troubles.untrusted if distrusted else troubles.no_tls)(self._remote, error) from error
        except urllib3.exceptions.NewConnectionError as error:
            raise troubles.unreachable(self._remote, error.__cause__ or error) from error
        except urllib3.exceptions.TimeoutError as error:
            raise troubles.timed_out(self._remote, "a connection or a request", SILENCE_S) from error
        except urllib3.exceptions.HTTPError as error:
            raise troubles.unreachable(self._remote, error) from error
        if answer.status != _WELL:
            raise troubles.from_status(self._remote, answer.status, answer.headers)
        return answer


class _Tcp(TCPGitClient):
    def __init__(self, remote: Remote, overhearing: Overhearing) -> None:
        super().__init__(remote.host, remote.port, quiet=True)
        self._overhearing = overhearing

    def _connect(
        self, cmd: bytes, path: str | bytes, protocol_version: int | None = None
    ) -> tuple[Protocol, Callable[[], bool], IO[bytes] | None]:
        protocol, can_read, stderr = super()._connect(cmd, path, protocol_version)
        protocol.read = self._overhearing(protocol.read)
        protocol.write = partial(_heard_out, protocol.read, protocol.write)
        return protocol, can_read, stderr


class _Ssh(SSHVendor):
    """The ``ssh`` binary with our options."""

    def __init__(self, remote: Remote, options: SshOptions, overhearing: Overhearing) -> None:
        self._remote, self._options, self._overhearing = remote, options, overhearing

    def run_command(self, host: str, command: bytes, *_rest: object, **_named: object) -> SubprocessWrapper:
        del host  # the remote's own, options included
        service = command.partition(b" ")[0].decode()
        arguments = ssh_command(self._remote, self._options, f"{service} {shlex.quote(self._remote.path)}")
        pipe = subprocess.PIPE
        running = subprocess.Popen(arguments, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env=ssh_environment())
        wrapper = SubprocessWrapper(running)
        wrapper.read = self._overhearing(wrapper.read)
        wrapper.write = partial(_heard_out, wrapper.read, wrapper.write)
        return wrapper


class _Folder(LocalGitClient):
    def fetch_pack(self, *rest: Any, **named: Any) -> FetchPackResult:  # noqa: ANN401 handed through
        try:
            return super().fetch_pack(*rest, **named)
        except KeyError as error:
            raise GitProtocolError(f"no such commit: {error}") from error


def _heard_out(read: Heard, write: Callable[[_Data], _Written], data: _Data) -> _Written:
    """``write``; when the remote has hung up, hear why before failing.

    A remote that refuses says so and leaves. Who is still writing then meets a closed connection first, and the
    reason would stay unread.
    """
    try:
        return write(data)
    except ConnectionError:
        last = Protocol(read, lambda _: 0)
        with suppress(GitProtocolError):
            for _ in range(_LAST_LINES):
                last.read_pkt_line()
        raise
