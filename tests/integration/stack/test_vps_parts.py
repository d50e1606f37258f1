"""The stack's own files in the real Postgres, Mosquitto, hub and Caddy; Gitea, Grafana and Loki can't be had here.

They run on this machine and in no containers, so paths and addresses are others; the files are those that are shipped.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urljoin

import pytest
from tests.fixtures.broker import HOST as LOOPBACK
from tests.fixtures.broker import free_port, wait_for_port
from tests.fixtures.database import Cluster, postgres_programs
from tests.fixtures.hub import FLEET, Hub
from tests.integration.stack.conftest import HOST, HOUSE, Checkout

from metrica_agent.enrolling import Address, enrolled
from metrica_hub import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

STACK = HOUSE / "stack" / "vps"
CLIENT = "127.0.0.7"
"""Whence a browser comes here, as caddy and the hub are both at 127.0.0.1."""
DEADLINE_S = 60.0


# --- Postgres ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Postgres:
    """The cluster, and where its log is archived."""

    cluster: Cluster
    archive: Path

    def url(self, role: str, password: str, database: str = "metrica") -> str:
        """Return the address that a role comes by."""
        return f"postgresql://{role}:{password}@{LOOPBACK}:{self.cluster.port}/{database}"


@pytest.fixture(scope="module")
def postgres(installed: Checkout) -> Iterator[Postgres]:
    """A Postgres with the stack's settings and roles, that asks for passwords."""
    with _folder_for_everybody() as folder:
        archive = folder / "wal"
        archive.mkdir()
        archive.chmod(0o777)
        script = folder / "archive"
        shutil.copy(STACK / "postgres" / "archive", script)
        text = (STACK / "postgres" / "postgresql.conf").read_text(encoding="utf-8")
        text = text.replace("sh /etc/postgresql/archive", f"WAL_ARCHIVE={archive} sh {script}")
        (folder / "postgresql.conf").write_text(text, encoding="utf-8")
        with Cluster(Path("/var/tmp"), settings=(f"config_file={folder}/postgresql.conf",)) as cluster:  # noqa: S108
            _roles(cluster, installed)
            yield Postgres(cluster, archive)


