"""The gate of a rollout: what the hub says of a commit, and what a device makes of it. Both sides agree by this file.

A device belongs to one stage of ``[rollout]`` in the commit's own fleet.toml, for as long as the commit is rolled out:

- to the first stage that names it, by itself or by one of its tags in that commit;
- or else to the first share whose threshold is above its bucket. ``bucket`` is a hash of commit and device, so each
  rollout has another order, nobody can choose it, and a device needs only its own name to find its place.

The gate says which stage is the last open one, and up to which bucket shares are open. Both only grow while the commit
is the newest: a stage never shrinks. A device that joins, leaves, or gets other tags does so by another commit, which
has a rollout of its own; what is in this commit and comes only now falls where its bucket says.

Numbers only grow, over all commits of a fleet: a gate with a lower one is history, whatever it says. The hub repeats
the gate under its number, with a later ``issued_at``, at least every ``REPEATED_S``: so devices tell that it is there.
A hub that cannot read the repository does not repeat it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Final, Literal

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import Commit, CommitId, DeviceId, Name, short
from metrica_fleet.policies import RolloutPolicy
from metrica_fleet.records import Instant, Seq

REPEATED_S: Final = 300.0
"""The hub says the gate again at least so often; a policy's ``hub_silent_s`` is at least three times as long."""
EVERYBODY: Final = 2**53
"""The threshold that every bucket is below."""
_BUCKET_BITS: Final = 53
"""So many bits are exact in every program that reads JSON."""

GateState = Literal["open", "paused", "halted", "aborted", "done"]
"""``paused`` and ``halted`` wait for a person, by plan or order and by failures; ``aborted`` and ``done`` are final."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """How far the newest commit may go. JSON, in a signed text of the namespace ``metrica-gate``."""

    fleet: Name
    """The fleet's name."""
    number: Seq
    """Above all that were said before."""
    issued_at: Instant
    """When this was said, by the hub's clock; the signature is judged as of then."""
    commit: Commit
    """Which commit may go."""
    previous: Commit | None = None
    """What was the newest commit before."""
    stage: Annotated[int, msgspec.Meta(ge=-1, le=1000)] = -1
    """The last stage that is open, from 0; -1: none."""
    threshold: Annotated[int, msgspec.Meta(ge=0, le=EVERYBODY)] = 0
    """Shares are open to buckets below it."""
    state: GateState = "open"
    """Whether it goes on."""
    revert: bool = False
    """Of an aborted one: who runs the commit goes back to what was confirmed before."""
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Why it is paused, halted or aborted, for people."""


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """A device that would begin."""

    device: DeviceId
    tags: tuple[str, ...]
    """In the commit that it would begin."""
    commit: CommitId


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it may."""

    granted: bool
    reason: str
    """A stable slug: why, or why not."""
    message: str
    again_s: float | None = None
    """In so many seconds of further silence it may be otherwise; ``None``: only the hub's word changes it."""


