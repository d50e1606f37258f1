"""``git http-backend`` behind a small web server: ``python -m metrica_sim.demo.githttp PORT FOLDER``.

Serves every repository ``FOLDER/<name>/.git`` as ``/<name>.git``, to read. Loopback only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

AT_ONCE: Final = 6
"""Git processes at the same time, however many devices ask."""
_DEADLINE_S: Final = 60
_MAX_BODY_BYTES: Final = 1 << 20
_PATH: Final = re.compile(r"/([a-z0-9][a-z0-9-]*)\.git(/.*)")
_turns = threading.BoundedSemaphore(AT_ONCE)


class Server(ThreadingHTTPServer):
    """The web server, and the folder that it serves."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        """Answer ``info/refs`` and files."""
        self._answer()

    def do_POST(self) -> None:
        """Answer ``git-upload-pack``."""
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        found = _PATH.fullmatch(parts.path)
        length = int(self.headers.get("Content-Length") or 0)
        if found is None or length > _MAX_BODY_BYTES:
            self.send_error(404 if found is None else 413)
            return
        environment = self._environment(f"/{found[1]}/.git{found[2]}", parts.query)
        with _turns:
            done = subprocess.run(
                ["git", "http-backend"],
                input=self.rfile.read(length),
                capture_output=True,
                env=environment,
                timeout=_DEADLINE_S,
                check=False,
            )
        if done.stderr:
            self.log_error("%s", done.stderr.decode("utf-8", "replace").strip())
        self._pass_on(done.stdout)

    def _environment(self, path: str, query: str) -> dict[str, str]:
        server = self.server
        folder = server.folder if isinstance(server, Server) else Path()
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_PROJECT_ROOT": str(folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": self.headers.get("Content-Length", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }

    def _pass_on(self, answer: bytes) -> None:
        """Turn what a CGI program says into what a web server says."""
        head, separator, body = answer.partition(b"\r\n\r\n")
        if not separator:
            self.send_error(502)
            return
        fields = [line.partition(":") for line in head.decode("latin-1").split("\r\n")]
        status = next((value.split()[0] for name, _, value in fields if name.lower() == "status"), "200")
        self.send_response(int(status))
        for name, _, value in fields:
            if name.lower() not in {"status", "content-length"}:
                self.send_header(name, value.strip())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until killed."""
    Server(int(sys.argv[1]), Path(sys.argv[2])).serve_forever()


if __name__ == "__main__":
    main()