def _roles(cluster: Cluster, installed: Checkout) -> None:
    done = subprocess.run(
        [STACK / "postgres" / "initdb" / "10-roles.sh"],
        env={
            "PATH": f"{postgres_programs()}:/usr/bin:/bin",
            "SECRETS": str(installed.secrets),
            "PGHOST": LOOPBACK,
            "PGPORT": str(cluster.port),
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # As the image's entry point has it: by password over the network.
    rules = Path(cluster.execute("SHOW hba_file"))
    rules.write_text("host all postgres all trust\nhost all all all scram-sha-256\n", encoding="utf-8")
    cluster.execute("SELECT pg_reload_conf()")


def _asked(postgres: Postgres, role: str, password: str, sql: str) -> tuple[bool, str]:
    done = subprocess.run(
        [postgres_programs() / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, postgres.url(role, password)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode == 0, done.stdout.strip() + done.stderr.strip()


@contextlib.contextmanager
def _folder_for_everybody() -> Generator[Path]:
    # Postgres runs as somebody else, who can't walk through pytest's own folder.
    root = Path(os.environ["METRICA_TEST_DIR"])
    folder = root / f"vps-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# --- all of it --------------------------------------------------------------------------------------------------------


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked: where Loki, Grafana and Gitea would be."""

    def do_GET(self) -> None:
        """Tell."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        said = json.dumps({"path": self.path, "headers": dict(self.headers.items()), "body": body}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_POST(self) -> None:
        """Tell."""
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@dataclass(frozen=True)
class Door:
    """The stack as its callers see it."""

    https: int
    http: int
    figures: int
    authority: str
    trust: ssl.SSLContext
    token: str

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: str | None = None
    ) -> tuple[int, dict[str, str], str]:
        """Ask by https, as a browser far away does."""
        connection = self.connected()
        try:
            connection.request(method, path, body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def connected(self) -> http.client.HTTPSConnection:
        """Return a connection to caddy from another address than its own."""
        connection = http.client.HTTPSConnection(
            LOOPBACK, self.https, timeout=DEADLINE_S, context=self.trust, source_address=(CLIENT, 0)
        )
        raw = socket.create_connection((LOOPBACK, self.https), DEADLINE_S, (CLIENT, 0))
        connection.sock = self.trust.wrap_socket(raw, server_hostname=HOST)
        return connection


@dataclass(frozen=True)
class Ports:
    """Where the broker listens."""

    plain: int
    passwords: int
    certificates: int


@pytest.fixture(scope="module")
def broker(installed: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """The stack's Mosquitto, started as in its container, and again whenever it ends."""
    folder = tmp_path_factory.mktemp("mosquitto")
    ports = Ports(free_port(), free_port(), free_port())
    for name, listeners in {
        "mosquitto.conf": {"listener 1883": ports.plain, "listener 8883": ports.passwords},
        "certificates.conf": {"listener 8884": ports.certificates},
    }.items():
        text = (STACK / "mosquitto" / name).read_text(encoding="utf-8")
        for line, port in listeners.items():
            assert line in text, line
            text = text.replace(line, f"listener {port} {LOOPBACK}")
        for old, new in {
            "/run/secrets/mosquitto_passwords": f"{installed.secrets}/mosquitto_passwords",
            "/run/secrets/broker_certificate": f"{installed.secrets}/broker.crt",
            "/run/secrets/broker_key": f"{installed.secrets}/broker.key",
            "/run/secrets/ca_certificate": f"{installed.secrets}/ca.crt",
            "/mosquitto/config/acl": f"{HOUSE}/mosquitto/acl",
            "/mosquitto/data/": f"{folder}/",
            "/mosquitto/authority": f"{installed.house}/authority",
            "/tmp/listeners": f"{folder}/listeners",  # noqa: S108
        }.items():
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(STACK / "mosquitto" / "denials.awk", folder)
    # As root Mosquitto would become the user `mosquitto`, who may not look into a test's folder.
    with (folder / "mosquitto.conf").open("a", encoding="utf-8") as file:
        file.write("\nuser root\n")
    (installed.house / "authority").mkdir()
    with _as_docker_keeps_it(folder, installed.house / "authority"):
        for port in (ports.plain, ports.passwords):
            _until(lambda port=port: _listens(port))
        yield ports


@contextlib.contextmanager
def _as_docker_keeps_it(folder: Path, authority: Path) -> Generator[None]:
    environment = {
        **os.environ,
        "AUTHORITY": str(authority),
        "CONFIGURATION": str(folder),
        "LISTENERS": f"{folder}/listeners",
        "MOSQUITTO": os.environ["MOSQUITTO_2_0_21"],
    }
    running: list[subprocess.Popen[bytes]] = []
    over = threading.Event()

    def keep() -> None:
        with (folder / "log").open("ab") as log:
            while not over.is_set():
                running[:] = [
                    subprocess.Popen(["sh", STACK / "mosquitto" / "start"], env=environment, stdout=log, stderr=log)
                ]
                running[0].wait()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        while keeper.is_alive():
            running[0].terminate()
            keeper.join(0.2)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


@pytest.fixture(scope="module")
def hub(installed: Checkout, postgres: Postgres, broker: Ports) -> Iterator[Hub]:
    """The real hub: its secrets come from files, as in its container."""
    url = installed.secret("hub_database_url").replace("@postgres:5432/", f"@{LOOPBACK}:{postgres.cluster.port}/")
    file = installed.house / "hub_database_url"
    file.write_text(url, encoding="utf-8")
    overrides = {
        "METRICA_HUB_DATABASE_URL_FILE": str(file),
        "METRICA_HUB_BUS_USERNAME": "hub",
        "METRICA_HUB_BUS_PASSWORD_FILE": str(installed.secrets / "hub_bus_password"),
        "METRICA_HUB_HTTP_ANONYMOUS": "none",
        "METRICA_HUB_HTTP_PROXIES": f'["{LOOPBACK}"]',
        "METRICA_HUB_AUTHORITY_CERTIFICATE_FILE": str(installed.secrets / "ca.crt"),
        "METRICA_HUB_AUTHORITY_KEY_FILE": str(installed.secrets / "ca.key"),
        "METRICA_HUB_AUTHORITY_CRL_FILE": str(installed.house / "authority" / "revoked.pem"),
        "METRICA_HUB_AUTHORITY_BROKER_PORT": str(broker.certificates),
        "METRICA_HUB_ENROLMENT_BUS_HOST": HOST,
        "METRICA_HUB_ENROLMENT_BUS_PORT": str(broker.certificates),
    }
    running = Hub(url, broker.plain, settings=overrides)
    del running.environment["METRICA_HUB_DATABASE_URL"]
    with running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def door(installed: Checkout, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Caddy with the stack's Caddyfile, before the hub and three that tell what they were asked."""
    folder = tmp_path_factory.mktemp("caddy")
    (folder / "docs" / "runbooks" / "MetricaDeviceOffline").mkdir(parents=True)
    (folder / "docs" / "runbooks" / "MetricaDeviceOffline" / "index.html").write_text("what to do", encoding="utf-8")
    https, plain, figures = free_port(), free_port(), free_port()
    behind = ThreadingHTTPServer((LOOPBACK, 0), Echo)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    echo = f"{LOOPBACK}:{behind.server_address[1]}"
    text = (STACK / "caddy" / "Caddyfile").read_text(encoding="utf-8")
    assert "admin localhost:2020" in text
    (folder / "Caddyfile").write_text(text.replace("admin localhost:2020", "admin off"), encoding="utf-8")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "METRICA_HOST": HOST,
        "METRICA_ACME_EMAIL": "internal",
        "METRICA_HTTP_PORT": str(plain),
        "METRICA_HTTPS_PORT": str(https),
        "METRICA_METRICS_PORT": str(figures),
        "METRICA_LOKI_USERS": str(installed.secrets / "caddy_loki_users"),
        "METRICA_DOCS": str(folder / "docs"),
        "METRICA_TO_HUB": f"{LOOPBACK}:{hub.port}",
        "METRICA_TO_LOKI": echo,
        "METRICA_TO_GRAFANA": echo,
        "METRICA_TO_GITEA": echo,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [os.environ["CADDY"], "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"],
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        wait_for_port(https, process, f"caddy (see {folder}/log)")
        root = folder / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        _until(root.exists)
        trust = ssl.create_default_context(cafile=str(root))
        made = Door(https, plain, figures, str(root), trust, hub.token("admin"))
        _until(lambda: _answers(made))
        yield made
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        behind.shutdown()
        behind.server_close()


def _answers(door: Door) -> bool:
    try:
        return door.ask("/healthz", {"Host": HOST})[0] == 200
    except OSError:  # its certificate is being made
        return False


def _until(seen: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + deadline_s
    while not seen():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


# --- what must hold ---------------------------------------------------------------------------------------------------


def test_the_hub_s_file_is_one_that_the_hub_reads(installed: Checkout) -> None:
    environment = {
        "METRICA_HUB_FLEET": "home",
        "METRICA_HUB_GIT_URL_FILE": str(installed.secrets / "hub_git_url"),
        "METRICA_HUB_DATABASE_URL_FILE": str(installed.secrets / "hub_database_url"),
    }
    loaded = settings.load(STACK / "hub" / "hub.toml", environment).settings
    assert loaded.git is not None
    assert loaded.git.url == "https://git.example.org/home/fleet.git"
    assert loaded.database.url.startswith("postgresql://metrica:")
    assert (loaded.bus.host, loaded.bus.username) == ("mosquitto", "hub")


def test_postgres_takes_the_settings_and_has_checksums(postgres: Postgres) -> None:
    # Where to listen is said by the fixture's own command line, which goes before.
    strange = "SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL AND name <> 'listen_addresses'"
    assert postgres.cluster.execute(strange) == ""
    assert postgres.cluster.execute("SHOW shared_buffers") == "384MB"
    assert postgres.cluster.execute("SHOW archive_mode") == "on"


def test_each_role_of_the_database_may_do_its_own(postgres: Postgres, hub: Hub, installed: Checkout) -> None:
    assert hub.get("/readyz").status == 200  # the hub made its tables as metrica
    grafana, exporter = installed.secret("grafana_database_password"), installed.secret("postgres_exporter_password")
    assert _asked(postgres, "grafana", grafana, "SELECT 1") == (True, "1")
    well, said = _asked(postgres, "grafana", grafana, "CREATE TABLE mine (id int)")
    assert not well
    assert "read-only" in said or "permission denied" in said
    assert _asked(postgres, "postgres_exporter", exporter, "SELECT count(*) > 0 FROM pg_stat_activity") == (True, "t")
    assert not _asked(postgres, "grafana", exporter, "SELECT 1")[0]
    roles = postgres.cluster.execute("SELECT rolname FROM pg_roles WHERE rolsuper")
    assert roles == "postgres"


def test_the_log_of_postgres_is_archived_once_somebody_wants_it(postgres: Postgres) -> None:
    def archived() -> int:
        return int(postgres.cluster.execute("SELECT archived_count FROM pg_stat_archiver"))

    def switched() -> str:
        return postgres.cluster.execute("SELECT pg_walfile_name(pg_switch_wal())")

    before = archived()
    postgres.cluster.execute("SELECT pg_logical_emit_message(true, 'test', 'a')")
    switched()
    _until(lambda: archived() > before)
    # Nobody fetches: what would only fill the disk is let go.
    assert list(postgres.archive.iterdir()) == []
    (postgres.archive / "wanted").touch()
    postgres.cluster.execute("SELECT pg_logical_emit_message(true, 'test', 'b')")
    name = switched()
    _until((postgres.archive / name).exists)
    assert (postgres.archive / name).stat().st_size == 16 * 1024 * 1024
    script = [*("sh", STACK / "postgres" / "archive"), str(postgres.archive / "wanted"), name]
    other = subprocess.run(script, env={"PATH": "/usr/bin:/bin", "WAL_ARCHIVE": str(postgres.archive)}, check=False)
    assert other.returncode != 0, "another content under the same name was taken"
    assert not list(postgres.archive.glob(".*"))


def test_the_broker_s_health_is_asked_of_the_broker(broker: Ports, installed: Checkout) -> None:
    def asked(password: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", STACK / "mosquitto" / "healthy"],
            env={"PATH": os.environ["PATH"], "PORT": str(broker.plain), "HUB_BUS_PASSWORD_FILE": str(password)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def well() -> tuple[int, str]:
        done = asked(installed.secrets / "hub_bus_password")
        return done.returncode, done.stderr

    _until(lambda: well() == (0, ""))  # it may only be starting, for the list of revoked certificates
    assert asked(installed.secrets / "operator_bus_password").returncode != 0


def test_a_device_comes_in_by_tls_with_a_password_of_its_own_and_not_without(
    broker: Ports, installed: Checkout
) -> None:
    made = subprocess.run(
        [installed.stack / "mosquitto" / "password", "pi-01"], capture_output=True, text=True, check=True
    )
    password = made.stdout.strip()
    assert password
    assert password not in installed.secret("mosquitto_passwords")
    lines = [line.partition(":")[0] for line in installed.secret("mosquitto_passwords").splitlines()]
    assert lines == ["hub", "operator", "pi-01"]
    _hang_up(broker)

    def told(*words: str) -> int:
        # Without a look at the name: it is that of the example, and this machine has another.
        return subprocess.run(
            [
                *("mosquitto_pub", "-h", LOOPBACK, "-p", str(broker.passwords), "-i", "test", "-q", "1", "-m", "x"),
                *("-t", "metrica/v1/home/devices/pi-01/status", "--insecure", *words),
            ],
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        ).returncode

    authority = ("--cafile", str(installed.secrets / "ca.crt"))
    _until(lambda: told(*authority, "-u", "pi-01", "-P", password) == 0)
    assert told(*authority, "-u", "pi-01", "-P", "wrong") != 0
    assert told(*authority) != 0
    gone = subprocess.run([installed.stack / "mosquitto" / "password", "pi-01", "--remove"], check=False)
    assert gone.returncode == 0
    assert "pi-01" not in installed.secret("mosquitto_passwords")


def test_a_device_is_let_in_by_a_certificate_and_locked_out_when_that_is_taken_back(
    hub: Hub, broker: Ports, tmp_path: Path
) -> None:
    operator = hub.token("operator")

    def asked(path: str, body: Mapping[str, str]) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        answer = hub.get(f"/api/v1/devices/pi-02/{path}", headers, "POST", json.dumps(body), token=operator)
        assert answer.status in {200, 201, 202}, answer
        return cast("dict[str, str]", answer.json)

    address = Address.of(f"http://{LOOPBACK}:{hub.port}", pin=None, plain=False)
    known = enrolled(tmp_path / "identity", address, asked("enrolment", {})["token"])
    assert (known.bus.host, known.bus.port) == (HOST, broker.certificates)
    pair = tmp_path / "identity"

    def told() -> bool:
        done = subprocess.run(
            [
                *("mosquitto_pub", "-h", LOOPBACK, "-p", str(broker.certificates), "-i", "x", "-q", "1", "-m", "x"),
                *("-t", f"metrica/v1/{FLEET}/devices/pi-02/status", "--cafile", str(pair / "ca.crt")),
                # Without a look at the broker's name: it is that of the example, and this machine has another.
                *("--cert", str(pair / "device.crt"), "--key", str(pair / "device.key"), "--insecure"),
            ],
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return done.returncode == 0

    _until(told)
    asked("revocation", {"reason": "the card was stolen"})
    _until(lambda: not told())


def _hang_up(broker: Ports) -> None:
    # What `docker compose exec mosquitto kill -HUP 1` does.
    def listens() -> str:
        asked = ["ss", "-Hltnp", f"sport = :{broker.plain}"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        return said.partition("pid=")[2].partition(",")[0]

    _until(lambda: bool(listens()))  # it may only be starting
    os.kill(int(listens()), 1)


def test_the_hub_s_health_is_asked_of_the_hub(hub: Hub) -> None:
    def asked(port: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, STACK / "hub" / "healthy"],
            env={**os.environ, "METRICA_HUB_HTTP_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    _until(lambda: asked(hub.port).stdout == "ready\n")  # it may only be connecting
    assert asked(free_port()).returncode == 1


def test_plain_http_leads_to_https(door: Door) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, door.http, timeout=DEADLINE_S)
    connection.request("GET", "/devices/pi-01", headers={"Host": HOST})
    answer = connection.getresponse()
    assert answer.status == 308
    assert (answer.getheader("Location") or "").endswith("/devices/pi-01")
    assert (answer.getheader("Location") or "").startswith(f"https://{HOST}")
    connection.close()


def test_the_hub_is_at_the_root_with_the_headers_that_guard_a_browser(door: Door) -> None:
    status, headers, _ = door.ask("/login", {"Host": HOST})
    assert status == 200
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "default-src" in headers["content-security-policy"]
    assert "server" not in headers
    assert "via" not in headers


@pytest.mark.parametrize("path", ["/grafana/", "/git/", "/docs/runbooks/MetricaDeviceOffline/"])
def test_what_says_nothing_of_a_browser_s_guards_is_given_them(door: Door, path: str) -> None:
    status, headers, _ = door.ask(path, {"Host": HOST})
    assert status == 200
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["content-security-policy"] == "base-uri 'self'; frame-ancestors 'self'; object-src 'none'"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["permissions-policy"].startswith("camera=()")
    assert headers["referrer-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "SAMEORIGIN"


def test_nothing_older_than_tls_1_3_is_spoken_at_the_door(door: Door) -> None:
    with contextlib.closing(door.connected()) as connection:
        assert cast("ssl.SSLSocket", connection.sock).version() == "TLSv1.3"
    old = ssl.create_default_context(cafile=door.authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((LOOPBACK, door.https), DEADLINE_S) as raw,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
        old.wrap_socket(raw, server_hostname=HOST),
    ):
        pass


def test_the_hub_hears_who_asks_and_not_what_he_says_of_himself(door: Door) -> None:
    shown = {"Host": HOST, "Authorization": f"Bearer {door.token}", "Content-Type": "application/json"}
    forged = {**shown, "X-Forwarded-For": "203.0.113.9"}
    made = door.ask("/api/v1/tokens", forged, "POST", '{"name": "made", "role": "viewer"}')
    assert made[0] == 201, made[2]
    trail = json.loads(door.ask("/api/v1/audit", shown)[2])["items"]
    remotes = {entry["remote"] for entry in trail if entry["subject"] == "token/made"}
    assert remotes == {CLIENT}


def test_a_browser_can_sign_in_over_the_proxy(door: Door) -> None:
    page = door.ask("/login", {"Host": HOST})
    assert page[0] == 200
    status, headers, _ = door.ask(
        "/login",
        {"Host": HOST, "Content-Type": "application/x-www-form-urlencoded", "Origin": f"https://{HOST}"},
        "POST",
        f"token={door.token}",
    )
    assert status == 303, headers
    assert "__Host-metrica=" in headers["set-cookie"]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_live_view_is_not_held_back(door: Door, encoding: str) -> None:
    connection = door.connected()
    connection.request(
        "GET",
        "/api/v1/events/stream",
        headers={"Host": HOST, "Authorization": f"Bearer {door.token}", "Accept-Encoding": encoding},
    )
    answer = connection.getresponse()
    assert answer.status == 200
    # The stream goes on for ever: whoever waits for its end, or for a full buffer, waits in vain.
    assert answer.read1(4096)
    connection.close()


def test_logs_are_taken_from_who_has_the_password_and_shown_to_nobody(door: Door, installed: Checkout) -> None:
    push = "/loki/api/v1/push"
    good = _basic("devices", installed.secret("loki_push_password"))
    assert door.ask(push, {"Host": HOST}, "POST", "{}")[0] == 401
    assert door.ask(push, {"Host": HOST, "Authorization": _basic("devices", "guess")}, "POST", "{}")[0] == 401
    status, _, body = door.ask(push, {"Host": HOST, "Authorization": good}, "POST", '{"streams": []}')
    assert status == 200
    seen = json.loads(body)
    assert (seen["path"], seen["body"]) == (push, '{"streams": []}')
    assert "Authorization" not in seen["headers"]
    assert door.ask("/loki/api/v1/query_range?query=x", {"Host": HOST, "Authorization": good})[0] == 404
    assert door.ask("/loki/api/v1/push/..%2fquery", {"Host": HOST, "Authorization": good})[0] == 404
    too_much = door.ask(push, {"Host": HOST, "Authorization": good}, "POST", "x" * (9 * 1024 * 1024))[0]
    assert too_much in {413, 502}


def test_grafana_keeps_its_path_and_gitea_is_given_its_own(door: Door) -> None:
    grafana = json.loads(door.ask("/grafana/d/metrica-fleet", {"Host": HOST})[2])
    assert grafana["path"] == "/grafana/d/metrica-fleet"
    assert grafana["headers"]["X-Forwarded-For"] == CLIENT
    gitea = json.loads(door.ask("/git/metrica/fleet.git/info/refs?service=git-upload-pack", {"Host": HOST})[2])
    assert gitea["path"] == "/metrica/fleet.git/info/refs?service=git-upload-pack"
    assert gitea["headers"]["X-Real-Ip"] == CLIENT
    assert door.ask("/git/metrics", {"Host": HOST})[0] == 404
    for path in ("/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics"):
        assert "metrica_hub_" not in str(door.ask(path, {"Host": HOST})), path


def test_a_runbook_is_where_an_alert_leads(door: Door) -> None:
    status, headers, _ = door.ask("/docs/runbooks/MetricaDeviceOffline", {"Host": HOST})
    assert status == 308
    assert (
        door.ask(urljoin("/docs/runbooks/MetricaDeviceOffline", headers["location"]), {"Host": HOST})[2] == "what to do"
    )
    assert door.ask("/docs/../Caddyfile", {"Host": HOST})[0] in {400, 404, 401, 303}


def test_caddy_s_figures_are_for_prometheus(door: Door) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, door.figures, timeout=DEADLINE_S)
    connection.request("GET", "/metrics", headers={"Host": "caddy:2019"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert b"caddy_http_requests_total" in answer.read()
    connection.close()


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
