from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.fleet.repositories import GOOD, changed

from metrica_fleet.definition import (
    CommandCheck,
    DefinitionError,
    DeviceDefinition,
    HealthPolicy,
    HttpCheck,
    Limits,
    Problem,
    TcpCheck,
    for_device,
    role_named_by,
    whole_fleet,
)
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId

PI_01 = DeviceId("pi-01")
DEVICE = "devices/pi-01.toml"
ROLE = "roles/camera/role.toml"
ONE_A_DEVICE = "devices/ holds one <id>.toml a device, and nothing else; rename or move the file"
NAME_RULE = '1 to 63 of a-z, 0-9 and "-", beginning and ending with a letter or digit'


def problems_of(files: dict[str, bytes]) -> list[Problem]:
    with pytest.raises(DefinitionError) as caught:
        whole_fleet(files)
    return list(caught.value.problems)


# --- what is right ------------------------------------------------------------------------------------------


def test_a_device_is_told_everything_that_concerns_it() -> None:
    assert for_device(GOOD, PI_01) == DeviceDefinition(
        fleet="harbour",  # type: ignore[arg-type]
        role="camera",  # type: ignore[arg-type]
        tags=("north", "canary"),
        variables={"PORT": "8080", "VERSION": "1.10", "FLAG": "true", "PLACE": "platform 2"},
        health=HealthPolicy(start_deadline_s=200.5, soak_s=30.0, restarts_allowed=1),
        limits=Limits(release_files=500),
        checks=(
            HttpCheck(name="page", url="http://127.0.0.1:8080/"),
            TcpCheck(name="port", port=8080),
            CommandCheck(name="inside", service="web", command=("sh", "-c", "true")),
        ),
    )


def test_a_device_needs_only_the_files_that_concern_it() -> None:
    device = {path: GOOD[path] for path in ("fleet.toml", DEVICE)}
    assert role_named_by(device, PI_01) == "camera"
    role = {path: GOOD[path] for path in (ROLE, "roles/camera/compose.yaml")}
    assert for_device(device | role, PI_01) == for_device(GOOD, PI_01)


def test_another_devices_mistake_does_not_concern_a_device() -> None:
    files = GOOD | {"devices/pi-02.toml": b"nonsense", "roles/sensor/role.toml": b"nonsense"}
    assert for_device(files, PI_01) == for_device(GOOD, PI_01)


def test_a_role_without_role_toml_has_the_fleets_health_and_no_checks() -> None:
    defined = for_device(GOOD, DeviceId("pi-02"))
    assert defined.health == HealthPolicy(soak_s=30.0, restarts_allowed=1)
    assert (defined.checks, defined.tags, defined.variables) == ((), (), {})


def test_the_whole_fleet_is_the_sum_of_its_devices() -> None:
    fleet = whole_fleet(GOOD)
    assert fleet.name == "harbour"
    assert set(fleet.roles) == {"camera", "sensor"}
    assert fleet.devices == {name: for_device(GOOD, DeviceId(name)) for name in ("pi-01", "pi-02")}


@pytest.mark.parametrize(
    ("written", "variable"),
    [
        ("1.10", "1.10"),
        ("1e3", "1e3"),
        ("0x1f", "31"),
        ("-5", "-5"),
        ("false", "false"),
        ("inf", "inf"),
        ('""', ""),
        ('"ü $HOME"', "ü $HOME"),
        ("'''a\nb'''", "a\nb"),
    ],
)
def test_a_variable_reaches_compose_as_text(written: str, variable: str) -> None:
    files = changed(pi01=f'role = "camera"\n[vars]\nX = {written}\n')
    assert for_device(files, PI_01).variables == {"X": variable}


@pytest.mark.parametrize("content", [b'\xef\xbb\xbfrole = "camera"\n', b'role = "camera"\r\ntags = []\r\n'])
def test_a_byte_order_mark_and_windows_line_ends_are_accepted(content: bytes) -> None:
    assert for_device(changed(pi01=content), PI_01).role == "camera"


# --- what is wrong, file by file ----------------------------------------------------------------------------

