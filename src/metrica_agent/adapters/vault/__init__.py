"""Secrets, opened with this device's own key; their plain text is in memory only, and never in this process.

A child (``opening``) decrypts, writes what containers mount, and ends. What comes back are keyed digests: HMAC-SHA256
of the plain text under a key that only this device can derive. So a digest, which stands in a release, in a label and
in ``docker inspect``, says when a secret has changed, and lets nobody guess a short one.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from metrica_agent.adapters.vault.orders import Answer, NotNowAnswer, Opened, Order, Sealed, UnusableAnswer
from metrica_agent.durable import in_thread
from metrica_fleet.errors import NotNow, Ours, Unusable
from metrica_fleet.sealed import FOLDER, SEALED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from metrica_fleet.identity import DeviceId

__all__ = ["Vault"]

ANSWER_S: Final = 30.0
"""For a child: it imports two modules, and opens some kilobytes."""
_BIRTH: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from metrica_agent.adapters.vault.opening import main; main()"
)
_SOURCES: Final = str(Path(__file__).resolve().parents[3])
_TOLD_CHARACTERS: Final = 300
_DECODER: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


class Vault:
    """The key of one device, and the folder in memory from which its containers mount what it opens."""

    def __init__(self, identity: Path, folder: Path, *, device: DeviceId) -> None:
        """Use the age identities in the file ``identity``, the newest first; ``folder`` must be on a tmpfs."""
        self._identity = identity
        self._folder = folder.absolute()
        self._device = device

    @property
    def root(self) -> str:
        """What ``${METRICA_SECRETS}`` means."""
        return str(self._folder)

    async def recipient(self) -> str:
        """Return the public half of the device's key: to whom its secrets are sealed. Raises Unusable or NotNow."""
        return (await self._opened((), ())).recipient

    async def digests(self, sealed: Mapping[str, tuple[str, bytes]]) -> dict[str, str]:
        """Return name → keyed digest of ``sealed``, name → (path, age file). Nothing is written.

        Raises:
            Unusable: ``secret-unreadable``: one is damaged, or not for this device; ``secret-no-key``.
            NotNow: ``secrets-unopened``.
        """
        secrets = tuple(Sealed(name=name, path=path, data=data) for name, (path, data) in sealed.items())
        return (await self._opened(secrets, ())).digests

    async def keep(self, folder: Path, wanted: Collection[str]) -> None:
        """Make ``wanted``, keyed digests, be in memory; they are sealed in ``folder``, a release. Often nothing to do.

        Raises:
            Unusable: as ``digests`` does.
            NotNow: ``secrets-on-disk``: the folder is in no memory; ``secrets-unopened``.
        """
        missing = await in_thread(lambda: tuple(digest for digest in wanted if not (self._folder / digest).is_file()))
        if not missing:
            return
        opened = await self._opened(await in_thread(lambda: _sealed_in(folder)), missing)
        if opened.written != frozenset(missing):
            message = (
                f"{folder / FOLDER} holds other secrets than the release was made of, or {self._identity} is another"
                " key than then: metrica secret rekey, and commit"
            )
            raise NotNow(message, reason="secrets-unopened")

    async def forget(self, keep: Collection[str]) -> None:
        """Remove from memory what is not in ``keep``."""
        await in_thread(lambda: _forget(self._folder, keep))

    async def _opened(self, secrets: tuple[Sealed, ...], wanted: tuple[str, ...]) -> Opened:
        order = Order(
            identity=str(self._identity),
            device=self._device,
            secrets=secrets,
            folder=str(self._folder),
            wanted=wanted,
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                code, told, complaint = await _lived(msgspec.msgpack.encode(order))
        except TimeoutError as error:
            raise NotNow(f"secrets were not opened within {ANSWER_S:g} s", reason="secrets-unopened") from error
        if code in {-signal.SIGKILL, -signal.SIGXCPU}:
            raise NotNow(f"opening secrets was ended by {signal.Signals(-code).name}", reason="secrets-unopened")
        if code != 0:
            last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise Ours(f"opening secrets failed with code {code}: {last[:_TOLD_CHARACTERS]}", reason="vault-failed")
        try:
            answer = _DECODER.decode(told)
        except msgspec.DecodeError as error:
            raise Ours(
                f"the child that opens secrets answered with no answer: {error}", reason="vault-failed"
            ) from error
        match answer:
            case NotNowAnswer(reason=reason, message=message):
                raise NotNow(message, reason=reason)
            case UnusableAnswer(reason=reason, message=message):
                raise Unusable(message, reason=reason)
            case Opened():
                return answer
            case _:
                assert_never(answer)


def _sealed_in(folder: Path) -> tuple[Sealed, ...]:
    paths = sorted((folder / FOLDER).glob(f"*{SEALED}"))
    return tuple(
        Sealed(name=path.name.removesuffix(SEALED), path=f"{FOLDER}/{path.name}", data=path.read_bytes())
        for path in paths
    )


def _forget(folder: Path, keep: Collection[str]) -> None:
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return
    for path in paths:
        if path.name not in keep and not path.is_dir():
            path.unlink(missing_ok=True)


async def _lived(order: bytes) -> tuple[int, bytes, bytes]:
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",  # neither the environment nor the working directory has a say in what is imported
            "-c",
            _BIRTH,
            _SOURCES,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env={},
            start_new_session=True,
        )
    except OSError as error:
        raise NotNow(f"no child to open secrets can be started: {error.strerror}", reason="secrets-unopened") from error
    try:
        told, complaint = await child.communicate(order)
    except BaseException:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        raise
    return await child.wait(), told, complaint
