"""Which hub, and by which token: contexts of this user, as kubectl and docker have them.

    $XDG_CONFIG_HOME/metrica/config.toml        current = "home", [contexts.home] url = "https://…"
    $XDG_CONFIG_HOME/metrica/credentials.toml   [tokens] home = "mtr_…"; mode 0600

A token goes to the address that it was stored for, and to no other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.toml_lines import Document, NotTomlError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_HUB: Final = "http://127.0.0.1:8080"
_PRIVATE: Final = 0o600
_OTHERS: Final = 0o077

T = TypeVar("T")


class Context(msgspec.Struct, frozen=True):
    """One hub."""

    url: str


class Contexts(msgspec.Struct, frozen=True):
    """``config.toml``."""

    current: str | None = None
    contexts: dict[str, Context] = {}


class Credentials(msgspec.Struct, frozen=True):
    """``credentials.toml``: the token of each context that has one."""

    tokens: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Credentials({sorted(self.tokens)})"


class Target(msgspec.Struct, frozen=True):
    """The hub to ask, and by which token."""

    url: str
    token: str | None = None
    name: str | None = None
    """Of the context, where it is one."""

    def __repr__(self) -> str:
        return f"Target({self.url!r})"


class Book:
    """The two files."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = _folder() if folder is None else folder

    @property
    def config(self) -> Path:
        """Where contexts are kept."""
        return self._folder / "config.toml"

    @property
    def credentials(self) -> Path:
        """Where tokens are kept."""
        return self._folder / "credentials.toml"

    @property
    def operator_key(self) -> Path:
        """Where this user's own age key is, unless something else is said."""
        return self._folder / "operator.age"

    def contexts(self) -> Contexts:
        """Return what is kept. Raises Trouble."""
        return _read(self.config, Contexts, Contexts())

    def tokens(self) -> Mapping[str, str]:
        """Return the tokens, each by its context's name.

        Raises:
            Trouble: the file can't be read, or others may read it.
        """
        if self.credentials.exists() and self.credentials.stat().st_mode & _OTHERS:
            why = "whoever read it may do what you may; revoke the tokens if that can have happened"
            raise Trouble(
                f"{self.credentials} can be read by others",
                code=Exit.NOT_ALLOWED,
                why=why,
                advice=f"chmod 600 {self.credentials}",
            )
        return _read(self.credentials, Credentials, Credentials()).tokens

    def keep(self, name: str, url: str, token: str) -> None:
        """Keep a context with its token, and make it the current one."""
        tokens = {**self.tokens(), name: token}
        known = self.contexts()
        self._write(self.credentials, _section("tokens", tokens))
        self._write_contexts(Contexts(current=name, contexts={**known.contexts, name: Context(url=url)}))

    def use(self, name: str) -> None:
        """Make a context the current one. Raises Trouble."""
        known = self.contexts()
        _known(known, name)
        self._write_contexts(Contexts(current=name, contexts=known.contexts))

    def forget(self, name: str) -> None:
        """Remove a context and its token. Raises Trouble."""
        known = self.contexts()
        _known(known, name)
        self._write(
            self.credentials, _section("tokens", {key: one for key, one in self.tokens().items() if key != name})
        )
        left = {key: one for key, one in known.contexts.items() if key != name}
        self._write_contexts(Contexts(current=None if known.current == name else known.current, contexts=left))

    def target(self, *, hub: str | None, context: str | None, token_file: Path | None) -> Target:
        """Return which hub is meant: an address, else a context by its name, else the current one, else this machine.

        Raises:
            Trouble: there is no such context, or the token can't be read.
        """
        known = self.contexts()
        if hub:
            url, name = hub, next((key for key, one in known.contexts.items() if _same(one.url, hub)), None)
        else:
            name = context or known.current
            url = DEFAULT_HUB if name is None else _known(known, name).url
        if token_file is not None:
            return Target(url=url, token=token_in(token_file), name=name)
        return Target(url=url, token=None if name is None else self.tokens().get(name), name=name)

    def _write_contexts(self, value: Contexts) -> None:
        current = "" if value.current is None else f"current = {_quoted(value.current)}\n\n"
        sections = [_section(f"contexts.{name}", {"url": one.url}) for name, one in sorted(value.contexts.items())]
        self._write(self.config, current + "\n".join(sections))

    def _write(self, path: Path, text: str) -> None:
        """Write a file whole or not at all, for its owner alone from its first byte on."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = path.with_name(f"{path.name}.{os.getpid()}.new")
            new.unlink(missing_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "w", encoding="utf-8") as file:  # noqa: PTH123 a descriptor
                file.write(text)
            new.replace(path)
        except OSError as error:
            raise Trouble(f"{path} can't be written", code=Exit.NO, why=error.strerror or str(error)) from error


def token_in(file: Path) -> str:
    """Return the token in ``file``.

    Raises:
        Trouble: it can't be read, or holds none.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"the token file {file} can't be read", code=Exit.USAGE, why=str(error)) from error
    return checked_token(text, str(file))


def checked_token(text: str, where: str) -> str:
    """Return ``text`` if it can be a token. Raises Trouble, which does not repeat it."""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise Trouble(f"{where} holds no token", code=Exit.USAGE, why="a token is one word, mtr_…")
    return text


def _folder() -> Path:
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(configured) if configured.startswith("/") else Path.home() / ".config") / "metrica"


def _known(contexts: Contexts, name: str) -> Context:
    found = contexts.contexts.get(name)
    if found is None:
        known = ", ".join(sorted(contexts.contexts)) or "none yet"
        raise Trouble(
            f'there is no context "{name}"', code=Exit.NOT_FOUND, why=f"known: {known}", advice="metrica login URL"
        )
    return found


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _read(path: Path, kind: type[T], default: T) -> T:
    try:
        return msgspec.convert(Document(path.read_bytes()).table, kind)
    except FileNotFoundError:
        return default
    except NotTomlError as error:
        raise Trouble(f"{path}:{error.line}: {error.text}", code=Exit.USAGE) from error
    except (OSError, msgspec.ValidationError) as error:
        raise Trouble(f"{path} can't be read", code=Exit.USAGE, why=str(error)) from error


def _section(name: str, values: Mapping[str, str]) -> str:
    lines = [f"{_quoted(key)} = {_quoted(value)}" for key, value in sorted(values.items())]
    return "\n".join([f"[{name}]", *lines, ""])


def _quoted(text: str) -> str:
    """Return ``text`` as TOML writes it: as JSON does, but for one character."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
