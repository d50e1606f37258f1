from __future__ import annotations

import pytest
from tests.unit.fleet.repositories import changed

from metrica_fleet.definition import DefinitionError, Problem, ServicePolicy, for_device, whole_fleet
from metrica_fleet.identity import DeviceId
from metrica_fleet.role_reading import MAX_SERVICES

ROLE = "roles/camera/role.toml"


def problems_of(text: str) -> list[Problem]:
    with pytest.raises(DefinitionError) as caught:
        whole_fleet(changed(camera=text))
    return list(caught.value.problems)


def test_a_device_is_told_what_the_role_says_of_its_services() -> None:
    text = '[services.lamp]\npriority = "low"\n[services."my_db.1"]\npriority = "high"\n[services.web]\n'
    told = for_device(changed(camera=text), DeviceId("pi-01")).services
    assert told == {
        "lamp": ServicePolicy(priority="low"),
        "my_db.1": ServicePolicy(priority="high"),
        "web": ServicePolicy(priority="normal"),
    }


@pytest.mark.parametrize(
    ("text", "line", "key", "reason", "sentence"),
    [
        ("services = 5\n", 1, "services", "wrong-type", "services must be a table, [services], not 5"),
        (
            '\n[services]\nlamp = "low"\n',
            3,
            "services.lamp",
            "wrong-type",
            "services.lamp must be a table, [services.lamp]",
        ),
        (
            '[services.lamp]\nprioriti = "low"\n',
            2,
            "services.lamp.prioriti",
            "unknown-key",
            'unknown key "prioriti"; did you mean "priority"?',
        ),
        (
            '[services.lamp]\npriority = "hihg"\n',
            2,
            "services.lamp.priority",
            "wrong-type",
            'services.lamp.priority must be "high", "low" or "normal", not "hihg"; did you mean "high"?',
        ),
        (
            "[services.lamp]\npriority = 1\n",
            2,
            "services.lamp.priority",
            "wrong-type",
            'services.lamp.priority must be "high", "low" or "normal", not 1',
        ),
    ],
)
def test_a_wrong_service_is_told_with_line_key_and_way_out(
    text: str, line: int, key: str, reason: str, sentence: str
) -> None:
    assert problems_of(text) == [Problem(ROLE, line, key, sentence, reason)]


def test_a_service_whose_name_compose_would_not_take_is_refused() -> None:
    (problem,) = problems_of('[services."a b"]\n')
    assert (problem.line, problem.reason) == (1, "wrong-type")


def test_the_services_of_a_role_are_bounded() -> None:
    text = "".join(f"[services.s{number}]\n" for number in range(MAX_SERVICES + 5))
    (problem,) = problems_of(text)
    assert problem.text == f"a role has at most {MAX_SERVICES} services"
