"""Whether what the documents name is there: files, commands and options, events, metrics, alerts, keys, addresses."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
from scripts.generators.rest import openapi
from scripts.generators.runbooks import alerts

import metrica_agent.settings
import metrica_hub.settings
from metrica_agent import command_line
from metrica_cli.main import app
from metrica_fleet.agent_versions import AgentPolicy
from metrica_fleet.configuration import sections_of, variable
from metrica_fleet.definition import SecretPolicy
from metrica_fleet.policies import HealthPolicy, Limits, RolloutPolicy, UpdatePolicy
from metrica_fleet.records import EVENT_KINDS
from metrica_hub import main as hub_main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cyclopts import App

HOUSE = Path(__file__).resolve().parents[2]
HISTORY = ("docs/decisions/", "CHANGELOG.md")
"""What they name was there once; it may be gone."""
PAGES = sorted(
    path.relative_to(HOUSE).as_posix()
    for path in (*HOUSE.glob("*.md"), *HOUSE.glob("docs/**/*.md"), *HOUSE.glob("examples/**/*.md"))
    if path.name != "template.md"
)
PRESENT = [page for page in PAGES if not page.startswith(HISTORY)]

FENCE = re.compile(r"(?m)^(?P<indent> *)```.*?\n(?:.*\n)*?(?P=indent)```$")
INDENTED = re.compile(r"(?m)(?:^(?: {4,}|\t).*\n?)+")
IN_LINE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
HEADING = re.compile(r"(?m)^#{1,6} +(.+?) *#*$")

PLACE = re.compile(
    r"(?<![\w/.{}$<-])(?:\./)?((?:docs|src|tests|stack|mosquitto|examples|scripts|requirements)/[\w./*{},-]*[\w}](?:/(?!\w))?)"
)
TEST_FILE = re.compile(r"(?<![\w/])(test_\w+\.py)\b")
EVENT = re.compile(rf"(?<![\w./-])((?:{'|'.join(sorted({kind.partition('.')[0] for kind in EVENT_KINDS}))})\.[a-z_]+)$")
METRIC = re.compile(r"(?<![\w/.-])(metrica_(?!fleet\b|agent\b|hub\b|cli\b|sim\b)[a-z_0-9]+)\b(?!\.py|/|\.)")
ALERT = re.compile(r"(?<!alertname=)\b(Metrica[A-Z]\w+)")
VARIABLE = re.compile(r"\b(METRICA_[A-Z][A-Z_0-9]*)\b")
KEY = re.compile(r"^\[(\w+)\](?: (\w+))?(?=$| =)")
ADDRESS = re.compile(r"(?<!/loki)(?<!:19999)(?<!:909\d)/api/v1/[\w/{}….-]*\w}?")
SUFFIXES = ("_total", "_bucket", "_sum", "_count")
FILES = (".json", ".md", ".py", ".sqlite", ".toml", ".txt", ".yaml")


class Page(NamedTuple):
    text: str
    code: tuple[str, ...]
    """What stands in back quotes and in blocks, each block a piece."""
    prose: str
    """The text without code."""


@cache
def page(name: str) -> Page:
    return page_of((HOUSE / name).read_text(encoding="utf-8"))


def page_of(text: str) -> Page:
    blocks = [found[0] for found in FENCE.finditer(text)]
    rest = FENCE.sub("", text)
    # Four spaces are code behind an empty line only: a list's text goes on so, too.
    indented = [found[0] for found in INDENTED.finditer(rest) if "\n\n" + found[0] in rest]
    for block in indented:
        rest = rest.replace(block, "\n", 1)
    spans = [found[2] for found in IN_LINE.finditer(rest)]
    return Page(text, (*blocks, *indented, *spans), IN_LINE.sub("", rest))


Look = Callable[[Page], Iterable[str]]


def assert_nothing(look: Look, mistake: str, *names: str) -> None:
    """Hold what is present against ``look``, which must find ``names`` in ``mistake``."""
    assert sorted(set(look(page_of(mistake)))) == sorted(names)
    assert {name: found for name in PRESENT if (found := sorted(set(look(page(name)))))} == {}


# --- links ------------------------------------------------------------------------------------------------------------


def test_every_link_leads_somewhere() -> None:
    assert {name: bad for name in PAGES if (bad := [why for link in links(name) if (why := broken(name, link))])} == {}


def test_a_link_that_leads_nowhere_would_be_found() -> None:
    assert broken("README.md", "docs/tutorial.md") is None
    assert broken("README.md", "docs/tutorial.html") is not None
    assert broken("docs/reference/hub.md", "#past-one-hub") is None
    assert broken("docs/index.md", "reference/hub.md#no-such-part") is not None
    assert broken("docs/index.md", "../README.md") is not None
    assert "docs/tutorial.md" in set(links("README.md"))


def broken(name: str, target: str) -> str | None:
    """Return what is wrong with a link on a page, if anything is."""
    path, _, fragment = target.partition("#")
    there = (HOUSE / name).parent / path if path else HOUSE / name
    if not there.exists():
        return f"{target}: not there"
    if name.startswith("docs/") and not there.resolve().is_relative_to(HOUSE / "docs"):
        return f"{target}: leaves the site"
    if fragment and fragment not in anchors(there):
        return f"{target}: no such heading"
    return None


def links(name: str) -> Iterator[str]:
    for found in LINK.finditer(page(name).prose):
        target = found[1] or found[2]
        if not re.match(r"[a-z]+:", target):
            yield target


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the fragments of headings, as forges and Python-Markdown make them; of one that comes twice, none."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    slugs: list[str] = []
    for heading in HEADING.findall(text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slugs.append(re.sub(r"[^\w\- ]", "", re.sub(r"&\w+;", "", words)).strip().replace(" ", "-"))
    once = {slug for slug in slugs if slugs.count(slug) == 1}
    return frozenset(once & {re.sub(r"-+", "-", slug) for slug in once})


# --- what is named ----------------------------------------------------------------------------------------------------


def test_every_file_that_is_named_is_there() -> None:
    def look(page: Page) -> Iterable[str]:
        return (place for place in PLACE.findall(page.text) if not is_there(place))

    mistake = "`./scripts/tset`, docs/decisions/0007, tests/{unit,untried}, docs/how-to/demo.md, src/metrica_fleet/"
    assert_nothing(look, mistake, "scripts/tset", "tests/{unit,untried}")


def is_there(place: str) -> bool:
    """Whether there is such a file; of ``docs/decisions/0007`` and ``tests/{a,b}`` too, and of what Git ignores."""
    inner = re.fullmatch(r"(.*)\{([^}]*)\}(.*)", place)
    if inner:
        return all(is_there(f"{inner[1]}{one}{inner[3]}") for one in inner[2].split(","))
    if (HOUSE / place).exists() or any(HOUSE.glob(place if "*" in place else f"{place}-*")):
        return True
    ignored = ["git", "check-ignore", "--no-index", place, f"{place}/"]
    return subprocess.run(ignored, cwd=HOUSE, check=False, capture_output=True).returncode == 0


def test_every_test_that_is_named_is_there() -> None:
    there = {path.name for path in (HOUSE / "tests").rglob("test_*.py")}
    assert_nothing(lambda page: set(TEST_FILE.findall(page.text)) - there, "test_demo.py, test_dmeo.py", "test_dmeo.py")


def test_every_event_that_is_named_is_one_or_a_word_of_the_log() -> None:
    there = set(EVENT_KINDS) | {word for text in texts("src") for word in re.findall(r'"([a-z_]+\.[a-z_]+)"', text)}

    def look(page: Page) -> Iterable[str]:
        named = {kind for span in page.code for kind in EVENT.findall(span) if not kind.endswith(FILES)}
        return named - there

    assert_nothing(look, "`release.refused`, `release.json`, `release.failed`", "release.failed")


def test_every_metric_that_is_named_is_there() -> None:
    there = metrics()

    def look(page: Page) -> Iterable[str]:
        named = {metric for metric in METRIC.findall(page.text) if not metric.endswith("_")}
        known = {metric for metric in named if any(one.startswith(f"{metric}_") for one in there)}  # a family
        return {metric for metric in named - known if not {metric, bare(metric)} & there}

    assert_nothing(
        look, "metrica_hub_records_total, metrica_hub_rekords_total, metrica_agent.main", "metrica_hub_rekords_total"
    )


def bare(metric: str) -> str:
    return next((metric.removesuffix(end) for end in SUFFIXES if metric.endswith(end)), metric)


def metrics() -> set[str]:
    """Return what looks like a metric's name in the hub, in the rules and in what the stack brings; tables as well."""
    names: set[str] = set()
    for folder in ("src/metrica_hub", "stack/vps", "scripts"):
        for text in texts(folder):
            names |= set(re.findall(r"\bmetrica_[a-z_0-9]+", text))
            names |= {f"metrica_device_{vital}" for vital in re.findall(r"_vital\(\s*\"(\w+)\"", text)}
            names |= {f"metrica_rollout_{figure}" for figure in re.findall(r"_gauge\(\s*\"(\w+)\"", text)}
    return names


