"""The device: its files, its commands, its Debian packages. Nothing here decides what is wanted."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from device_installer.answers import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOG: Final = Path("/var/log/metrica-install.log")
_APT: Final = (
    *("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"),
    # A configuration file of a package that was changed by hand stays: nobody is there to answer.
    *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
)
_OURS_ALONE: Final = frozenset({"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "VIRTUAL_ENV"})
"""Of our environment: what would bend the Python that we set up."""


class Machine:
    """This machine, as root."""

    def __init__(self, *, may_refresh: bool = True) -> None:
        """See this machine; fetch apt's lists only if one may."""
        self._lists_are_fresh = not may_refresh

    @property
    def booted(self) -> bool:
        """Whether systemd runs here: not where a card is made ready in a chroot."""
        return Path("/run/systemd/system").is_dir()

    # --- files ------------------------------------------------------------------------------------------------

    def text(self, path: Path) -> str | None:
        """Return what ``path`` holds, or ``None`` where there is none."""
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"{path} can't be read ({error}): mend it, then try again.") from error

    def write(self, path: Path, text: str, mode: int = 0o644) -> None:
        """Put ``text`` at ``path``, all of it or nothing, whenever the power goes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        with suppress(FileNotFoundError):
            new.unlink()
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, path: Path) -> None:
        """Take ``path`` away, a whole folder too; a link only, not what it leads to."""
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)

    # --- commands ---------------------------------------------------------------------------------------------

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Return what ``command`` printed. What it said goes to the log.

        Raises:
            Refused: it failed; says its last words.
        """
        done = self._done(command, environment)
        with LOG.open("a", encoding="utf-8") as log:
            log.write(f"+ {' '.join(command)}\n{done.stdout}{done.stderr}")
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()[-1]
            raise Refused(f"{Path(command[0]).name} failed: {said} (all of it: {LOG})")
        return done.stdout

    def says(self, *command: str) -> str | None:
        """Return what ``command`` printed, or ``None`` where it is missing or says no: a question, nothing more."""
        try:
            done = self._done(command, None)
        except Refused:
            return None
        return done.stdout if done.returncode == 0 else None

    def _done(self, command: Sequence[str], environment: Mapping[str, str] | None) -> subprocess.CompletedProcess[str]:
        own = {name: value for name, value in os.environ.items() if name not in _OURS_ALONE}
        try:
            return subprocess.run(
                command,
                env={**own, "LC_ALL": "C.UTF-8", **(environment or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise Refused(f"{command[0]} can't be run: {error.strerror}.") from error

    # --- Debian packages --------------------------------------------------------------------------------------

    def lacks(self, *packages: str) -> list[str]:
        """Return which of ``packages`` are not installed."""
        return [
            one
            for one in packages
            if (self.says("dpkg-query", "-W", "-f", "${db:Status-Status}", one) or "") != "installed"
        ]

    def offered(self, package: str) -> str | None:
        """Return the version that apt would install, or ``None`` where it knows none."""
        self.refresh()
        said = self.says("apt-cache", "policy", package) or ""
        found = next((line.split()[1] for line in said.splitlines() if line.strip().startswith("Candidate:")), "(none)")
        return None if found == "(none)" else found

    def install(self, *packages: str) -> None:
        """Install packages, with fresh lists."""
        self.refresh()
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        self.run(*_APT, "install", "--no-install-recommends", *packages, environment=quiet)

    def refresh(self) -> None:
        """Fetch apt's lists, once; without a network the old ones have to do."""
        if not self._lists_are_fresh:
            self.says(*_APT, "update")
            self._lists_are_fresh = True

    # --- services ---------------------------------------------------------------------------------------------

    def is_enabled(self, unit: str) -> bool:
        """Whether ``unit`` starts with the machine."""
        return (self.says("systemctl", "is-enabled", unit) or "").strip() == "enabled"

    def is_active(self, unit: str) -> bool:
        """Whether ``unit`` runs, or is about to; in a chroot nothing does, and nothing should."""
        said = self.says("systemctl", "show", "--property=ActiveState", "--value", unit) or ""
        return not self.booted or said.strip() not in {"", "inactive", "failed"}

    def is_older(self, unit: str, *files: Path) -> bool:
        """Whether ``unit`` runs since before one of ``files`` was made or changed, and so without knowing it.

        By the monotonic clock: the wall clock of a Pi jumps when it is synchronised.
        """
        said = self.says("systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "--value", unit)
        if not self.booted or said is None or not said.strip().isdigit():
            return False
        started = time.time() - (time.monotonic() - int(said) / 1e6)
        return any(one.lstat().st_mtime > started for one in files if one.is_symlink() or one.exists())

    def enable(self, unit: str) -> None:
        """Have ``unit`` start with the machine."""
        self.run("systemctl", "--quiet", "enable", unit)

    def restart(self, unit: str, *, wait: bool = True) -> None:
        """Start ``unit`` anew, where systemd runs; ``wait`` until it has started, and refuse if it does not."""
        if self.booted:
            self.run("systemctl", "daemon-reload")
            self.run("systemctl", *([] if wait else ["--no-block"]), "restart", unit)
