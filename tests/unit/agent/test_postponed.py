from __future__ import annotations

import subprocess
import sys

AGENT = """
import sys
import metrica_agent.main
assert "urllib.request" not in sys.modules, "postponing has no effect"
import paho.mqtt.client as paho
assert callable(paho.urllib.request.getproxies)
import urllib.request
assert sys.modules["urllib.request"].getproxies is paho.urllib.request.getproxies
"""
ALREADY = """
import urllib.request
from metrica_agent.postponed import postponed
before = sys.modules["urllib.request"]
with postponed("urllib.request"):
    import urllib.request
assert sys.modules["urllib.request"] is before
"""
FAILING = """
from metrica_agent.postponed import postponed
try:
    with postponed("http.server"):
        import http.server
        raise LookupError
except LookupError:
    pass
import http.server
assert http.server.HTTPServer is sys.modules["http.server"].HTTPServer
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{program}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_agent_does_without_what_paho_imports_for_proxies_until_somebody_looks_into_it() -> None:
    run(AGENT)


def test_a_module_that_is_there_already_stays_what_it_is() -> None:
    run(ALREADY)


def test_after_the_block_a_module_is_imported_as_ever_even_if_the_block_failed() -> None:
    run(FAILING)
