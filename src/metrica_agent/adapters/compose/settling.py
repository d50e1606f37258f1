"""A Compose that was killed leaves the engine at what it was asked last: to make or remove a container.

Whoever comes next meets a name that is taken, by a container that is in no list yet or in none any more. That is
over within moments, and no release is to blame for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.compose import answers
from metrica_agent.adapters.compose.inspecting import PROJECT

if TYPE_CHECKING:
    from metrica_agent.adapters.compose.docker import Docker

TRIES: Final = 5
"""After the first one: some eight seconds in all. An engine under load took one."""
PAUSE_BASE_S: Final = 0.25
PAUSE_CAP_S: Final = 4.0


async def is_at_work(docker: Docker, project: str, complaint: str) -> bool:
    """Whether ``complaint`` may come from what the engine still does for ``project``; another's container stays.

    Raises:
        NotNow: ``engine-unresponsive``, ``docker-missing``.
    """
    if answers.is_removing(complaint):
        return True
    holder = answers.holder_of_name(complaint)
    if holder is None:
        return False
    done = await docker.ask("inspect", "--format", f'{{{{index .Config.Labels "{PROJECT}"}}}}', holder)
    return done.code != 0 or done.answer.strip() == project
