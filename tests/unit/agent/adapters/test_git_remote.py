"""Addresses: taken apart rightly, and never shown with a credential."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.adapters.git.remote import Kind, Remote
from metrica_fleet.errors import Unusable


@pytest.mark.parametrize(
    "case",
    [
        ("https://h/o/r.git", Kind.HTTPS, "h", 443, "", "/o/r.git", "https://h/o/r.git"),
        ("https://u:p@h:8443/r/", Kind.HTTPS, "h", 8443, "", "/r", "https://h:8443/r"),
        ("https://h/r?token=s", Kind.HTTPS, "h", 443, "", "/r", "https://h/r"),
        ("http://[::1]:80/r", Kind.HTTP, "::1", 80, "", "/r", "http://[::1]:80/r"),
        ("git@h:o/r.git", Kind.SSH, "h", 22, "git", "o/r.git", "git@h:o/r.git"),
        ("h:r", Kind.SSH, "h", 22, "", "r", "h:r"),
        ("ssh://git@h:2222/o/r", Kind.SSH, "h", 2222, "git", "/o/r", "ssh://git@h:2222/o/r"),
        ("ssh://git:secret@h/~me/r", Kind.SSH, "h", 22, "git", "~me/r", "ssh://git@h~me/r"),
        ("git+ssh://h/r", Kind.SSH, "h", 22, "", "/r", "ssh://h/r"),
        ("git://h/r", Kind.GIT, "h", 9418, "", "/r", "git://h/r"),
        ("file:///srv/r%20s", Kind.FILE, "", 0, "", "/srv/r s", "file:///srv/r s"),
        ("/srv/r", Kind.FILE, "", 0, "", "/srv/r", "/srv/r"),
        ("./r", Kind.FILE, "", 0, "", "./r", "./r"),
    ],
)
def test_an_address_is_taken_apart(case: tuple[str, Kind, str, int, str, str, str]) -> None:
    url, *parts = case
    remote = Remote(url)
    assert [remote.kind, remote.host, remote.port, remote.user, remote.path, str(remote)] == parts


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "ftp://h/r", "https://", "https:///r", "http://h:port/r", "http://h:99999/r", "http://[::1/r"),
        *(
            "ssh://-oProxyCommand=sh/r",
            "-oProxyCommand=sh:r",
            "ssh://-l@h/r",
            "ssh://h/a%0Ab",
            "git://h/a%00b",
            "h:a\nb",
        ),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Unusable) as caught:
        Remote(url)
    assert caught.value.reason == "bad-remote"


@given(secret=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=12), broken=st.booleans())
def test_a_secret_is_in_no_text(secret: str, broken: bool) -> None:  # noqa: FBT001 drawn
    url = f"https://user:{secret}@host{':x' if broken else ''}/r.git?key={secret}"
    try:
        shown = repr(Remote(url)) + str(Remote(url)) + Remote(url).base_url
    except Unusable as error:
        shown = repr(error) + str(error) + error.message
    assert secret not in shown