DEVICES = [
    (
        '# who\n\ntags = []\nrol = "camera"\n',
        4,
        "rol",
        "unknown-key",
        'unknown key "rol"; did you mean "role"?',
    ),
    ("\ntags = []\n", 1, "", "missing-key", 'missing key "role"; add role = "..."'),
    ("role = 5\n", 1, "role", "wrong-type", f"role must be a name of {NAME_RULE}, not 5"),
    ('role = "Camera"\n', 1, "role", "bad-name", f'role must be a name of {NAME_RULE}, not "Camera"'),
    (
        'role = "camra"\n',
        1,
        "role",
        "unknown-role",
        'there is no role "camra"; did you mean "camera"?',
    ),
    (
        'role = "x"\n',
        1,
        "role",
        "unknown-role",
        'there is no role "x"; known: "camera" and "sensor"',
    ),
    (
        'role = "camera"\ntags = "north"\n',
        2,
        "tags",
        "wrong-type",
        'tags must be a list of texts, ["...", "..."], not "north"',
    ),
    (
        'role = "camera"\ntags = [\n  "north",\n  "South", # here\n]\n',
        4,
        "tags[1]",
        "bad-name",
        f'tags[1] must be a name of {NAME_RULE}, not "South"',
    ),
    (
        'role = "camera"\nvars = 5\n',
        2,
        "vars",
        "wrong-type",
        "vars must be a table, [vars], not 5",
    ),
    (
        'role = "camera"\n[vars]\nA = 1\nMETRICA_DATA = "/"\n',
        4,
        "vars.METRICA_DATA",
        "reserved-variable",
        "METRICA_DATA is reserved for the agent and for Compose; choose another name",
    ),
    (
        'role = "camera"\n[vars]\n"a-b" = 1\n',
        3,
        "vars.a-b",
        "bad-name",
        '"a-b" is no name of a variable; use letters, digits and "_", as in CAMERA_PORT',
    ),
    (
        'role = "camera"\n[vars]\nA = """\nlong"""\nB = [1]\n',
        5,
        "vars.B",
        "wrong-type",
        "vars.B must be text, a number, true or false",
    ),
    (
        'role = "camera"\n[vars]\nA = "\\u0000"\n',
        3,
        "vars.A",
        "wrong-type",
        "vars.A holds a NUL character; no program can be given one",
    ),
    (
        'role = "camera"\nvars.A.B = 1\n',
        2,
        "vars.A",
        "wrong-type",
        "vars.A must be text, a number, true or false",
    ),
    (
        'role = "camera"\n[vars]\nA = 0xffffffffffffffffffff\n',
        3,
        "vars.A",
        "wrong-type",
        "vars.A is too large a number; put it in quotes if it is text",
    ),
    ("role = camera\n", 1, "", "fleet-syntax", 'no TOML value; text stands in quotes: key = "text" (column 8)'),
    ("\nrole: camera\n", 2, "", "fleet-syntax", "no TOML; write key = value (column 5)"),
    ('role = "camera"\nrole = "x"\n', 2, "", "fleet-syntax", "this key is here twice; keep one (column 11)"),
    (
        'role = "camera"\n\ntags = [\n  "a",\n\n',
        3,
        "",
        "fleet-syntax",
        "a list without its closing bracket; add ]",
    ),
    (
        '\nrole = """camera\n\n',
        2,
        "",
        "fleet-syntax",
        "a text without its closing quotes; add them",
    ),
]

