from __future__ import annotations

import getpass
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from tests.unit.cli.hubs import hub_that_says, metrica

from metrica_cli.contexts import Book
from metrica_cli.trouble import Trouble

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "mtr_" + "a" * 43


async def whoami(request: web.Request) -> web.StreamResponse:
    """Answer as a hub does that knows one token."""
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        return web.json_response({"detail": "A token is needed."}, status=401)
    principal = {"name": "ada", "role": "operator", "via": "token"}
    return web.json_response({"fleet": "home", "version": "9.9", "principal": principal, "items": []})


def token_file(folder: Path) -> Path:
    file = folder / "token"
    file.write_text(f"{TOKEN}\n")
    return file


async def test_who_logs_in_is_asked_for_by_later_commands(
    tmp_path: Path, configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hub_that_says(whoami) as address:
        assert await metrica("whoami", "--hub", address) == 4
        assert f"try: metrica login {address}" in capsys.readouterr().err
        assert await metrica("login", f"{address}/", "--name", "home", "--token-file", str(token_file(tmp_path))) == 0
        told = capsys.readouterr()
        assert told.out.startswith("ada (operator) at ")
        assert TOKEN not in told.out + told.err
        assert await metrica("whoami") == 0
        assert capsys.readouterr().out == f'ada (operator) at {address}, the hub of "home"\n'
        assert await metrica("whoami", "--hub", address) == 0
        assert await metrica("devices", "-o", "json") == 0
    for file in ("credentials.toml", "config.toml"):
        assert stat.S_IMODE((configuration / file).stat().st_mode) == 0o600
    assert TOKEN not in (configuration / "config.toml").read_text()


async def test_a_token_that_the_hub_does_not_know_is_not_kept(
    tmp_path: Path, configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("mtr_wrong")
    async with hub_that_says(whoami) as address:
        assert await metrica("login", address, "--token-file", str(wrong)) == 4
    assert capsys.readouterr().err.startswith("error: A token is needed.\n")
    assert not os.path.exists(configuration)  # noqa: ASYNC240, PTH110


async def test_a_token_goes_to_no_other_address_than_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str | None] = []

    async def stranger(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Authorization"))
        return web.json_response({"items": []})

    async def moved(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"{elsewhere}{request.path}")

    async with hub_that_says(whoami) as home, hub_that_says(stranger) as elsewhere, hub_that_says(moved) as mover:
        assert await metrica("login", home, "--token-file", str(token_file(tmp_path))) == 0
        assert await metrica("devices", "--hub", elsewhere) == 0
        assert asked == [None]
        assert await metrica("devices", "--hub", mover, "--token-file", str(token_file(tmp_path))) == 3
    assert f"it says: go to {elsewhere}" in capsys.readouterr().err
    assert asked == [None]


async def test_contexts_are_chosen_and_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(token_file(tmp_path))
    async with hub_that_says(whoami) as address:
        for name in ("home", "office"):
            assert await metrica("login", address, "--name", name, "--token-file", file) == 0
    capsys.readouterr()
    assert await metrica("context") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["CONTEXT", "HUB", "TOKEN"], ["home", address, "yes"], ["*", "office", address, "yes"]]
    assert await metrica("context", "use", "home") == 0
    assert await metrica("context", "use", "nowhere") == 5
    assert "known: home, office" in capsys.readouterr().err
    assert await metrica("logout") == 0
    assert await metrica("logout") == 5
    assert Book().contexts().current is None
    assert dict(Book().tokens()) == {"office": TOKEN}


async def test_the_token_is_asked_for_without_an_echo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hub_that_says(whoami) as address:
        assert await metrica("login", address) == 2
        assert "there is nobody to ask for the token" in capsys.readouterr().err
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)

        def typed(_: str) -> str:
            return TOKEN

        monkeypatch.setattr(getpass, "getpass", typed)
        assert await metrica("login", address) == 0
    assert await metrica("login", "http://127.0.0.1:1", "--name", "Not A Name") == 2


def test_credentials_that_others_can_read_are_not_used(configuration: Path) -> None:
    book = Book()
    book.keep("home", "http://127.0.0.1", TOKEN)
    os.chmod(book.credentials, 0o644)  # noqa: PTH101 - what a person does
    with pytest.raises(Trouble, match="can be read by others") as refused:
        book.target(hub=None, context="home", token_file=None)
    assert refused.value.code == 4
    assert refused.value.advice == f"chmod 600 {configuration / 'credentials.toml'}"


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("config.toml", "current = ", "config.toml:1: "),
        ("config.toml", "current = 5", "can't be read"),
        ("credentials.toml", "[tokens]\nhome = 5", "can't be read"),
    ],
)
def test_a_file_that_is_wrong_is_named(file: str, text: str, told: str, configuration: Path) -> None:
    configuration.mkdir()
    (configuration / file).write_text(text)
    (configuration / file).chmod(0o600)
    book = Book()
    with pytest.raises(Trouble, match=told):
        (book.contexts if file == "config.toml" else book.tokens)()


@pytest.mark.parametrize("name", ['a"b', "ü", "a\\b", "\u007f", "a.b"])
def test_any_text_is_read_as_it_was_written(name: str) -> None:
    book = Book()
    book.keep("home", name, name)
    assert book.contexts().contexts["home"].url == name
    assert book.tokens() == {"home": name}


@pytest.mark.parametrize("text", ["", "two words", "ünicode", "\x1b[31m"])
async def test_what_is_no_token_is_refused_and_not_repeated(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    assert await metrica("whoami", "--token-file", str(file)) == 2
    told = capsys.readouterr().err
    assert "holds no token" in told
    assert not text or text not in told


async def test_the_version_of_both_sides_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async def document(request: web.Request) -> web.StreamResponse:
        assert request.path == "/api/v1/openapi.json"
        return web.Response(text=json.dumps({"openapi": "3.1.0", "info": {"version": "9.9"}}))

    async with hub_that_says(document) as address:
        assert await metrica("version", "--hub", address) == 0
    ours, theirs = capsys.readouterr().out.splitlines()
    assert ours.startswith("metrica ")
    assert theirs.split() == ["hub", "9.9", f"({address})"]
