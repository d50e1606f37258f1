"""One device of the demo on real containers, where a Docker engine and Compose answer."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metrica_fleet.identity import DeviceId
from metrica_sim.demo.children import Household, output_of
from metrica_sim.demo.services import FLEET, Ports
from metrica_sim.demo.trouble import Trouble

PROJECT: Final = "metrica-demo"
IMAGE: Final = "metrica-demo/busybox:1"
_LABEL: Final = f"label=com.docker.compose.project={PROJECT}"
_LOOK_S: Final = 10.0
_IMPORT_S: Final = 30.0
_CLEAR_S: Final = 4.0
"""For each of the calls that clear away, at the end."""
_APPLET_WORDS: Final = """
sh sleep cat echo ls false true httpd wget nc mkdir touch test date kill rm mv cp tail chown hostname sync ln env printf
head sort grep sed awk stat id ps cut tr wc
"""


@dataclass(frozen=True, slots=True)
class RealDevice:
    """The device that has a real engine."""

    name: DeviceId
    web_port: int

    @property
    def variables(self) -> dict[str, str]:
        """What its device file must say; the page of its camera is for this machine alone."""
        return {"BUSYBOX_IMAGE": IMAGE, "WEB_PORT": f"127.0.0.1:{self.web_port}"}


_BUSYBOX: Final = Path("/bin/busybox")


async def engine_is_here() -> str | None:
    """Return why there is no engine that can be used; ``None`` when there is one."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    if not await asyncio.to_thread(_BUSYBOX.exists):
        return "the Debian package busybox-static is not installed"
    for argv, trouble in (
        (["docker", "version", "--format", "{{.Server.Version}}"], "no Docker engine answers"),
        (["docker", "compose", "version", "--short"], "Docker Compose v2 is not installed"),
    ):
        try:
            code, _ = await output_of(argv, within_s=_LOOK_S)
        except Trouble:
            code = 1
        if code:
            return trouble
    return None


async def import_image(logs: Path) -> None:
    """Make the image that the example's services run, out of Debian's static busybox."""
    tar = await asyncio.to_thread(_image)
    argv = ["docker", "import", "--change", 'CMD ["/bin/sleep","100000"]', "-", IMAGE]
    code, said = await output_of(argv, within_s=_IMPORT_S, feed=tar)
    if code:
        log = logs / "docker.log"
        log.write_text(said, encoding="utf-8")
        raise Trouble("the image for the real device could not be imported", log=log)


def _image() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("tmp", 0o1777), ("etc", 0o755), ("www", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(_BUSYBOX, "bin/busybox", recursive=False, filter=_as_root)
        for applet in _APPLET_WORDS.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return packed.getvalue()


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def write_agent_settings(demo: Path, device: RealDevice, ports: Ports) -> Path:
    """Write ``agent.toml`` for the real device; return where."""
    path = demo / "agent.toml"
    path.write_text(
        f'fleet = "{FLEET}"\ndevice = "{device.name}"\nstate_dir = "{demo / "devices" / device.name}"\n'
        "heartbeat_s = 15.0\nsample_s = 0.5\n\n"
        f'[git]\nremotes = ["{ports.repository}"]\n\n'
        f'[bus]\nhost = "127.0.0.1"\nport = {ports.bus}\n\n'
        f'[compose]\nproject = "{PROJECT}"\n',
        encoding="utf-8",
    )
    return path


async def start_agent(household: Household, settings: Path) -> None:
    """Start the real agent."""
    await household.start("agent", [sys.executable, "-m", "metrica_agent", "run", "--config", str(settings)])


async def clear_engine(data: Path | None, *, image: bool = True) -> list[str]:
    """Remove every container, network and volume of the demo, and its image; return what could not be removed."""
    troubles: list[str] = []
    if data is not None and os.geteuid() != 0:
        owner = f"{os.getuid()}:{os.getgid()}"
        argv = ["docker", "run", "--rm", "--network", "none", "--volume", f"{data}:/data", IMAGE, "/bin/chown", "-R"]
        await _cleared([*argv, owner, "/data"], troubles)
    await _remove(["ps", "--all", "--quiet", "--filter", _LABEL], ["rm", "--force", "--volumes"], troubles)
    await asyncio.gather(
        _remove(["network", "ls", "--quiet", "--filter", _LABEL], ["network", "rm"], troubles),
        _remove(["volume", "ls", "--quiet", "--filter", _LABEL], ["volume", "rm", "--force"], troubles),
        _remove(["image", "ls", "--quiet", IMAGE] if image else [], ["image", "rm", "--force"], troubles),
    )
    return troubles


async def _remove(listing: Sequence[str], removing: Sequence[str], troubles: list[str]) -> None:
    if not listing:
        return
    found = (await _cleared(["docker", *listing], troubles)).split()
    if found:
        await _cleared(["docker", *removing, *found], troubles)


async def _cleared(argv: Sequence[str], troubles: list[str]) -> str:
    try:
        code, said = await output_of(argv, within_s=_CLEAR_S)
    except Trouble as trouble:
        code, said = 1, trouble.message
    if code:
        troubles.append(f"{' '.join(argv[:3])}: {said.strip()[:200]}")
        return ""
    return said
