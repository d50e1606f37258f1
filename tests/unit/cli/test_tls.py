"""TLS to the hub's door."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.git_servers import certificate

from metrica_cli.hub import Hub
from metrica_cli.trouble import Exit, Trouble

if TYPE_CHECKING:
    from pathlib import Path


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"items":[]}')
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_token_goes_by_tls_1_3_and_by_nothing_older(
    newest: ssl.TLSVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, key = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own, key)
    context.maximum_version = newest
    async with await asyncio.start_server(answered, "127.0.0.1", 0, ssl=context) as server:
        hub = Hub(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=20, token="mtr_x")
        if newest is ssl.TLSVersion.TLSv1_3:
            assert (await hub.ask("GET", "/devices")).body == {"items": []}
            return
        with pytest.raises(Trouble) as refused:
            await hub.ask("GET", "/devices")
    assert refused.value.code is Exit.HUB_UNREACHABLE
    assert "has to speak TLS 1.3" in str(refused.value.why)
