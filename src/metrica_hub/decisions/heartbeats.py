"""Heartbeats read quickly: most of what a hub reads, and most of their texts came before.

``metrica_fleet.codec`` compares five texts of each with their patterns, which takes longer than all else of reading it.
A text that was well-formed once is so again; with any other the codec decides.
"""

from __future__ import annotations

from typing import Final, cast

import msgspec

from metrica_fleet.codec import MAX_PAYLOAD_BYTES, decode
from metrica_fleet.identity import CommitId, ReleaseDigest, StreamId
from metrica_fleet.records import Heartbeat, Record
from metrica_fleet.topics import RECORDS

REMEMBERED: Final = 20_000
"""Texts of each kind."""


class _Heard(Heartbeat, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """A heartbeat whose texts were not compared with their patterns."""

    stream: StreamId
    commit: CommitId | None
    release: ReleaseDigest | None
    mode: str
    phase: str | None


class RecordReader:
    """Reads records as the codec does."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Heard)
        self._streams: set[str | None] = set()
        self._commits: set[str | None] = set()
        self._releases: set[str | None] = set()
        self._slugs: set[str | None] = set()

    @property
    def remembered(self) -> int:
        """How many texts it knows."""
        return sum(map(len, (self._streams, self._commits, self._releases, self._slugs)))

    def decode(self, payload: bytes) -> Record:
        """Return what the codec makes of ``payload``.

        Raises:
            Unusable: as the codec.
        """
        heard = self._quickly(payload)
        if heard is not None:
            return heard
        said = cast("Record", decode(RECORDS, payload))
        if isinstance(said, Heartbeat):
            self._remember(said)
        return said

    def _quickly(self, payload: bytes) -> Heartbeat | None:
        if len(payload) > MAX_PAYLOAD_BYTES:
            return None
        try:
            heard = self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        is_well_formed = (
            heard.stream in self._streams
            and heard.commit in self._commits
            and heard.release in self._releases
            and heard.mode in self._slugs
            and heard.phase in self._slugs
        )
        return heard if is_well_formed else None

    def _remember(self, said: Heartbeat) -> None:
        for known, texts in (
            (self._streams, (said.stream,)),
            (self._commits, (said.commit,)),
            (self._releases, (said.release,)),
            (self._slugs, (said.mode, said.phase)),
        ):
            if len(known) >= REMEMBERED:
                known.clear()
            known.update(texts)
