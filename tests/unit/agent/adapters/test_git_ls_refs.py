"""The poll's conversation: what is asked, and that garbage is never a commit."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.adapters.git import ls_refs

if TYPE_CHECKING:
    from collections.abc import Callable

COMMIT = b"1" * 40


def reader(data: bytes) -> Callable[[int], bytes]:
    stream = BytesIO(data)

    def read(size: int) -> bytes:
        found = stream.read(size)
        if len(found) < size:
            raise EOFError
        return found

    return read


def packets(*lines: bytes) -> bytes:
    return b"".join(f"{len(line) + 4:04x}".encode() + line for line in lines) + b"0000"


def test_one_branch_is_asked_for() -> None:
    asked = ls_refs.request("main")
    assert asked == (
        b"0014command=ls-refs\n0016agent=git/metrica\n0017object-format=sha1\n0001001fref-prefix refs/heads/main\n0000"
    )


def test_a_v2_greeting_is_recognised_with_and_without_the_service_line() -> None:
    greeting = packets(b"version 2\n", b"agent=git/2.39\n", b"object-format=sha1\n")
    for data in (greeting, packets(b"# service=git-upload-pack\n") + greeting):
        lines = ls_refs.read_greeting(reader(data))
        assert ls_refs.speaks_v2(lines)
        assert ls_refs.object_format(lines) == "sha1"


def test_an_older_greeting_is_the_list_of_refs() -> None:
    data = packets(COMMIT + b" HEAD\0multi_ack symref=HEAD:refs/heads/main\n", b"2" * 40 + b" refs/heads/main\n")
    lines = ls_refs.read_greeting(reader(data))
    assert not ls_refs.speaks_v2(lines)
    assert ls_refs.branch_in(lines, "main") == "2" * 40


@pytest.mark.parametrize(
    "line", [COMMIT + b" refs/heads/main", COMMIT + b" refs/heads/main peeled:x", COMMIT + b" refs/heads/main\0caps"]
)
def test_a_branch_is_found_by_its_whole_name(line: bytes) -> None:
    decoys = [b"3" * 40 + b" refs/heads/main-2", b"4" * 40 + b" refs/heads/mai", b"5" * 40 + b" refs/tags/main"]
    assert ls_refs.branch_in([*decoys, line], "main") == "1" * 40
    assert ls_refs.branch_in(decoys, "main") is None


@pytest.mark.parametrize("commit", [b"unborn", b"", b"1" * 39, b"1" * 64, b"G" * 40, b"1" * 39 + b"\n", b"\xff" * 40])
def test_a_branch_without_a_commit_is_an_error(commit: bytes) -> None:
    with pytest.raises(ls_refs.BadAnswerError):
        ls_refs.branch_in([commit + b" refs/heads/main"], "main")


def test_a_servers_no_is_told() -> None:
    with pytest.raises(ls_refs.SaidNoError, match="access denied"):
        ls_refs.read_refs(reader(packets(b"ERR access denied\n")))


@given(st.binary(max_size=300))
def test_garbage_ends_in_an_error_or_without_the_branch(data: bytes) -> None:
    try:
        found = ls_refs.branch_in(ls_refs.read_greeting(reader(data)), "main")
    except (ls_refs.BadAnswerError, ls_refs.SaidNoError, EOFError):
        return
    assert found is None or len(found) == 40


@given(st.lists(st.binary(min_size=1, max_size=50).filter(lambda line: not line.startswith((b"ERR ", b"# ")))))
def test_packets_come_back_as_they_were(lines: list[bytes]) -> None:
    assert ls_refs.read_refs(reader(packets(*(line + b"\n" for line in lines)))) == lines
