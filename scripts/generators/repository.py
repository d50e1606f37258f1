"""docs/reference/fleet-repository.md: the format of the fleet repository, every key, from the types that read it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.agent_versions import MAX_WHEELS, AgentPolicy
from metrica_fleet.definition import (
    MAX_CHECKS,
    MAX_TAGS,
    MAX_VARIABLE_BYTES,
    RESERVED,
    RESERVED_DEVICES,
    RESERVED_PREFIXES,
    Recipient,
    SecretPolicy,
)
from metrica_fleet.policies import (
    CHECKS,
    HealthPolicy,
    Limits,
    RolloutPolicy,
    RolloutStage,
    ServicePolicy,
    UpdatePolicy,
)
from metrica_fleet.rollout_reading import MAX_STAGES
from metrica_fleet.toml_lines import MAX_FILE_BYTES
from metrica_fleet.toml_reading import NAME_WORDS, words_for

if TYPE_CHECKING:
    from collections.abc import Iterable


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


_HEAD: Final = f"""\
# The fleet repository

Made from src/metrica_fleet by `scripts/reference`; do not edit. A repository to copy is examples/fleet.

    fleet.toml                   the fleet's name, defaults of health, limits, the stages of a rollout
    devices/<id>.toml            one file a device: its role, tags, key, variables
    roles/<role>/compose.yaml    an ordinary Compose file, and beside it whatever files it mounts
    roles/<role>/role.toml       optional: health of this role, its own checks, when it may be updated, priorities
    secrets/{{devices,tags,roles}}/<whose>/<name>.age    optional: values that only their devices can open
    agent/<version>/SHA256SUMS   optional: the wheels of a version of the agent, as `sha256sum *.whl` prints them

`metrica lint` reads it as a device does, and prints every problem as `file:line: what is wrong; what to do`. A device
that meets a problem refuses the commit, says so in an event, and goes on running what it runs.

- A name (of the fleet, a device, role, tag or check) is {NAME_WORDS}.
  {_listed(sorted(RESERVED_DEVICES))} are no names for a device: they are users of the broker.
