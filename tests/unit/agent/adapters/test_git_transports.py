"""What the child relies on in dulwich without dulwich having promised it."""

from __future__ import annotations

from dulwich.client import HttpGitClient, LocalGitClient, TCPGitClient


def test_the_methods_that_are_overridden_exist() -> None:
    for client, method in (
        (HttpGitClient, "_http_request"),
        (TCPGitClient, "_connect"),
        (LocalGitClient, "fetch_pack"),
    ):
        assert callable(getattr(client, method))
