"""``scripts/install-agent``: the flags, and the order of it all."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from device_installer import steps
from device_installer.answers import Refused
from device_installer.machine import LOG, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from device_installer.steps import Change, Work

STEPS: Final[tuple[tuple[str, Callable[[Work], Change | None]], ...]] = (
    ("Debian packages", steps.packages),
    ("Docker", steps.docker),
    ("Docker Compose", steps.compose),
    ("Docker's log limits", steps.docker_limits),
    ("journal", steps.journal),
    ("hardware watchdog", steps.watchdog),
    ("memory cgroup", steps.memory_cgroup),
    ("agent", steps.agent),
    ("launcher", steps.launcher),
    ("identity", steps.identity),
    ("settings", steps.settings),
    ("secrets", steps.secrets),
    ("service", steps.service),
    ("Netdata", steps.netdata),
    ("logs", steps.logs),
)


def main(arguments: Sequence[str]) -> int:
    """Do what was asked; return 0 when it was done, 1 when it was refused."""
    flags = _parser().parse_args(arguments)
    house = Path(__file__).resolve().parents[3]
    work = steps.Work(
        machine=Machine(may_refresh=not flags.check), flags=flags, house=house, may_ask=sys.stdin.isatty()
    )
    try:
        if flags.uninstall:
            _uninstall(work)
        else:
            _install(work)
    except Refused as error:
        print(f"✘ {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("✘ Stopped by hand: run it again, it goes on from here.", file=sys.stderr)
        return 1
    return 0


def _install(work: Work) -> None:
    steps.require_a_device(work)
    changes = 0
    for name, look in STEPS:
        if (change := look(work)) is None:
            print(f"= {name}")
            continue
        changes += 1
        if work.flags.check:
            print(f"→ {name}: would be done: {change.says}")
        else:
            started = time.monotonic()
            change.make()
            print(f"✔ {change.says} ({time.monotonic() - started:.1f} s)", flush=True)
        if change.then:
            work.notes.append(change.then)
    _say_what_is_next(work, changes)


def _say_what_is_next(work: Work, changes: int) -> None:
    did = "would be changed" if work.flags.check else "changed"
    print(f"\n{changes} of {len(STEPS)} steps {did}." if changes else "\nNothing had to be changed.")
    for note in dict.fromkeys(work.notes):
        print(f"! {note}")
    if not work.flags.check:
        print(
            "Next: /opt/metrica/launcher.py check says what is wrong, if anything is;\n"
            "      journalctl -fu metrica-agent shows it work; docs/how-to/device.md says the rest."
        )


def _uninstall(work: Work) -> None:
    """Take away what makes this machine a device of the fleet, and nothing that holds data."""
    machine = work.machine
    if steps.agent_is_packaged(work):
        raise Refused("The agent is the package metrica-agent: apt-get remove metrica-agent takes it away.")
    if machine.text(steps.UNIT) is not None:
        machine.run("systemctl", "disable", *(["--now"] if machine.booted else []), steps.UNIT.name)
    if machine.text(steps.SECRETS_UNIT) is not None:
        machine.run("systemctl", "disable", steps.SECRETS_UNIT.name)
    ours = [
        steps.UNIT,
        steps.SECRETS_UNIT,
        steps.AGENT,
        steps.LAUNCHER,
        steps.VERSIONS,
        steps.SYSTEMD / "journald.conf.d/50-metrica-journal.conf",
        steps.SYSTEMD / "system.conf.d/50-metrica-watchdog.conf",
        *(steps.SYSTEMD / f"system/{one}.service.d/50-metrica.conf" for one in ("netdata", "alloy", "fluent-bit")),
    ]
    for path in ours:
        if path.is_symlink() or path.exists():
            machine.remove(path)
            print(f"✔ {path} is gone")
    if machine.booted:
        machine.run("systemctl", "daemon-reload")
    print(
        "The workloads still run, and these stay: /etc/metrica, /var/lib/metrica (ledger, releases, data of the\n"
        f"workloads), Docker, Netdata, the log shipper, /boot/firmware/cmdline.txt, {LOG}.\n"
        "docs/how-to/device.md says how to remove them."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="install-agent",
        description="Makes this machine a device of a fleet: agent, Docker, limits, watchdog, Netdata, logs. "
        "Run again, it changes only what is not as it should be. What no flag says is asked for.",
        allow_abbrev=False,
    )
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    parser.add_argument("--no-start", action="store_true", help="install, and start nothing: for a card that is copied")
    parser.add_argument("--uninstall", action="store_true", help="take the agent away; data and settings stay")
    line = parser.add_argument_group("the line that metrica device add prints: it says all about this device")
    line.add_argument("--enrol", metavar="URL", help="the hub that lets this device in")
    line.add_argument("--token", metavar="TOKEN", help="good once, for this device")
    line.add_argument(
        "--pin", metavar="FINGERPRINT", help="sha256: of the hub's certificate, where it is not trusted here"
    )
    line.add_argument("--plain", action="store_true", help="by http, over a network that is trusted")
    own = parser.add_argument_group(
        "this device (only for the first time: /etc/metrica/agent.toml is never written over)"
    )
    own.add_argument("--fleet", metavar="NAME")
    own.add_argument("--device", metavar="NAME", help="its file in the fleet repository: devices/NAME.toml")
    own.add_argument("--git", action="append", metavar="URL", help="the fleet repository; again for a second remote")
    own.add_argument("--branch", metavar="NAME", help="default: what the hub says that enrols, else main")
    own.add_argument("--bus-host", metavar="HOST", help="the MQTT broker")
    own.add_argument("--bus-port", type=int, metavar="PORT", help="default: 8883 with --bus-ca, else 1883")
    own.add_argument("--bus-username", metavar="NAME", help="default: the device's name")
    own.add_argument("--bus-password-file", metavar="FILE")
    own.add_argument("--bus-ca", metavar="FILE", help="the authority that signed the broker's certificate: TLS")
    parts = parser.add_argument_group("beside the agent")
    parts.add_argument("--wheels", metavar="FOLDER", help="take Python packages from here, and ask no index")
    parts.add_argument("--no-netdata", action="store_true")
    parts.add_argument(
        "--metrics-address",
        action="append",
        metavar="ADDRESS",
        help="where Netdata answers; default: the VPN's address",
    )
    parts.add_argument(
        "--logs", choices=("alloy", "fluent-bit", "none"), help="default: by the memory, Alloy from 2 GB on"
    )
    parts.add_argument("--loki", metavar="URL", help="where logs go: https://HOST/loki/api/v1/push")
    parts.add_argument("--loki-user", default="devices", metavar="NAME", help="default: %(default)s")
    parts.add_argument("--loki-password-file", metavar="FILE")
    parts.add_argument("--role", default="none", metavar="NAME", help="the role that logs are labelled with")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
