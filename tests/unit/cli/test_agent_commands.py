from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.fixtures import wheels

from metrica_cli.main import main
from metrica_fleet.agent_versions import read_listing

ARM, INTEL = "cp311-cp311-manylinux_2_17_aarch64", "cp311-cp311-manylinux_2_17_x86_64"


class Desk:
    """An operator's folder of wheels, and the checkout of the fleet."""

    def __init__(self, root: Path) -> None:
        self.wheels, self.fleet, self.served = root / "wheels", root / "fleet", root / "served"
        self.fleet.mkdir()
        (self.fleet / "fleet.toml").write_text('name = "harbour"\n')
        wheels.needing(
            self.wheels,
            "metrica_fleet",
            "1.4.0",
            "msgspec~=0.22.0",
            "dulwich~=1.2; extra == 'agent'",
            "aiohttp~=3.14; extra == 'hub'",
            "tomli; python_version < '3.11'",
            python=">=3.11",
        )
        wheels.needing(self.wheels, "dulwich", "1.2.21", "urllib3>=2")
        wheels.needing(self.wheels, "urllib3", "2.5.0")
        self.msgspec = wheels.needing(self.wheels, "msgspec", "0.22.1", tag=ARM)

    def add(self, *more: str, version: str = "1.4.0") -> int:
        return main(["agent", "add", version, "--from", str(self.wheels), "-C", str(self.fleet), *more])

    @property
    def listing(self) -> Path:
        return self.fleet / "agent/1.4.0/SHA256SUMS"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def test_whole_wheels_are_listed_as_devices_read_it_and_lie_beside_it(desk: Desk) -> None:
    assert desk.add("--in-git") == 0
    problems: list[object] = []
    listed = read_listing("1.4.0", desk.listing.read_bytes(), problems)  # pyright: ignore[reportArgumentType]
    assert {one.name: one.sha256 for one in listed} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in desk.wheels.glob("*.whl")
    }
    assert names(desk.listing.parent) == names(desk.wheels) | {"SHA256SUMS"}
    assert main(["lint", str(desk.fleet)]) == 0
    assert desk.add("--in-git") == 0  # once more changes nothing


def test_wheels_for_the_hub_lie_in_the_folder_that_it_serves_for_it_to_read_and_only_their_hashes_in_git(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.add("--to", str(desk.served)) == 0
    assert names(desk.listing.parent) == {"SHA256SUMS"}
    assert names(desk.served / "1.4.0") == names(desk.wheels)
    assert all(one.stat().st_mode & 0o777 == 0o644 for one in (desk.served / "1.4.0").iterdir())
    assert "[agent] source" in capsys.readouterr().err
    (desk.fleet / "fleet.toml").write_text('name = "harbour"\n[agent]\nsource = "https://hub.example.org/agent"\n')
    assert desk.add("--to", str(desk.served)) == 0
    assert "[agent] source" not in capsys.readouterr().err


def missing(desk: Desk) -> None:
    next(desk.wheels.glob("urllib3-*")).unlink()


def too_old(desk: Desk) -> None:
    next(desk.wheels.glob("urllib3-*")).unlink()
    wheels.needing(desk.wheels, "urllib3", "1.26.0")


def other_processor(desk: Desk) -> None:
    desk.msgspec.rename(desk.wheels / f"msgspec-0.22.1-{INTEL}.whl")


def newer_glibc(desk: Desk) -> None:
    desk.msgspec.rename(desk.wheels / "msgspec-0.22.1-cp311-cp311-manylinux_2_39_aarch64.whl")


def damaged(desk: Desk) -> None:
    desk.msgspec.write_bytes(desk.msgspec.read_bytes()[:-40])


def twice(desk: Desk) -> None:
    wheels.needing(desk.wheels, "urllib3", "2.6.0")


def of_no_use(desk: Desk) -> None:
    wheels.needing(desk.wheels, "win", "1.0", tag="cp311-cp311-win_amd64")


def not_the_agent(desk: Desk) -> None:
    next(desk.wheels.glob("metrica_fleet-*")).unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (missing, "no wheel of urllib3>=2 fits Python 3.11 on aarch64, and dulwich-1.2.21-py3-none-any.whl needs it"),
        (too_old, "there is urllib3-1.26.0-py3-none-any.whl"),
        (other_processor, f"there is msgspec-0.22.1-{INTEL}.whl"),
        (newer_glibc, "there is msgspec-0.22.1-cp311-cp311-manylinux_2_39_aarch64.whl"),
        (damaged, "is no whole wheel"),
        (twice, "urllib3 is there twice: urllib3-2.5.0-py3-none-any.whl and urllib3-2.6.0-py3-none-any.whl"),
        (of_no_use, "of win-1.0-cp311-cp311-win_amd64.whl there is no wheel that fits Python 3.11 on aarch64"),
        (not_the_agent, "no wheel of metrica_fleet 1.4.0 is in it"),
    ],
)
def test_what_devices_could_not_install_is_said_and_nothing_is_written(
    desk: Desk, capsys: pytest.CaptureFixture[str], change: object, said: str
) -> None:
    assert callable(change)
    change(desk)
    assert desk.add("--in-git") == 1
    assert said in capsys.readouterr().err
    assert not desk.listing.parent.exists()