def bucket(commit: CommitId, device: DeviceId) -> int:
    """Return the place of ``device`` in the rollout of ``commit``: from 0, below 2**53, evenly spread."""
    digest = sha256(f"{commit}/{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _BUCKET_BITS)


def spread_s(policy: RolloutPolicy, commit: CommitId, device: DeviceId) -> float:
    """Return how long ``device`` puts off the downloads that ``commit`` needs, which it does ahead of its stage."""
    return policy.prefetch_s * (bucket(commit, device) / EVERYBODY)


def named_stage(policy: RolloutPolicy, device: DeviceId, tags: tuple[str, ...]) -> int | None:
    """Return the first stage that names ``device``; ``None``: it belongs to a share."""
    for at, stage in enumerate(policy.stages):
        if device in stage.devices or any(tag in stage.tags for tag in tags):
            return at
    return None


def may_start(policy: RolloutPolicy | None, gate: Gate | None, asker: Asker, *, silent_s: float) -> Permission:
    """Return whether a device may begin the commit that it wants.

    Args:
        policy: ``[rollout]`` of that commit; without one nobody waits.
        gate: the one of the highest number that was ever heard, signed by the hub.
        asker: who wants to begin what.
        silent_s: for how long, by the device's own clock, the commit has been wanted and no gate was heard, neither a
            new one nor one said again.

    The rules, the first that fits:

    - a gate of this commit that is aborted, halted or paused is closed, hub or no hub;
    - a gate of this commit is open to the stages that it names, for ever after;
    - the hub was silent for ``hub_silent_s``, and the policy is to go on: the next stage is open, and each one after
      it when the one before had its ``soak_s``; a stage with ``pause`` is not gone past;
    - all else waits for the hub. So does who hears gates of another commit only: the hub is there, and says nothing
      about this one.
    """
    if policy is None:
        return Permission(granted=True, reason="no-policy", message="the fleet has no rollout policy")
    ours = gate if gate is not None and gate.commit == asker.commit else None
    if ours is not None and refuses(ours, asker.commit):
        why = f": {ours.reason}" if ours.reason else ""
        message = f"the rollout of commit {short(asker.commit)} is {ours.state}{why}"
        return Permission(granted=False, reason=f"rollout-{ours.state}", message=message)
    place = named_stage(policy, asker.device, asker.tags)
    if ours is not None and _is_open(ours, asker, place):
        return Permission(granted=True, reason="gate-open", message=f"gate {ours.number} is open to this device")
    opened = ours.stage if ours is not None else -1
    if policy.hub_silent == "go-on":
        return _by_time(policy, asker, place, opened, silent_s)
    return _closed(policy, gate, asker, silent_s)


def refuses(gate: Gate, commit: CommitId) -> bool:
    """Whether ``gate`` is closed to everybody who wants ``commit``, hub or no hub."""
    return gate.commit == commit and gate.state in {"aborted", "halted", "paused"}


def next_number(last: int, now_s: float) -> int:
    """Return the number after ``last``: a hub whose database came back from a copy goes on above what it once said."""
    return max(last + 1, int(now_s))


def written(gate: Gate) -> str:
    """Return ``gate`` as the text that is signed."""
    return msgspec.json.encode(gate).decode()


def read(text: str) -> Gate:
    """Return the gate that a signed text is; its signature was found good before.

    Raises:
        Unusable: ``gate-unusable``.
    """
    try:
        return msgspec.json.decode(text, type=Gate)
    except msgspec.DecodeError as error:
        raise Unusable(f"it is no gate: {error}", reason="gate-unusable") from error


def says_again(gate: Gate, last: Gate) -> bool:
    """Whether ``gate`` is ``last``, said again later: a sign of the hub's life."""
    later = gate.issued_at > last.issued_at
    return later and msgspec.structs.replace(gate, issued_at=last.issued_at) == last


def _is_open(gate: Gate, asker: Asker, place: int | None) -> bool:
    if gate.state == "done":
        return True
    if place is not None:
        return place <= gate.stage
    return bucket(asker.commit, asker.device) < gate.threshold


def _by_time(policy: RolloutPolicy, asker: Asker, place: int | None, opened: int, silent_s: float) -> Permission:
    own = place if place is not None else _share_stage(policy, asker)
    before = policy.stages[opened + 1 : own]
    if any(stage.pause for stage in policy.stages[max(opened, 0) : own]):
        message = "the hub is silent, and before this device's stage a person is to say go on"
        return Permission(granted=False, reason="gate-closed", message=message)
    opens_s = policy.hub_silent_s + sum(stage.soak_s for stage in before)
    if silent_s >= opens_s:
        message = f'the hub is silent, and by the policy stage "{policy.stages[own].name}" is open'
        return Permission(granted=True, reason="hub-silent", message=message)
    message = f'this device is in stage "{policy.stages[own].name}", which is not open yet'
    return Permission(granted=False, reason="gate-closed", message=message, again_s=opens_s - silent_s)


def _share_stage(policy: RolloutPolicy, asker: Asker) -> int:
    """Return the stage of a device that none names, where nobody counted the fleet: its share of all buckets."""
    place = bucket(asker.commit, asker.device) / EVERYBODY
    shares = ((at, stage.share) for at, stage in enumerate(policy.stages) if stage.share is not None)
    return next(at for at, share in shares if place < share)


def _closed(policy: RolloutPolicy, gate: Gate | None, asker: Asker, silent_s: float) -> Permission:
    if silent_s >= policy.hub_silent_s:
        message = f"the hub has said nothing for {policy.hub_silent_s:g} s, and by the policy devices wait for it"
        return Permission(granted=False, reason="hub-silent", message=message)
    if gate is None:
        message = "no gate was heard from the hub yet"
    elif gate.commit != asker.commit:
        message = f"the hub speaks of commit {short(gate.commit)}, and not yet of this one"
    else:
        message = "the gate is not open to this device's stage yet"
    again_s = policy.hub_silent_s - silent_s
    return Permission(granted=False, reason="gate-closed", message=message, again_s=again_s)
