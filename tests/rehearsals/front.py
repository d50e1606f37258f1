"""The public name, as Caddy serves it: TLS, by a certificate that lasts as long as one says."""

from __future__ import annotations

import ssl
import subprocess
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.fixtures.broker import HOST, free_port
from tests.fixtures.papers import signed


class Front:
    """The public name: a TLS server with a certificate that lasts so many days. Its CA is everybody's here."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.ca = folder / "ca.crt"
        self._server: ThreadingHTTPServer | None = None
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        to = ["-keyout", str(folder / "ca.key"), "-out", str(self.ca), "-subj", "/CN=ca", "-days", "400"]
        subprocess.run([*new, *to], check=True, capture_output=True)

    def certificate(self, name: str, days: int) -> tuple[Path, Path]:
        """Make a certificate of the CA for this machine."""
        return self._signed(name, f"subjectAltName=IP:{HOST}\n", days=days)

    def certificate_of_a_hub(self, *, age_days: int) -> tuple[Path, Path]:
        """Make a certificate of 90 days, of this age, with which a hub is let in by the broker."""
        return self._signed("hub", "extendedKeyUsage=clientAuth\n", days=90, begins=-timedelta(days=age_days))

    def _signed(self, name: str, extensions: str, *, days: int, begins: timedelta = timedelta()) -> tuple[Path, Path]:
        signed(self.folder, name, extensions=extensions, days=days, begins=begins)
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.chmod(0o644)
        key.chmod(0o644)
        return cert, key

    def serve(self, days: int) -> None:
        """Answer with such a certificate from now on."""
        self.end()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate(f"front-{days}", days))
        self._server = ThreadingHTTPServer((HOST, self.port), _Healthy)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def end(self) -> None:
        """Answer nobody."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Say nothing."""
