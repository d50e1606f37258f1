"""The demo's fleet repository: a copy of examples/fleet, and the commits of the play."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from metrica_fleet.identity import CommitId, DeviceId
from metrica_fleet.signers import FILE as SIGNERS
from metrica_sim.demo.children import output_of
from metrica_sim.demo.composeedit import broken, main_service, released, services_of, with_block
from metrica_sim.demo.services import FLEET
from metrica_sim.demo.trouble import Trouble

QUICK: Final = {"start_deadline_s": 45.0, "soak_s": 3.0}
"""What the demo makes of the health policy: nobody wants to watch a minute of soak."""
STAGES: Final = """
[rollout]
deadline_s = 300
waiting_s = 30 # a device that is away is not waited for any longer
prefetch_s = 0
abort = "revert"

[[rollout.stages]]
name = "canary"
share = 0.1
soak_s = 5

[[rollout.stages]]
name = "half"
share = 0.5
soak_s = 3

[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 0
"""
"""What stands at the end of fleet.toml while commits go through the fleet in stages."""
_GIT_S: Final = 20.0
_CONFIG: Final = {
    "user.name": "Metrica demo",
    "user.email": "demo@localhost",
    "commit.gpgsign": "false",
    "core.hooksPath": "/dev/null",
    "gc.auto": "0",
    "maintenance.auto": "false",
}


@dataclass(slots=True)
class Repository:
    """The repository, and what the play did to it."""

    folder: Path
    log: Path
    signing_key: Path
    """What ``git commit -S`` signs with here; the play's own commits are not signed."""
    number: int = 1
    _sound: dict[Path, str] = field(default_factory=dict)
    """The Compose files as they were before they were broken."""

    async def begin(
        self,
        example: Path,
        devices: Sequence[DeviceId],
        special: Mapping[DeviceId, Mapping[str, str]],
        signers: Sequence[str],
    ) -> CommitId:
        """Make the repository for ``devices`` out of ``example``, and the first commit.

        Args:
            example: A fleet repository's files.
            devices: Who is in the fleet.
            special: Variables of single devices; they get a role that uses all of them.
            signers: The lines of ``allowed_signers``.
        """
        if not (example / "fleet.toml").is_file():
            raise Trouble(f"{example} has no fleet.toml: the checkout is not complete")
        shutil.copytree(example, self.folder)
        _hurry(self.folder)
        _write_devices(self.folder, devices, special)
        if os.geteuid() != 0:
            for device in special:
                _run_as_us(self.folder, device)
        self._release()
        (self.folder / SIGNERS).write_text("".join(f"{line}\n" for line in signers), encoding="utf-8")
        await self._git("init", "--quiet", "--initial-branch=main", "--template=")
        for name, value in {**_CONFIG, "gpg.format": "ssh", "user.signingkey": str(self.signing_key)}.items():
            await self._git("config", name, value)
        return await self._commit("The first release")

    @property
    def is_staged(self) -> bool:
        """Whether commits go through the fleet in stages."""
        return STAGES in self._policy.read_text(encoding="utf-8")

    @property
    def _policy(self) -> Path:
        return self.folder / "fleet.toml"

    async def good(self, *, staged: bool | None = None) -> CommitId:
        """Commit a release that is sound; from now on in stages or not, where ``staged`` says so."""
        text = self._policy.read_text(encoding="utf-8")
        if staged is not None:
            self._policy.write_text(text.replace(STAGES, "") + (STAGES if staged else ""), encoding="utf-8")
        for path, text in self._sound.items():
            path.write_text(text, encoding="utf-8")
        self._sound.clear()
        self.number += 1
        self._release()
        how = {None: "", True: ", and from now on in stages", False: ", and from now on at once"}[staged]
        return await self._commit(f"A good release: number {self.number}{how}")

    async def bad(self) -> CommitId:
        """Commit a release whose main service never becomes healthy, in every role."""
        self.number += 1
        for path in self._compose_files():
            text = path.read_text(encoding="utf-8")
            self._sound.setdefault(path, text)
            path.write_text(broken(released(text, self.number)), encoding="utf-8")
        return await self._commit(f"A bad release: number {self.number} never becomes healthy")

    def service_of(self, device: DeviceId) -> str:
        """Return a service of ``device`` that is meant to stay."""
        role = tomllib.loads((self.folder / "devices" / f"{device}.toml").read_text(encoding="utf-8"))["role"]
        return main_service((self.folder / "roles" / role / "compose.yaml").read_text(encoding="utf-8"))

    async def last_message(self) -> str:
        """Return the subject of the last commit."""
        return await self._git("log", "-1", "--format=%s")

    def _release(self) -> None:
        for path in self._compose_files():
            path.write_text(released(path.read_text(encoding="utf-8"), self.number), encoding="utf-8")

    def _compose_files(self) -> list[Path]:
        return sorted(self.folder.glob("roles/*/compose.yaml"))

    async def _commit(self, message: str) -> CommitId:
        await self._git("add", "--all")
        await self._git("commit", "--quiet", "--message", message)
        return CommitId(await self._git("rev-parse", "HEAD"))

    async def _git(self, *words: str) -> str:
        argv = ["env", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "git", "-C", str(self.folder), *words]
        code, said = await output_of(argv, within_s=_GIT_S)
        if code:
            self.log.write_text(said, encoding="utf-8")
            raise Trouble(f"git {words[0]} failed", log=self.log)
        return said.strip()


def _hurry(folder: Path) -> None:
    """Shorten the health policy, fleet-wide and where a role has its own; nobody wants to wait for a window."""
    fleet = folder / "fleet.toml"
    text = re.sub(r"(?m)^name\s*=.*$", f'name = "{FLEET}"', fleet.read_text(encoding="utf-8"))
    policy = "".join(f"{key} = {value}\n" for key, value in QUICK.items())
    text = _without(text, QUICK)
    if re.search(r"(?m)^\[health\]", text):
        text = re.sub(r"(?m)^\[health\][^\n]*\n", lambda found: found[0] + policy, text)
    else:
        text = f"{text.rstrip()}\n\n[health]\n{policy}"
    fleet.write_text(text, encoding="utf-8")
    for path in folder.glob("roles/*/role.toml"):
        path.write_text(_without(path.read_text(encoding="utf-8"), {*QUICK, "windows", "days"}), encoding="utf-8")
    for path in folder.glob("roles/*/compose.yaml"):
        text = re.sub(r"(?m)^(\s+interval:) \S+$", r"\1 1s", path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")


def _without(text: str, keys: Iterable[str]) -> str:
    return re.sub(rf"(?m)^\s*(?:{'|'.join(keys)})\s*=.*\n?", "", text)


def _write_devices(folder: Path, devices: Sequence[DeviceId], special: Mapping[DeviceId, Mapping[str, str]]) -> None:
    """Give every device a file: its own of the example, or that of another in turn; nobody else has one."""
    written = {path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / "devices").glob("*.toml"))}
    if not written:
        raise Trouble("the example fleet has no devices")
    shutil.rmtree(folder / "devices")
    (folder / "devices").mkdir()
    samples = list(written.values())
    for index, device in enumerate(devices):
        text = written.get(device, samples[index % len(samples)])
        if device in special:
            text = _with_variables(_fitting(folder, [text, *samples], special[device]), special[device])
        (folder / "devices" / f"{device}.toml").write_text(text, encoding="utf-8")


