"""What goes wrong with a remote, in the words and slugs of the house.

git-unreachable     no connection: refused, no route, no such host, connection lost
git-timeout         an answer that does not come, or comes too slowly
git-auth            credentials or host key not accepted
git-tls             no trustworthy connection; often this device's clock
git-refused         it answers, and does not serve this repository
git-corrupt         it answers with something that is not what it says it is
rate-limited        it asks us to wait
branch-missing      the repository is there, the branch is not
commit-missing      the branch's commit can't be had any more; poll again
fetch-too-large     more bytes, memory or processor time than a fetch may cost
mirror-busy         another process of this device holds the mirror
mirror-unusable     the mirror's folder can't be read or written
disk-full           no room for what was fetched
"""

from __future__ import annotations

import errno
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metrica_agent.adapters.git.remote import Remote

LONGEST_WAIT_S: Final = 86_400.0
"""No remote silences a device for longer than a day."""
_WAIT_WHEN_ASKED_S: Final = 60.0
_WAIT_WHEN_TOO_LARGE_S: Final = 3600.0
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY, _UNAVAILABLE = 401, 403, 404, 429, 503
_REDIRECTS: Final = range(300, 400)
_SERVER_ERRORS: Final = range(500, 600)
_SSH_AUTH: Final = ("permission denied", "host key verification failed", "too many authentication failures")
_SSH_GONE: Final = (
    "could not resolve",
    "refused",
    "timed out",
    "unreachable",
    "no route",
    "closed by",
    "reset by",
)


def unreachable(remote: Remote, why: object) -> NotNow:
    """Return the trouble of a remote that can't be connected to, or was lost on the way."""
    return NotNow(f"{remote} can't be reached: {why}", reason="git-unreachable")


def timed_out(remote: Remote, what: str, seconds: float) -> NotNow:
    """Return the trouble of a remote that did not answer in time."""
    return NotNow(f"{remote} did not answer {what} within {seconds:g} s", reason="git-timeout")


def untrusted(remote: Remote, why: object) -> NotNow:
    """Return the trouble of a TLS connection that can't be trusted."""
    return NotNow(
        f"{remote} has no TLS certificate that this device trusts ({why}); check its name, its issuer and "
        "the device's clock",
        reason="git-tls",
    )


def no_tls(remote: Remote, why: object) -> NotNow:
    """Return the trouble of a TLS connection that does not come about."""
    return NotNow(f"{remote} speaks no TLS that this device speaks: {why}", reason="git-tls")


def refused(remote: Remote, why: object) -> NotNow:
    """Return the trouble of a remote that answers without serving the repository."""
    return NotNow(f"{remote} does not serve the repository: {why}", reason="git-refused")


def corrupt(remote: Remote, why: object) -> NotNow:
    """Return the trouble of an answer that is not what it says it is."""
    return NotNow(f"{remote} sent what is no good Git data: {why}", reason="git-corrupt")


def branch_missing(remote: Remote, branch: str) -> NotNow:
    """Return the trouble of a repository without the branch."""
    return NotNow(
        f'{remote} has no branch "{branch}"; push it, or correct the branch in agent.toml',
        reason="branch-missing",
    )


def commit_missing(remote: Remote, commit: str) -> NotNow:
    """Return the trouble of a remote that does not give a commit."""
    return NotNow(f"{remote} does not give commit {commit[:8]} (any more); poll it again", reason="commit-missing")


def builds_on(remote: Remote, commit: str) -> NotNow:
    """Return the trouble of a bundle whose history begins behind a commit that this device does not have."""
    return NotNow(
        f"{remote} builds on commit {commit[:8]}, which this device does not have; make one of the whole history",
        reason="commit-missing",
    )


def too_large(remote: Remote, what: str) -> NotNow:
    """Return the trouble of a fetch that would cost too much."""
    return NotNow(
        f"{remote} needs more than a fetch may cost: {what}; make the repository smaller, or raise the bound",
        reason="fetch-too-large",
        retry_after_s=_WAIT_WHEN_TOO_LARGE_S,
    )


def from_status(remote: Remote, status: int, headers: Mapping[str, str]) -> NotNow:
    """Return the trouble that an HTTP status other than 200 means."""
    asked_to_wait = headers.get("retry-after") is not None
    if status in (_TOO_MANY, _UNAVAILABLE) or (status == _FORBIDDEN and asked_to_wait):
        wait_s = _retry_after_s(headers)
        return NotNow(
            f"{remote} asks to wait for {wait_s:g} s (HTTP {status})",
            reason="rate-limited",
            retry_after_s=wait_s,
        )
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        return NotNow(
            f"{remote} does not accept the device's credentials (HTTP {status}); renew them in agent.toml",
            reason="git-auth",
        )
    if status == _NOT_FOUND:
        return refused(remote, "there is none at this address, or the credentials may not see it (HTTP 404)")
    if status in _REDIRECTS:
        return refused(remote, f"it has moved (HTTP {status}); put the new address into agent.toml")
    if status in _SERVER_ERRORS:
        return unreachable(remote, f"the server fails (HTTP {status})")
    return refused(remote, f"HTTP {status}")


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After; a date is read against the server's own Date, never our clock."""
    text = headers.get("retry-after") or ""
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_WAIT_S)
    try:
        until = parsedate_to_datetime(text)
        seconds = (until - parsedate_to_datetime(headers.get("date") or "")).total_seconds()
    except (ValueError, TypeError):
        return _WAIT_WHEN_ASKED_S
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def from_ssh(remote: Remote, said: str) -> NotNow:
    """Return the trouble that ssh, or the server's shell, complained about."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = (lines[-1] if lines else "the connection ended without a word")[:300]
    text = said.lower()
    if any(mark in text for mark in _SSH_AUTH):
        return NotNow(
            f"{remote} and this device do not trust each other ({last}); check its key and known_hosts",
            reason="git-auth",
        )
    if not lines or any(mark in text for mark in _SSH_GONE):
        return unreachable(remote, last)
    return refused(remote, last)


def from_os_error(remote: Remote, error: OSError) -> NotNow:
    """Return the trouble of a failed system call on the way to or from ``remote``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotNow("the disk has no room for what was fetched; free some", reason="disk-full")
    if error.errno == errno.EFBIG:
        return too_large(remote, "a file beyond its bound")
    if error.filename is not None:
        return NotNow(f"the mirror can't be read or written: {error}", reason="mirror-unusable")
    return unreachable(remote, error.strerror or error)