ROLES = [
    (
        "[health]\n\nsoak_s = 0\n",
        3,
        "health.soak_s",
        "wrong-type",
        "health.soak_s must be a number of seconds above 0, at most 86400, not 0",
    ),
    (
        'health.soak_s = "60"\n',
        1,
        "health.soak_s",
        "wrong-type",
        'health.soak_s must be a number of seconds above 0, at most 86400, not "60"',
    ),
    (
        "health = { start_deadline_s = 5, soak_s = true }\n",
        1,
        "health.soak_s",
        "wrong-type",
        "health.soak_s must be a number of seconds above 0, at most 86400, not true",
    ),
    (
        "[health]\nsoak_s = nan\n",
        2,
        "health.soak_s",
        "wrong-type",
        "health.soak_s must be a number of seconds above 0, at most 86400, not nan",
    ),
    (
        "[health]\nrestarts_allowed = 1.5\n",
        2,
        "health.restarts_allowed",
        "wrong-type",
        "health.restarts_allowed must be a whole number from 0 to 100, not 1.5",
    ),
    (
        "[health]\nsoak = 5\n",
        2,
        "health.soak",
        "unknown-key",
        'unknown key "soak"; did you mean "soak_s"?',
    ),
    ("[helth]\nsoak_s = 5\n", 1, "helth", "unknown-key", 'unknown key "helth"; did you mean "health"?'),
    ("[[health]]\n", 1, "health", "wrong-type", "health must be a table, [health], not such a list"),
    (
        "[checks]\n",
        1,
        "checks",
        "wrong-type",
        "checks must be a list of tables, [[checks]]",
    ),
    (
        '[[checks]]\nname = "a"\n',
        1,
        "checks[0]",
        "missing-key",
        'a check lacks "type"; it is "http", "tcp" or "command"',
    ),
    (
        '[[checks]]\ntype = "tcp"\nname = "a"\nport = 1\n\n[[checks]]\nname = "b"\ntype = "htp"\n',
        8,
        "checks[1].type",
        "wrong-type",
        'unknown type of check "htp"; did you mean "http"?',
    ),
    (
        '[[checks]]\ntype = "http"\nname = "a"\n',
        1,
        "checks[0]",
        "missing-key",
        'checks[0] lacks "url"; add it',
    ),
    (
        '[[checks]]\ntype = "http"\nname = "a"\nurl = "127.0.0.1:8080"\n',
        4,
        "checks[0].url",
        "wrong-type",
        'checks[0].url must be an address like "http://127.0.0.1:8080/healthz", not "127.0.0.1:8080"',
    ),
    (
        '[[checks]]\ntype = "http"\nname = "a"\nurl = "http://127.0.0.1:99999/"\n',
        4,
        "checks[0].url",
        "wrong-type",
        '"http://127.0.0.1:99999/" is no address; check host and port',
    ),
    (
        '[[checks]]\ntype = "tcp"\nname = "a"\nport = 1\n[[checks]]\ntype = "tcp"\nport = 2\nname = "a"\n',
        8,
        "checks[1].name",
        "duplicate-name",
        'there are two checks "a"; rename one',
    ),
    (
        'checks = [\n  { type = "tcp", name = "a", port = 1 },\n  { type = "tcp", name = "b", prot = 2 },\n]\n',
        3,
        "checks[1].prot",
        "unknown-key",
        'unknown key "prot"; did you mean "port"?',
    ),
    (
        '[[checks]]\ntype = "command"\nname = "a"\nservice = "w"\ncommand = [\n "sh",\n 5 ]\n',
        7,
        "checks[0].command[1]",
        "wrong-type",
        'checks[0].command[1] must be text in quotes, "...", not 5',
    ),
    (
        '[[checks]]\ntype = "command"\nname = "a"\nservice = "w"\ncommand = []\n',
        5,
        "checks[0].command",
        "wrong-type",
        'checks[0].command must be a list of texts, ["...", "..."], not an empty list',
    ),
]

FLEETS = [
    ("", 1, "", "missing-key", 'missing key "name"; add name = "my-fleet"'),
    ('name = "My fleet"\n', 1, "name", "bad-name", f'name must be a name of {NAME_RULE}, not "My fleet"'),
    (
        'name = "a"\n[limits]\nrelease_bytes = -1\n',
        3,
        "limits.release_bytes",
        "wrong-type",
        "limits.release_bytes must be a whole number of bytes above 0, at most 1099511627776, not -1",
    ),
    (
        'name = "a"\n[limit]\n',
        2,
        "limit",
        "unknown-key",
        'unknown key "limit"; did you mean "limits"?',
    ),
    (
        'name = "a"\n[health]\nsoak_s = 1979-05-27\n',
        3,
        "health.soak_s",
        "wrong-type",
        "health.soak_s must be a number of seconds above 0, at most 86400, not a date or time",
    ),
]


@pytest.mark.parametrize(("text", "line", "key", "reason", "sentence"), DEVICES)
def test_a_wrong_device_file_is_told_with_line_key_and_way_out(
    text: str, line: int, key: str, reason: str, sentence: str
) -> None:
    assert problems_of(changed(pi01=text)) == [Problem(DEVICE, line, key, sentence, reason)]