- Files are TOML in UTF-8, at most {MAX_FILE_BYTES // 1024} KiB each. An unknown key is an error.
- `devices/` and `roles/` hold nothing else but notes (`README*`, `*.md`, `*.txt`); files elsewhere are not looked at.
"""

_FLEET: Final = """
## fleet.toml

| key | value | default | meaning |
| --- | --- | --- | --- |
| `name` | a name | required | The fleet's name; `${{METRICA_FLEET}}` in Compose files. |

### [health]

How long a release has to come up, and how long it must then stay well. A role may say otherwise, key by key.

{health}

### [limits]

Bounds that a release must keep, on every device.

{limits}

### [rollout]

How a commit goes through the fleet. Without this table every device takes a commit as soon as it sees it. With it a
device first waits for the gate, which the hub opens stage by stage; the commit's own `[rollout]` is in force for it.
[How it decides](../how-to/rollout-rules.md).

{rollout}

### [[rollout.stages]]

At most {max_stages}, in their order. A stage either names devices, by id or tag, or has a share; shares grow, and the
last of them is `1.0`. A device belongs to the first stage that names it, else to the first share that its place in the
rollout falls into; the place is a hash of the commit and its id.

{stage}

### [secrets]

[How to keep secrets in the repository](../how-to/secrets.md).

{secrets}

### [agent]

Which version of the agent runs. It is changed before the commit's release, tried, and taken back where it is bad: then
the commit is refused. The wheels of a version are listed in `agent/<version>/SHA256SUMS`, at most {max_wheels}, for all
Pythons and processors of the fleet; they lie beside it, or at `source`. [How to](../how-to/agent-version.md).

{agent}

### [agent.tags]

Tag = version, for devices that have that tag and name none of their own; of several the first in this table counts.
"""

_DEVICE: Final = f"""
## devices/&lt;id&gt;.toml

| key | value | default | meaning |
| --- | --- | --- | --- |
| `role` | a name | required | Which folder of `roles/` the device runs. |
| `tags` | a list of at most {MAX_TAGS} names | none | Words to choose devices by. |
| `age` | {words_for(Recipient)} | none | The device's public key: its secrets are sealed to it. |
| `agent` | a version like "1.4.0" | by `[agent]` | The version of the agent that this device runs. |
| `[vars]` | a table | empty | Variables for `${{NAME}}` in the role's Compose file. |

The name of a variable has letters, digits and `_`. Its value is text, a number or `true`/`false`; the Compose file gets
it as text, a number with a point just as it is written (`1.10` stays `1.10`), other numbers in decimal. A value has at
most {MAX_VARIABLE_BYTES // 1024} KiB. Reserved names are
{_listed(f"{prefix}*" for prefix in RESERVED_PREFIXES)}, {_listed(sorted(RESERVED))}. The agent itself gives:

| variable | is |
| --- | --- |
| `METRICA_DATA` | the role's data directory on the device; no release, rollback or repair touches it |
| `METRICA_LOCKS` | where services hold locks; see `[services.NAME]` below |
| `METRICA_SECRETS` | where the device's secrets are: `${{METRICA_SECRETS}}/<name>` can be mounted, and nothing else |
| `METRICA_DEVICE` | the device's id |
| `METRICA_ROLE` | its role |
| `METRICA_FLEET` | the fleet's name |
"""

_ROLE: Final = """
## roles/&lt;role&gt;/compose.yaml

Compose reads it, nobody else. Beyond what Compose asks for, a device wants:

- no `build:`; every service has an `image:`
- a relative path that is mounted exists in the role's folder and is read-only (`./site:/www:ro`)
- what is written goes to `${METRICA_DATA}/...` or to a named volume
- what it reads besides itself (`env_file`, `label_file`, `extends`, `include`) is in the role's folder, so that the
  release is the same whenever it is staged; `env_file: env/${METRICA_DEVICE}.env` is fine
- a variable that the device does not set has a default: `${WEB_PORT:-8088}`
- a secret, `${METRICA_SECRETS}/<name>`, is the `file:` of an entry of `secrets:`, or a volume with `:ro`; its name
  stands there in full

## roles/&lt;role&gt;/role.toml

It is for the agent: it is no part of the release, and no service can mount it.

### [health]

The keys of `[health]` in fleet.toml; what is not given here is as it is there.
"""

_CHECKS: Final = f"""
### [[checks]]

The role's own checks, at most {MAX_CHECKS}. During a trial each must pass; a check that failed before the trial as well
is not held against the new release. `type` is required and one of {_listed(CHECKS)}.
"""

_CONSENT: Final = """
### [update]

When a release of this role may begin to replace the one that runs. Images are pulled and everything is checked ahead
of it, any time. A window belongs to the day on which it begins; `24:00` is the end of a day. While the device does not
know the time, every window is closed. The first release of a device, the way back, safe mode and an operator's orders
do not ask. [How to](../how-to/consent.md).

{update}

### [services.NAME]

For a service of `compose.yaml`. One that mounts `${{METRICA_LOCKS}}/NAME` holds its lock while a file named `lock` is
in there: an update that would restart or remove it waits, for no longer than this. A service that does not run holds
none.

A service that others need (`depends_on`, a shared network namespace ...) has the highest priority among them. On a
machine that is hot (80 °C) or short of memory, services of low priority are stopped; on one that is critically hot (85
°C), those of normal priority as well; all are started again when it is well. A device's `agent.toml` may say other
figures.

{service}
"""


def fleet_repository() -> str:
    """Return the page."""
    page = _HEAD
    page += _FLEET.format(
        health=keys(HealthPolicy),
        limits=keys(Limits),
        rollout=keys(RolloutPolicy, but=("stages",)),
        stage=keys(RolloutStage),
        secrets=keys(SecretPolicy),
        max_stages=MAX_STAGES,
        max_wheels=MAX_WHEELS,
        agent=keys(AgentPolicy),
    )
    page += _DEVICE + _ROLE
    page += _CHECKS
    for kind, check in CHECKS.items():
        about = inspect.cleandoc(check.__doc__ or "").replace("``", "`")
        page += f'\n#### type = "{kind}"\n\n{about}\n\n{keys(check)}\n'
    page += _CONSENT.format(update=keys(UpdatePolicy), service=keys(ServicePolicy))
    return page


def keys(kind: type[msgspec.Struct], *, but: tuple[str, ...] = ()) -> str:
    """Return the table of the keys that ``kind`` reads, ``but`` those; each has a docstring."""
    said = meanings(kind)
    rows = [
        f"| `{field.name}` | {_value(field)} | {_default(field)} | {said[field.name]} |"
        for field in msgspec.structs.fields(kind)
        if field.name not in but
    ]
    return "\n".join(["| key | value | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _value(field: msgspec.structs.FieldInfo) -> str:
    return words_for(field.type, field.name).removesuffix(f" of {NAME_WORDS}")


def _default(field: msgspec.structs.FieldInfo) -> str:
    match field.default:
        case msgspec.NODEFAULT:
            return "required"
        case str() as text:
            return f'`"{text}"`'
        case () | None:
            return "none"
        case tuple():
            return f"`{msgspec.json.encode(field.default).decode()}`"  # pyright: ignore[reportUnknownMemberType]
        case bool() as flag:
            return f"`{str(flag).lower()}`"
        case number:
            return f"`{number:.10g}`" if isinstance(number, float) else f"`{number}`"


def meanings(kind: type) -> dict[str, str]:
    """Return the docstring under each field of ``kind``."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    if not isinstance(body, ast.ClassDef):
        return {}
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[name] = " ".join(meaning.split()).replace("``", "`")
            case _:
                pass
    return found