def texts(folder: str) -> Iterator[str]:
    """Yield every file below a folder that is none of the documents."""
    for path in (HOUSE / folder).rglob("*"):
        if path.is_file() and path.suffix not in {".md", ".pyc"}:
            yield path.read_bytes().decode("utf-8", "replace")


def test_every_alert_that_is_named_is_one() -> None:
    there = {alert for alert, _, _ in alerts()}
    look: Look = lambda page: set(ALERT.findall(page.text)) - there  # noqa: E731
    assert_nothing(look, "MetricaRolloutHalted, MetricaRolloutHalts", "MetricaRolloutHalts")


def test_every_variable_of_the_environment_is_read_somewhere() -> None:
    settings = (("METRICA_AGENT_", metrica_agent.settings.Settings), ("METRICA_HUB_", metrica_hub.settings.Settings))
    there = {variable(prefix, place) for prefix, kind in settings for place in places(kind)}
    for folder in ("src", "scripts", "stack", "examples"):
        there |= {name for text in texts(folder) for name in VARIABLE.findall(text)}

    def look(page: Page) -> Iterable[str]:
        named = {name for name in VARIABLE.findall(page.text) if not name.endswith("_")}
        return {name for name in named if not {name, name.removesuffix("_FILE")} & there}

    assert_nothing(look, "METRICA_HUB_BUS_HOST_FILE, METRICA_TOKEN_FILE, METRICA_HUB_BUS_HSOT", "METRICA_HUB_BUS_HSOT")