@pytest.mark.parametrize(("text", "line", "key", "reason", "sentence"), ROLES)
def test_a_wrong_role_file_is_told_with_line_key_and_way_out(
    text: str, line: int, key: str, reason: str, sentence: str
) -> None:
    assert problems_of(changed(camera=text)) == [Problem(ROLE, line, key, sentence, reason)]


@pytest.mark.parametrize(("text", "line", "key", "reason", "sentence"), FLEETS)
def test_a_wrong_fleet_file_is_told_with_line_key_and_way_out(
    text: str, line: int, key: str, reason: str, sentence: str
) -> None:
    assert problems_of(changed(fleet=text)) == [Problem("fleet.toml", line, key, sentence, reason)]


@pytest.mark.parametrize(
    ("content", "line", "sentence"),
    [
        (b"\n\xff\xfe", 2, "not UTF-8 text; save the file as UTF-8"),
        (
            'role = "camera"\n'.encode("utf-16"),
            1,
            "not UTF-8 text; save the file as UTF-8",
        ),
        (b'role = "camera"\n\0', 2, "a NUL character is in the line; save the file as plain UTF-8 text"),
        (b'role = "camera"\rtags = []', 1, "a carriage return alone is in the line; save the file as plain UTF-8 text"),
        (
            b"a = " + b"[" * 50_000,
            1,
            "brackets are nested too deeply; a fleet repository needs two levels",
        ),
        (b"\n" + b"a." * 100_000 + b"a = 1", 2, "too many dots in a line; split it"),
        (b"#" * 300_000, 1, "the file has 300000 bytes; at most 262144 are read"),
    ],
)
def test_what_is_no_text_or_too_much_of_it_is_one_clear_sentence(content: bytes, line: int, sentence: str) -> None:
    assert problems_of(changed(pi01=content)) == [Problem(DEVICE, line, "", sentence, "fleet-syntax")]


def test_a_number_too_long_to_be_read_is_refused() -> None:
    (problem,) = problems_of(changed(pi01="role = " + "9" * 5000))
    assert (problem.file, problem.line, problem.reason) == (DEVICE, 1, "fleet-syntax")


# --- files that are missing, misnamed or somewhere else ------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        (
            "devices/pi_01.toml",
            b'role = "camera"',
            f'devices/pi_01.toml: "pi_01" is no name; rename it: {NAME_RULE}',
        ),
        (
            "devices/hub.toml",
            b'role = "camera"',
            'devices/hub.toml: "hub" means something else to the broker or the hub; rename the device',
        ),
        (
            "devices/north/pi-09.toml",
            b"",
            f"devices/north/pi-09.toml: {ONE_A_DEVICE}",
        ),
        (
            "devices/pi-09.yaml",
            b"",
            f"devices/pi-09.yaml: {ONE_A_DEVICE}",
        ),
        (
            "roles/Camera/compose.yaml",
            b"",
            f'roles/Camera: "Camera" is no name; rename it: {NAME_RULE}',
        ),
        (
            "roles/kiosk.yaml",
            b"",
            "roles/kiosk.yaml: a role is a folder with a compose.yaml; rename or move the file",
        ),
        (
            "roles/kiosk/page.html",
            b"",
            "roles/kiosk/compose.yaml: the file is missing; add the role's Compose file",
        ),
        (
            "roles/kiosk/docker-compose.yml",
            b"",
            "roles/kiosk/compose.yaml: the file is missing; rename roles/kiosk/docker-compose.yml",
        ),
    ],
)
def test_a_file_in_the_wrong_place_or_by_the_wrong_name_is_told(path: str, content: bytes, told: str) -> None:
    assert [str(problem) for problem in problems_of(GOOD | {path: content})] == [told]


@pytest.mark.parametrize(
    "path", ["README.md", "STOP", "docs/x.toml", "devices/notes.md", "devices/.gitkeep", "roles/README", "a/devices/x"]
)
def test_files_elsewhere_are_nobodys_business(path: str) -> None:
    assert whole_fleet(GOOD | {path: b"\xff"}) == whole_fleet(GOOD)


def test_a_missing_fleet_toml_is_told() -> None:
    (problem,) = problems_of(changed(fleet=None))
    assert str(problem) == 'fleet.toml: the file is missing; add it with name = "..."'
    assert problem.reason == "missing-file"


def test_a_role_without_a_compose_file_is_told_to_lint_and_to_the_device() -> None:
    told = "roles/camera/compose.yaml: the file is missing; add the role's Compose file"
    assert [str(problem) for problem in problems_of(changed(compose=None))] == [told]
    with pytest.raises(DefinitionError) as caught:
        for_device(changed(compose=None), PI_01)
    assert (caught.value.message, caught.value.reason) == (told, "missing-compose-file")


def test_a_device_that_the_fleet_does_not_know_is_told_which_file_to_add() -> None:
    for ask in (role_named_by, for_device):
        with pytest.raises(DefinitionError) as caught:
            ask(GOOD, DeviceId("pi-99"))
        sentence = 'the fleet has no device "pi-99"; add devices/pi-99.toml with role = "..."'
        assert (caught.value.message, caught.value.reason) == (f"devices/pi-99.toml: {sentence}", "device-unknown")


# --- the error itself -------------------------------------------------------------------------------------------


def test_every_problem_of_the_whole_fleet_is_told_at_once_in_the_order_of_files_and_lines() -> None:
    files = changed(fleet='name = "a"\nx = 1\n', pi01="role = 5\nz = 1\n", camera="y = 1\n")
    told = [(problem.file, problem.line) for problem in problems_of(files)]
    assert told == [(DEVICE, 1), (DEVICE, 2), ("fleet.toml", 2), (ROLE, 1)]


def test_the_error_says_the_first_problem_and_how_many_more_there_are() -> None:
    with pytest.raises(Unusable) as caught:
        role_named_by(changed(pi01='role = "camera"\nx = 1\ny = 1\nz = 1\n'), PI_01)
    assert caught.value.reason == "unknown-key"
    known = '"age", "agent", "role", "tags" and "vars"'
    expected = f'devices/pi-01.toml:2: unknown key "x"; known: {known} (and 2 more problems)'
    assert str(caught.value) == expected


def test_a_message_stays_short_and_on_one_line_whatever_the_key_holds() -> None:
    key = "\\n\\u001b[31m" + "x" * 5000
    (problem,) = problems_of(changed(pi01=f'role = "camera"\n"{key}" = 1\n'))
    assert len(str(problem)) < 300
    assert str(problem).isprintable()


# --- whatever comes -----------------------------------------------------------------------------------------

TOML_FILES = ("fleet.toml", DEVICE, ROLE)
SIGNS = st.sampled_from([bytes([sign]) for sign in b"\n[]\"'=.,{}#\r\0\xff\\"])
WORDS = st.sampled_from([b"", b'"""', b"[health]\n", b"[[checks]]\n", b'type = "tcp"\n', b"soak_s = -1\n", b"1e999"])
PIECES = SIGNS | WORDS | st.binary(max_size=8) | st.text(max_size=8).map(str.encode)


@given(
    path=st.sampled_from(TOML_FILES),
    start=st.integers(0, 400),
    length=st.integers(0, 40),
    piece=PIECES,
)
def test_any_mutation_of_a_good_repository_parses_or_is_refused_with_file_and_line(
    path: str, start: int, length: int, piece: bytes
) -> None:
    old = GOOD[path]
    content = old[:start] + piece + old[start + length :]
    lines = content.count(b"\n") + 1
    for problem in _problems_or_none(GOOD | {path: content}):
        assert problem.line is not None, problem
        assert problem.text, problem
        assert str(problem).isprintable()
        if problem.file == path:
            assert 1 <= problem.line <= lines, problem


@given(st.dictionaries(st.text(max_size=30) | st.sampled_from(sorted(GOOD)), st.binary(max_size=60), max_size=6))
def test_any_set_of_files_parses_or_is_refused(files: dict[str, bytes]) -> None:
    assert all(problem.reason for problem in _problems_or_none(files))


def _problems_or_none(files: dict[str, bytes]) -> tuple[Problem, ...]:
    try:
        whole_fleet(files)
    except DefinitionError as error:
        return error.problems
    return ()