def test_every_python_and_processor_that_is_named_must_be_served(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.add("--in-git", "--arch", "arm64", "--arch", "amd64") == 1
    assert "fits Python 3.11 on x86_64" in capsys.readouterr().err
    wheels.needing(desk.wheels, "msgspec", "0.22.1", tag=INTEL)
    assert desk.add("--in-git", "--arch", "arm64", "--arch", "amd64") == 0
    assert desk.add("--in-git", "--python", "3.10") == 1
    assert "no wheel of metrica_fleet==1.4.0 fits Python 3.10" in capsys.readouterr().err


def test_where_pins_are_given_each_dependency_must_be_what_they_name(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in desk.wheels.glob("*.whl")}
    pins = tmp_path / "agent.txt"
    own = next(desk.wheels.glob("metrica_fleet-*"))
    pins.write_text("".join(f"x==1 --hash=sha256:{one}\n" for path, one in hashes.items() if path != own))
    assert desk.add("--in-git", "--pins", str(pins)) == 0
    pins.write_text(pins.read_text().replace(hashes[desk.msgspec], "a" * 64))
    assert desk.add("--in-git", "--pins", str(pins)) == 1
    assert f"{desk.msgspec.name} is not what" in capsys.readouterr().err


def test_what_devices_may_have_already_is_not_changed(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.add("--to", str(desk.served)) == 0
    before = desk.listing.read_bytes()
    wheels.needing(desk.wheels, "dulwich", "1.2.21", "urllib3>=2", "msgspec")
    assert desk.add("--to", str(desk.served)) == 1
    assert "lists other wheels" in capsys.readouterr().err
    assert desk.listing.read_bytes() == before
    desk.listing.unlink()
    assert desk.add("--to", str(desk.served)) == 1
    assert "is another wheel" in capsys.readouterr().err
    assert not desk.listing.exists()


@pytest.mark.parametrize(
    ("more", "version", "said"),
    [
        ([], "1.4.0", "where are the wheels to lie?"),
        (["--in-git", "--to", "x"], "1.4.0", "where are the wheels to lie?"),
        (["--in-git"], "../1", "is no version"),
        (["--in-git", "--arch", "riscv"], "1.4.0", "is no processor"),
        (["--in-git", "--python", "2.7"], "1.4.0", "is no Python"),
    ],
)
def test_what_can_not_be_meant_is_said(
    desk: Desk, capsys: pytest.CaptureFixture[str], more: list[str], version: str, said: str
) -> None:
    assert desk.add(*more, version=version) == 2
    assert said in capsys.readouterr().err
