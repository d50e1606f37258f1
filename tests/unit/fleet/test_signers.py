"""``allowed_signers``: understood as OpenSSH does, and refused where it would leave somebody out by mistake."""

from __future__ import annotations

from base64 import b64encode

import pytest

from metrica_fleet.errors import Unusable
from metrica_fleet.signers import COMMITS, require_somebody, signers_in, who_may_sign


def key(kind: str = "ssh-ed25519", secret: bytes = b"k" * 32) -> str:
    parts = (kind.encode(), secret)
    return f"{kind} {b64encode(b''.join(len(part).to_bytes(4, 'big') + part for part in parts)).decode()}"


NOW = "20261126120000"
KEY = key()


@pytest.mark.parametrize(
    ("line", "signs"),
    [
        (f"a@x {KEY}", True),
        (f"a@x,b@x {KEY} with a comment", True),
        (f'a@x namespaces="git" {KEY}', True),
        (f'a@x namespaces="metrica-order,git" {KEY}', True),
        (f'a@x namespaces="g*" {KEY}', True),
        (f'a@x namespaces="gi?" {KEY}', True),
        (f'a@x namespaces="metrica-order" {KEY}', False),
        (f'a@x namespaces="*,!git" {KEY}', False),
        (f'a@x namespaces="[g]it" {KEY}', False),
        (f'a@x valid-before="20261127" {KEY}', True),
        (f'a@x valid-before="20261126" {KEY}', False),
        (f'a@x valid-before="202611261300Z" {KEY}', True),
        (f'a@x valid-after="20261126115959" {KEY}', True),
        (f'a@x valid-after="20261126120001Z" {KEY}', False),
        (f'a@x cert-authority,namespaces="git" {KEY}', True),
        (f"a@x\t{key('ssh-rsa')}", True),
        (f"a@x {key('sk-ssh-ed25519@openssh.com')}", True),
        (f"# {KEY}", False),
        ("", False),
    ],
)
def test_who_may_sign_a_commit(line: str, signs: bool) -> None:  # noqa: FBT001 a table
    found = who_may_sign(signers_in(f"# people\n\n{line}\n".encode()), COMMITS, at=NOW)
    assert found == (("a@x",) if signs else ())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a@x", "no kind of key"),
        (f"{KEY}", "no kind of key"),
        ("a@x ssh-ed25519", "no such key"),
        ("a@x ssh-ed25519 AAAA", "no such key"),
        (f"a@x ssh-ed25519 {KEY.split()[1][:-8]}", "no such key"),
        (f"a@x ssh-rsa {KEY.split()[1]}", "no such key"),
        (f"a@x {key('ssh-dss')}", "no kind of key"),
        (f'a@x namespace="git" {KEY}', "no option"),
        (f'a@x namespaces="git",namespaces="x" {KEY}', "no option"),
        (f'a@x valid-before="tomorrow" {KEY}', "no time"),
        (f'a@x valid-before="20261126 {KEY}', "no kind of key"),
    ],
)
def test_a_line_that_would_leave_somebody_out_by_mistake_is_refused(line: str, says: str) -> None:
    with pytest.raises(Unusable) as caught:
        signers_in(f"good@x {KEY}\n{line}\n".encode())
    assert caught.value.reason == "signers-unusable"
    assert caught.value.message.startswith("allowed_signers:2: ")
    assert says in caught.value.message


@pytest.mark.parametrize("content", [b"", b"# all gone\n", f'a@x namespaces="metrica-order" {KEY}'.encode()])
def test_a_file_that_leaves_nobody_is_refused_with_the_way_out(content: bytes) -> None:
    with pytest.raises(Unusable) as caught:
        require_somebody(content, at=NOW)
    assert 'namespaces="git"' in caught.value.message


@pytest.mark.parametrize("content", [b"\xff", b"#" * 40_000])
def test_what_is_no_such_file_is_refused(content: bytes) -> None:
    with pytest.raises(Unusable, match="allowed_signers: "):
        signers_in(content)