def places(kind: type[msgspec.Struct]) -> Iterator[tuple[str, ...]]:
    """Yield every key of a settings file, and every section."""
    parts = sections_of(kind)
    for field in msgspec.structs.fields(kind):
        yield (field.name,)
        for inner in msgspec.structs.fields(parts[field.name]) if field.name in parts else ():
            yield (field.name, inner.name)


def test_every_key_of_a_settings_file_is_one() -> None:
    there = {*places(metrica_agent.settings.Settings), *places(metrica_hub.settings.Settings), ("vars",)}
    there.add(("agent", "tags"))
    tables: dict[str, type[msgspec.Struct]] = {
        "health": HealthPolicy,
        "limits": Limits,
        "rollout": RolloutPolicy,
        "update": UpdatePolicy,
        "secrets": SecretPolicy,
        "agent": AgentPolicy,
    }
    for table, kind in tables.items():
        there |= {(table,), *((table, field.name) for field in msgspec.structs.fields(kind))}

    def look(page: Page) -> Iterable[str]:
        found = [found for span in page.code if (found := KEY.match(span))]
        return {one[0] for one in found if tuple(part for part in one.groups() if part) not in there}

    assert_nothing(look, "`[git] poll_s`, `[git] pol_s = 3`, `[rollout]`, `[rollouts]`", "[git] pol_s", "[rollouts]")


