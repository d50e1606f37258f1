from __future__ import annotations

import subprocess
import sys

AGENT = """
before = set(sys.modules)
import metrica_agent.__main__
import metrica_agent.main
absent = {"typing_extensions", "bz2", "lzma", "calendar", "ipaddress", "locale", "urllib.request", "argparse", "rich"}
absent |= {"msgspec.inspect", "aiofiles.tempfile", "tokenize", "email.header", "textwrap", "pickle"}
absent |= {"metrica_agent.adapters.papers", "metrica_agent.tasks.renewing"}
imported = absent & (set(sys.modules) - before)
assert not imported, imported
"""
IN_USE = """
import metrica_agent.__main__
import email.utils, subprocess, urllib.parse, paho.mqtt.client as paho
assert email.utils.mktime_tz((2026, 11, 29, 0, 0, 0, 0, 0, 0, 0)) == 1795910400
assert urllib.parse.urlsplit("http://[::1]:80/").hostname == "::1"
assert subprocess.run(["echo", "ü"], capture_output=True, text=True, encoding="utf-8", check=True).stdout == "ü\\n"
assert subprocess.run(["echo", "u"], capture_output=True, text=True, check=True).stdout == "u\\n"
assert callable(paho.urllib.request.getproxies)
import aiofiles, msgspec
assert msgspec.json.schema(int) == {"type": "integer"}
assert callable(aiofiles.tempfile.TemporaryFile)
import argparse, calendar, bz2, ipaddress, locale, lzma, urllib.request
import inspect, pickle, structlog
assert pickle.loads(pickle.dumps({"a": 1})) == {"a": 1}
assert structlog._output.PicklingError is pickle.PicklingError
assert inspect.getsource(inspect.getdoc).startswith("def getdoc")
assert sys.modules["urllib.request"].getproxies is paho.urllib.request.getproxies
"""
POSTPONED_ALREADY = """
import urllib.request
from metrica_agent.lean_imports import postponed
before = sys.modules["urllib.request"]
with postponed("urllib.request"):
    import urllib.request
assert sys.modules["urllib.request"] is before
"""
POSTPONED_FAILING = """
from metrica_agent.lean_imports import postponed
try:
    with postponed("http.server", "colorsys"):
        import colorsys, http.server
        raise LookupError
except LookupError:
    pass
import http.server
assert http.server.HTTPServer is sys.modules["http.server"].HTTPServer
assert "colorsys" not in sys.modules
assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
"""
WITHOUT = """
import colorsys
from metrica_agent.lean_imports import without
try:
    with without("colorsys", "wave"):
        import colorsys
        try:
            import wave
        except ImportError:
            raise LookupError
except LookupError:
    pass
import wave
assert wave.open and colorsys.rgb_to_hsv
"""
NO_STICK = """
import metrica_agent.__main__
from metrica_agent.adapters.git.poll import FolderLine
from metrica_agent.adapters.git.remote import Remote
from metrica_fleet.errors import NotNow
try:
    FolderLine(Remote("/nobody/has/this/stick.bundle")).head("main")
except NotNow as error:
    assert error.reason == "git-unreachable", error.reason
else:
    raise AssertionError
assert not [name for name in sys.modules if name.partition(".")[0] == "dulwich"]
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{program}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_agent_is_imported_without_what_it_would_never_use() -> None:
    run(AGENT)


def test_what_was_put_off_is_there_as_soon_as_a_library_looks_into_it() -> None:
    run(IN_USE)


def test_a_module_that_is_there_already_is_not_put_off() -> None:
    run(POSTPONED_ALREADY)


def test_after_the_block_a_module_that_was_put_off_is_imported_as_ever_even_if_the_block_failed() -> None:
    run(POSTPONED_FAILING)


def test_a_module_is_absent_inside_of_the_block_alone_and_never_taken_away() -> None:
    run(WITHOUT)


def test_a_stick_that_was_never_there_costs_no_memory() -> None:
    """Every agent asks for it at each poll, and dulwich would stay for good."""
    run(NO_STICK)
