"""Secrets in a rendered model: mounted from memory by what they say, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.agent.decisions.test_render import FILES, PLACES, bind, inputs, model

from metrica_agent.decisions.preflight import needs
from metrica_agent.decisions.references import Reference, require_inside
from metrica_agent.decisions.render import SECRETS_ROOT, Rendered, release_digest, render
from metrica_fleet.definition import HealthPolicy, Limits
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import RoleId

ONE, OTHER = "1" * 64, "2" * 64
WIFI = f"{SECRETS_ROOT}/wifi"
READERS: dict[str, dict[str, Any]] = {
    "file": {"secrets": [{"source": "s"}]},
    "config": {"configs": [{"source": "c"}]},
    "bind": {"volumes": [bind(WIFI, "/etc/wifi")]},
    "plain": {},
}


def rendered(services: dict[str, dict[str, Any]] = READERS, *, digest: str = ONE) -> Rendered:
    sections = {"secrets": {"s": {"file": WIFI}}, "configs": {"c": {"file": WIFI}}}
    given = model(services, **sections)
    return render(
        given, project="metrica", places=PLACES, entries=FILES, variables={}, secrets={"wifi": digest, "api": OTHER}
    )


def test_a_secret_is_mounted_from_memory_by_its_digest_in_each_of_the_three_ways() -> None:
    one = rendered().compose
    assert one["secrets"]["s"]["file"] == one["configs"]["c"]["file"] == f"{SECRETS_ROOT}/{ONE}"
    (volume,) = one["services"]["bind"]["volumes"]
    assert (volume["source"], volume["bind"]["create_host_path"]) == (f"{SECRETS_ROOT}/{ONE}", False)


def test_a_release_needs_the_secrets_that_it_mounts_and_no_path_of_the_machine_for_them() -> None:
    found = needs(rendered().compose, content_root=PLACES.content, data_root=PLACES.data)
    assert (found.secrets, found.host_sources) == ((ONE,), ())


def test_another_value_changes_the_labels_of_its_readers_and_no_others() -> None:
    before, after = inputs(rendered()), inputs(rendered(digest=OTHER))
    assert {name for name in before if before[name] != after[name]} == {"file", "config", "bind"}


@pytest.mark.parametrize(
    "service",
    [
        {"volumes": [bind(WIFI, read_only=False)]},
        {"volumes": [bind(f"{SECRETS_ROOT}/other")]},
        {"volumes": [bind(f"{SECRETS_ROOT}/{ONE}")]},
        {"volumes": [bind(SECRETS_ROOT)]},
        {"environment": {"WIFI": WIFI}},
        {"command": ["cat", WIFI]},
        {"labels": {"x": SECRETS_ROOT}},
    ],
)
def test_any_other_use_is_refused_by_the_name_that_the_operator_wrote(service: dict[str, Any]) -> None:
    with pytest.raises(Unusable) as caught:
        rendered({"a": service})
    assert caught.value.reason in {"secret-misused", "bind-writable"}
    assert "${METRICA_SECRETS}" in caught.value.message


def test_an_env_file_that_is_a_secret_is_refused_with_the_way_out() -> None:
    reference = Reference(file="compose.yaml", line=3, key="env_file", path="${METRICA_SECRETS}/wifi", base="")
    with pytest.raises(Unusable) as caught:
        require_inside([reference], {"METRICA_SECRETS": SECRETS_ROOT})
    assert caught.value.reason == "reads-outside"
    assert "`docker inspect`" in caught.value.message


def test_a_release_without_secrets_has_the_digest_that_it_had_before_there_were_any() -> None:
    def digest(secrets: dict[str, str] | None) -> str:
        return release_digest(
            role=RoleId("camera"),
            entries=FILES,
            variables={},
            checks=(),
            health=HealthPolicy(),
            limits=Limits(),
            secrets=secrets,
        )

    assert digest(None) == digest({}) != digest({"wifi": ONE}) != digest({"wifi": OTHER})
