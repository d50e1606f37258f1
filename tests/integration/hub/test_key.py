"""The hub's own key, with the real ssh-keygen."""

from __future__ import annotations

import asyncio
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.git_servers import binary
from tests.fixtures.signing import Person

from metrica_fleet.errors import NotNow
from metrica_fleet.signers import signers_in, who_may_sign
from metrica_hub.adapters.key import NAMESPACES, Key

if TYPE_CHECKING:
    from pathlib import Path


def ssh_keygen(folder: Path, *arguments: str, said: bytes = b"") -> None:
    command = [binary("ssh-keygen", "openssh-client"), *arguments]
    subprocess.run(command, input=said, cwd=folder, capture_output=True, check=True)


async def test_a_key_is_made_once_and_signs_what_its_line_allows(tmp_path: Path) -> None:
    file = tmp_path / "state" / "key"
    key, other = Key(file), Key(file)
    line, same = await asyncio.gather(key.line(), other.line())
    assert line == same == await Key(file).line()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["key"]

    signers = signers_in(line.encode())
    for namespace in NAMESPACES:
        assert who_may_sign(signers, namespace, at=None) == ("hub",)
    assert who_may_sign(signers, "metrica-order", at=None) == ()
    assert who_may_sign(signers, "git", at=None) == ()

    text = b'{"a":1}\n'
    (tmp_path / "signature").write_bytes(await key.sign(text, "metrica-gate"))
    (tmp_path / "allowed_signers").write_text(line)
    verify = ("-Y", "verify", "-n", "metrica-gate", "-I", "hub", "-f", "allowed_signers", "-s", "signature")
    ssh_keygen(tmp_path, *verify, said=text)


async def test_a_key_that_can_not_be_used_is_told_and_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("no key")
    with pytest.raises(NotNow, match="can't be used") as caught:
        await Key(file).sign(b"x", "metrica-gate")
    assert caught.value.reason == "key-unusable"
    assert file.read_text() == "no key"
    with pytest.raises(NotNow, match="it can't be made"):
        await Key(file / "below" / "key").line()
    person = Person.made(tmp_path, "locked")
    ssh_keygen(tmp_path, "-q", "-p", "-N", "passphrase", "-f", str(person.key))
    with pytest.raises(NotNow, match="can't be used"):
        await Key(person.key).sign(b"x", "metrica-gate")
