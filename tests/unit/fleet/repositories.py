"""Fleet repositories for tests."""

from __future__ import annotations

GOOD: dict[str, bytes] = {
    "README.md": b"# ours\n",
    "fleet.toml": b"""\
name = "harbour"

[health]
soak_s = 30
restarts_allowed = 1

[limits]
release_files = 500
""",
    "devices/pi-01.toml": b"""\
role = "camera"
tags = ["north", "canary"]

[vars]
PORT = 8080
VERSION = 1.10
FLAG = true
PLACE = "platform 2"
""",
    "devices/pi-02.toml": b'role = "sensor"\n',
    "devices/README.md": b"notes",
    "roles/camera/compose.yaml": b"services: {}\n",
    "roles/camera/site/index.html": b"<h1>",
    "roles/camera/role.toml": b"""\
[health]
start_deadline_s = 200.5

[[checks]]
type = "http"
name = "page"
url = "http://127.0.0.1:8080/"

[[checks]]
type = "tcp"
name = "port"
port = 8080

[[checks]]
type = "command"
name = "inside"
service = "web"
command = [
  "sh", "-c",
  "true",
]
""",
    "roles/sensor/compose.yaml": b"services: {}\n",
}


def changed(**changes: str | bytes | None) -> dict[str, bytes]:
    """Return the good repository with the files that ``changes`` names by a nickname replaced, or left out."""
    nicknames = {
        "fleet": "fleet.toml",
        "pi01": "devices/pi-01.toml",
        "camera": "roles/camera/role.toml",
        "compose": "roles/camera/compose.yaml",
    }
    files = dict(GOOD)
    for nickname, content in changes.items():
        path = nicknames[nickname]
        del files[path]
        if content is not None:
            files[path] = content.encode() if isinstance(content, str) else content
    return files
