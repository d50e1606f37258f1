"""Asking a Git server for one branch: protocol v2 where the server speaks it, v0 and v1 where not.

Thirty lines of pkt-line instead of dulwich.client, because the poll runs in the agent's own process, every minute for
years, and dulwich.client alone costs it 9.5 MB (measured). Whatever is larger runs in the child, with
dulwich. No I/O here: bytes are asked for by ``read(n)``, which returns exactly n bytes or raises ``EOFError``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from metrica_fleet.identity import COMMIT_PATTERN, CommitId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LENGTH_DIGITS: Final = 4
_SHORTEST: Final = 4
_LONGEST: Final = 65_520
MAX_ADVERTISED: Final = 100_000
"""Packets that a server without protocol v2 may list: all its branches and tags."""


class BadAnswerError(Exception):
    """What came is no answer of a Git server."""


class SaidNoError(Exception):
    """The server answered in good form that it will not."""


def request(branch: str, *, object_format: str | None = "sha1") -> bytes:
    """Return the ls-refs command that asks for ``branch`` alone."""
    command = [_packet(b"command=ls-refs\n"), _packet(b"agent=git/metrica\n")]
    if object_format:
        command.append(_packet(f"object-format={object_format}\n".encode()))
    return b"".join([*command, b"0001", _packet(f"ref-prefix refs/heads/{branch}\n".encode()), b"0000"])


def read_greeting(read: Callable[[int], bytes]) -> list[bytes]:
    """Return the first section of packets of a server; over HTTP without the line that names the service."""
    packets = list(_section(read))
    if packets and packets[0].startswith(b"# service="):
        packets = list(_section(read))
    return packets


def speaks_v2(greeting: list[bytes]) -> bool:
    """Whether the server waits for a command; else its greeting was the list of refs."""
    return bool(greeting) and greeting[0] == b"version 2"


def object_format(greeting: list[bytes]) -> str | None:
    """Return the hash that a v2 server asks to be named in commands, if any."""
    names = (line.removeprefix(b"object-format=") for line in greeting if line.startswith(b"object-format="))
    return next((name.decode("ascii", "replace") for name in names), None)


def read_refs(read: Callable[[int], bytes]) -> list[bytes]:
    """Return the answer to :func:`request`."""
    return list(_section(read))


def branch_in(refs: list[bytes], branch: str) -> CommitId | None:
    """Return the commit of ``branch`` in lines of ``<commit> <ref>``, or ``None`` when it is not there.

    Raises:
        BadAnswerError: When the branch is there without a commit of 40 digits.
    """
    wanted = f"refs/heads/{branch}".encode()
    for line in refs:
        commit, _, rest = line.partition(b" ")
        if re.split(rb"[ \0]", rest, maxsplit=1)[0] != wanted:
            continue
        text = commit.decode("ascii", "replace")
        if re.search(COMMIT_PATTERN, text) is None:
            raise BadAnswerError(f'"{text[:50]}" is no commit; only SHA-1 repositories are supported')
        return CommitId(text)
    return None


def _section(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield packets without their newline up to the next flush."""
    for _ in range(MAX_ADVERTISED):
        digits = read(_LENGTH_DIGITS)
        if re.fullmatch(rb"[0-9a-fA-F]{4}", digits) is None:
            raise BadAnswerError(f"{digits!r} is no length of a packet")
        length = int(digits, 16)
        if length == 0:
            return
        if length < _SHORTEST or length > _LONGEST:
            raise BadAnswerError(f"a packet of {length} bytes")
        packet = read(length - _LENGTH_DIGITS).removesuffix(b"\n")
        if packet.startswith(b"ERR "):
            raise SaidNoError(packet[4:].decode("utf-8", "replace")[:300])
        yield packet
    raise BadAnswerError(f"more than {MAX_ADVERTISED} packets")


def _packet(payload: bytes) -> bytes:
    return f"{len(payload) + _LENGTH_DIGITS:04x}".encode() + payload
