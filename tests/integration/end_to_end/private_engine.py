"""A Docker engine of the test's own, beside the one that all share: to be stopped, killed and started again."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
from tests.fixtures.agent import until
from tests.fixtures.engine import IMAGE, RealEngine
from tests.fixtures.git_servers import binary

START_S = 40.0


class PrivateEngine(RealEngine):
    """One dockerd with one project; no networks, so that it touches nothing of the machine's."""

    def __init__(self, data: Path | None = None) -> None:
        """Make it; ``data``: where it keeps images and containers, instead of in a folder of its own."""
        super().__init__(f"mt-own-{secrets.token_hex(4)}")
        # Not below pytest's folder: the path of a socket has at most 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="engine-", dir=os.environ.get("METRICA_TEST_DIR", "/var/tmp")))  # noqa: S108
        self.address = f"unix://{self._folder}/docker.sock"
        self._driver = RealEngine("").docker("info", "--format", "{{.Driver}}")
        self._data = data or self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        image = subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE)
        try:
            subprocess.run(
                ["docker", "--host", self.address, "load"], stdin=image.stdout, check=True, capture_output=True
            )
        finally:
            image.communicate()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.clean()
            self.stop()
        finally:
            self._end_what_is_left()

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Return what ``docker`` prints of this engine."""
        return super().docker("--host", self.address, *arguments, check=check)

    def start(self) -> None:
        """Start it and wait until it answers."""
        folder = self._folder
        network = ("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
        files = ("--data-root", str(self._data), "--exec-root", f"{folder}/run", "--pidfile", f"{folder}/pid")
        how = ("--host", self.address, "--storage-driver", self._driver, "--log-level", "warn")
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary("dockerd", "docker.io"), *how, *files, *network], stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, within_s=START_S, what=lambda: (folder / "log").read_text()[-3000:])

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it; SIGTERM ends its containers too, as a reboot or an upgrade does."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(START_S)

    def reboot(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def hang(self) -> None:
        """Let it take what it is asked, and answer nothing."""
        self._signalled(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a hang."""
        self._signalled(signal.SIGCONT)

    def _signalled(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)

    def crash(self) -> None:
        """Kill dockerd and its containerd, and start them again; what runs in containers is left to its shims."""
        ours = [one for one in psutil.process_iter(["name", "cmdline"]) if self._is_daemon(one)]
        self.stop(signal.SIGKILL)
        for one in ours:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in ours))
        # An init reaps the dead; where nobody does, dockerd takes the zombie for its containerd.
        (self._folder / "run" / "containerd" / "containerd.pid").unlink(missing_ok=True)
        self.start()

    def _is_daemon(self, process: psutil.Process) -> bool:
        words = process.info["cmdline"] or ()
        return process.info["name"] == "containerd" and any(str(self._folder) in word for word in words)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()[-3000:]
        return self.docker("version", "--format", "{{.Server.Version}}", check=False) != ""

    def _end_what_is_left(self) -> None:
        """End containerd and the shims that a killed dockerd leaves, and remove its folder."""
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._folder) in word for word in process.info["cmdline"] or ()):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        roots = (f"{self._folder}/", f"{self._data}/")
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
        for mount in sorted((one for one in mounts if one.startswith(roots)), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