def test_every_address_of_the_api_is_one() -> None:
    patterns = [re.sub(r"\{\w+\}", "[^/]+", path) for path in cast("dict[str, Any]", openapi()["paths"])]

    def look(page: Page) -> Iterable[str]:
        named = {address for address in ADDRESS.findall(page.text) if "…" not in address}
        return {address for address in named if not any(re.fullmatch(pattern, address) for pattern in patterns)}

    assert_nothing(look, "/api/v1/devices/pi-01/events?limit=3, /api/v1/device/pi-01", "/api/v1/device/pi-01")


# --- commands ---------------------------------------------------------------------------------------------------------

CALL = re.compile(
    r"""(?m)(?:^|[|&;(']|\$ |\bsudo ) *(?:[A-Z_]+=\S* +)*(?:[\w./-]*/)?(metrica(?:-agent|-hub)?) +"""
    r"""((?:[^\n|;#&)'"]|\\\n|'[^'\n]*'|"[^"\n]*")*)"""
)
COLUMN = re.compile(r" {3,}|\s[#→(<>…]|\s—|$")
OPTION = re.compile(r"^(--?[a-zA-Z][\w-]*)")


def test_every_command_and_option_is_one() -> None:
    def look(page: Page) -> Iterable[str]:
        for span in page.code:
            for program, rest in CALL.findall(span):
                words = split(rest)
                if words and not understood(program, words):
                    yield f"{program} {' '.join(words)}"

    mistake = """`metrica rollouts`, `metrica-hub key`

    $ metrica rollout status --wait   # not so
    sudo /opt/bin/metrica-agent chekc
"""
    assert_nothing(look, mistake, "metrica rollouts", "metrica rollout status --wait", "metrica-agent chekc")


def test_a_command_or_an_option_that_is_none_would_be_found() -> None:
    assert understood("metrica", ["rollout", "status", "-w", "--within", "2h"])
    assert not understood("metrica", ["rollouts", "status"])
    assert not understood("metrica", ["rollout", "status", "--wait"])
    assert understood("metrica-agent", ["accept-history", "COMMIT", "--reason", "x"])
    assert not understood("metrica-agent", ["accept-history", "--why", "x"])
    assert not understood("metrica-hub", ["tokens"])
    assert CALL.findall("$ sudo /opt/metrica/agent/bin/metrica-agent check  # words") == [("metrica-agent", "check  ")]
    assert CALL.findall("journalctl -u metrica-agent -b") == []


def split(rest: str) -> list[str]:
    """Return the words up to a comment, a second column, or a redirection."""
    text = rest.replace("\\\n", " ")
    text = text[: cast("re.Match[str]", COLUMN.search(text)).start()].strip()
    try:
        return shlex.split(text)
    except ValueError:  # a quotation that goes on in the next line
        return text.split()


def understood(program: str, words: list[str]) -> bool:
    """Whether there is such a command with such options; the values of options are not looked at."""
    if not re.fullmatch(r"-{0,2}[a-z][a-z-]*", words[0]):
        return True  # "metrica …" with a placeholder
    options = {found[1] for word in words if (found := OPTION.match(word))}
    known = known_options(app, words) if program == "metrica" else parsed(program, words)
    return known is not None and options <= known


def known_options(at: App, words: list[str]) -> set[str] | None:
    """Return the options of the command that ``words`` begin with; ``None``: there is none."""
    for word in words:
        if word not in set(at) or word.startswith("-"):
            break
        at = at[word]
    if at is app and not words[0].startswith("-"):
        return None
    names = {"--help", "-h", "--version"}
    if at.default_command is not None:
        names |= {name for argument in at.assemble_argument_collection() for name in argument.names}
    return names


def parsed(program: str, words: list[str]) -> set[str] | None:
    """Return the options of a command of an argparse program, as its own help names them."""
    parser = command_line.make_parser(lambda _: 0) if program == "metrica-agent" else hub_main.make_parser()
    if words[0].startswith("-"):
        return options_of(parser)
    chosen = commands_of(parser).get(words[0])
    return chosen and options_of(chosen)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", parser.format_help()))


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = parser._actions  # pyright: ignore[reportPrivateUsage] # there is no other way to ask
    choices = next(action.choices for action in actions if action.dest in {"name", "command"} and action.choices)
    return cast("dict[str, argparse.ArgumentParser]", choices)
