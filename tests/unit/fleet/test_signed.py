from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from tests.unit.fleet.wire import SIGNED

from metrica_fleet.codec import decode, encode
from metrica_fleet.errors import Unusable
from metrica_fleet.signed import ORDERS, Signed, joined, parted
from metrica_fleet.topics import STOP

if TYPE_CHECKING:
    from pathlib import Path


@given(SIGNED)
def test_a_signed_text_is_taken_apart_where_it_was_put_together(signed: Signed) -> None:
    assert parted(joined(signed)) == signed
    assert decode(STOP, encode(signed)) == signed


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_file_and_what_ssh_keygen_put_beside_it_make_a_signed_text(tmp_path: Path, ending: str) -> None:
    key, order = tmp_path / "key", tmp_path / "order.json"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    order.write_text(f'{{"number": 7, "note": "-----BEGIN SSH SIGNATURE-----"}}{ending}')
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", ORDERS, "-f", key, order], check=True)
    signed = parted(order.read_bytes() + order.with_suffix(".json.sig").read_bytes())
    assert signed.text == order.read_text()
    (tmp_path / "again.sig").write_text(signed.signature)
    check = ["ssh-keygen", "-Y", "check-novalidate", "-n", ORDERS, "-s", tmp_path / "again.sig"]
    subprocess.run(check, input=signed.text.encode(), check=True, capture_output=True)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"{}-----END SSH SIGNATURE-----",
        b"{}-----BEGIN SSH SIGNATURE-----\nU1NI",
        b"{}-----BEGIN SSH SIGNATURE-----\nU1NI\n-----END SSH SIGNATURE-----\nand more",
        b"\xff-----BEGIN SSH SIGNATURE-----\nU1NI\n-----END SSH SIGNATURE-----\n",
    ],
)
def test_what_no_signature_ends_is_refused(payload: bytes) -> None:
    with pytest.raises(Unusable) as caught:
        decode(STOP, payload)
    assert caught.value.reason == "not-signed"
    assert caught.value.message.startswith("orders/stop: ")