def _fitting(folder: Path, samples: Sequence[str], variables: Mapping[str, str]) -> str:
    """Return the first device whose role uses all of ``variables``."""
    for text in samples:
        role = tomllib.loads(text).get("role", "")
        path = folder / "roles" / role / "compose.yaml"
        if path.is_file() and all(name in path.read_text(encoding="utf-8") for name in variables):
            return text
    raise Trouble(f"no role of the example fleet uses {' and '.join(variables)}")


def _run_as_us(folder: Path, device: DeviceId) -> None:
    """Let a real device's containers be ours: root without capabilities, in a container, can't write to our folders."""
    role = tomllib.loads((folder / "devices" / f"{device}.toml").read_text(encoding="utf-8"))["role"]
    path = folder / "roles" / role / "compose.yaml"
    text = path.read_text(encoding="utf-8")
    for service in services_of(text):
        text = with_block(text, service, [f'user: "{os.getuid()}:{os.getgid()}"'])
    path.write_text(text, encoding="utf-8")


def _with_variables(text: str, variables: Mapping[str, str]) -> str:
    table: dict[str, Any] = tomllib.loads(text)
    merged = {**table.get("vars", {}), **variables}
    head = "".join(f"{key} = {_toml(value)}\n" for key, value in table.items() if key != "vars")
    return head + "\n[vars]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in merged.items())


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case list():
            items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
            return f"[{', '.join(_toml(item) for item in items)}]"
        case _:
            return str(value)
