"""What scripts/install-agent does to files that others wrote, too: nothing is lost, and twice is once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_installer.edits import (
    MEMORY_CGROUP,
    Unreadable,
    filled_in,
    shipper_environment,
    told,
    with_log_limits,
    with_memory_cgroup,
)
from metrica_agent.settings import read_settings

DEVICE: Final = Path(__file__).parents[3] / "stack/device"
OURS: Final = (DEVICE / "docker-daemon.json").read_text()
PI: Final = "console=serial0,115200 console=tty1 root=PARTUUID=4f0e-02 rootfstype=ext4 fsck.repair=yes rootwait"


# --- /etc/os-release ----------------------------------------------------------------------------------------------


def test_what_a_system_says_of_itself_is_read_with_quotes_or_without() -> None:
    said = told("PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\nVERSION_ID='13'\n\n# no line\nBUG REPORT=x\n")
    assert said == {"PRETTY_NAME": "Debian GNU/Linux 13 (trixie)", "ID": "debian", "VERSION_ID": "13"}


# --- /boot/firmware/cmdline.txt -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        (f"{PI}\n", f"{PI} cgroup_enable=memory cgroup_memory=1\n"),
        (PI, f"{PI} cgroup_enable=memory cgroup_memory=1\n"),
        (f"  {PI}  \n\n", f"{PI} cgroup_enable=memory cgroup_memory=1\n"),
        (f"cgroup_enable=memory {PI}\n", f"cgroup_enable=memory {PI} cgroup_memory=1\n"),
        # The later word counts, so that this is on.
        (f"cgroup_disable=memory {PI}\n", f"cgroup_disable=memory {PI} cgroup_enable=memory cgroup_memory=1\n"),
        # A word that only begins so is another.
        (f"{PI} cgroup_memory=10\n", f"{PI} cgroup_memory=10 cgroup_enable=memory cgroup_memory=1\n"),
        (f"{PI} cgroup_memory=1 cgroup_enable=memory", f"{PI} cgroup_memory=1 cgroup_enable=memory"),
    ],
)
def test_the_memory_cgroup_is_turned_on_once(line: str, becomes: str) -> None:
    assert with_memory_cgroup(line) == becomes
    assert with_memory_cgroup(becomes) == becomes


@pytest.mark.parametrize("text", ["", "\n", "a b\nc d\n"])
def test_a_kernel_command_line_that_is_no_line_is_not_touched(text: str) -> None:
    with pytest.raises(Unreadable, match="lines where the firmware wants one"):
        with_memory_cgroup(text)


@given(st.lists(st.text("abc=.,0_-", min_size=1), min_size=1))
def test_no_word_of_the_kernel_command_line_is_lost(words: list[str]) -> None:
    after = with_memory_cgroup(" ".join(words)).split()
    assert after[: len(words)] == words
    assert set(MEMORY_CGROUP) <= set(after)


# --- /etc/docker/daemon.json --------------------------------------------------------------------------------------


def test_docker_without_settings_gets_ours() -> None:
    for nothing in (None, "", " \n", "{}"):
        merged, kept = with_log_limits(nothing, OURS)
        assert json.loads(merged) == json.loads(OURS)
        assert kept == ()


def test_what_the_operator_has_set_stays_and_is_told() -> None:
    theirs = {"registry-mirrors": ["https://mirror.example"], "log-opts": {"max-size": "50m"}, "live-restore": False}
    merged, kept = with_log_limits(json.dumps(theirs), OURS)
    assert json.loads(merged) == {
        "registry-mirrors": ["https://mirror.example"],
        "log-driver": "json-file",
        "log-opts": {"max-size": "50m", "max-file": "3", "labels": json.loads(OURS)["log-opts"]["labels"]},
        "live-restore": False,
    }
    assert kept == ('log-opts.max-size = "50m"', "live-restore = false")


def test_options_of_one_log_driver_are_not_given_to_another() -> None:
    merged, _ = with_log_limits('{"log-driver": "journald"}', OURS)
    assert json.loads(merged) == {"log-driver": "journald", "live-restore": True}


def test_settings_that_need_nothing_are_not_even_laid_out_anew() -> None:
    laid_out = '{"live-restore":true,\n\n "log-driver":"journald"}'
    assert with_log_limits(laid_out, OURS) == (laid_out, ('log-driver = "journald"',))
    once, _ = with_log_limits('{"debug": true}', OURS)
    assert with_log_limits(once, OURS) == (once, ())


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"a": 1,\n}', "line 2 is no JSON"), ("[1]", "no JSON object"), ("nonsense", "line 1 is no JSON")],
)
def test_settings_of_docker_that_are_no_json_object_are_not_touched(text: str, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        with_log_limits(text, OURS)


# --- /etc/metrica/agent.toml --------------------------------------------------------------------------------------


def test_the_settings_that_are_written_are_those_that_the_agent_reads(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        filled_in(
            (DEVICE / "agent.toml").read_text(),
            {
                "fleet": "farm",
                "device": "pi-07",
                "git.remotes": ["https://a.example/fleet.git", "https://b.example/fleet.git"],
                "git.branch": "production",
                "bus.host": "bus.example",
                "bus.port": 8883,
                "bus.username": "pi-07",
                "bus.password_file": "/etc/metrica/bus_password",
                "bus.ca_file": "/etc/metrica/bus_ca.crt",
            },
        )
    )
    settings = read_settings(file, {})
    assert (settings.fleet, settings.device) == ("farm", "pi-07")
    assert settings.git.remotes == ("https://a.example/fleet.git", "https://b.example/fleet.git")
    assert settings.git.branch == "production"
    bus = settings.bus
    assert (bus.host, bus.port, bus.username) == ("bus.example", 8883, "pi-07")
    assert (bus.password_file, bus.ca_file) == ("/etc/metrica/bus_password", "/etc/metrica/bus_ca.crt")
    # Whoever edits it later finds every other key where it was, with its comment.
    template = (DEVICE / "agent.toml").read_text().splitlines()
    assert (
        sum(line in template for line in file.read_text().splitlines()) == len(template) - 8
    )  # password_file is as it was


@pytest.mark.parametrize("value", ['"', "\\", '" \\ ü €', "a\tb"])
def test_whatever_is_answered_arrives_as_it_was_meant(value: str) -> None:
    text = filled_in((DEVICE / "agent.toml").read_text(), {"bus.host": value, "git.remotes": [value, value]})
    read = tomllib.loads(text)
    assert read["bus"]["host"] == value
    assert read["git"]["remotes"] == [value, value]


def test_a_key_that_the_template_does_not_have_is_not_forgotten_silently() -> None:
    with pytest.raises(KeyError, match=r"bus\.colour"):
        filled_in((DEVICE / "agent.toml").read_text(), {"bus.colour": "red"})


# --- /etc/metrica/logs.env ----------------------------------------------------------------------------------------


def environment(loki: str, password: str = "p") -> dict[str, str]:  # noqa: S107 - made up
    text = shipper_environment(
        fleet="home", device="pi-01", role="camera", loki=loki, user="devices", password=password
    )
    return dict(line.replace('"', "").split("=", 1) for line in text.splitlines() if not line.startswith("#"))


@pytest.mark.parametrize(
    ("loki", "parts"),
    [
        ("https://vps.example/loki/api/v1/push", ("vps.example", "443", "/loki/api/v1/push", "on")),
        ("https://vps.example", ("vps.example", "443", "/loki/api/v1/push", "on")),
        ("http://100.64.0.1:3100/loki/api/v1/push", ("100.64.0.1", "3100", "/loki/api/v1/push", "off")),
    ],
)
def test_both_shippers_are_told_the_same_address(loki: str, parts: tuple[str, str, str, str]) -> None:
    told = environment(loki)
    assert (told["LOKI_HOST"], told["LOKI_PORT"], told["LOKI_URI"], told["LOKI_TLS"]) == parts
    assert told["LOKI_URL"].endswith("/loki/api/v1/push")
    assert told["LOKI_URL"].startswith(loki.removesuffix("/loki/api/v1/push"))


@pytest.mark.parametrize("loki", ["vps.example/loki", "ftp://vps.example", "https://", ""])
def test_what_is_no_address_of_loki_is_refused(loki: str) -> None:
    with pytest.raises(Unreadable, match="no http or https address"):
        environment(loki)


@pytest.mark.parametrize("password", ['a"b', "a\nb", "a$b", "a`b", "a\\b"])
def test_a_password_that_would_mean_something_else_to_systemd_is_refused(password: str) -> None:
    with pytest.raises(Unreadable, match="LOKI_PASSWORD holds"):
        environment("https://vps.example", password)
