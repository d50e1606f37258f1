"""What may be told of an address."""

from __future__ import annotations

import pytest

from metrica_hub.adapters.mirror import redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://git.example.org/fleet.git?ref=a", "https://git.example.org/fleet.git?ref=a"),
        ("https://me:s3cret@git.example.org:8443/fleet.git", "https://***@git.example.org:8443/fleet.git"),
        ("https://git.example.org/fleet.git?token=s3cret&a=b", "https://git.example.org/fleet.git?token=***&a=b"),
        ("postgresql://hub@db/x?password=s3cret", "postgresql://***@db/x?password=***"),
        ("postgresql://db/x?passfile=s3cret&sslpassword=s3cret", "postgresql://db/x?passfile=***&sslpassword=***"),
        ("postgresql://db/x?p%61ssword=s3cret", "postgresql://db/x?p%61ssword=***"),
        ("postgresql://db/x?password=a#s3cret", "postgresql://db/x?password=***#***"),
        ("postgresql://hub:a/s3cret@db/x", "postgresql://***"),
        ("host=db password=s3cret dbname=x", "host=db password=*** dbname=x"),
        (r"password = 'a \'s3cret' host=db", "password = *** host=db"),
        (r"password=a\ s3cret host=db", "password=*** host=db"),
        ("password='s3cret", "password=***"),
        ("http://[s3cret/x", "***"),
        ("postgresql://[::1/x", "***"),
        ("/srv/fleet.git", "/srv/fleet.git"),
    ],
)
def test_what_may_be_a_secret_is_hidden(url: str, shown: str) -> None:
    assert redacted(url) == shown
