"""install-hub in a copy of the checkout, without what changes the machine; ./scripts/rehearse hub runs it whole."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.integration.stack.conftest import HOST, HOUSE, Checkout, answers, checkout_in

if TYPE_CHECKING:
    from pathlib import Path

SCRIPTS = ("gitea/mirror", "mosquitto/password", "hub/fetch-wheels")


def test_running_it_twice_changes_nothing(installed: Checkout) -> None:
    before = installed.seen()
    again = installed.install()
    assert again.returncode == 0, again.stderr
    assert installed.seen() == before
    assert again.stdout.splitlines() == [
        "✔ everything is made, nothing is started; without --no-start this goes on",
    ]


def test_the_answers_are_those_of_the_example(installed: Checkout) -> None:
    def lines(path: Path) -> list[str]:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]

    assert lines(installed.stack / ".env") == lines(installed.stack / ".env.example")
    assert (installed.stack / ".env").stat().st_mode & 0o777 == 0o600


def test_no_two_secrets_are_the_same_and_none_is_said(installed: Checkout, tmp_path: Path) -> None:
    checkout = checkout_in(tmp_path)
    done = checkout.install(*answers(checkout.stack))
    made = [checkout.secret(path.name) for path in checkout.secrets.iterdir() if path.name.endswith("password")]
    filled = [text for text in made if text]
    assert len(set(filled)) == len(filled) >= 8
    assert all(len(text) == 48 for text in filled)
    assert not [text for text in filled if text in done.stdout + done.stderr]
    assert checkout.secret("ca.key") != installed.secret("ca.key")


def test_an_answer_that_is_given_again_is_changed_and_the_broker_gets_a_certificate_for_the_new_name(
    tmp_path: Path,
) -> None:
    checkout = checkout_in(tmp_path)
    assert checkout.install(*answers(checkout.stack)).returncode == 0
    before = checkout.seen()
    done = checkout.install("METRICA_HOST=other.example.org")
    assert done.returncode == 0, done.stderr
    changed = {name for name, about in checkout.seen().items() if before.get(name) != about}
    secrets = {f"stack/vps/secrets/{name}" for name in ("answers", "broker.crt", "broker.key")}
    assert changed == {"stack/vps/.env"} | secrets
    assert "METRICA_HOST=other.example.org\n" in (checkout.stack / ".env").read_text(encoding="utf-8")
    assert "DNS:other.example.org" in _certificate(checkout)


def test_a_key_for_orders_is_named_to_the_hub_and_taken_back_by_an_answer(tmp_path: Path) -> None:
    checkout, line = checkout_in(tmp_path), "METRICA_HUB_STOP_KEY_FILE=/var/lib/metrica-hub/stop_key"
    assert checkout.install(*answers(checkout.stack)).returncode == 0
    assert "STOP_KEY" not in (checkout.stack / ".env").read_text(encoding="utf-8")
    assert checkout.install(line).returncode == 0
    assert checkout.install().returncode == 0
    assert f"{line}\n" in (checkout.stack / ".env").read_text(encoding="utf-8")
    assert checkout.install("METRICA_HUB_STOP_KEY_FILE=").returncode == 0
    assert "STOP_KEY" not in (checkout.stack / ".env").read_text(encoding="utf-8")


def test_the_broker_s_certificate_is_good_for_its_name_alone_and_by_the_authority(installed: Checkout) -> None:
    verified = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", HOST),
            *("-CAfile", installed.secrets / "ca.crt", installed.secrets / "broker.crt"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr
    assert "CA:FALSE" in _certificate(installed)


def test_a_certificate_that_ends_soon_is_renewed_by_the_same_authority(tmp_path: Path) -> None:
    checkout = checkout_in(tmp_path)
    assert checkout.install(*answers(checkout.stack)).returncode == 0
    authority, key = checkout.secret("ca.crt"), checkout.secret("broker.key")
    words = f"x509 -req -in {tmp_path}/request -CA ca.crt -CAkey ca.key -days 20 -copy_extensions copy -out broker.crt"
    request = f"req -new -key broker.key -subj /CN={HOST} -addext subjectAltName=DNS:{HOST} -out {tmp_path}/request"
    for one in (request, words):
        subprocess.run(["openssl", *one.split()], cwd=checkout.secrets, check=True, capture_output=True)
    number = (checkout.secrets / "broker.crt").stat().st_ino
    done = checkout.install()
    assert done.returncode == 0, done.stderr
    assert checkout.secret("ca.crt") == authority
    assert checkout.secret("broker.key") != key
    # A running container looks at the file that it was given, not at one that took its place.
    assert (checkout.secrets / "broker.crt").stat().st_ino == number


def test_a_token_for_the_repository_goes_to_the_hub_in_a_file(tmp_path: Path) -> None:
    checkout = checkout_in(tmp_path)
    assert checkout.install(*answers(checkout.stack)).returncode == 0
    assert checkout.secret("hub_git_url") == "https://git.example.org/home/fleet.git"
    (checkout.secrets / "gitea_upstream_token").write_text("s3cret\n", encoding="utf-8")
    assert checkout.install().returncode == 0
    assert checkout.secret("hub_git_url") == "https://metrica:s3cret@git.example.org/home/fleet.git"
    assert "s3cret" not in (checkout.stack / ".env").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "METRICA_HOST: the public name of this machine"),
        (["METRICA_HSOT=a"], "unknown key METRICA_HSOT"),
        (["METRICA_HOST=not a name"], "must not have blanks"),
        (["METRICA_HOST=-x"], "METRICA_HOST must be a name"),
        (["METRICA_FLEET=Home"], "METRICA_FLEET must be small letters"),
        (["METRICA_GIT_URL=https://me:secret@git.example.org/fleet.git"], "must not carry a token"),
        (["METRICA_ACME_EMAIL=nobody"], 'must be an address, or "internal"'),
        (["--answers", "no-such-file"], "no-such-file: there is no such file"),
        (["--open", "51820"], "a port and its protocol"),
        (["--quickly"], "unknown word --quickly"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_made(words: list[str], said: str, tmp_path: Path) -> None:
    checkout = checkout_in(tmp_path)
    rest = answers(checkout.stack) if words and words[0].startswith("METRICA") and "HSOT" not in words[0] else ()
    done = checkout.install(*words, *rest)
    assert done.returncode != 0
    assert said in done.stderr
    assert not checkout.secrets.exists()
    assert not (checkout.stack / ".env").exists()


def test_the_scripts_are_bash_that_bash_reads() -> None:
    for name in (
        "scripts/install-hub",
        "stack/vps/gitea/mirror",
        "stack/vps/mosquitto/password",
        "stack/vps/hub/fetch-wheels",
    ):
        path = HOUSE / name
        assert path.stat().st_mode & 0o111, name
        assert subprocess.run(["bash", "-n", path], check=False).returncode == 0, name


def _certificate(checkout: Checkout) -> str:
    shown = subprocess.run(
        ["openssl", "x509", "-in", checkout.secrets / "broker.crt", "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout
