"""Every message that there is, as hypothesis makes them."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from metrica_fleet.messages import Answer, Head, Message, Presence, Refusal, Service, Services, Status, Stored
from metrica_fleet.records import Event, Heartbeat, Mode, Phase, Vitals
from metrica_fleet.signed import Signed
from metrica_fleet.topics import (
    ANSWERS,
    COMMANDS,
    GATE,
    HEAD,
    PRESENCE,
    RECORDS,
    SERVICES,
    STATUS,
    STOP,
    STORED,
    Channel,
)

HEX = "0123456789abcdef"
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
SLUGS = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True).filter(lambda slug: len(slug) <= 80)
COMMITS = st.text(HEX, min_size=40, max_size=40)
DIGESTS = st.text(HEX, min_size=64, max_size=64)
STREAMS = st.text(HEX, min_size=32, max_size=32)
NUMBERS = st.integers(0, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SECONDS = st.floats(0, 1e12)
TEXTS = st.text(max_size=60)
INSTANTS = st.none() | st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
MODES = st.sampled_from(Mode).map(str)
PHASES = st.none() | st.sampled_from(Phase).map(str)

VITALS = st.builds(
    Vitals,
    load_1m=st.none() | FLOATS,
    memory_total_bytes=st.none() | NUMBERS,
    memory_available_bytes=st.none() | NUMBERS,
    memory_pressure_some_ratio=st.none() | FLOATS,
    memory_pressure_full_ratio=st.none() | FLOATS,
    disk_path=st.none() | TEXTS,
    disk_total_bytes=st.none() | NUMBERS,
    disk_free_bytes=st.none() | NUMBERS,
    inodes_total=st.none() | NUMBERS,
    inodes_free=st.none() | NUMBERS,
    temperature_celsius=st.none() | FLOATS,
    under_voltage=st.none() | st.booleans(),
    frequency_capped=st.none() | st.booleans(),
    throttled=st.none() | st.booleans(),
    soft_temperature_limit=st.none() | st.booleans(),
    clock_synchronised=st.none() | st.booleans(),
)
PRESENCES = st.builds(
    Presence,
    device=NAMES,
    state=st.sampled_from(["online", "offline"]),
    reason=SLUGS,
    boot_id=TEXTS,
    connection=NUMBERS,
    agent_version=TEXTS,
)
STATUSES = st.builds(
    Status,
    device=NAMES,
    role=st.none() | NAMES,
    tags=st.lists(NAMES, max_size=3).map(tuple),
    mode=MODES,
    commit=st.none() | COMMITS,
    release=st.none() | DIGESTS,
    wanted_commit=st.none() | COMMITS,
    phase=PHASES,
    reason=st.none() | SLUGS,
    message=TEXTS,
    refused=st.none() | st.builds(Refusal, commit=COMMITS, reason=SLUGS, message=TEXTS),
    at=INSTANTS,
    boot_id=TEXTS,
    uptime_s=SECONDS,
    agent_version=TEXTS,
    heartbeat_s=st.none() | st.floats(0.001, 1e6),
    stream=STREAMS,
    last_seq=NUMBERS,
    vitals=VITALS,
)
SERVICES_SAID = st.builds(
    Services,
    device=NAMES,
    at=INSTANTS,
    boot_id=TEXTS,
    uptime_s=SECONDS,
    engine_answers=st.booleans(),
    services=st.lists(
        st.builds(
            Service,
            name=TEXTS,
            state=SLUGS,
            health=st.none() | SLUGS,
            exit_code=st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
            restarts=NUMBERS,
            containers=NUMBERS,
            image=TEXTS,
            image_id=TEXTS,
            since=INSTANTS,
        ),
        max_size=3,
    ).map(tuple),
    untold=NUMBERS,
)
HEARTBEATS = st.builds(
    Heartbeat,
    stream=STREAMS,
    seq=st.integers(1, 2**53 - 1),
    prev=NUMBERS,
    at=INSTANTS,
    boot_id=TEXTS,
    uptime_s=SECONDS,
    commit=st.none() | COMMITS,
    release=st.none() | DIGESTS,
    mode=MODES,
    phase=PHASES,
    vitals=VITALS,
)
EVENTS = st.builds(
    Event,
    stream=STREAMS,
    seq=st.integers(1, 2**53 - 1),
    prev=NUMBERS,
    at=INSTANTS,
    boot_id=TEXTS,
    uptime_s=SECONDS,
    kind=SLUGS,
    reason=st.none() | SLUGS,
    message=TEXTS,
    commit=st.none() | COMMITS,
    release=st.none() | DIGESTS,
    detail=st.dictionaries(TEXTS, st.none() | st.booleans() | NUMBERS | FLOATS | TEXTS, max_size=5),
)
ANSWERED = st.builds(
    Answer,
    number=st.integers(1, 2**53 - 1),
    state=st.sampled_from(["running", "done", "failed", "refused"]),
    reason=st.none() | SLUGS,
    message=TEXTS,
    part=NUMBERS,
    lines=st.lists(TEXTS, max_size=3).map(tuple),
    data=st.binary(max_size=60),
)
SIGNED = st.builds(
    Signed,
    TEXTS,
    st.from_regex(
        r"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=]{1,70}\n){1,3}-----END SSH SIGNATURE-----\n?", fullmatch=True
    ),
)
MESSAGES: dict[Channel, st.SearchStrategy[Message]] = {
    PRESENCE: PRESENCES,
    STATUS: STATUSES,
    SERVICES: SERVICES_SAID,
    RECORDS: HEARTBEATS | EVENTS,
    STORED: st.builds(Stored, streams=st.dictionaries(STREAMS, NUMBERS, max_size=3)),
    HEAD: st.builds(Head, branch=TEXTS, commit=COMMITS, number=NUMBERS),
    ANSWERS: ANSWERED,
    COMMANDS: SIGNED,
    STOP: SIGNED,
    GATE: SIGNED,
}


@st.composite
def said(draw: st.DrawFn) -> tuple[Channel, Message]:
    """Return a channel and a message that may be said on it, in JSON."""
    channel = draw(st.sampled_from([channel for channel in MESSAGES if not channel.signed]))
    return channel, draw(MESSAGES[channel])
