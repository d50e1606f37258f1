"""What a person may type after ``metrica-agent``. ``main`` imports it when somebody did."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from metrica_agent.applying import apply_bundle
from metrica_agent.console import check, explain, secrets, status, stop_status
from metrica_agent.console_orders import accept_history, hold, obey, safe_mode
from metrica_agent.enrolling import VARIABLE, enrol, renew
from metrica_agent.settings import DEFAULT_FILE, IDENTITY_DIR, Settings
from metrica_fleet import __version__


def understood(arguments: Sequence[str], *, run: Callable[[Settings], int]) -> tuple[Path, Callable[[Settings], int]]:
    """Return where the settings are, and what to do with them; a mistake, or a call for help, ends the process."""
    asked = make_parser(run).parse_args(arguments)
    return asked.config, lambda settings: asked.command(settings, asked)


def make_parser(run: Callable[[Settings], int]) -> argparse.ArgumentParser:
    """Return what reads the call; ``run`` is what the command of that name does."""
    parser = argparse.ArgumentParser(
        prog="metrica-agent", description="Converges this device towards its fleet's commit."
    )
    parser.add_argument("--version", action="version", version=f"metrica-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")

    def command(name: str, about: str, does: Callable[[Settings, argparse.Namespace], int]) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about)
        one.add_argument("--config", type=Path, default=DEFAULT_FILE, metavar="FILE", help="default: %(default)s")
        one.set_defaults(command=does)
        return one

    command("run", "Run the agent until it is told to stop.", lambda settings, _: run(settings))
    command("status", "Print what this device runs and wants.", status)
    explaining = command("explain", "Print the last decisions, with the rule and the facts behind each.", explain)
    explaining.add_argument("-n", type=int, default=5, dest="limit", metavar="N", help="how many (default: 5)")
    _describe_identity(commands.add_parser)
    command("check", "Print what is wrong with this installation, in words.", check)
    opening = command("secrets", "Open the secrets of the releases on this disk, as at boot, for the engine.", secrets)
    opening.add_argument("--key", action="store_true", help="only print this device's public key (age)")
    for name, about, does in (
        ("safe-mode", "Enter safe mode (the stack that always works runs, updates wait), or leave it.", safe_mode),
        ("hold", "Let nothing change on this device, or go on.", hold),
    ):
        ordering = command(name, about, does)
        ordering.add_argument("state", choices=("on", "off"))
        _reason(ordering)
    command("stop-status", "Print what the emergency stop has stopped here, by whom, and why.", stop_status)
    obeying = command("obey", "Obey a signed stop order from a file, as it travels on the bus.", obey)
    obeying.add_argument("file", type=Path, metavar="FILE", help="the order, with the signature behind it")
    applying = command("apply-bundle", "Take a commit and its images from a stick (metrica bundle).", apply_bundle)
    applying.add_argument("folder", type=Path, metavar="FOLDER", help="what metrica bundle wrote")
    applying.add_argument(
        "--wait", type=float, default=900.0, metavar="SECONDS", help="for how it ends (default: %(default)g)"
    )
    accepting = command("accept-history", "Let a commit follow although the branch was rewritten.", accept_history)
    accepting.add_argument("commit", metavar="COMMIT", help="all 40 digits")
    _reason(accepting)
    return parser


def understood_alone(arguments: Sequence[str]) -> int:
    """Do what needs no settings, which may not be there yet; return the exit code."""
    asked = make_parser(lambda _: 0).parse_args(arguments)
    return int(asked.command(None, asked))


def _describe_identity(add: Callable[..., argparse.ArgumentParser]) -> None:
    about = "Make a key, and have the hub sign who this device is; again with the same token where it was interrupted."
    enrolment = add("enrol", help=about, description=about)
    enrolment.add_argument("url", metavar="URL", help="the hub's address")
    enrolment.add_argument("token", nargs="?", metavar="TOKEN", help=f"without: {VARIABLE}, or standard input")
    enrolment.add_argument(
        "--pin", metavar="FINGERPRINT", help="sha256: of the hub's certificate, for one not trusted here"
    )
    enrolment.add_argument("--plain", action="store_true", help="by http, over a network that is trusted")
    renewal = add("renew", help=(about := "Get the next certificate now."), description=about)
    for one, does in ((enrolment, enrol), (renewal, renew)):
        one.add_argument(
            "--identity-dir", type=Path, default=Path(IDENTITY_DIR), metavar="DIR", help="default: %(default)s"
        )
        one.add_argument("--json", action="store_true", help="for programs")
        one.set_defaults(command=_without_settings(does))


def _without_settings(
    does: Callable[[argparse.Namespace], int],
) -> Callable[[Settings | None, argparse.Namespace], int]:
    return lambda _, asked: does(asked)


def _reason(ordering: argparse.ArgumentParser) -> None:
    ordering.add_argument("--reason", required=True, metavar="TEXT", help="why; it is told with the order")
