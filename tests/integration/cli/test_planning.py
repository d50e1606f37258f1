"""``metrica plan`` and ``diff``, with the real Git and the real Compose; no engine is asked."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
from tests.integration.hub.device import Device, status
from tests.integration.hub.waiting import until

from metrica_cli.main import main
from metrica_fleet.records import Vitals

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.fixtures.hub import Hub

COMPOSE = """\
services:
  web:
    image: busybox:1
    volumes: ["./site:/srv:ro", "${METRICA_DATA}/log:/log"]
  db:
    image: busybox:1
    environment: {WHO: "${WHO}"}
"""


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A fleet repository that is a folder of another one, with one commit."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    folder = tmp_path / "our fleet"
    files = {
        ".gitignore": "*.swp\n",
        "fleet.toml": 'name = "test"\n',
        "devices/pi-01.toml": 'role = "web"\n[vars]\nWHO = "one"\n',
        "devices/pi-02.toml": 'role = "web"\n[vars]\nWHO = "two"\n',
        "roles/web/compose.yaml": COMPOSE,
        "roles/web/site/index.html": "hello\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return folder


def planned(fleet: Path, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """Return what would be done by each device."""
    capsys.readouterr()
    assert main(["plan", "--all", "-C", str(fleet), "-o", "jsonl", *arguments]) == code
    items = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {item["device"]: item for item in items}


def test_a_change_is_told_by_what_restarts_and_the_checkout_is_left_alone(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {one["change"] for one in planned(fleet, capsys).values()} == {"none"}
    (fleet / "roles/web/site/index.html").write_text("good day\n")
    (fleet / "roles/web/site/.index.swp").write_text("no part of it")
    (fleet / "devices/pi-02.toml").write_text('role = "web"\n[vars]\nWHO = "three"\n')
    (fleet / "devices/pi-03.toml").write_text('role = "web"\n[vars]\nWHO = "new"\n')
    before = (git(fleet, "status", "--porcelain"), git(fleet, "count-objects"))
    found = planned(fleet, capsys)
    assert [found[name]["restarts"] for name in ("pi-01", "pi-02", "pi-03")] == [["web"], ["db", "web"], []]
    assert (found["pi-03"]["change"], found["pi-03"]["starts"]) == ("new", ["db", "web"])
    assert (git(fleet, "status", "--porcelain"), git(fleet, "count-objects")) == before


def test_a_device_is_compared_between_two_commits(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fleet / "roles/web/compose.yaml").write_text(COMPOSE.partition("  db:")[0].replace("busybox:1", "busybox:2"))
    git(fleet, "commit", "--quiet", "--all", "--message", "second")
    assert {one["change"] for one in planned(fleet, capsys).values()} == {"none"}
    [one] = planned(fleet, capsys, "pi-01", "--since", "HEAD~1", "--to", "HEAD").values()
    assert (one["restarts"], one["removes"], one["images"]) == (["web"], ["db"], ["busybox:2"])
    assert main(["diff", "pi-01", "-C", str(fleet), "--since", "HEAD~1", "--color", "never"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert '+        "image": "busybox:2",' in lines
    assert main(["diff", "pi-01", "-C", str(fleet)]) == 0
    assert capsys.readouterr().out == ""
    (fleet / "devices/pi-01.toml").write_text('rol = "web"\n')
    assert main(["diff", "pi-01", "-C", str(fleet)]) == 1
    assert capsys.readouterr().err.startswith("error: pi-01 would refuse it: ")


def test_a_secret_restarts_its_readers_on_the_devices_that_it_is_for_and_one_that_is_missing_is_said(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = COMPOSE.replace('"./site:/srv:ro"', '"./site:/srv:ro", "${METRICA_SECRETS}/wifi:/wifi:ro"')
    (fleet / "roles/web/compose.yaml").write_text(reading)
    assert {one["reason"] for one in planned(fleet, capsys, code=1).values()} == {"secret-missing"}
    for number in (1, 2):
        key = pyrage.x25519.Identity.generate().to_public()
        (fleet / f"devices/pi-0{number}.toml").write_text(f'role = "web"\nage = "{key}"\n[vars]\nWHO = "x"\n')
        (fleet / "value").write_text("hunter2")
        assert main(["secret", "set", "wifi", "--role", "web", "-C", str(fleet), "--file", str(fleet / "value")]) == 0
    (fleet / "value").unlink()
    git(fleet, "add", "--all")
    git(fleet, "commit", "--quiet", "--message", "reads a secret")
    (fleet / "value").write_text("another")
    main(["secret", "set", "wifi", "--device", "pi-02", "-C", str(fleet), "--file", str(fleet / "value")])
    found = planned(fleet, capsys)
    assert {name: one["restarts"] for name, one in found.items()} == {"pi-01": [], "pi-02": ["web"]}

    # Sealed anew: who has a key sees that nothing has changed.
    (fleet / "secrets/devices/pi-02/wifi.age").unlink()
    assert main(["secret", "key", "--identity", str(tmp_path / "mine.age")]) == 0
    operators = capsys.readouterr().out
    (fleet / "fleet.toml").write_text(f'name = "test"\n{operators}')
    (fleet / "value").write_text("hunter2")
    main(["secret", "set", "wifi", "--role", "web", "-C", str(fleet), "--file", str(fleet / "value")])
    git(fleet, "add", "--all")
    git(fleet, "commit", "--quiet", "--message", "operators")
    assert main(["secret", "rekey", "--all", "-C", str(fleet), "--identity", str(tmp_path / "mine.age")]) == 0
    assert {one["change"] for one in planned(fleet, capsys).values()} == {"changed"}
    monkeypatch.setenv("METRICA_AGE_IDENTITY", str(tmp_path / "mine.age"))
    assert {one["change"] for one in planned(fleet, capsys).values()} == {"none"}


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("roles/web/compose.yaml", COMPOSE.replace("./site", "./sight"), "bind-source-missing"),
        ("roles/web/compose.yaml", COMPOSE.replace(":ro", ""), "bind-writable"),
        ("roles/web/compose.yaml", COMPOSE + "    env_file: ../../fleet.toml\n", "reads-outside"),
        ("roles/web/compose.yaml", COMPOSE.replace("${WHO}", "${WHOM}"), "variable-unset"),
        ("roles/web/role.toml", "[services.cache]\nlock_patience_s = 5\n", "unknown-service"),
        ("devices/pi-01.toml", 'rol = "web"\n', "unknown-key"),
        ("roles/web/SITE/index.html", "x", "case-collision"),
    ],
)
def test_what_a_device_would_refuse_is_said_before_it_is_pushed(
    file: str, content: str, reason: str, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fleet / file).parent.mkdir(exist_ok=True)
    (fleet / file).write_text(content)
    [one] = planned(fleet, capsys, "pi-01", code=1).values()
    assert (one["change"], one["reason"]) == ("refused", reason)


def test_what_can_not_be_planned_is_said(fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, told in [
        (["pi-99", "-C", str(fleet)], 5, 'the repository has no device "pi-99"'),
        (["-C", str(fleet), "--since", "v41"], 5, 'there is no commit "v41"'),
        (["-C", str(fleet), "--since=--all"], 5, 'there is no commit "--all"'),
        (["-C", str(tmp_path.parent)], 2, f"{tmp_path.parent} is no Git checkout"),
        (["-C", str(tmp_path / "nowhere")], 2, "is no folder"),
    ]:
        assert main(["plan", *arguments]) == code
        assert told in capsys.readouterr().err


def test_before_the_first_commit_everything_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "fleet.toml").write_text('name = "test"\n')
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "pi-01.toml").write_text('role = "web"\n')
    (tmp_path / "roles" / "web").mkdir(parents=True)
    (tmp_path / "roles" / "web" / "compose.yaml").write_text("services: {web: {image: busybox}}\n")
    assert planned(tmp_path, capsys)["pi-01"]["change"] == "new"


def test_registries_say_what_there_is_to_download_and_for_which_machines(
    fleet: Path, registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    push(registry, "1", {"arm64": [b"base"]})
    push(registry, "2", {"amd64": [b"base"], "arm64": [b"base", b"x" * 50]})
    push(registry, "3", {"amd64": [b"base"]})
    compose = fleet / "roles/web/compose.yaml"
    compose.write_text(COMPOSE.replace("busybox:1", f"{registry}/app:1"))
    git(fleet, "commit", "--quiet", "--all", "--message", "our registry")
    for tag, code, expected in (
        ("2", 0, ("changed", 50, "")),
        ("3", 1, ("refused", None, f"{registry}/app:3 is for amd64, not for arm64")),
        ("4", 0, ("changed", None, f"{registry}/app:4: its registry has no such image, or needs a docker login")),
    ):
        compose.write_text(COMPOSE.replace("busybox:1", f"{registry}/app:{tag}"))
        [one] = planned(fleet, capsys, "pi-01", "--images", code=code).values()
        assert (one["change"], one["download_bytes"], one["message"]) == expected


async def test_what_the_hub_knows_is_compared_with_and_what_does_not_fit_on_a_disk_is_said(
    fleet: Path,
    registry: str,
    hub: Hub,
    broker: Broker,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One device is a commit behind, and has more room than the other."""
    push(registry, "1", {"arm64": [b"base"]})
    push(registry, "2", {"arm64": [b"base", b"x" * 50]})
    commits: list[str] = []
    for tag in ("1", "2"):
        (fleet / "roles/web/compose.yaml").write_text(COMPOSE.replace("busybox:1", f"{registry}/app:{tag}"))
        git(fleet, "commit", "--quiet", "--all", "--message", tag)
        commits.append(git(fleet, "rev-parse", "HEAD").strip())
    (fleet / "roles/web/site/index.html").write_text("good day\n")
    monkeypatch.setenv("METRICA_HUB_URL", f"http://127.0.0.1:{hub.port}")

    async def runs(name: str, commit: str, free_bytes: int, uptime_s: float = 1.0) -> None:
        async with Device(name, broker.port) as device:
            await device.is_present("online", 1)
            vitals = Vitals(disk_total_bytes=1000, disk_free_bytes=free_bytes)
            await device.has_status(status(name, commit=commit, vitals=vitals, uptime_s=uptime_s))

    await runs("pi-01", commits[0], 49)
    await runs("pi-02", commits[1], 49)
    await until(lambda: len(hub.get("/api/v1/devices").json["items"]) == 2)

    def asked(code: int) -> dict[str, Any]:
        return planned(fleet, capsys, "--installed", "--images", code=code)

    found = await asyncio.to_thread(asked, 1)
    behind, newest = found["pi-01"], found["pi-02"]
    assert (behind["restarts"], behind["download_bytes"], behind["free_bytes"]) == (["db", "web"], 50, 49)
    assert (behind["reason"], behind["message"]) == ("disk-full", "it does not fit: 50 bytes to download, 49 free")
    assert (newest["restarts"], newest["download_bytes"], newest["reason"]) == (["web"], None, None)
    await runs("pi-01", commits[0], 500, uptime_s=2.0)
    await until(lambda: hub.get("/api/v1/devices/pi-01").json["vitals"]["disk_free_bytes"] == 500)
    assert (await asyncio.to_thread(asked, 0))["pi-01"]["reason"] is None


def push(registry: str, tag: str, layers: dict[str, list[bytes]]) -> None:
    """Put an image of these layers, by architecture, into a registry; no engine is needed."""
    kind = "application/vnd.docker.distribution.manifest"
    listed: list[dict[str, Any]] = []
    for architecture, contents in layers.items():
        config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
        image = {"schemaVersion": 2, "mediaType": f"{kind}.v2+json", "config": blob(registry, config)}
        data = json.dumps({**image, "layers": [blob(registry, content) for content in contents]}).encode()
        digest = f"sha256:{sha256(data).hexdigest()}"
        asked(registry, "PUT", f"/v2/app/manifests/{digest}", data, f"{kind}.v2+json")
        platform = {"architecture": architecture, "os": "linux"}
        listed.append({"mediaType": f"{kind}.v2+json", "size": len(data), "digest": digest, "platform": platform})
    index = {"schemaVersion": 2, "mediaType": f"{kind}.list.v2+json", "manifests": listed}
    asked(registry, "PUT", f"/v2/app/manifests/{tag}", json.dumps(index).encode(), f"{kind}.list.v2+json")


def blob(registry: str, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{sha256(data).hexdigest()}"
    where = asked(registry, "POST", "/v2/app/blobs/uploads/", b"", "").partition(registry)[2]
    asked(registry, "PUT", f"{where}&digest={digest}", data, "application/octet-stream")
    return {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": len(data), "digest": digest}


def asked(registry: str, method: str, path: str, data: bytes, kind: str) -> str:
    """Return where the registry says that it is."""
    connection = http.client.HTTPConnection(registry)
    try:
        connection.request(method, path, data, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        assert answer.status in {201, 202}, answer.read()
        return answer.getheader("Location", "")
    finally:
        connection.close()
