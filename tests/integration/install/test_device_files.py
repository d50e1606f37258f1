"""The files that scripts/install-agent puts on a device, by what can be had here.

systemd reads its own and the journal's. Alloy and Fluent Bit are in no registry that tests reach: their files are held
to the labels that dashboards ask for, and Fluent Bit's to YAML; neither program has read its file here. Netdata reads
its own, and everything is installed for real, in ./scripts/rehearse agent.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

HOUSE: Final = Path(__file__).parents[3]
DEVICE: Final = HOUSE / "stack/device"
LABELS: Final = {"fleet", "device", "role", "job", "unit", "level", "service", "stream"}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("unit", "program"),
    [("netdata", "/usr/sbin/netdata"), ("alloy", "/usr/bin/alloy"), ("fluent-bit", "/opt/fluent-bit/bin/fluent-bit")],
)
def test_systemd_understands_every_line_of_a_drop_in(tmp_path: Path, unit: str, program: str) -> None:
    # Beside a unit as the package has it, whose program is not here.
    (tmp_path / f"{unit}.service").write_text(
        f"[Service]\nExecStart={program} -D\n[Install]\nWantedBy=multi-user.target\n"
    )
    folder = tmp_path / f"{unit}.service.d"
    folder.mkdir()
    text = (DEVICE / unit / "50-metrica.conf").read_text()
    (folder / "50-metrica.conf").write_text(text)
    said = run("systemd-analyze", "verify", tmp_path / f"{unit}.service").stderr
    missing = f"Command {program} is not executable: No such file or directory"
    assert [line for line in said.splitlines() if missing not in line] == []
    assert "MemoryMax=" in text
    assert "StartLimitIntervalSec=0" in text  # nobody can reach the site


def test_secrets_are_opened_before_the_engine_starts_by_a_unit_that_keeps_it_from_nothing(tmp_path: Path) -> None:
    program = tmp_path / "metrica-agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (DEVICE / "metrica-secrets.service").read_text()
    unit = tmp_path / "metrica-secrets.service"
    unit.write_text(text.replace("/opt/metrica/agent/bin/metrica-agent", str(program)))
    verified = run("systemd-analyze", "verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "\nBefore=docker.service\n" in text
    assert "\nWantedBy=docker.service\n" in text  # and not RequiredBy: one damaged secret must not stop the rest
    # The folder in memory outlives the two units that write to it: containers mount what is in it.
    for one in (text, (DEVICE / "metrica-agent.service").read_text()):
        assert {"RuntimeDirectory=metrica", "RuntimeDirectoryPreserve=yes"} <= set(one.splitlines())


def test_systemd_understands_the_limits_of_the_journal(tmp_path: Path) -> None:
    root = tmp_path / "etc/systemd/journald.conf.d"
    root.mkdir(parents=True)
    (root / "50-metrica-journal.conf").write_text((DEVICE / "50-metrica-journal.conf").read_text())
    known = run("systemd-analyze", f"--root={tmp_path}", "cat-config", "systemd/journald.conf")
    assert "SystemMaxUse=200M" in known.stdout, known.stderr
    manual = {"Storage", "SystemMaxUse", "SystemKeepFree", "SystemMaxFileSize", "RuntimeMaxUse", "MaxRetentionSec"}
    manual |= {"RateLimitIntervalSec", "RateLimitBurst"}
    assert set(re.findall(r"(?m)^(\w+)=", known.stdout)) == manual


def test_both_shippers_set_the_same_labels() -> None:
    alloy = (DEVICE / "alloy/config.alloy").read_text()
    external = re.search(r"external_labels = \{(.*?)\}", alloy, re.DOTALL)
    assert external is not None
    set_by_alloy = {
        *re.findall(r"(\w+) +=", external[1]),
        *re.findall(r'target_label  = "(\w+)"', alloy),
        *re.findall(r'job += "(\w+)"', alloy),
        *re.findall(r"stage\.labels \{\s+values = \{(\w+) = ", alloy),
    } - {"journal", "containers"} | {"job"}
    assert set_by_alloy | {"stream"} == LABELS  # stage.docker sets it
    assert "stage.docker { }" in alloy
    outputs: list[dict[str, Any]] = yaml.safe_load((DEVICE / "fluent-bit/fluent-bit.yaml").read_text())["pipeline"][
        "outputs"
    ]
    set_by_fluent_bit = {pair.split("=")[0].strip() for one in outputs for pair in one["labels"].split(",")}
    assert set_by_fluent_bit == LABELS
    for job in ("journal", "containers"):
        assert f'job = "{job}"' in alloy
        assert any(f"job={job}" in one["labels"] for one in outputs)


def test_what_a_shipper_keeps_while_loki_is_away_is_bounded() -> None:
    told: dict[str, Any] = yaml.safe_load((DEVICE / "fluent-bit/fluent-bit.yaml").read_text())
    assert all(one["storage.total_limit_size"].endswith("M") for one in told["pipeline"]["outputs"])
    assert all(one["storage.type"] == "filesystem" for one in told["pipeline"]["inputs"])
    assert all(one["retry_limit"] == "no_limits" for one in told["pipeline"]["outputs"])
    alloy = (DEVICE / "alloy/config.alloy").read_text()
    assert "max_backoff_retries = 0" in alloy  # it reads no further, and the journal is bounded
    assert re.findall(r"(?m)^ *[{}()]", alloy)
    for opening, closing in ("{}", "()", "[]"):
        assert alloy.count(opening) == alloy.count(closing)


def test_every_variable_of_a_shipper_is_one_that_the_installer_writes() -> None:
    from device_installer.edits import shipper_environment  # noqa: PLC0415 - only here

    written = shipper_environment(fleet="f", device="d", role="r", loki="https://h", user="u", password="p")
    names = set(re.findall(r"(?m)^(\w+)=", written))
    alloy = set(re.findall(r'sys\.env\("(\w+)"\)', (DEVICE / "alloy/config.alloy").read_text()))
    fluent_bit = set(re.findall(r"\$\{(\w+)\}", (DEVICE / "fluent-bit/fluent-bit.yaml").read_text()))
    assert alloy | fluent_bit | {"CONFIG_FILE"} == names


def test_every_script_is_bash_that_bash_can_read() -> None:
    scripts = [
        file
        for file in [*(HOUSE / "scripts").iterdir(), *(DEVICE / "debian").glob("*.p*")]
        if file.is_file() and re.match(rb"#!.*\bsh|#!.*bash|# shellcheck", file.read_bytes())
    ]
    assert len(scripts) > 10
    for script in scripts:
        done = run("bash", "-n", script)
        assert (done.returncode, done.stderr) == (0, ""), script


# --- scripts/install-agent, as far as it goes without changing this machine --------------------------------------


def test_help_says_every_flag_and_needs_no_root() -> None:
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", HOUSE / "scripts/install-agent", "--help")
    assert done.returncode == 0, done.stderr
    for flag in ("--check", "--wheels", "--bus-password-file", "--no-netdata", "--logs", "--uninstall"):
        assert flag in done.stdout


def test_who_is_not_root_is_told_so_in_one_sentence() -> None:
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", HOUSE / "scripts/install-agent")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "✘ Root is needed: sudo scripts/install-agent\n"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--fleet is missing, and there is no terminal to ask at"),
        (("--fleet", "Farm 1"), 'The fleet "Farm 1" is no name'),
        (("--fleet", "farm"), "--device is missing"),
        (("--fleet", "farm", "--device", "pi"), "--git is missing"),
        (("--fleet", "farm", "--device", "pi", "--git", "u"), "--bus-host is missing"),
        (("--fleet", "farm", "--device", "pi", "--git", "u", "--bus-host", "b"), "--bus-password-file is missing"),
        (
            ("--fleet", "farm", "--device", "pi", "--git", "u", "--bus-host", "b", "--bus-password-file", "/nowhere"),
            "--bus-password-file /nowhere can't be read",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_sentence_before_anything_is_touched(flags: tuple[str, ...], says: str) -> None:
    done = subprocess.run(
        [HOUSE / "scripts/install-agent", "--check", *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("✘ ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize(
    ("said", "flags", "followed"),
    [
        ({"branch": "field"}, [], "field"),
        ({"branch": "field"}, ["--branch", "bench"], "bench"),
        ({"branch": "main"}, [], None),
        ({}, [], None),
        ({}, ["--branch", "bench"], "bench"),
    ],
)
def test_an_enrolled_device_follows_the_branch_that_the_hub_said_unless_a_flag_says_another(
    tmp_path: Path, said: dict[str, str], flags: list[str], followed: str | None
) -> None:
    hub = {"fleet": "farm", "device": "pi", "bus": {"host": "b", "port": 8883}, "remotes": ["https://git/f"], **said}
    (tmp_path / "hub.json").write_text(json.dumps(hub))
    script = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from device_installer import answers, command_line\n"
        "flags = command_line._parser().parse_args(sys.argv[2:])\n"
        "found = answers.enrolled(flags, Path(sys.argv[1]), may_ask=False)\n"
        "print(json.dumps(found.settings()))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), *flags]
    done = subprocess.run(command, cwd=DEVICE, capture_output=True, text=True, check=True, timeout=60)
    settings = json.loads(done.stdout)
    assert settings.get("git.branch") == followed
    assert settings["git.remotes"] == ["https://git/f"]
