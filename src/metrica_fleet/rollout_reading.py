"""What ``fleet.toml`` says about rollouts: ``[rollout]`` and its ``[[rollout.stages]]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.problems import shown, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metrica_fleet.policies import HealthPolicy, Limits
    from metrica_fleet.toml_lines import Path, Table
    from metrica_fleet.toml_reading import Reader

MAX_STAGES: Final = 16
SECTION: Final = "rollout"
_EVERYBODY: Final = 1.0
_STAGES: Final = (SECTION, "stages")


def rollout_policy(reader: Reader) -> RolloutPolicy | None:
    """Return ``[rollout]``; ``None`` where there is none, or, which is told, it can't be read."""
    if SECTION not in reader.table:
        return None
    table = reader.section(SECTION)
    before = len(reader.problems)
    stages = _stages(reader, table)
    given = {key: value for key, value in table.items() if key != "stages"}
    fields = reader.fields((SECTION,), given, RolloutPolicy)
    if len(reader.problems) > before:
        return None
    return RolloutPolicy(**fields, stages=stages)


def longest_trial_s(health: HealthPolicy, limits: Limits) -> float:
    """Return how long a device may take from its start to its verdict, when all goes as slowly as it may."""
    return limits.apply_deadline_s + health.start_deadline_s + 2 * health.soak_s


def complain_of_deadline(reader: Reader, policy: RolloutPolicy, longest_s: float) -> None:
    """Tell that a device which is still judging would be held to be silent."""
    if policy.deadline_s <= longest_s:
        text = (
            f"rollout.deadline_s is {policy.deadline_s:g}, and a device may take {longest_s:g} s for its verdict "
            "(limits.apply_deadline_s + health.start_deadline_s + 2 * health.soak_s); make it longer than that"
        )
        reader.complain((SECTION, "deadline_s"), text, "deadline-too-short")


def complain_of_strangers(reader: Reader, policy: RolloutPolicy, devices: Iterable[str], tags: Iterable[str]) -> None:
    """Tell which stages name a device or a tag that the fleet does not have: they would be empty, and pass."""
    known = {"devices": set(devices), "tags": set(tags)}
    for at, stage in enumerate(policy.stages):
        names = [("devices", *one) for one in enumerate(stage.devices)]
        names += [("tags", *one) for one in enumerate(stage.tags)]
        for key, place, name in names:
            if name in known[key]:
                continue
            text = f"there is no device {shown(name)}" if key == "devices" else f"no device has the tag {shown(name)}"
            text += suggestion(name, known[key])
            reader.complain((*_STAGES, at, key, place), text, f"unknown-{key.removesuffix('s')}")


def _stages(reader: Reader, table: Table) -> tuple[RolloutStage, ...]:
    value: object = table.get("stages", [])
    entries = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(entry, dict) for entry in entries):
        reader.complain(_STAGES, "rollout.stages must be a list of tables, [[rollout.stages]]", "wrong-type")
        return ()
    if not entries:
        text = 'rollout has no stages; add [[rollout.stages]] with name = "..." and share = 1.0'
        reader.complain((SECTION,), text, "missing-key")
        return ()
    if len(entries) > MAX_STAGES:
        reader.complain((*_STAGES, MAX_STAGES), f"a rollout has at most {MAX_STAGES} stages", "wrong-type")
        return ()
    before = len(reader.problems)
    stages = [reader.complete((*_STAGES, at), cast("Table", entry), RolloutStage) for at, entry in enumerate(entries)]
    read = tuple(stage for stage in stages if stage is not None)
    if len(reader.problems) == before:
        _complain_of_stages(reader, read)
    return read


def _complain_of_stages(reader: Reader, stages: tuple[RolloutStage, ...]) -> None:
    """Tell what is wrong with stages that are well each by itself."""
    share = 0.0
    for at, stage in enumerate(stages):
        path: Path = (*_STAGES, at)
        names = bool(stage.devices or stage.tags)
        if any(stage.name == other.name for other in stages[:at]):
            text = f'there are two stages "{stage.name}"; rename one'
            reader.complain((*path, "name"), text, "duplicate-name")
        if names and stage.share is not None:
            text = f'stage "{stage.name}" has names and a share; make two stages of it'
            reader.complain((*path, "share"), text, "bad-stage")
        if not names and stage.share is None:
            text = f'stage "{stage.name}" opens to nobody; add devices, tags or a share'
            reader.complain(path, text, "bad-stage")
        if not names and stage.share is not None:
            if stage.share <= share:
                text = f"rollout.stages[{at}].share is {stage.share:g}; shares must grow, it is more than {share:g}"
                reader.complain((*path, "share"), text, "bad-stage")
            share = max(share, stage.share)
    if share < _EVERYBODY:
        text = 'no stage opens to everybody; add [[rollout.stages]] with name = "all" and share = 1.0'
        reader.complain(_STAGES, text, "bad-stage")
    if stages[-1].pause:
        text = f'stage "{stages[-1].name}" is the last one: there is nothing to pause before'
        reader.complain((*_STAGES, len(stages) - 1, "pause"), text, "bad-stage")
