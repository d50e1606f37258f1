"""A device under test, and what a person sees of it: at the repository, in the containers, at the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tests.fixtures.agent import HEALTH, Agent, Wiring, fleet_files, until
from tests.fixtures.git_servers import git

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.fixtures.engine import RealEngine
    from tests.fixtures.git_servers import Repository
    from tests.fixtures.hub import Hub

    from metrica_fleet.identity import CommitId
    from metrica_fleet.records import Event

PAGE = "roles/camera/site/index.html"
COMPOSE = "roles/camera/compose.yaml"
SITE = "./site:/www:ro"
WEB: dict[str, Any] = {
    "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
    "volumes": [SITE],
    "restart": "unless-stopped",
}
"""Serves a folder of its role on its own loopback; no port of the machine is taken."""


class Device:
    """One device: its fleet repository, the project on the engine, and the agent between the two."""

    def __init__(
        self, name: str, folder: Path, fleet: Repository, engine: RealEngine, *, url: str, broker_port: int
    ) -> None:
        self.name = name
        self.folder = folder
        self.fleet = fleet
        self.engine = engine
        # Agents are killed here far more often than in the field: that alone must not lead into safe mode.
        steady = {"guard": {"steady_s": 0.2}}
        wiring = Wiring(device=name, project=engine.project, remotes=(url,), broker_port=broker_port, settings=steady)
        self.agent = Agent(folder, wiring)

    def wiring(self, **changes: Any) -> Wiring:
        """Return how the agent is wired, but for some changes."""
        return replace(self.agent.wiring, **changes)

    def rewire(self, wiring: Wiring) -> None:
        """Tell the agent, before it is started, something else about its world."""
        self.agent = Agent(self.folder, wiring)

    # --- the operator's side --------------------------------------------------------------------------------

    def files(
        self,
        services: Mapping[str, Any] | None = None,
        *,
        page: str | None = "one",
        health: str = HEALTH,
        also: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Return the whole repository: ``web`` serving ``page``, unless ``services`` says otherwise."""
        site = {} if page is None else {PAGE: page}
        return fleet_files(self.name, services or {"web": WEB}, health=health, also={**site, **(also or {})})

    def push(self, files: Mapping[str, str | bytes | None] | None = None) -> CommitId:
        """Commit and push; ``None``: a web server that serves "one"."""
        return self.fleet.commit(self.files() if files is None else files)

    def deploy(self, files: Mapping[str, str | bytes | None] | None = None, *, within_s: float = 90.0) -> CommitId:
        """Push, start the agent if it does not run yet, and wait until the commit is confirmed."""
        commit = self.push(files)
        if not self.agent.runs:
            self.agent.start()
        self.confirmed(commit, within_s=within_s)
        return commit

    def push_to(self, url: str, files: Mapping[str, str], *, ssh: str = "") -> CommitId:
        """Commit, and push over the network as a person does."""
        for name, content in files.items():
            (self.fleet.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.fleet.work / name).write_text(content)
        git("add", "--all", folder=self.fleet.work)
        git("commit", "--quiet", "-m", "a change", folder=self.fleet.work)
        git("push", "--quiet", url, "HEAD:refs/heads/main", folder=self.fleet.work, env={"GIT_SSH_COMMAND": ssh})
        return self.fleet.head()

    # --- what the device says -------------------------------------------------------------------------------

    def confirmed(self, commit: CommitId, *, after: int = 0, within_s: float = 90.0) -> Event:
        """Wait until ``commit`` is confirmed; fail at once when it is refused."""
        kinds = ("release.confirmed", "release.refused", "commit.refused")
        event = self.agent.wait_for(*kinds, commit=commit, after=after, within_s=within_s)
        assert event.kind == "release.confirmed", self.agent.story()
        return event

    def refused(self, commit: CommitId, *, after: int = 0, within_s: float = 90.0) -> Event:
        """Wait until ``commit`` is refused; fail at once when it is confirmed."""
        kinds = ("release.confirmed", "release.refused", "commit.refused")
        event = self.agent.wait_for(*kinds, commit=commit, after=after, within_s=within_s)
        assert event.kind != "release.confirmed", self.agent.story()
        return event

    def soaking(self, *, within_s: float = 90.0) -> None:
        """Wait until a trial is in its soak."""
        until(lambda: "soaking" in self.agent.why(), within_s=within_s, what=lambda: f"a soak\n{self.agent.story()}")

    def settled(self, *, within_s: float = 90.0) -> None:
        """Wait until no trial is under way."""
        until(
            lambda: self.agent.memory().trial is None,
            within_s=within_s,
            what=lambda: f"the end of a trial\n{self.agent.story()}",
        )

    # --- what runs ------------------------------------------------------------------------------------------

    def containers(self) -> dict[str, tuple[str, str, str]]:
        """Return of each service (of a container of none: its name) the container's id, state and start time."""
        ids = self.engine.ids()
        if not ids:
            return {}
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", "--type", "container", *ids))
        return {
            one["Config"]["Labels"].get("com.docker.compose.service", one["Name"]): (
                one["Id"],
                one["State"]["Status"],
                one["State"]["StartedAt"],
            )
            for one in found
        }

    def page(self, service: str = "web") -> str:
        """Return what the service serves now."""
        return self.engine.shell(service, "wget -q -O - http://127.0.0.1:8080/index.html")

    def serves(self, page: str, service: str = "web", *, within_s: float = 45.0) -> None:
        """Wait until the service serves ``page``: a server listens a moment after its process was started."""

        def look() -> bool:
            ids = self.engine.ids(service)
            if len(ids) != 1:
                return False
            script = "wget -q -O - http://127.0.0.1:8080/index.html"
            return self.engine.docker("exec", ids[0], "sh", "-c", script, check=False) == page

        until(look, within_s=within_s, what=lambda: f"{service} serves {page!r}\n{self.agent.story()}")

    def current(self) -> str:
        """Return the digest of the release that is current."""
        return (self.agent.state / "current").readlink().name


@dataclass(frozen=True)
class HubView:
    """What an operator sees at the hub."""

    hub: Hub
    sql: Callable[[str], str]

    def wait_for_device(self, name: str, **facts: object) -> dict[str, Any]:
        """Wait until the hub's state of the device has these values; return it."""

        def look() -> dict[str, Any] | None:
            seen = self.device(name)
            return seen if seen and all(seen[key] == value for key, value in facts.items()) else None

        return until(look, within_s=45, what=lambda: f"{facts} at the hub; it has {self.device(name)}") or {}

    def device(self, name: str) -> dict[str, Any]:
        """Return ``GET /api/v1/devices/{name}``; empty while the hub never heard of it."""
        answer = self.hub.get(f"/api/v1/devices/{name}")
        return answer.json if answer.status == 200 else {}

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return ``GET /api/v1/devices/{name}/events``, oldest first."""
        answer = self.hub.get(f"/api/v1/devices/{name}/events?limit=200")
        return list(reversed(answer.json["items"])) if answer.status == 200 else []

    def event(self, name: str, kind: str, commit: str | None, *, within_s: float = 45.0) -> dict[str, Any]:
        """Wait until the hub has the event of this kind and commit; return it."""

        def look() -> list[dict[str, Any]]:
            return [one for one in self.events(name) if one["kind"] == kind and one["commit"] == commit]

        return until(look, within_s=within_s, what=lambda: f"{kind} at the hub; it has {self.events(name)}")[0]
