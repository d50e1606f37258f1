"""What is asked of ``docker inspect`` about a container, and its answer as a value."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from metrica_agent.adapters.compose import traits
from metrica_agent.decisions.render import INPUTS_LABEL
from metrica_agent.decisions.world import Container

PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"
ONE_OFF: Final = "com.docker.compose.oneoff"
FIELDS: Final = (
    '{"id":{{json .ID}},'
    '"name":{{json .Name}},'
    f'"service":{{{{json (index .Config.Labels "{SERVICE}")}}}},'
    f'"one_off":{{{{json (index .Config.Labels "{ONE_OFF}")}}}},'
    '"state":{{json .State.Status}},'
    '"health":{{if .State.Health}}{{json .State.Health.Status}}{{else}}null{{end}},'
    '"exit_code":{{json .State.ExitCode}},'
    '"restarts":{{json .RestartCount}},'
    '"started_at":{{json .State.StartedAt}},'
    f'"inputs":{{{{json (index .Config.Labels "{INPUTS_LABEL}")}}}},'
    '"finished_at":{{json .State.FinishedAt}},'
    '"image_id":{{json .Image}},'
    '"image":{{json .Config.Image}},'
    '"mounts":{{json .Mounts}},"networks":{{json .NetworkSettings.Networks}},"host":{{json .HostConfig}}}'
)
"""A line of JSON a container."""


class _Row(msgspec.Struct, frozen=True):
    """One container as ``docker inspect`` tells it."""

    id: str
    name: str
    service: str | None
    one_off: str | None
    state: str
    health: Literal["healthy", "unhealthy", "starting", "none"] | None
    exit_code: int
    restarts: int
    started_at: str
    inputs: str | None
    finished_at: str
    image_id: str
    image: str
    mounts: list[traits.Mount]
    networks: dict[str, Any] | None
    host: traits.Host


def container(line: str) -> Container:
    """Return the container that a line made from ``FIELDS`` tells of."""
    row = msgspec.json.decode(line, type=_Row)
    return Container(
        id=row.id,
        service=row.service or "",
        name=row.name.removeprefix("/"),
        foreign=not row.service or row.one_off != "False",
        traits=traits.traits(row.image_id, row.mounts, row.networks, row.host),
        state=row.state,
        health=None if row.health == "none" else row.health,
        exit_code=row.exit_code,
        restarts=row.restarts,
        started_at=row.started_at,
        inputs=row.inputs or "",
        finished_at=row.finished_at,
        image_id=row.image_id,
        image=row.image,
    )
